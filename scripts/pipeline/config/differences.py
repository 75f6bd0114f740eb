"""What differs between two configs, key by key."""

from collections.abc import Iterator
from typing import Any

ABSENT = object()  # in place of a value that only the other one has


def differences(a: Any, b: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Each key whose values differ, with both; a section that only one of them has is a single entry."""
    if isinstance(a, dict) and isinstance(b, dict):
        for name in dict.fromkeys([*a, *b]):
            yield from differences(a.get(name, ABSENT), b.get(name, ABSENT), f"{key}.{name}" if key else name)
    elif a is ABSENT or b is ABSENT or a != b:
        yield key, a, b
