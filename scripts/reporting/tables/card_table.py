"""Information on judges: the table and the summary of a judge's card, and the members of a panel."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from reporting.metrics.view import Column, Group, Line, Row, View
from reporting.tables.forms import fixed

if TYPE_CHECKING:
    from pandas import DataFrame

CARD_NOTE = (
    "Agreement: percent of pairs in which the annotators' winner is preferred; a tie of the judge counts one half, "
    "pairs that the annotators tie are left out. Majority: always the side that wins more often; longer: the longer "
    "response; people: one annotator against another of the same pair. Similar length: neither response is more than "
    "1.25 times as long as the other. Weakest models: the quarter with the lowest win rates. Rank correlations are "
    "of models' win rates with the annotators' on the same pairs. Intervals draw "
    "instructions with all their pairs, those of rank correlations draw models."
)


def rows_of(view: View, metric: str, **where: str) -> list[Row]:
    """The rows of a metric of cards with these values."""
    found = view.of(metric)
    for column, value in where.items():
        found = found[found[column] == value]
    return found.to_dict("records")


def spread(row: Row, digits: int) -> str:
    """An interval in words."""
    return f"{fixed(row['low'], digits)} to {fixed(row['high'], digits)}"


def card_lines(view: View) -> list[Line]:
    """A line for each set of known judgements and slice of it."""
    lines = []
    for (name, part), own in view.of("agreement").groupby(["set", "slice"], sort=False):
        by = {row["part"]: row for row in own.to_dict("records")}
        judge = by["judge"]
        cells: Row = {"judge": judge["judge"], "known judgements": name, "pairs": part}
        cells |= {"agreement": fixed(judge["value"], 1), "95 %": spread(judge, 1)}
        cells |= {who: fixed(by[who]["value"], 1) if who in by else "" for who in ("majority", "longer", "people")}
        for who in ("judge", "annotation"):
            wins = rows_of(view, "longer_wins", set=name, part=who) if part == "all" else []
            cells[f"longer wins, {who}"] = fixed(wins[0]["value"], 1) if wins else ""
        for kind in ("raw", "length-controlled"):
            ranks = rows_of(view, "rank_correlation", set=name, part=kind) if part == "all" else []
            cells[f"rank correlation, {kind}"] = fixed(ranks[0]["value"], 2) if ranks else ""
            cells[f"95 %, {kind}"] = spread(ranks[0], 2) if ranks else ""
            cells["models"] = int(ranks[0]["n"]) if ranks else cells.get("models", "")
        for head, metric in (
            ("position bias", "card_bias"),
            ("consistent", "card_consistent"),
            ("two copies", "copies"),
        ):
            found = rows_of(view, metric, set=name) if part == "all" else []
            cells[head] = fixed(found[0]["value"], 1) if found else ""
        lines.append(Line(cells | {"n": int(judge["n"])}, list(dict.fromkeys(own["source"]))))
    return lines


def card_notes(view: View, main: "DataFrame") -> list[str]:
    """What the columns are, and the pairs that were left out."""
    left = [
        f"{row['set']} {int(row['value']):,} {what}"
        for metric, what in (("seen", "that the judge was trained on"), ("without_reference", "without a reference"))
        for row in rows_of(view, metric)
        if row["value"]
    ]
    return [CARD_NOTE, *([f"Pairs left out: {', '.join(left)}."] if left else [])]


def card_in_short(view: View) -> Iterator[str]:
    """How often the judge agrees with known judgements: a sentence for the notes of every table of win rates."""
    summaries = []
    for row in rows_of(view, "agreement", slice="all", part="judge"):
        others = [
            f"{who} {fixed(other['value'], 1)}"
            for who in ("majority", "longer", "people")
            for other in rows_of(view, "agreement", slice="all", part=who, set=row["set"])
        ]
        of = f"{spread(row, 1)}; {', '.join(others)}; n = {row['n']:,}"
        summaries.append(f"{row['set']} {fixed(row['value'], 1)} % ({of})")
    if summaries:
        yield f"Agreement of this judge with known judgements: {'; '.join(summaries)}."


def members(group: Group) -> list[Row]:
    """The win rates over seeds by each member of a panel; empty for a single judge."""
    names = dict.fromkeys(slice for metric, slice, _, _ in group.known if metric == "member_win_rate")
    return [row for name in names for row in group.rows("member_win_rate", name, level="seeds")]


def listed(rates: list[Row]) -> str:
    """The win rate by each member of a panel, with its interval."""
    return ", ".join(f"{row['slice']} {fixed(row['value'], 1)} ({spread(row, 1)})" for row in rates)


def agree(rates: list[Row]) -> str:
    """Whether all members of a panel say that the same side wins more often; empty for a single judge."""
    sides = {(row["value"] > 50) - (row["value"] < 50) for row in rates}
    return ("yes" if len(sides) == 1 else "no") if rates else ""


PANEL_COLUMNS = [
    Column("by each member", lambda group: listed(members(group)), optional=True),
    Column("members agree", lambda group: agree(members(group)), optional=True),
]
