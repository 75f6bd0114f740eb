"""The columns of the wider tables: win rates beside the paper's, ranking, kinds of request, other judges, drift."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from implicit.measuring.published import MODELS, RANKING, RULE_WIN_RATES, WIN_RATES
from reporting.metrics.view import Column, Group, Row, View, first, interval, least, mean, n_of, seeds, text
from reporting.tables.card_table import PANEL_COLUMNS
from reporting.tables.forms import fixed, plus_minus

if TYPE_CHECKING:
    from pandas import DataFrame

SYSTEM = [text("model"), text("tuning", "label")]


def published(group: Group) -> tuple:
    """The paper's win rates, by model."""
    if group.first["kind"] == "rules":
        by_rules = {" ".join(sorted(rules)): value for rules, value in RULE_WIN_RATES.items()}
        return by_rules.get(group.first["paper"]), None
    return WIN_RATES.get(group.first["paper"], (None, None))


def ranked_in_paper(group: Group) -> tuple:
    """The paper's capabilities, by model."""
    return RANKING.get(group.first["paper"], ("", ""))


def paper(values: tuple) -> Row:
    """The paper's values by column name: numbers, or means and deviations (None if there are none)."""
    return {f"paper, {name}": value for name, value in zip(MODELS, values, strict=True)}


def paper_columns(values: Callable[[Group], tuple]) -> list[Column]:
    """The columns of the paper's values."""

    def cell(group: Group, head: str) -> str | float:
        value = paper(values(group))[head]
        return value if isinstance(value, float | str) else plus_minus(value)

    return [Column(head, lambda group, head=head: cell(group, head)) for head in paper(("", ""))]


WIN_RATE_COLUMNS = [
    *SYSTEM,
    mean("win rate", "win_rate", spread=True),
    mean("length-controlled", "lc_win_rate", spread=True, every=True),
    Column("each seed", lambda group: " ".join(fixed(value, 1) for value in group.values("win_rate"))),
    interval("95 %", "win_rate"),
    mean("ties", "ties"),
    mean("quality", "quality"),
    mean("of reference", "opponent_quality"),
    mean("stopped", "stopped"),
    mean("tokens", "tokens"),
    *PANEL_COLUMNS,
    mean("position bias", "position_bias", sign="+"),
    replace(mean("label share", "label_share"), optional=True),
    least("label share, minimum", "label_share_minimum"),
    seeds(),
    n_of("n", "win_rate"),
    text("judge"),
    text("metric", "judge_metric"),
    Column("date", lambda group: max(row["date"] for row in group.main)),
    *paper_columns(published),
]


def ranking_columns(view: View) -> list[Column]:
    """Both scores side by side. A line's main rows are those of whole sequences."""
    columns = list(SYSTEM)
    for name, part in (("capability", "sequence"), ("per token", "token")):
        columns.append(mean(name, "capability", part=part, spread=True))
        columns.append(interval(f"{name}, 95 %", "capability", part))
        columns.append(mean(f"{name}, ties", "ranking_ties", part=part))
    columns += [seeds(), first("instructions", "ranked", part=""), n_of("pairs", "capability")]
    return [*columns, *paper_columns(ranked_in_paper)]


def each(main: "DataFrame", column: str) -> list[str]:
    """The distinct values of a column, in order of appearance."""
    return list(dict.fromkeys(main[column]))


def kinds_columns(view: View) -> list[Column]:
    """Quality for all requests, with its standard deviation, and for each kind."""
    kinds = each(view.of("oracle_quality"), "slice")
    columns = [mean(kind, "oracle_quality", kind, spread=kind == "all") for kind in kinds]
    return [*SYSTEM, *columns, seeds(), n_of("n", "oracle_quality", "all")]


def judging_columns(view: View) -> list[Column]:
    """Win rate and ties under each judge."""
    columns = list(SYSTEM)
    for judge in each(view.of("rejudged_win_rate"), "slice"):
        name = judge.replace("_", " ")
        columns.append(mean(name, "rejudged_win_rate", judge, spread=True, every=True))
        columns.append(mean(f"{name}, ties", "rejudged_ties", judge, every=True))
    count = Column(
        "similar length, n", lambda g: sum(int(r["n"]) for r in g.rows("rejudged_win_rate", "similar_length"))
    )
    return [*columns, count, seeds(), n_of("n", "rejudged_win_rate", "judged")]


def drift_columns(view: View) -> list[Column]:
    """Perplexity, KL, and recall by the form of the question."""
    columns = [*SYSTEM, mean("perplexity", "perplexity", spread=True)]
    columns += [first("of base", "base_perplexity"), mean("KL, nats", "kl", spread=True)]
    for form in each(view.of("recall"), "slice"):
        columns.append(mean(f"recall, {form}", "recall", form, spread=True, every=True))
        columns.append(first(f"recall, {form}, of base", "base_recall", form))
        columns.append(first(f"recall, {form}, by chance", "chance_recall", form))
    return [*columns, seeds(), *(first(key, f"drift_{key}") for key in ("documents", "tokens", "cut"))]
