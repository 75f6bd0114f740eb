"""How the metrics of a judge's card are taken from the pairs that it judged."""

import statistics
from collections.abc import Callable

from implicit.judging import card
from reporting.page.content import Content, Number


def pairs_of(content: Content) -> list[dict]:
    """The pairs of a judge's card, without copies."""
    return [row for row in content.rows if not row["copy"]]


def agreements_of(content: Content) -> list[Number]:
    """How often the winner of known judgements is preferred, by slice, and by whom or what."""
    return [
        Number(**vars(rate), slice=name, part=who)
        for name, rows in card.slices(pairs_of(content)).items()
        for who, rate in card.agreements(rows).items()
    ]


def longer_wins(content: Content) -> list[Number]:
    """How often the longer response wins, by the judge and by the annotators."""
    return [Number(**vars(rate), part=who) for who, rate in card.taste_for_length(pairs_of(content)).items()]


def reliability(content: Content) -> list[Number]:
    """The mean preference of the annotators for each tenth of the judge's, whose mean is the part, in percent."""
    return [
        Number(100 * wanted, n, part=f"{100 * given:.1f}") for given, wanted, n in card.reliability(pairs_of(content))
    ]


def rank_correlations(content: Content) -> list[Number]:
    """Rank correlations of models' win rates with those of the annotators, raw and length-controlled."""
    rows, keys = pairs_of(content), ("preference", "annotation")
    found = {
        "raw": card.rank_correlation(*(card.win_rates(rows, key) for key in keys)),
        "length-controlled": card.rank_correlation(*(card.controlled_win_rates(rows, key) for key in keys)),
    }
    return [Number(**vars(rate), part=part) for part, rate in found.items() if rate is not None]


def shown_first(place: int) -> Callable[[Content], list[Number]]:
    """Wins of the response shown first, or consistent pairs, of a judge that was shown both orders."""

    def take(content: Content) -> list[Number]:
        found = card.of_orders(pairs_of(content))
        return [Number(found[place])] if found else []

    return take


def copies(content: Content) -> list[Number]:
    """The win rate that the judge gives the second of two equal responses."""
    values = [100 * (row["preference"] - 1) for row in content.rows if row["copy"]]
    return [Number(statistics.fmean(values), len(values))] if values else []
