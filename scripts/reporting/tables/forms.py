"""The formats of a table: CSV, the source of truth; Markdown and LaTeX, with all markup in texts escaped."""

import csv
import io
import re
import statistics
from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]

NUMBER = re.compile(r"[+-]?\d|$")  # the beginning of a number, with what follows, or nothing at all
# Backslashes before anything that starts code, emphasis, a link, a cell or HTML; underscores in names are harmless.
MARKDOWN = {letter: "\\" + letter for letter in "\\`*[]<>|"}
LATEX = {letter: "\\" + letter for letter in "&%_#${}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
}


def escaped(value: object, marks: dict[str, str]) -> str:
    """A value as text on one line, with all special characters escaped."""
    return "".join(marks.get(letter, letter) for letter in " ".join(str(value).splitlines()))


def mean_and_deviation(values: list[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation; None for a single value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def fixed(value: float, digits: int, *, sign: str = "") -> str:
    """A number with ``digits`` decimals; ``sign="+"`` also shows the sign of a positive one.

    A share of 200 is often halfway between two values. How it is rounded must not depend on the order of summation.
    """
    return format(round(value, 9), f"{sign}.{digits}f")


def rounded(value: float, digits: int) -> float:
    """The number that `fixed` prints."""
    return round(round(value, 9), digits)


def plus_minus(value: tuple[float, float | None] | None, *, digits: int = 1) -> str:
    """A number as ``mean ± deviation`` with ``digits`` decimals; empty if there is none."""
    if value is None:
        return ""
    mean, deviation = value
    return fixed(mean, digits) + ("" if deviation is None else f" ± {fixed(deviation, digits)}")


def to_csv(rows: Sequence[Row]) -> str:
    """Rows as CSV with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def to_markdown(rows: Sequence[Row], *, title: str, notes: list[str]) -> str:
    """Rows as a Markdown table, with columns padded for reading in a terminal."""
    head = list(rows[0])
    lines = [[escaped(value, MARKDOWN) for value in line] for line in [head, *([row[n] for n in head] for row in rows)]]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]

    def joined(cells: list[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"

    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    escaped_notes = [escaped(note, MARKDOWN) for note in notes]
    return "\n".join([f"**{title}**", "", joined(lines[0]), rule, *map(joined, lines[1:]), "", *escaped_notes]) + "\n"


def to_latex(rows: Sequence[Row], *, title: str, notes: list[str], label: str) -> str:
    """Rows as a LaTeX table for the booktabs package, with numbers to the right, and a label for references."""
    caption = " ".join([f"{escaped(title, LATEX)}.", *(escaped(note, LATEX) for note in notes)])
    lines = [r"\begin{table}", r"\centering", rf"\caption{{{caption}}}", rf"\label{{tab:{label}}}"]
    sides = "".join("r" if all(NUMBER.match(str(row[name])) for row in rows) else "l" for name in rows[0])
    lines += [rf"\begin{{tabular}}{{{sides}}}", r"\toprule"]
    lines += [" & ".join(escaped(name, LATEX) for name in rows[0]) + r" \\", r"\midrule"]
    lines += [" & ".join(escaped(value, LATEX) for value in row.values()) + r" \\" for row in rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"
