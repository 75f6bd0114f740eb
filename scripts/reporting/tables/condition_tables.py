"""What models can do under each condition: each world's numbers, and means over worlds.

Each world has a corpus and a pre-training of its own, so that the spread over worlds is not that of instructions alone.
"""

import math
import statistics
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from reporting.metrics.view import Group, Line, Row, View
from reporting.tables.forms import fixed, mean_and_deviation, plus_minus

if TYPE_CHECKING:
    from pandas import DataFrame

# name -> metric, slice, part, and decimals. Those that not every experiment has are left out where there are none.
MEASURES = {
    "ranking": ("capability", "any", "sequence", 1),
    "per token": ("capability", "any", "token", 1),
    "quality": ("quality", "all", "", 2),
    "win rate": ("win_rate", "all", "", 1),
    "ties": ("ties", "all", "", 1),
    "stopped": ("stopped", "all", "", 1),
    "tokens": ("tokens", "all", "", 1),
    "ranking, same kind": ("capability", "same_kind", "sequence", 1),
    "ranking, same format": ("capability", "same_format", "sequence", 1),
    "KL": ("kl", "all", "", 3),
}
OPTIONAL = {
    "ranking, same kind": "Of the same kind: among wrong responses to other requests of that kind.",
    "ranking, same format": "Of the same format: among wrong responses of another kind in the same format.",
    "KL": "KL(base || tuned) is in nats per token of text that no model was tuned on.",
}
NOTE = (
    "Mean ± standard deviation over worlds; each has its own facts, corpus and pre-training. Ranking, by sequence and "
    "per token, is in percent of pairs; quality is from 0 to 1; win rate and ties are in percent of instructions, "
    "against the reference mode, which has none itself; stopped is the percentage of responses that end by themselves; "
    "tokens are of a response."
)
OF = {"ranking": "pairs", "quality": "instructions", "win rate": "instructions"}  # what the figure's n counts


def world_rows(view: View) -> list[tuple[Row, list[str]]]:
    """Each world's numbers of each system, and their files: means over its seeds, None where there is none."""
    rows = []
    for group in view.groups(view.of("tokens"), ("model", "name")):
        measured = {name: mean_of(view, group, *of) for name, (*of, _) in MEASURES.items()}
        row = {"condition": group.first["condition"], "world": group.first["world"], "tuning": group.first["label"]}
        pairs = group.rows("capability", "any", "sequence")
        counts = {"seeds": len(group.main), "n": int(group.first["n"]), "pairs": int(pairs[0]["n"]) if pairs else ""}
        rows.append((row | measured | counts, list(group.sources)))
    missing = [name for name in OPTIONAL if all(row[name] is None for row, _ in rows)]
    return [({name: value for name, value in row.items() if name not in missing}, files) for row, files in rows]


def mean_of(view: View, group: Group, metric: str, slice: str, part: str) -> float | None:
    """A metric's mean over seeds. The quality of the reference mode is known from those that it was compared with."""
    values = group.values(metric, slice, part)
    if metric == "quality" and {(row["model"], row["system"]) for row in group.main} & view.opponents:
        base = view.known.get((group.first["model"], "base", ""), {})
        values = [row["value"] for row in base.get(("opponent_quality", "all", "", "seed"), [])]
    return statistics.fmean(values) if values else None


def world_lines(view: View) -> list[Line]:
    """The numbers of `world_rows` as text."""
    return [
        Line({name: as_text(value) if name in MEASURES else value for name, value in row.items()}, files)
        for row, files in world_rows(view)
    ]


def as_text(value: float | None) -> str:
    """Four decimals; empty for what is not defined."""
    return "" if value is None else fixed(value, 4)


def over_worlds(view: View) -> Iterator[tuple[list[Row], list[str]]]:
    """The rows of the same condition and system, a world each, and their files."""
    groups: dict[tuple[str, str], tuple[list[Row], list[str]]] = {}
    for row, files in world_rows(view):
        rows, known = groups.setdefault((row["condition"], row["tuning"]), ([], []))
        rows.append(row)
        known += files
    yield from groups.values()


def spread(rows: list[Row], name: str) -> tuple[float, float | None] | None:
    """Mean and standard deviation of a measure over worlds (None for one world); None where a world has none."""
    values = [row[name] for row in rows if row.get(name) is not None]
    return mean_and_deviation(values) if len(values) == len(rows) else None


def condition_lines(view: View) -> list[Line]:
    """A line for each condition and system."""
    lines = []
    for rows, files in over_worlds(view):
        cells = {name: rows[0][name] for name in ("condition", "tuning")}
        cells |= {
            name: plus_minus(spread(rows, name), digits=digits)
            for name, (*_, digits) in MEASURES.items()
            if name in rows[0]
        }
        lines.append(Line(cells | {"worlds": len(rows), "n": rows[0]["n"], "pairs": rows[0]["pairs"]}, files))
    return lines


def condition_notes(view: View, main: "DataFrame") -> list[str]:
    """What the columns are."""
    known = world_rows(view)[0][0]
    return [NOTE, *(note for name, note in OPTIONAL.items() if name in known)]


def drawn(view: View, measures: list[str]) -> list[dict[str, Any]]:
    """Means with 95 % intervals over worlds by Student's t, of what is known in every world."""
    from scipy.stats import t

    made = []
    for rows, _ in over_worlds(view):
        for name in measures:
            measured = spread(rows, name)
            if measured is None:
                continue
            middle, deviation = measured
            half = None
            if deviation is not None:
                half = float(t.ppf(0.975, len(rows) - 1)) * deviation / math.sqrt(len(rows))
            ends = {"low": None, "high": None} if half is None else {"low": middle - half, "high": middle + half}
            of = OF.get(name, "")
            row = {"condition": rows[0]["condition"], "tuning": rows[0]["tuning"], "measure": name, "mean": middle}
            n = {"pairs": rows[0]["pairs"], "instructions": rows[0]["n"]}.get(of, "")
            made.append(row | ends | {"worlds": len(rows), "n": n, "of": of, "axis": view.axis})
    return made
