"""Performance under each condition: each world's numbers, and means over worlds.

Each world has its own corpus and pre-training, so the spread over worlds is not just that over instructions.
"""

import math
import statistics
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from reporting.metrics.view import Group, Line, Row, View
from reporting.tables.card_table import card_in_short
from reporting.tables.forms import fixed, mean_and_deviation, plus_minus

if TYPE_CHECKING:
    from pandas import DataFrame

# name -> metric, slice, part, and decimals. Optional ones are omitted if an experiment does not have them.
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
    "ranking, same kind": "Same kind: among wrong responses to other requests of that kind.",
    "ranking, same format": "Same format: among wrong responses of another kind in the same format.",
    "KL": "KL(base || tuned) is in nats per token of held-out text.",
}
NOTE = (
    "Mean ± standard deviation over worlds; each has its own facts, corpus and pre-training. Ranking, by sequence and "
    "per token, is in percent of pairs; quality is from 0 to 1; win rate and ties are in percent of instructions, "
    "against the reference mode, which itself has none; stopped is the percentage of responses that end with EOS; "
    "tokens are per response."
)
OF = {"ranking": "pairs", "quality": "instructions", "win rate": "instructions"}  # what n counts in the figure


def world_rows(view: View) -> list[tuple[Row, list[str]]]:
    """Each world's numbers for each system, and their files: means over seeds, None if there are none."""
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
    """A metric's mean over seeds. The reference mode's quality comes from its comparison with the base model."""
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
    """Four decimals; empty if undefined."""
    return "" if value is None else fixed(value, 4)


def over_worlds(view: View) -> Iterator[tuple[list[Row], list[str]]]:
    """The rows of each condition and system, one per world, and their files."""
    groups: dict[tuple[str, str], tuple[list[Row], list[str]]] = {}
    for row, files in world_rows(view):
        rows, known = groups.setdefault((row["condition"], row["tuning"]), ([], []))
        rows.append(row)
        known += files
    yield from groups.values()


def spread(rows: list[Row], name: str) -> tuple[float, float | None] | None:
    """Mean and standard deviation of a measure over worlds (None for one world); None if a world lacks it."""
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
    """Descriptions of the columns."""
    known = world_rows(view)[0][0]
    return [NOTE, *card_in_short(view), *(note for name, note in OPTIONAL.items() if name in known)]


def drawn(view: View, measures: list[str]) -> list[dict[str, Any]]:
    """Means with 95 % intervals over worlds by Student's t, for measures that every world has."""
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
