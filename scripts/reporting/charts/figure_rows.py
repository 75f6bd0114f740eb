"""The data of each figure, as rows of numbers."""

import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.files.storage import read_json, read_table
from pipeline.identity.systems import Result
from reporting.metrics.registry import QUANTILES
from reporting.metrics.view import Group, Row, View
from reporting.page.content import Content
from reporting.tables.columns import paper, published, ranked_in_paper
from reporting.tables.forms import mean_and_deviation
from reporting.tables.tables import TABLES

if TYPE_CHECKING:
    pass

POINTS = 200  # maximum points of a training curve: with more steps, neighbours are averaged
# The style of a mode's data, by the paper's row shown next to it (section 5.2).
STYLES = {"GSM": "gsm", "Poetry": "poetry", "MBPP": "code", "Recipes": "recipes", "Chess": "chess"}
CUT = 160  # characters of an instruction in a figure's CSV, for tooltips


def identity(group: Group) -> Row:
    """The columns that identify a row's system."""
    return {"model": group.first["model"], "tuning": group.first["label"]}


def win_rates(*tables: str) -> Callable[[View], Iterator[Row]]:
    """The win rates in some tables, with each system of each model once."""

    def rows(view: View) -> Iterator[Row]:
        done = set()
        for table in tables:
            for group in view.groups(TABLES[table].main(view), ("model", "name")):
                if (group.first["model"], group.first["name"]) not in done:
                    done.add((group.first["model"], group.first["name"]))
                    yield win_rate(group)

    return rows


def win_rate(group: Group) -> Row:
    """The mean of a system's win rates, each seed's, and the paper's."""
    values = group.values("win_rate")
    middle, deviation = mean_and_deviation(values)
    row = identity(group) | {"win_rate": middle, "std": deviation or 0.0, "each seed": values, "seeds": len(values)}
    row |= {"n": int(group.first["n"]), "judge": group.first["judge"], "metric": group.first["judge_metric"]}
    return row | paper(published(group))


def ranking(view: View) -> Iterator[Row]:
    """A row for each system and score."""
    for group in view.groups(TABLES["table2"].main(view), ("model", "name")):
        for score in ("sequence", "token"):
            middle, deviation = mean_and_deviation(group.values("capability", part=score))
            (over_seeds,) = group.rows("capability", part=score, level="seeds")
            row = identity(group) | {"score": score, "capability": middle, "std": deviation or 0.0}
            row |= {end: over_seeds[end] for end in ("low", "high")}
            row |= {"ties": statistics.fmean(group.values("ranking_ties", part=score)), "seeds": len(group.main)}
            row |= {"instructions": int(group.values("ranked", part="")[0]), "pairs": int(group.first["n"])}
            # The paper's values use its formula, the probability of the whole response.
            yield row | paper(ranked_in_paper(group) if score == "sequence" else ("", ""))


def epochs(view: View) -> Iterator[Row]:
    """The validation of every epoch count that was tried."""
    table = TABLES["epochs"]
    for group in view.groups(table.main(view), table.by, table.system):
        for row in group.rows("win_rate", "all"):
            (error,) = group.values("win_rate_error", "all")
            point = {"model": row["model"], "mode": row["name"], "epochs": int(row["epochs"])}
            point |= {"win_rate": row["value"], "error": error, "n": int(row["n"]), "judge": row["judge"]}
            yield point | {"chosen": "yes" if group.first["value"] else ""}


def training(view: View) -> Iterator[Row]:
    """The loss of every step of every tuned model; for long runs, means of neighbouring steps."""
    for (model, mode, seed), own in view.of("loss").groupby(["model", "name", "seed"], sort=False):
        losses = own["value"].tolist()
        merged = -(-len(losses) // POINTS)
        for start in range(0, len(losses), merged):
            mean = statistics.fmean(losses[start : start + merged])
            yield {"model": model, "mode": mode, "seed": int(seed), "step": start + 1, "loss": mean, "steps": merged}


def lengths(view: View) -> Iterator[Row]:
    """Quantiles of the tokens of every system's responses, all seeds together."""
    for group in view.groups(view.of("tokens"), ("model", "name")):
        quantiles = {name: group.rows("token_quantile", name, level="seeds")[0] for name in QUANTILES}
        row = identity(group) | {"n": int(quantiles["median"]["n"])}
        row |= {name: own["value"] for name, own in quantiles.items()}
        row |= {"mean": statistics.fmean(group.values("tokens")), "stopped": statistics.fmean(group.values("stopped"))}
        compared = {(own["model"], own["system"]) for own in group.main} & view.opponents
        yield row | {"reference": "yes" if compared else ""}


def similarity(view: View) -> Iterator[Row]:
    """Every response for section 5.2: its similarities, the styles that it has, and its instruction."""
    for group in view.groups(view.of("similarity_correlation", "adherence"), ("model", "name")):
        source = group.first["source"]
        path = read_json(Path(source))["inputs"]["responses"]["path"]
        asked = {row["id"]: row["instruction"] for row in read_table("responses", Path(path))}
        own = STYLES.get(group.first["paper"])
        what = f"the style is that of {own}" if own else "any of the styles counts"
        for row in Content(Result("similarity", source)).rows:
            styles = [name for name in row if name not in ("id", "index", "x", "y") and row[name]]
            text = " ".join(asked[row["id"]].split())
            point = identity(group) | {"id": row["id"], "x": row["x"], "y": row["y"], "styles": ", ".join(styles)}
            point |= {"keeps": "yes" if (own in styles if own else styles) else "no", "what": what}
            yield point | {"instruction": text if len(text) <= CUT else f"{text[:CUT]}…"}
