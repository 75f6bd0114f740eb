"""What the command lines of the stages' scripts have in common."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


class InputError(ValueError):
    """Something that the user gave is wrong; the message says what, where, and what would be right."""


def arguments(
    doc: str,
    *,
    paths: list[str],
    optional: list[str] | None = None,
    lists: list[str] | None = None,
    numbers: list[str] | None = None,
    computes: bool = False,
) -> argparse.Namespace:
    """Parse ``--name PATH`` for every path, and ``--settings JSON``, the checked slice of the config.

    ``optional`` names paths that may be left out, ``lists`` options of any number of paths, ``numbers`` integers.

    A stage that ``computes`` with a model also takes how: ``--device``, ``--threads`` and ``--batch``.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in paths:
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in optional or []:
        parser.add_argument(f"--{name}", type=Path)
    for name in lists or []:
        parser.add_argument(f"--{name}", type=Path, nargs="*", default=[])
    for name in numbers or []:
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--settings", type=json.loads, default={}, help="the stage's slice of the config, as JSON")
    if computes:
        parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
        parser.add_argument("--threads", type=int, default=1, help="CPU threads")
        parser.add_argument("--batch", type=int, default=2048, help="size of a batch, in the stage's unit")
    return parser.parse_args()


def run_stage(main: Callable[[], Any], *errors: type[Exception]) -> None:
    """Run a script's main: InputError, and the ``errors`` named, end with one clear line instead of a traceback."""
    try:
        main()
    except (InputError, *errors) as error:
        sys.exit(f"error: {error}")


def say(line: object) -> None:
    """Print a line of the log at once."""
    print(line, flush=True)
