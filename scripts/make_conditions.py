"""Tell what models can do under each condition of an experiment, over worlds: a table, and a figure.

    python scripts/make_conditions.py --tables results/pairs/tables --figures results/pairs/figures \\
        --settings '{"conditions": {"axis": "...", "models": {"0-world11": ["0", 11], ...}}, "figures": [...], ...}'

It reads the summaries of comparisons, rankings and drift, and the responses. ``conditions.csv`` (also as Markdown and
LaTeX) has means and standard deviations over worlds, ``conditions_by_world.csv`` each world's own figures, which are
means over its test seeds. Each world has a corpus and a pre-training of its own, so that the spread is not that of
instructions alone. Rankings among harder negatives, and drift, are there if the experiment measures them.
"""

import math
import statistics
from pathlib import Path
from typing import Any

from stage.command import arguments, run_stage, say
from stage.condition_charts import MEASURES as DRAWN
from stage.drawing import draw
from stage.storage import read_json, read_table, write_text
from stage.table_forms import fixed, mean_and_deviation, plus_minus, to_csv, to_latex, to_markdown

Row = dict[str, Any]

TITLE = "Conditions"
ALWAYS = ("ranking", "per token", "quality", "win rate", "ties", "stopped", "tokens")
HARDER = {"same_kind": "ranking, same kind", "same_format": "ranking, same format"}  # by the draw of negatives
MEASURES = (*ALWAYS, *HARDER.values(), "KL")
DIGITS = {"quality": 2, "KL": 3}  # of the others, one
NOTE = (
    "Mean ± standard deviation over worlds; each has its own facts, corpus and pre-training. Ranking, by sequence and "
    "per token, is in percent of pairs; quality is from 0 to 1; win rate and ties are in percent of instructions, "
    "against the reference mode, which has none itself; stopped is the percentage of responses that end by themselves; "
    "tokens are of a response."
)
NOTES = {
    HARDER["same_kind"]: "Of the same kind: among wrong responses to other requests of that kind.",
    HARDER["same_format"]: "Of the same format: among wrong responses of another kind in the same format.",
    "KL": "KL(base || tuned) is in nats per token of text that nobody was tuned on.",
}


def mean(values: list[float | None]) -> float | None:
    """The mean of values; None where there are none, or one of them is not known."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known and len(known) == len(values) else None


def by_world(settings: Row) -> list[Row]:
    """A row for each condition, world and system, in order; measures are numbers, None where there is none.

    Measures beyond those of every experiment are left out where no row has any.
    """
    rows = []
    for model in settings["models"]:
        condition, world = settings["conditions"]["models"][model]
        responses = [entry for entry in settings["responses"] if entry["model"] == model]
        figures = [entry for entry in settings["figures"] if entry["model"] == model]
        rankings = [entry for entry in settings["rankings"] if entry["model"] == model]
        drifts = [entry for entry in settings["drifts"] if entry["model"] == model]
        opponents = [read_json(entry["path"])["quality_1"] for entry in figures if entry["system"] == "base"]
        for label in dict.fromkeys(entry["label"] for entry in responses):
            own = [entry for entry in responses if entry["label"] == label]
            tables = [read_table("responses", Path(entry["path"])) for entry in own]
            answers = [row for table in tables for row in table]
            judged = [read_json(entry["path"]) for entry in figures if entry["label"] == label]
            ranked = [read_json(entry["path"])["summary"] for entry in rankings if entry["label"] == label]
            drifted = [read_json(entry["path"])["summary"] for entry in drifts if entry["label"] == label]
            is_reference = own[0]["system"].split("/")[0] == settings["reference"]
            rows.append(
                {
                    "condition": condition,
                    "world": world,
                    "tuning": label,
                    "ranking": mean([100 * summary["sequence"]["capability"] for summary in ranked]),
                    "per token": mean([100 * summary["token"]["capability"] for summary in ranked]),
                    # The reference mode is never compared with itself, but is what the others are compared with.
                    "quality": mean(opponents if is_reference else [summary["quality_2"] for summary in judged]),
                    "win rate": mean([summary["win_rate"] for summary in judged]),
                    "ties": mean([100 * summary["ties"] / summary["n"] for summary in judged]),
                    "stopped": mean([100 * row["stopped"] for row in answers]),
                    "tokens": mean([row["tokens"] for row in answers]),
                    **{name: mean(among(ranked, draw)) for draw, name in HARDER.items()},
                    "KL": mean([summary["kl"] for summary in drifted]),
                    "seeds": len(own),
                    "n": len(tables[0]),
                    "pairs": ranked[0]["pairs"] if ranked else "",
                }
            )
    missing = [name for name in MEASURES if name not in ALWAYS and all(row[name] is None for row in rows)]
    return [{name: value for name, value in row.items() if name not in missing} for row in rows]


def among(ranked: list[Row], draw: str) -> list[float | None]:
    """Ranking capability in percent among one draw of negatives; none where it was not asked for."""
    controls = [control for summary in ranked for control in summary["controls"] if control["negatives"] == draw]
    return [100 * control["with_eos"]["sequence"]["capability"] for control in controls]


def written(row: Row) -> Row:
    """A row of `by_world` as text."""
    return {
        name: ("" if value is None else fixed(value, 4)) if name in MEASURES else value for name, value in row.items()
    }


def grouped(rows: list[Row]) -> list[list[Row]]:
    """The rows of `by_world` of the same condition and system, in the order of the first of each."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["condition"], row["tuning"]), []).append(row)
    return list(groups.values())


def over_worlds(rows: list[Row], name: str) -> tuple[float, float | None] | None:
    """Mean and sample standard deviation of a measure (None for one world); None where a world has none."""
    values = [row[name] for row in rows]
    if None in values:
        return None
    return mean_and_deviation(values)


def table(rows: list[Row]) -> list[Row]:
    """A row for each condition and system, from those of `by_world`."""
    made = []
    for own in grouped(rows):
        row = {name: own[0][name] for name in ("condition", "tuning")}
        row |= {
            name: plus_minus(over_worlds(own, name), digits=DIGITS.get(name, 1)) for name in MEASURES if name in own[0]
        }
        made.append(row | {"worlds": len(own), "n": own[0]["n"], "pairs": own[0]["pairs"]})
    return made


def drawn(rows: list[Row], axis: str) -> list[Row]:
    """What the figure shows: means with 95 % intervals over worlds by Student's t, for what is known in every world."""
    from scipy.stats import t

    made = []
    for own in grouped(rows):
        for name in DRAWN:
            figure = over_worlds(own, name) if name in own[0] else None
            if figure is None:
                continue
            middle, deviation = figure
            row = {"condition": own[0]["condition"], "tuning": own[0]["tuning"], "measure": name}
            row |= {"mean": fixed(middle, 4), "low": "", "high": ""}
            if deviation is not None:
                half = float(t.ppf(0.975, len(own) - 1)) * deviation / math.sqrt(len(own))
                row |= {"low": fixed(middle - half, 4), "high": fixed(middle + half, 4)}
            of = "pairs" if name == "ranking" else "instructions" if name in ALWAYS else ""
            n = {"pairs": own[0]["pairs"], "instructions": own[0]["n"]}.get(of, "")
            made.append(row | {"worlds": len(own), "n": n, "of": of, "axis": axis})
    return made


def main() -> None:
    args = arguments(__doc__, paths=["tables", "figures"])
    settings, axis = args.settings, args.settings["conditions"]["axis"]
    worlds = by_world(settings)
    write_text(to_csv([written(row) for row in worlds]), args.tables / "conditions_by_world.csv")
    rows = table(worlds)
    told = [NOTES[name] for name in NOTES if name in worlds[0]]
    title, notes = f"{TITLE}: {axis}", [note for note in (settings["note"], NOTE, *told) if note]
    write_text(to_csv(rows), args.tables / "conditions.csv")
    write_text(to_markdown(rows, title=title, notes=notes), args.tables / "conditions.md")
    write_text(to_latex(rows, title=title, notes=notes), args.tables / "conditions.tex")
    draw(drawn(worlds, axis), "conditions", args.figures)
    say(f"{len(rows)} rows, {len(worlds)} of single worlds")


if __name__ == "__main__":
    run_stage(main)
