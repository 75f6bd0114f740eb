"""The metrics table as tables and figures use it: grouped rows of a main metric, with their other numbers."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from reporting.metrics.registry import METRICS
from reporting.tables.forms import fixed, mean_and_deviation, plus_minus

if TYPE_CHECKING:
    from pandas import DataFrame

Row = dict[str, Any]
Key = tuple[str, ...]
SYSTEM = ["model", "name", "epochs"]


@dataclass
class Line:
    """A line of a table: its cells by column, and the files they come from."""

    cells: Row
    sources: list[str] = field(default_factory=list)


class View:
    """A table of metrics, and its rows by system and metric.

    ``note`` is shown under every table; ``axis`` says what varies between conditions.
    """

    def __init__(self, metrics: "DataFrame", *, note: str | None = None, axis: str = "") -> None:
        self.metrics, self.note, self.axis = metrics, note, axis

    @cached_property
    def known(self) -> dict[Key, dict[Key, list[Row]]]:
        """The rows of each system by (metric, slice, part, level); rows of a training step are left out."""
        found: dict[Key, dict[Key, list[Row]]] = {}
        for row in self.metrics[self.metrics["step"].isna()].to_dict("records"):
            own = found.setdefault(tuple(row[name] for name in SYSTEM), {})
            own.setdefault((row["metric"], row["slice"], row["part"], row["level"]), []).append(row)
        return found

    @cached_property
    def models(self) -> list[str]:
        """The base models, in order."""
        return [name for name in dict.fromkeys(self.metrics["model"]) if name]

    def of(self, *names: str) -> "DataFrame":
        """The rows of single seeds for some metrics; for comparisons, only those on the test set."""
        own = self.metrics
        return own[own["metric"].isin(names) & (own["level"] == "seed") & (own["opponent"] != "references")]

    @cached_property
    def opponents(self) -> set[tuple[str, str]]:
        """The systems that others were compared with, as (model, path)."""
        return set(zip(self.metrics["model"], self.metrics["opponent"], strict=True))

    def groups(
        self, main: "DataFrame", by: Sequence[str], system: Callable[[Row], Key] | None = None
    ) -> Iterator["Group"]:
        """Yield groups of main rows, model by model; ``system`` says which system's other numbers belong to a group.

        If the system's path is among ``by``, a group is a single run and has only that run's numbers.
        """
        order = {model: place for place, model in enumerate(self.models)}
        ordered = main.sort_values("model", key=lambda names: names.map(order), kind="stable")
        for _, rows in ordered.groupby(list(by), sort=False, dropna=False):
            own = rows.to_dict("records")
            key = system(own[0]) if system else tuple(own[0][name] for name in SYSTEM)
            yield Group(own, self.known.get(key, {}), alone="system" in by)


class Group:
    """The main rows of a table line and their system's other numbers; it records which files are used."""

    def __init__(self, main: list[Row], known: dict[Key, list[Row]], *, alone: bool = False) -> None:
        self.main, self.known, self.alone = main, known, alone
        self.sources = dict.fromkeys(row["source"] for row in main)

    @property
    def first(self) -> Row:
        """The first of the main rows."""
        return self.main[0]

    def rows(self, metric: str, slice: str | None = None, part: str | None = None, level: str = "seed") -> list[Row]:
        """The rows of a metric, one per seed; slice and part default to those of the main row."""
        slice = self.first["slice"] if slice is None else slice
        part = self.first["part"] if part is None else part
        found = self.known.get((metric, slice, part, level), [])
        if self.alone:
            found = [row for row in found if row["system"] == self.first["system"]]
        self.sources |= dict.fromkeys(row["source"] for row in found)
        return found

    def values(self, metric: str, slice: str | None = None, part: str | None = None) -> list[float]:
        """The values of a metric, one per seed."""
        return [row["value"] for row in self.rows(metric, slice, part)]


@dataclass(frozen=True)
class Column:
    """A column of a table: its header, and how to make a group's cell."""

    name: str
    cell: Callable[[Group], Any]
    optional: bool = False  # left out of tables in which it is empty


def text(name: str, column: str | None = None) -> Column:
    """A column copied from the main rows."""
    return Column(name, lambda group: group.first[column or name])


def mean(
    name: str,
    metric: str,
    slice: str | None = None,
    part: str | None = None,
    *,
    spread: bool = False,
    every: bool = False,
    sign: str = "",
) -> Column:
    """The mean over seeds, with ``spread`` ± the standard deviation; with ``every``, only if all seeds have a value."""
    digits = METRICS[metric].decimals

    def cell(group: Group) -> str:
        values = group.values(metric, slice, part)
        if not values or (every and len(values) < len(group.main)):
            return ""
        middle, deviation = mean_and_deviation(values)
        return plus_minus((middle, deviation), digits=digits) if spread else fixed(middle, digits, sign=sign)

    return Column(name, cell)


def least(name: str, metric: str) -> Column:
    """The minimum over seeds."""

    def cell(group: Group) -> str:
        values = group.values(metric)
        return fixed(min(values), METRICS[metric].decimals) if values else ""

    return Column(name, cell, optional=True)


def first(name: str, metric: str, slice: str | None = None, part: str | None = None) -> Column:
    """A value that is the same for all seeds, as a count or with the metric's decimals."""
    digits = METRICS[metric].decimals

    def cell(group: Group) -> str | int:
        values = group.values(metric, slice, part)
        return ("" if not values else fixed(values[0], digits)) if digits else int(values[0]) if values else ""

    return Column(name, cell)


def n_of(name: str, metric: str, slice: str | None = None, part: str | None = None) -> Column:
    """The number of rows that a metric is computed from."""
    return Column(name, lambda group: next((int(row["n"]) for row in group.rows(metric, slice, part)), ""))


def interval(name: str, metric: str, part: str | None = None) -> Column:
    """The 95 % interval of the mean over seeds."""
    digits = METRICS[metric].decimals

    def cell(group: Group) -> str:
        (row,) = group.rows(metric, part=part, level="seeds")
        return f"{fixed(row['low'], digits)} to {fixed(row['high'], digits)}"

    return Column(name, cell)


def seeds() -> Column:
    """The number of seeds of the main metric."""
    return Column("seeds", lambda group: len(group.main))
