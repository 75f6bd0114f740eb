"""Declarations of all figures: what they need, what they draw, and their charts."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from reporting.charts import card_charts, charts, condition_charts, figure_rows
from reporting.charts.chart_parts import Panel
from reporting.metrics.view import Row, View
from reporting.tables.condition_tables import drawn
from reporting.tables.forms import fixed, plus_minus, rounded, to_csv


@dataclass(frozen=True)
class Figure:
    """A figure: its rows, the decimals of their numbers, and the charts made from them."""

    needs: frozenset[str]  # what an experiment must have measured
    rows: Callable[[View], Iterable[Row]]
    panels: Callable[[list[Row]], list[Panel]]
    decimals: dict[str, int] = field(default_factory=dict)


RATE = {"win_rate": 1, "std": 1, "each seed": 1}
QUANTILES = dict.fromkeys(("p5", "p25", "median", "p75", "p95", "mean", "stopped"), 1)
FIGURES = {
    "conditions": Figure(
        frozenset({"conditions"}),
        lambda view: drawn(view, list(condition_charts.MEASURES)),
        condition_charts.conditions,
        {"mean": 4, "low": 4, "high": 4},
    ),
    "win_rates": Figure(
        frozenset({"judge"}), figure_rows.win_rates("table1", "table3", "table4"), charts.win_rates, RATE
    ),
    "rules": Figure(frozenset({"judge", "rules"}), figure_rows.win_rates("table4"), charts.rules, RATE),
    "ranking": Figure(
        frozenset({"rank"}),
        figure_rows.ranking,
        charts.ranking,
        {"capability": 1, "std": 1, "low": 1, "high": 1, "ties": 1},
    ),
    "epochs": Figure(frozenset({"choice"}), figure_rows.epochs, charts.epochs, {"win_rate": 1, "error": 1}),
    "training": Figure(frozenset(), figure_rows.training, charts.training, {"loss": 4}),
    "lengths": Figure(frozenset(), figure_rows.lengths, charts.lengths, QUANTILES),
    "judge_card": Figure(
        frozenset({"card"}), card_charts.reliability_rows, card_charts.reliability, {"judge": 1, "annotators": 1}
    ),
    "similarity": Figure(frozenset({"similarity"}), figure_rows.similarity, charts.similarity, {"x": 4, "y": 4}),
}


def figures_of(measured: set[str]) -> list[str]:
    """The names of the figures for an experiment with these measurements."""
    return [name for name, figure in FIGURES.items() if figure.needs <= measured]


def rows_of(name: str, view: View) -> list[Row]:
    """A figure's rows, rounded as they are printed, so that a drawing contains no more than its CSV."""
    digits = FIGURES[name].decimals
    return [
        {column: _rounded(value, digits[column]) if column in digits else value for column, value in row.items()}
        for row in FIGURES[name].rows(view)
    ]


def _rounded(value: Any, digits: int) -> Any:
    if isinstance(value, list):
        return [rounded(each, digits) for each in value]
    return None if value is None else rounded(value, digits)


def as_text(name: str, rows: list[Row]) -> list[dict[str, str]]:
    """The rows of a figure as printed text."""

    def as_cell(column: str, value: Any) -> str:
        if isinstance(value, list):
            return " ".join(fixed(each, FIGURES[name].decimals[column]) for each in value)
        if isinstance(value, tuple):
            return plus_minus(value)
        if value is not None and column in FIGURES[name].decimals:
            return fixed(value, FIGURES[name].decimals[column])
        return "" if value is None else str(value)

    return [{column: as_cell(column, value) for column, value in row.items()} for row in rows]


def csv_of(name: str, rows: list[Row]) -> str:
    """A figure's CSV."""
    return to_csv(as_text(name, rows))
