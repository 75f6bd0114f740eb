"""Draw the figures of an experiment: for each a CSV of what is drawn, and from that CSV alone a PDF and a PNG.

    python scripts/make_figures.py --tables results/tiny/tables --output results/tiny/figures \\
        --settings '{"figures": [...], "drawn": ["win_rates", ...], ...}'

The report draws the same CSVs by the same specs (`stage.charts`). ``drawn`` names the figures to make.
"""

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stage.command import arguments, run_stage, say
from stage.drawing import draw
from stage.storage import read_json, read_table
from stage.table_forms import from_plus_minus, read_csv

Row = dict[str, Any]

WIN_RATE_TABLES = ("table1", "table3", "table4")
POINTS = 200  # of a training curve: where there are more steps, neighbours are averaged
# The style that a mode's data has, by the paper's row that stands beside it (section 5.2).
STYLES = {"GSM": "gsm", "Poetry": "poetry", "MBPP": "code", "Recipes": "recipes", "Chess": "chess"}
CUT = 160  # characters of an instruction in a figure's CSV, for the hover


def paper_columns(row: Row) -> Row:
    """The columns of a table that hold the paper's values."""
    return {name: value for name, value in row.items() if name.startswith("paper, ")}


def win_rate_rows(paths: list[Path]) -> list[Row]:
    """The rows of tables 1, 3 and 4, each system of each model once."""
    rows: dict[tuple[str, str], Row] = {}
    for path in paths:
        for row in read_csv(path):
            mean, deviation = from_plus_minus(row["win rate"])
            told = {"model": row["model"], "tuning": row["tuning"], "win_rate": mean, "std": deviation or 0.0}
            told |= {name: row[name] for name in ("each seed", "seeds", "n", "judge", "metric")}
            rows.setdefault((row["model"], row["tuning"]), told | paper_columns(row))
    return list(rows.values())


def ranking_rows(path: Path) -> list[Row]:
    """Table 2, a row for each score."""
    rows = []
    for row in read_csv(path):
        for score, name in (("sequence", "capability"), ("token", "per token")):
            mean, deviation = from_plus_minus(row[name])
            low, high = row[f"{name}, 95 %"].split(" to ")
            told = {
                "model": row["model"],
                "tuning": row["tuning"],
                "score": score,
                "capability": mean,
                "std": deviation or 0.0,
            }
            told |= {"low": low, "high": high, "ties": row[f"{name}, ties"]}
            told |= {name: row[name] for name in ("seeds", "instructions", "pairs")}
            # The paper's values are by its formula, the probability of the whole response.
            paper = paper_columns(row) if score == "sequence" else dict.fromkeys(paper_columns(row), "")
            rows.append(told | paper)
    return rows


def epoch_rows(path: Path) -> list[Row]:
    """The table of epoch counts; empty where none was chosen among several."""
    names = {"validation win rate": "win_rate"}
    keys = ("model", "mode", "epochs", "validation win rate", "error", "n", "judge", "chosen")
    return [{names.get(key, key): row[key] for key in keys} for row in read_csv(path) if row["validation win rate"]]


def training_rows(tunings: list[Row]) -> Iterator[Row]:
    """The loss of every step of every tuned model; of long runs, means of neighbouring steps."""
    for entry in tunings:
        losses = read_json(entry["path"])["losses"]
        merged = -(-len(losses) // POINTS)
        for start in range(0, len(losses), merged):
            mean = statistics.fmean(losses[start : start + merged])
            told = {key: entry[key] for key in ("model", "mode", "seed")}
            yield told | {"step": start + 1, "loss": f"{mean:.4f}", "steps": merged}


def length_rows(responses: list[Row], reference: str | None) -> list[Row]:
    """Quantiles of the tokens of every system's responses, all seeds together."""
    systems: dict[tuple[str, str], list[Row]] = {}
    for entry in responses:
        systems.setdefault((entry["model"], entry["label"]), []).append(entry)
    rows = []
    for (model, label), entries in systems.items():
        table = [row for entry in entries for row in read_table("responses", Path(entry["path"]))]
        tokens = [row["tokens"] for row in table]
        cuts = statistics.quantiles(tokens, n=20, method="inclusive") if len(tokens) > 1 else tokens * 19
        quantiles = {"p5": cuts[0], "p25": cuts[4], "median": cuts[9], "p75": cuts[14], "p95": cuts[18]}
        rows.append(
            {"model": model, "tuning": label, "n": len(table)}
            | {name: f"{value:.1f}" for name, value in quantiles.items()}
            | {"mean": f"{statistics.fmean(tokens):.1f}"}
            | {"stopped": f"{100 * statistics.fmean(row['stopped'] for row in table):.1f}"}
            | {"reference": "yes" if entries[0]["system"].split("/")[0] == reference else ""}
        )
    return rows


def similarity_rows(similarities: list[Row]) -> Iterator[Row]:
    """Every response of section 5.2: its similarities, the styles that it keeps, and what it was asked."""
    for entry in similarities:
        summary = read_json(entry["path"])
        asked = {
            row["id"]: row["instruction"]
            for row in read_table("responses", Path(summary["inputs"]["responses"]["path"]))
        }
        own = STYLES.get(entry["published"])
        what = f"the style is that of {own}" if own else "any of the styles counts"
        for row in read_table("similarity", Path(entry["path"]).with_suffix(".parquet")):
            styles = [name for name in row if name not in ("id", "index", "x", "y") and row[name]]
            keeps = own in styles if own else bool(styles)
            text = " ".join(asked[row["id"]].split())
            yield {
                "model": entry["model"],
                "tuning": entry["label"],
                "id": row["id"],
                "x": f"{row['x']:.4f}",
                "y": f"{row['y']:.4f}",
                "styles": ", ".join(styles),
                "keeps": "yes" if keeps else "no",
                "what": what,
                "instruction": text if len(text) <= CUT else f"{text[:CUT]}…",
            }


def rows_of(name: str, settings: Row, tables: Path) -> list[Row]:
    """What a figure draws."""
    if name == "win_rates":
        return win_rate_rows([tables / f"{table}.csv" for table in settings["tables"] if table in WIN_RATE_TABLES])
    if name == "rules":
        return win_rate_rows([tables / "table4.csv"])
    if name == "ranking":
        return ranking_rows(tables / "table2.csv")
    if name == "epochs":
        return epoch_rows(tables / "epochs.csv")
    if name == "training":
        return list(training_rows(settings["tunings"]))
    if name == "lengths":
        return length_rows(settings["responses"], settings["reference"])
    return list(similarity_rows(settings["similarities"]))


def main() -> None:
    args = arguments(__doc__, paths=["tables", "output"])
    for name in args.settings["drawn"]:
        draw(rows_of(name, args.settings, args.tables), name, args.output)
    say(f"{len(args.settings['drawn'])} figures in {args.output}")


if __name__ == "__main__":
    run_stage(main)
