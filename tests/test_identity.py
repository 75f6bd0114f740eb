"""What makes results stale: the code that computes them, and nothing else in a source file."""

import ast
import re
import shutil
import sys

import pytest
from workflow import ROOT

from pipeline.identity.sources import PLUMBING, SCRIPTS, code_of, running_code, sources
from pipeline.identity.syntax import what_counts, written

RULES = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "rules").glob("*.smk")))
STAGES = sorted(set(re.findall(r'code_of\("(\w+)"\)', RULES)))
METHOD = sorted({path for stage in STAGES for path in sources(stage)})
MODULE = '''
"""What this is."""

import math
from dataclasses import dataclass
from typing import Any

from pipeline.jobs.command import say

PROMPT = "Which is better, {a} or {b}?"


@dataclass(frozen=True)
class Settings:
    """Settings."""

    rate: float = 0.1
    steps: int = 3


class LossError(RuntimeError):
    """No loss."""

    def __init__(self, step: int) -> None:
        super().__init__(f"no loss at step {step}")


def fault_of(row: dict[str, Any]) -> str | None:
    """Why a row does not count."""
    return None if row["kind"] == "a b" else f"the row {row} is of another kind"


def check_rows(rows: list[Any]) -> None:
    missing = ["a row"] if not rows else []
    if missing:
        raise ValueError(f"lacks {missing}")


@lru_cache(maxsize=2)
def compute(rows: list[Any], log: Any = say, *, power: int = 2) -> float:
    """Compute it."""
    total: float = 0.0
    for row in rows:  # each
        if row < 0:
            raise ValueError(f"a negative row: {row}")
        total += row**power
        log(f"{len(rows)} rows")
    if total > 3:
        say(f"{total:.1f}, more than", 3)
    check_rows(rows)
    write(PROMPT.format(a=f"{total} points", b="nothing"))
    return math.log(total) if total else -1.0
'''


def counted(source):
    return written(what_counts(source, plumbing=PLUMBING))


def edited(before, after):
    assert MODULE.count(before) >= 1, before
    return counted(MODULE.replace(before, after))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("What this is.", "What this was."),
        ('    """Compute it."""\n', ""),
        ('    """Compute it."""\n', '    """Compute it."""\n    """Really."""\n'),
        ("  # each", "  # every"),
        ("total += row**power", "total += (\n            row ** power\n        )"),
        ("rows: list[Any], log: Any", "rows: list[float], log: object"),
        ("-> float:", "-> float | None:"),
        ("total: float = 0.0", "total = 0.0"),
        ("import Any", "import TYPE_CHECKING, Any\n\nif TYPE_CHECKING:\n    import torch\n"),
        ("from typing import Any", "from collections.abc import Sequence\nfrom typing import Any, Protocol"),
        ("import say", "import InputError, say"),
        ("import math", "import math  # for the logarithm"),
        ("a negative row: {row}", "{row} is negative: give another"),
        ('f"a negative row: {row}"', '"negative"'),
        ("no loss at step", "the loss is not finite at step"),
        ("of another kind", "of no kind"),
        ("a row", "one row"),
        ("lacks", "needs"),
        ('f"{len(rows)} rows"', 'f"{sum(rows):,} of {len(rows)}"'),
        ('        log(f"{len(rows)} rows")\n', ""),
        (
            "    total: float",
            '    say("begins")\n    logger.info("begins")\n    error.add_note("begins")\n    total: float',
        ),
        ("    total: float", "    progress.advance(len(rows))\n    total: float"),
        ('    if total > 3:\n        say(f"{total:.1f}, more than", 3)\n', ""),
        ("total > 3", "total > 4"),  # whether a line is logged
    ],
)
def test_what_only_people_read_does_not_count(before, after):
    assert edited(before, after) == counted(MODULE)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("Which is better", "Which one is better"),
        ("{total} points", "{total} marks"),
        ("{total} points", "{total:.1f} points"),
        ('b="nothing"', 'b="none"'),
        ("rate: float = 0.1", "rate: float = 0.2"),
        ("rate: float = 0.1", "rate: int = 0.1"),
        ("    steps: int = 3\n", ""),
        ("    rate: float = 0.1\n    steps: int = 3\n", "    steps: int = 3\n    rate: float = 0.1\n"),
        ("frozen=True", "frozen=False"),
        ("@lru_cache(maxsize=2)\n", ""),
        ("maxsize=2", "maxsize=3"),
        ("power: int = 2", "power: int = 3"),
        ("log: Any = say", "log: Any = print"),
        ("row**power", "row*power"),
        ("total += ", "total -= "),
        ("row < 0", "row <= 0"),
        ("raise ValueError(f", "raise KeyError(f"),
        ("total: float = 0.0", "total: float = 1.0"),
        ("math.log(total)", "math.log2(total)"),
        ("import math", "import numpy as math"),
        ("-1.0", "-1"),
        ("if total else", "if not total else"),
        ('row["kind"] == "a b"', 'row["kind"] == "a c"'),
        ('row["kind"]', 'row["sort"]'),
        ("not rows", "rows"),
        ("    check_rows(rows)\n", ""),
        ("    total: float", "    log(math.sqrt(2))\n    total: float"),
        ("    total: float", '    log(f"{rows.pop()}")\n    total: float'),
        ("    total: float", '    say(total := f"{rows}")\n    total: float'),
        ("    total: float", '    print("a result", file=out)\n    total: float'),
        ("    total: float", '    tracker.log("a result")\n    total: float'),
        ("    total: float", "    log(rows)\n    total: float"),  # to a caller who may keep it
        ("    check_rows(rows)\n", '    found = explained("a b")\n    check_rows(rows)\n'),
    ],
)
def test_what_computes_counts(before, after):
    assert edited(before, after) != counted(MODULE)


def test_sources_are_the_script_and_what_it_imports_however_deep(tmp_path):
    (tmp_path / "pack").mkdir()
    files = {
        "main.py": "import os\nfrom pack.one import f\n",
        "pack/__init__.py": "",
        "pack/one.py": "def f():\n    from pack import two\n",
        "pack/two.py": "import pack.one\nif TYPE_CHECKING:\n    from pack.types import T\n",
        "pack/types.py": "",
        "pack/unused.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    needed = ["main.py", "pack/__init__.py", "pack/one.py", "pack/two.py"]
    assert sources("main", root=tmp_path) == tuple(tmp_path / name for name in needed)


# Rules that make no results and always run, and those that take over another rule's command.
USED = {"plan": [], "verify": [], "tune_chosen": ["tune"], "collect_card": ["collect_metrics"]}
USED |= {"make_card_table": ["make_tables"], "make_card_figure": ["make_figures"]}


def test_every_rule_depends_on_the_code_of_its_script():
    for rule in re.split(r"^(?= *(?:use )?rule \w)", RULES, flags=re.MULTILINE)[1:]:
        made_by, known = (
            re.findall(shape, rule) for shape in (r"(?:python|\{WARM\}) scripts/(\w+)\.py", r'code_of\("(\w+)"\)')
        )
        (name,) = re.findall(r"\A *(?:use rule \w+ as|rule) (\w+)", rule)
        assert known == USED.get(name, made_by), name


def test_another_checkout_has_the_same_code(tmp_path):
    shutil.copytree(SCRIPTS, tmp_path / "scripts")
    for stage in STAGES:
        assert code_of(stage, root=tmp_path / "scripts") == code_of(stage)


def test_code_is_that_of_the_script_that_runs(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["scripts/tune.py", "--base", "x"])
    assert running_code() == code_of("tune") != code_of("pretrain")
    monkeypatch.setattr(sys, "argv", ["-c"])
    assert running_code() is None


def test_a_column_of_a_table_is_code_of_the_stages_that_write_it(tmp_path):
    shutil.copytree(SCRIPTS, tmp_path / "scripts")
    storage = tmp_path / "scripts" / "pipeline" / "files" / "storage.py"
    storage.write_text(
        replaced(storage.read_text(), '("tuned_logprob", pa.float64())', '("tuned_logprob", pa.float32())')
    )
    assert [s for s in STAGES if code_of(s, root=tmp_path / "scripts") != code_of(s)] == ["measure_drift"]


def test_plumbing_brings_in_no_method():
    """The imports of these modules do not count, so a stage must directly import the code that it computes with.

    Known exceptions are those that refuse a model, rows or a config's values, and one that picks the device.
    """
    known = {
        "pipeline.jobs.job": {"pipeline.models.directories"},
        "pipeline.config.judges": {"implicit.servers.chat_client"},
        "pipeline.config.types": {"pipeline.files.local_files"},
    } | {f"pipeline.models.{name}": {"implicit.format.render"} for name in ("exported", "fit")}
    for module in PLUMBING:
        path = SCRIPTS.joinpath(*module.split(".")).with_suffix(".py")
        tree = ast.parse(path.read_text(encoding="utf-8") if path.is_file() else "")
        for_types = [part for node in tree.body if isinstance(node, ast.If) for part in node.body]
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node not in for_types]
        names = {node.module for node in imports}
        method = {name for name in names if name.startswith(("implicit.", "pipeline."))} - {*PLUMBING}
        assert method <= known.get(module, set()), module


def text_of(node):
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def reworded(source):
    """A module with an additional comment, and other words in its docstrings, errors and log lines."""
    lines = source.encode().splitlines(keepends=True)
    edits = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            edits.append((node.body[0], '"""In other words."""'))
        elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            edits += [(argument, '"in other words"') for argument in node.exc.args if text_of(argument)]
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            called = ast.unparse(node.value.func)
            if called in ("say", "log", "self.log") and any(text_of(part) for part in ast.walk(node)):
                edits.append((node, f'{called}("in other words")'))
    starts = [sum(map(len, lines[:i])) for i in range(len(lines))]
    text = source.encode()
    for node, words in sorted(edits, key=lambda edit: -starts[edit[0].lineno - 1] - edit[0].col_offset):
        begin, end = (
            starts[n - 1] + c for n, c in [(node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)]
        )
        text = text[:begin] + words.encode() + text[end:]
    return text.decode() + "\n# In other words.\n"


@pytest.mark.parametrize("path", METHOD, ids=lambda path: str(path.relative_to(SCRIPTS)))
def test_other_words_are_the_same_code(path):
    source = path.read_text(encoding="utf-8")
    assert counted(reworded(source)) == counted(source)


OTHER = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Lt: ast.GtE, ast.Eq: ast.NotEq}


def only_said(node):
    """Whether a part of a tree is an annotation, a log line, or an error message."""
    if isinstance(node, ast.ClassDef):
        return any(ast.unparse(base).endswith("Error") for base in node.bases)
    if isinstance(node, ast.FunctionDef):
        return "fault" in node.name or node.name.startswith(("check_", "explain", "_explain"))
    if isinstance(node, ast.If) and not node.orelse:  # whether something is logged
        return all(isinstance(inner, ast.Expr) and only_said(inner) for inner in node.body)
    names = (
        "say(",
        "log(",
        "self.log(",
        "answers.log(",
        "self.answers.log(",
        "progress.advance(",
        "self.progress.advance(",
    )
    logs = isinstance(node, ast.Expr) and ast.unparse(node).startswith(names)
    return logs or isinstance(node, ast.Raise)


def changes_of(tree):
    """Changes to the numbers, operators and comparisons in a tree's computations, as (node, field, other value)."""
    finished = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and ast.unparse(n.func) == "this.finish"]
    said = [node for node in ast.walk(tree) if only_said(node)] + [call.args[0] for call in finished]
    skipped = {id(part) for node in said for part in ast.walk(node)}
    for node in ast.walk(tree):
        for annotation in filter(None, [getattr(node, "annotation", None), getattr(node, "returns", None)]):
            skipped |= {id(part) for part in ast.walk(annotation)}
    for node in (node for node in ast.walk(tree) if id(node) not in skipped):
        if isinstance(node, ast.Constant) and type(node.value) in (int, float):
            yield node, "value", node.value + 1
        if isinstance(node, ast.BinOp) and type(node.op) in OTHER:
            yield node, "op", OTHER[type(node.op)]()
        if isinstance(node, ast.Compare) and type(node.ops[0]) in OTHER:
            yield node, "ops", [OTHER[type(node.ops[0])](), *node.ops[1:]]


@pytest.mark.parametrize("path", METHOD, ids=lambda path: str(path.relative_to(SCRIPTS)))
def test_another_number_or_operator_is_other_code(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    before = counted(ast.unparse(tree))
    found = list(changes_of(tree))
    for node, field, value in found[:: max(1, len(found) // 12)]:
        kept = getattr(node, field)
        setattr(node, field, value)
        assert counted(ast.unparse(tree)) != before, f"line {node.lineno}: {ast.unparse(node)}"
        setattr(node, field, kept)


def replaced(text, before, after):
    assert text.count(before) == 1, f"{before!r} is there {text.count(before)} times"
    return text.replace(before, after)
