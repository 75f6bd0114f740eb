"""All numbers in an experiment's files as rows of one tidy table, one number per row.

Rows of level ``seed`` come from one file: one system and seed. Rows of level ``seeds`` are over all seeds of a system,
with the interval of their mean, or quantiles of the pooled values. Undefined values have no row.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.files.storage import read_table
from pipeline.identity.systems import Experiment, Result
from reporting.metrics.registry import METRICS, Metric
from reporting.page.content import Content, Number

if TYPE_CHECKING:
    from pandas import DataFrame

Row = dict[str, Any]

# name -> type, and description.
COLUMNS = {
    "model": ("str", "the base model, by its name in the config"),
    "condition": ("str", "the model's condition; empty if nothing was varied"),
    "world": ("Int64", "the seed of the model's world"),
    "name": ("str", "base, rules/VARIANT or the mode: identifies a system of a model, without its seed"),
    "system": ("str", "its folder inside the model's"),
    "kind": ("str", "base, rules or tuned"),
    "turn": ("str", "the mode's user_turn"),
    "label": ("str", "the system's name in tables and figures"),
    "paper": ("str", "the row of the paper's tables shown next to it; for rules, those that are applied"),
    "epochs": ("str", "of a tuned model: a count, or chosen"),
    "seed": ("Int64", "its own, or its opponent's if it has none"),
    "opponent": ("str", "the system that it was compared with, or references"),
    "set": ("str", "the evaluation set or dataset"),
    "slice": ("str", "all, a kind of request, a kind of negatives, a style, ..."),
    "part": ("str", "of the slice: a score, a quartile, ..."),
    "step": ("Int64", "the tuning step"),
    "metric": ("str", "its name in the registry"),
    "level": ("str", "seed: one seed's; seeds: over all seeds of the system"),
    "value": ("float64", "the number"),
    "low": ("float64", "the lower end of its 95 % interval"),
    "high": ("float64", "the upper end"),
    "n": ("Int64", "the number of instructions, pairs, rows, ..."),
    "unit": ("str", "of the value"),
    "judge": ("str", "the judge"),
    "judge_metric": ("str", "the judge's method of length control"),
    "date": ("str", "of the judgement"),
    "origin": ("str", "where a dataset comes from"),
    "sha256": ("str", "of a dataset's texts"),
    "source": ("str", "the file that the number comes from"),
}


def counted(content: Content) -> int | None:
    """The number of rows behind a file's numbers, for numbers without their own n."""
    stage = content.result.stage
    if stage == "generate":
        return len(content.rows)
    known = {"judge": "n", "card": "pairs"}
    if stage in known:
        return content.json[known[stage]]
    return content.summary["documents"] if stage == "drift" else None


def numbers(metric: Metric, content: Content) -> list[Number]:
    """The numbers of a metric in a file."""
    taken = metric.take(content)
    return taken if isinstance(taken, list) else [Number(taken)]


def identity(result: Result, models: dict[str, tuple[str, int | None]]) -> Row:
    """The columns that identify a file's numbers."""
    condition, world = models.get(result.model, ("", None))
    row = {"model": result.model, "condition": condition, "world": world, "seed": result.seed}
    row |= {"opponent": result.opponent, "set": result.set, "source": result.path}
    if result.system is not None:
        own = result.system
        epochs = {"tuned": str(own.epochs or "chosen")}.get(own.kind, "")
        row |= {"name": own.name, "system": own.path, "kind": own.kind, "turn": own.turn, "label": own.label}
        row |= {"paper": " ".join(own.rules) or own.paper, "epochs": epochs}
    return row


def together(results: Iterable[Result]) -> Iterator[list[Result]]:
    """Files of the same stage and system, with all seeds."""
    groups: dict[tuple, list[Result]] = {}
    for result in results:
        system = (result.system.name, result.system.epochs) if result.system else result.path
        groups.setdefault((result.stage, result.model, system, result.set, result.kind), []).append(result)
    yield from groups.values()


def rows_of(metric: Metric, content: Content, own: Row) -> Iterator[Row]:
    """The rows of a metric of one file."""
    for number in numbers(metric, content):
        if number.value is not None:
            n = number.n if number.n is not None else counted(content)
            yield own | content.about | vars(number) | {"n": n, "metric": metric.name, "unit": metric.unit}


def collect(experiment: Experiment, metrics: Sequence[Metric] = tuple(METRICS.values())) -> "DataFrame":
    """The table of metrics, in the order of the files."""
    models = {name: (condition, world) for name, condition, world in experiment.models}
    requests = {
        model: {row["id"]: row["request"] for row in read_table("evaluation_set", Path(path))}
        for model, path in experiment.sets.items()
        if experiment.oracle
    }
    rows: list[Row] = []
    for results in together(experiment.results):
        contents = [Content(result, requests.get(result.model)) for result in results]
        wanted = [metric for metric in metrics if metric.stage == results[0].stage]
        for content in contents:
            own = identity(content.result, models) | {"level": "seed"}
            for metric in wanted:
                rows += rows_of(metric, content, own)
        if (
            results[0].system is None or results[0].system.epochs is None
        ):  # not for epoch counts that were only validated
            own = identity(results[0], models) | {"level": "seeds", "seed": None, "opponent": "", "system": ""}
            for metric in wanted:
                for number in metric.pool(contents):
                    rows.append(own | vars(number) | {"metric": metric.name, "unit": metric.unit})
    return table_of(rows)


def table_of(rows: list[Row]) -> "DataFrame":
    """Rows as a table with all columns, each with its type."""
    import pandas as pd

    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    for name, (kind, _) in COLUMNS.items():
        known = frame[name].astype(object).where(frame[name].notna(), "") if kind == "str" else frame[name]
        frame[name] = known.astype(kind)
    return frame


def read_metrics(path: Path) -> "DataFrame":
    """The table written by `collect_metrics`."""
    import pandas as pd

    frame = pd.read_parquet(path)
    if list(frame.columns) != list(COLUMNS):
        raise ValueError(f"{path} is not a metrics table of this version: its columns are {list(frame.columns)}")
    return frame.astype({name: kind for name, (kind, _) in COLUMNS.items()})
