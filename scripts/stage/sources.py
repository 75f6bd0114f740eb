"""Which files a script's result depends on: itself, and our own modules that it imports, found by reading them.

Snakemake compares small input files by content. With these files among a rule's inputs, an edit of a module
reruns the rules that use it and no others, and a checkout, a move or a touch reruns nothing.
"""

import ast
from functools import cache
from pathlib import Path


@cache
def sources(script: str, *, root: str = "scripts") -> tuple[str, ...]:
    """The path of ``script`` (a name without .py, in ``root``), then those of the modules that it needs.

    Paths begin with ``root``, which may be relative. Imports must be absolute and at any level of the code;
    a package counts with its ``__init__``.
    """
    found: dict[Path, None] = {}
    pending = [Path(root) / f"{script}.py"]
    while pending:
        path = pending.pop(0)
        if path not in found:
            found[path] = None
            pending += [module for name in _imports(path) for module in _modules(Path(root), name)]
    first, *others = found
    return tuple(str(path) for path in [first, *sorted(others)])


def _imports(path: Path) -> list[str]:
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module] + [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def _modules(root: Path, name: str) -> list[Path]:
    """The files of a dotted name that lie under root: the module, and the packages that it is in."""
    parts = name.split(".")
    files = [root.joinpath(*parts[:i]) / "__init__.py" for i in range(1, len(parts) + 1)]
    return [file for file in [*files, root.joinpath(*parts[:-1], f"{parts[-1]}.py")] if file.is_file()]
