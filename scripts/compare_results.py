"""Compare two experiments, or two commits' results of one: what differs in config and data, and which figures differ.

    python scripts/compare_results.py results/tiny results/other      (make compare A=results/tiny B=results/other)

A difference counts as real where Welch's t-test between the seeds of both sides gives p < 0.05, after Holm's correction
for the number of figures that are compared. It asks whether the means differ by more than seeds do; what a single seed
says cannot be told from noise, and is said to be undecided.
"""

import argparse
import math
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stage.command import InputError, run_stage, say
from stage.spent import all_records
from stage.storage import read_json
from stage.table_forms import from_plus_minus, plus_minus, read_csv

Row = dict[str, Any]

ALPHA = 0.05
ROUNDING = 0.1 / math.sqrt(12)  # the standard deviation that rounding to one decimal has by itself
COMPARED = {
    "table1": ("win rate", "length-controlled"),
    "table3": ("win rate", "length-controlled"),
    "table4": ("win rate", "length-controlled"),
    "table2": ("capability", "per token"),
}
MUST_AGREE = ("n", "judge", "metric", "instructions", "pairs")  # or figures are of different things


@dataclass(frozen=True)
class Side:
    """A figure of one experiment: mean and standard deviation (None for one seed) over ``seeds``."""

    mean: float
    deviation: float | None
    seeds: int


@dataclass
class Difference:
    """A figure that both experiments have; ``p`` is None where nothing can be decided."""

    name: str
    a: Side
    b: Side
    unlike: str  # in what the figures are not of the same thing
    p: float | None = None
    verdict: str = ""


def rows_of(path: Path) -> list[Row]:
    """A table's rows; none where the experiment has no such table."""
    return read_csv(path) if path.is_file() else []


def side(row: Row, column: str) -> Side | None:
    """A figure of a table's row; None where it is empty."""
    if not row[column]:
        return None
    if column == "win rate":  # each seed's is known, and less is lost by rounding
        values = [float(value) for value in row["each seed"].split()]
        return Side(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))
    return Side(*from_plus_minus(row[column]), int(row["seeds"]))


def differences(a: Path, b: Path) -> tuple[list[Difference], list[str]]:
    """Figures that both have, and the names of rows that only one has."""
    found: dict[str, Difference] = {}
    lonely = []
    for table, columns in COMPARED.items():
        rows = [{(r["model"], r["tuning"]): r for r in rows_of(each / "tables" / f"{table}.csv")} for each in (a, b)]
        for key in dict.fromkeys([*rows[0], *rows[1]]):
            if key not in rows[0] or key not in rows[1]:
                lonely.append(f"{table}, {', '.join(key)}: only in {'A' if key in rows[0] else 'B'}")
                continue
            one, two = rows[0][key], rows[1][key]
            unlike = [name for name in MUST_AGREE if one.get(name) != two.get(name)]
            for column in columns:
                ours, theirs = side(one, column), side(two, column)
                if ours and theirs:  # a row may stand in several tables
                    name = f"{', '.join(key)}: {column}"
                    found.setdefault(name, Difference(name, ours, theirs, ", ".join(unlike)))
    return list(found.values()), lonely


def welch(a: Side, b: Side) -> float | None:
    """The p-value of Welch's t-test from means and deviations; None with a single seed on either side.

    Deviations below that of rounding are taken as that: seeds that agree to the last digit do not prove anything.
    """
    from scipy.stats import ttest_ind_from_stats

    if a.deviation is None or b.deviation is None:
        return None
    spread = [max(each.deviation or 0.0, ROUNDING) for each in (a, b)]
    return float(ttest_ind_from_stats(a.mean, spread[0], a.seeds, b.mean, spread[1], b.seeds, equal_var=False).pvalue)


def decide(found: list[Difference]) -> None:
    """Give every figure its verdict: Holm's step-down over all that can be decided."""
    for each in found:
        each.p = welch(each.a, each.b)
        each.verdict = "undecided: one seed" if each.p is None else "within the noise of seeds"
        if each.a == each.b:
            each.verdict = "the same"
    decidable = sorted((each for each in found if each.p is not None), key=lambda each: each.p or 0.0)
    for rank, each in enumerate(decidable):
        if (each.p or 0.0) * (len(decidable) - rank) >= ALPHA:
            break
        each.verdict = "DIFFERS by more than seeds do"
    for each in found:
        each.verdict += f" (not the same {each.unlike})" if each.unlike else ""


def config_differences(a: Any, b: Any, name: str = "") -> list[str]:
    """What differs between two configs, a line for each key; a section that only one has is one line."""
    if not (isinstance(a, dict) and isinstance(b, dict)):
        return [] if a == b else [f"{name}: A {a}, B {b}"]
    lines = []
    for key in dict.fromkeys([*a, *b]):
        inner = f"{name}.{key}" if name else key
        if key in a and key in b:
            lines += config_differences(a[key], b[key], inner)
        else:
            lines.append(f"{inner!s}: only in {'A' if key in a else 'B'}: {a.get(key, b.get(key))}")
    return lines


def changed(table: str, columns: tuple[str, ...], names: tuple[str, ...], a: Path, b: Path) -> list[str]:
    """Cells of ``names`` that differ between two experiments' tables, by the columns that identify a row."""
    rows = [{tuple(r[c] for c in columns): r for r in rows_of(each / "tables" / f"{table}.csv")} for each in (a, b)]
    shared = [key for key in rows[0] if key in rows[1]]
    cells = [(key, name) for key in shared for name in names if rows[0][key][name] != rows[1][key][name]]
    return [f"{', '.join(key)}: {name} A {rows[0][key][name]}, B {rows[1][key][name]}" for key, name in cells]


def chosen(results: Path) -> dict[str, str]:
    """The epoch count of each model and mode."""
    rows = rows_of(results / "tables" / "epochs.csv")
    return {f"{row['model']}, {row['mode']}": row["epochs"] for row in rows if row["chosen"]}


def origin(results: Path) -> str:
    """The commits and package versions that the records of an experiment name, in a line."""
    records = all_records(results).values()
    commits = sorted({(record["commit"] or "unknown")[:12] for record in records})
    versions = {
        f"{package} {number}" for r in records for package, number in r["versions"].items() if package == "torch"
    }
    return f"{results}: commit {', '.join(commits) or 'unknown'}; {', '.join(sorted(versions)) or 'no records'}"


def told(title: str, lines: list[str], *, nothing: str) -> None:
    """Print lines under a title."""
    say(f"\n{title}")
    for line in lines or [nothing]:
        say(f"  {line}")


def show(found: list[Difference]) -> list[str]:
    """The figures as lines of a table."""
    lines = []
    width = max((len(each.name) for each in found), default=0)
    for each in found:
        sides = [plus_minus((s.mean, s.deviation)) for s in (each.a, each.b)]
        seeds = f"{each.a.seeds} and {each.b.seeds} seeds"
        p = "" if each.p is None else f", p = {each.p:.2g}"
        change = each.b.mean - each.a.mean
        lines.append(
            f"{each.name:<{width}}  {sides[0]:>12}  {sides[1]:>12}  {change:>+7.1f}  {each.verdict} ({seeds}{p})"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("a", type=Path)
    parser.add_argument("b", type=Path)
    args = parser.parse_args()
    for results in (args.a, args.b):
        if not (results / "tables").is_dir():
            raise InputError(f"{results}: no results of an experiment, as it has no folder 'tables'")
    configs = [path for path in (args.a / "config.json", args.b / "config.json") if path.is_file()]
    say(f"A  {origin(args.a)}\nB  {origin(args.b)}")
    if len(configs) == 2:
        lines = config_differences(*map(read_json, configs))
        told("Config, A and B:", lines, nothing="no difference")
    else:
        told(
            "Config:",
            [],
            nothing="not recorded on both sides (config.json): run both experiments again with this version",
        )
    told("Data:", changed("data", ("kind", "name"), ("rows", "sha256"), args.a, args.b), nothing="no difference")
    one, two = chosen(args.a), chosen(args.b)
    epochs = [f"{name}: A {one[name]}, B {two[name]}" for name in one if name in two and one[name] != two[name]]
    told("Chosen epochs:", epochs, nothing="no difference")
    found, lonely = differences(args.a, args.b)
    decide(found)
    told("Figures, A, B, and B less A (percent points):", show(found), nothing="none that both have")
    if lonely:
        told("Not on both sides:", lonely, nothing="")
    decidable = sum(each.p is not None for each in found)
    say(
        f"\n'DIFFERS': Welch's t-test between seeds, p < {ALPHA} after Holm's correction for {decidable} figures.\n"
        "Only seeds are drawn anew: other instructions, or another pre-training, may give something else.\n"
        "One seed has no spread: nothing is decided from it."
    )


if __name__ == "__main__":
    run_stage(main)
