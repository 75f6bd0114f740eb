"""The part of a module that affects its results: its syntax tree, without what only people and tools read.

It omits comments, layout, docstrings, annotations of functions and variables, log lines, the texts of errors and of
functions that describe errors, and imports of plumbing and of names for annotations. Class fields keep their
annotations, since dataclasses and pydantic models are built from them. Anything not known to be harmless counts: at
worst, a job is rerun needlessly.
"""

import ast
import re
from collections.abc import Collection, Iterable
from typing import Any

FOR_ANNOTATIONS = ("__future__", "collections.abc", "typing")
PRINTERS = ("print", "say")  # their arguments only go to a log
LOGS = ("log", "self.log", "answers.log", "self.answers.log")  # so do texts; the caller may use other values
LOGGERS = ("logger", "logging", "warnings")
LEVELS = ("debug", "info", "warn", "warning", "error", "exception", "critical", "log")
PROGRESS = ("progress.advance", "self.progress.advance")
SHOWN = ("Progress", "run_stage", "sys.exit", "this.finish")  # called with texts for people, like exceptions
SHOWN_KEYWORDS = ("help", "if_gpu_is_full")
# Functions that describe errors, and functions that only raise them if they return nothing.
SAY_WHAT_IS_WRONG = re.compile(r"^_?explain$|(^|_)faults?(_|$)")
REFUSE = ("check_", "_check_", "explained")

# Functions that may be called in an omitted log line, as they have no side effects.
HARMLESS = frozenset(
    "dumps encode float int isinstance items join keys len list lower map max min num_parameters numel parameters "
    "range repr round sorted split stat str strip sum tuple type upper values zip".split()
)


def what_counts(source: str, *, plumbing: Collection[str]) -> ast.Module:
    """The tree of a module without what does not count; ``plumbing`` lists dotted names of modules that never count.

    The result need not be valid code.
    """
    return _Counting((*FOR_ANNOTATIONS, *plumbing)).visit(ast.parse(source))


def written(node: Any) -> str:
    """A tree, or a part of one, as a text that is the same for all versions of Python, without positions."""
    if isinstance(node, list):
        return f"[{', '.join(map(written, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    empty = (None, [])  # in some versions, in fields that others do not have
    fields = [(name, value) for name, value in ast.iter_fields(node) if value not in empty and name != "ctx"]
    return f"{type(node).__name__}({', '.join(f'{name}={written(value)}' for name, value in fields)})"


class _Counting(ast.NodeTransformer):
    """Removes from a tree what does not count."""

    def __init__(self, not_imported: Collection[str]) -> None:
        self.not_imported = not_imported
        self.fields: set[int] = set()  # ids of the annotated fields of classes
        self.in_exception = False

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        if isinstance(node.value, ast.Constant) or _only_logs(node.value):
            return None
        if isinstance(node.value, ast.Call) and _last_name(node.value.func).startswith(REFUSE):
            _drop_texts(node.value, sentences=True)
        return self.generic_visit(node)

    def visit_Pass(self, node: ast.Pass) -> None:
        return None

    def visit_Import(self, node: ast.Import) -> ast.AST | None:
        node.names = [alias for alias in node.names if alias.name not in self.not_imported]
        return node if node.names else None

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST | None:
        names = [alias for alias in node.names if f"{node.module}.{alias.name}" not in self.not_imported]
        node.names = sorted(names, key=lambda alias: alias.name)
        return node if names and node.module not in self.not_imported else None

    def visit_If(self, node: ast.If) -> ast.AST | None:
        if _dotted(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            node.body = []
        self.generic_visit(node)
        return node if node.body or node.orelse or not _harmless([node.test]) else None

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        if id(node) in self.fields:
            return self.generic_visit(node)
        return self.visit(ast.Assign(targets=[node.target], value=node.value)) if node.value else None

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        outer, self.in_exception = self.in_exception, any(_is_exception(base) for base in node.bases)
        self.fields |= {id(statement) for statement in node.body if isinstance(statement, ast.AnnAssign)}
        self.generic_visit(node)
        self.in_exception = outer
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        if SAY_WHAT_IS_WRONG.search(node.name) or (node.name.startswith(REFUSE) and _returns_nothing(node)):
            node.body = [_NoTexts(sentences=True).visit(statement) for statement in node.body]
        return self.generic_visit(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        node.msg = None
        return self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        if isinstance(node.exc, ast.Call):
            _drop_texts(node.exc)
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        of_exception = _is_exception(node.func) or (self.in_exception and ast.unparse(node.func) == "super().__init__")
        if of_exception or _dotted(node.func) in SHOWN:
            _drop_texts(node)
        node.keywords = [keyword for keyword in node.keywords if keyword.arg not in SHOWN_KEYWORDS]
        return self.generic_visit(node)


class _NoTexts(ast.NodeTransformer):
    """Empties texts, except those passed as keyword arguments, which may be values.

    In code that also computes, only ``sentences`` are emptied: texts that contain a space and are not compared.
    """

    def __init__(self, *, sentences: bool) -> None:
        self.sentences = sentences

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        shown = isinstance(node.value, str) and (" " in node.value or not self.sentences)
        return ast.Constant("") if shown else node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        texts = [part.value for part in node.values if isinstance(part, ast.Constant)]
        return ast.Constant("") if any(" " in text for text in texts) or not self.sentences else node

    def visit_keyword(self, node: ast.keyword) -> ast.AST:
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        return node


def _drop_texts(call: ast.Call, *, sentences: bool = False) -> None:
    call.args = [_NoTexts(sentences=sentences).visit(argument) for argument in call.args]


def _dotted(node: ast.AST) -> str:
    """A dotted name, or an empty string if a node is something else."""
    if isinstance(node, ast.Attribute):
        before = _dotted(node.value)
        return f"{before}.{node.attr}" if before else ""
    return node.id if isinstance(node, ast.Name) else ""


def _returns_nothing(function: ast.FunctionDef) -> bool:
    return not any(isinstance(node, ast.Return | ast.Yield) and node.value for node in ast.walk(function))


def _last_name(node: ast.AST) -> str:
    return node.attr if isinstance(node, ast.Attribute) else _dotted(node)


def _is_exception(node: ast.AST) -> bool:
    return _dotted(node).endswith(("Error", "Exception", "Warning"))


def _only_logs(node: ast.AST) -> bool:
    """Whether an expression whose value is unused only writes to a log."""
    if not isinstance(node, ast.Call):
        return False
    name = _dotted(node.func)
    before, _, last = name.rpartition(".")
    arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
    if name in PRINTERS:
        logs = all(keyword.arg != "file" or _dotted(keyword.value) == "sys.stderr" for keyword in node.keywords)
    elif name in LOGS:
        logs = any(_is_text(part) for argument in arguments for part in ast.walk(argument))
    else:
        logs = name in PROGRESS or last == "add_note" or (before in LOGGERS and last in LEVELS)
    return logs and _harmless(arguments)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _harmless(expressions: Iterable[ast.AST]) -> bool:
    """Whether expressions are known to have no side effects."""
    for node in (part for expression in expressions for part in ast.walk(expression)):
        if isinstance(node, ast.NamedExpr | ast.Await | ast.Yield | ast.YieldFrom):
            return False
        if isinstance(node, ast.Call):
            called = [node.func, *(node.args[:1] if _dotted(node.func) == "map" else [])]
            if not HARMLESS.issuperset(map(_last_name, called)):
                return False
    return True
