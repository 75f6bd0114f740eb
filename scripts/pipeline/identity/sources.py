"""The code that a script's results depend on: the script, and our own modules that it imports, without plumbing.

Its hash is a parameter of the rules, and is also in tuning's checkpoints and the records. ``syntax.py`` decides what
counts in a module: editing a comment, a docstring, a message or plumbing makes nothing stale.
"""

import ast
import hashlib
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

from pipeline.identity.syntax import what_counts, written

SCRIPTS = Path(__file__).parents[2]

# Modules that start jobs, check, count, log and write, but do not affect results; nor do their imports.
# Modules that are not listed count. In storage, the schemas of the tables that a script writes count nevertheless.
PLUMBING = (
    "implicit.progress",
    "pipeline.config.datasets",
    "pipeline.config.judges",
    "pipeline.config.messages",
    "pipeline.config.models",
    "pipeline.config.schema",
    "pipeline.config.types",
    "pipeline.jobs.ledger",
    "pipeline.jobs.claim",
    "pipeline.jobs.command",
    "pipeline.jobs.costs",
    "pipeline.models.exported",
    "pipeline.models.fit",
    "pipeline.jobs.job",
    "pipeline.jobs.record",
    "pipeline.identity.sources",
    "pipeline.files.storage",
    "pipeline.identity.syntax",
)


@cache
def code_of(script: str, *, root: Path = SCRIPTS) -> str:
    """A hash of the code that determines the results of ``script`` (a name without .py): 16 hexadecimal digits."""
    files = sources(script, root=root)
    parts = [f"{file.relative_to(root)} {_read(file).text}" for file in files]
    parts += [_schema(table, root) for table in sorted({table for file in files for table in _read(file).tables})]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def running_code() -> str | None:
    """`code_of` the script that this process was started with; None if it was not one of ours."""
    script = Path(sys.argv[0]).stem
    return code_of(script) if (SCRIPTS / f"{script}.py").is_file() else None


@cache
def sources(script: str, *, root: Path = SCRIPTS) -> tuple[Path, ...]:
    """The file of ``script``, then those of the modules that it needs, sorted by name.

    Imports must be absolute, at any level of the code; a package counts with its ``__init__``.
    """
    found: dict[Path, None] = {}
    pending = [root / f"{script}.py"]
    while pending:
        path = pending.pop(0)
        if path not in found:
            found[path] = None
            pending += [file for name in _read(path).imports for file in _modules(root, name)]
    first, *others = found
    return first, *sorted(others)


class _Module(NamedTuple):
    """What counts in a module: its text, the dotted names that it imports, the kinds of tables that it writes."""

    text: str
    imports: list[str]
    tables: list[str]


@cache
def _read(path: Path) -> _Module:
    tree = what_counts(path.read_text(encoding="utf-8"), plumbing=PLUMBING)
    imports: list[str] = []
    tables: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:  # in `from a import b`, b may be a module
            imports += [node.module] + [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "write_table":
            tables.append(ast.literal_eval(node.args[0]))
    return _Module(written(tree), imports, tables)


def _modules(root: Path, name: str) -> list[Path]:
    """The files under root for a dotted name: the module, and the packages that contain it."""
    parts = name.split(".")
    files = [root.joinpath(*parts[:i]) / "__init__.py" for i in range(1, len(parts) + 1)]
    return [file for file in [*files, root.joinpath(*parts[:-1], f"{parts[-1]}.py")] if file.is_file()]


@cache
def _schema(table: str, root: Path) -> str:
    """The schema of a kind of table, as defined in storage.py."""
    storage = ast.parse((root / "pipeline" / "files" / "storage.py").read_text(encoding="utf-8"))
    (schemas,) = [
        node.value for node in storage.body if isinstance(node, ast.Assign) and ast.unparse(node.targets) == "SCHEMAS"
    ]
    (schema,) = [value for key, value in zip(schemas.keys, schemas.values, strict=True) if key.value == table]
    return written(schema)
