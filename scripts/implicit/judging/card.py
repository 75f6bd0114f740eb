"""A judge's card: how often a judge agrees with judgements that are known, and in what it differs from them.

Rows are pairs of responses, as in tables of kind ``compared``: ``preference`` is the judge's, ``annotation`` the mean
of the ``annotators``', both from 1 (the first response) to 2. A pair whose annotation is a tie has no winner, and is
not counted in an agreement; a tie of the judge, or of a baseline, counts one half.
"""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from implicit.judging.artefacts import alike
from implicit.measuring.intervals import mean_interval

Row = dict[str, Any]

DRAWS = 1000  # of the bootstrap
BINS = 10  # of the judge's preference, for the reliability curve
FEW = 5  # models: with fewer, ranks say nothing
ENOUGH = 100  # pairs of a model, for a regression on length


@dataclass(frozen=True)
class Rate:
    """A percentage of ``n`` pairs, with its 95 % interval, for which pairs of an instruction are drawn together."""

    value: float
    low: float
    high: float
    n: int


def sign(preference: float) -> int:
    """-1 for the first response, 1 for the second, 0 for a tie."""
    return (preference > 1.5) - (preference < 1.5)


def rate_of(rows: Iterable[Row], agrees: Callable[[Row], Iterable[float]]) -> Rate | None:
    """The mean of the values from 0 to 1, any number of them, that ``agrees`` gives for each row; None without any."""
    sums: dict[str, list[float]] = {}
    for row in rows:
        own = sums.setdefault(row["cluster"], [0.0, 0.0])
        for value in agrees(row):
            own[0] += value
            own[1] += 1
    counted = {cluster: own for cluster, own in sums.items() if own[1]}
    if not counted:
        return None
    above, below = zip(*counted.values(), strict=True)
    ends = mean_interval([above], [below], list(counted), draws=DRAWS, seed=0)
    return Rate(100 * sum(above) / sum(below), *(100 * end for end in ends), n=int(sum(below)))


def agreement(one: int, other: int) -> list[float]:
    """Whether the winner ``one`` (a tie: one half) is the winner ``other``; nothing if that is a tie."""
    return [0.5 + 0.5 * one * other] if other else []


def longer(row: Row) -> int:
    """The longer response."""
    return (row["length_2"] > row["length_1"]) - (row["length_2"] < row["length_1"])


def people(row: Row) -> list[float]:
    """Each annotator of a pair against each other one."""
    signs = [sign(each) for each in row["annotators"]]
    return [
        value
        for i, one in enumerate(signs)
        for j, other in enumerate(signs)
        if i != j
        for value in agreement(one, other)
    ]


def agreements(rows: Sequence[Row]) -> dict[str, Rate]:
    """How often the annotation's winner is preferred: by the judge, by always the same side, by length, by people."""
    winners = [sign(row["annotation"]) for row in rows]
    most = 1 if sum(winners) >= 0 else -1
    found = {
        "judge": rate_of(rows, lambda row: agreement(sign(row["preference"]), sign(row["annotation"]))),
        "majority": rate_of(rows, lambda row: agreement(most, sign(row["annotation"]))),
        "longer": rate_of(rows, lambda row: agreement(longer(row), sign(row["annotation"]))),
        "people": rate_of(rows, people),
    }
    return {who: rate for who, rate in found.items() if rate is not None}


def baseline(rows: Sequence[Row]) -> int | None:
    """The side (1 or 2) of the model that all others are compared with; None without names or such a model."""
    models = [{row[f"model_{side}"] for row in rows} for side in (1, 2)]
    if None in models[0] | models[1]:
        return None
    return next((side for side, own in zip((1, 2), models, strict=True) if len(own) == 1), None)


def slices(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """All pairs, those of similar length, and those of the weakest quarter of the models, where models are named."""
    found = {"all": list(rows), "similar length": [row for row in rows if alike(row["length_1"], row["length_2"])]}
    rates = win_rates(rows, "annotation")
    if len(rates) >= FEW:
        weak = sorted(rates, key=lambda model: rates[model])[: max(1, len(rates) // 4)]
        compared = f"model_{3 - (baseline(rows) or 1)}"
        found["weakest models"] = [row for row in rows if row[compared] in weak]
    return found


def taste_for_length(rows: Sequence[Row]) -> dict[str, Rate]:
    """How often the longer response wins, by the judge and by the annotation; ties count one half."""
    different = [row for row in rows if longer(row)]
    found = {
        who: rate_of(different, lambda row, key=key: [0.5 + 0.5 * sign(row[key]) * longer(row)])
        for who, key in (("judge", "preference"), ("annotation", "annotation"))
    }
    return {who: rate for who, rate in found.items() if rate is not None}


def of_orders(rows: Sequence[Row]) -> tuple[float, float] | None:
    """Of pairs shown in both orders: wins of the response shown first, in points above one half; percent consistent."""
    both = [(r["preference_output_1_first"], r["preference_output_2_first"]) for r in rows]
    both = [(one, two) for one, two in both if one is not None]
    if not both:
        return None
    first = 100 * (statistics.fmean((2 - one + two - 1) / 2 for one, two in both) - 0.5)
    return first, 100 * statistics.fmean(sign(one) == sign(two) for one, two in both)


def reliability(rows: Sequence[Row]) -> list[tuple[float, float, int]]:
    """For each tenth of the judge's preference: its mean there, the mean annotation there (both 0 to 1), and n."""
    bins: dict[int, list[Row]] = {}
    for row in rows:
        bins.setdefault(min(BINS - 1, int(BINS * (row["preference"] - 1))), []).append(row)
    return [
        (*(statistics.fmean(row[key] - 1 for row in own) for key in ("preference", "annotation")), len(own))
        for _, own in sorted(bins.items())
    ]


def win_rates(rows: Sequence[Row], key: str) -> dict[str, float]:
    """Each model's win rate in percent against the one that all are compared with; empty if there is none."""
    side = baseline(rows)
    if side is None:
        return {}
    models: dict[str, list[float]] = {}
    for row in rows:
        won = row[key] - 1 if side == 1 else 2 - row[key]
        models.setdefault(row[f"model_{3 - side}"], []).append(100 * won)
    return {model: statistics.fmean(values) for model, values in models.items()}


def controlled_win_rates(rows: Sequence[Row], key: str) -> dict[str, float]:
    """The same, length-controlled by AlpacaEval's regression, of models with ENOUGH pairs for which it is defined."""
    from implicit.judging.win_rates import win_rates as measured

    found = {}
    one = baseline(rows) or 1
    two = 3 - one
    for model in win_rates(rows, key):
        own = [row for row in rows if row[f"model_{two}"] == model]
        table = [
            {"preference": row[key] if one == 1 else 3 - row[key], "cluster": row["cluster"]}
            | {"generator_1": "baseline", "generator_2": "model"}
            | {"output_1": "x" * row[f"length_{one}"], "output_2": "x" * row[f"length_{two}"]}
            for row in own
        ]
        rate = measured(table, bootstrap=2, seed=0)["lc_win_rate"] if len(own) >= ENOUGH else None
        if rate is not None:
            found[model] = rate
    return found


def rank_correlation(one: dict[str, float], other: dict[str, float]) -> Rate | None:
    """Spearman's correlation of win rates, with an interval over models; None with fewer than five, or equal rates."""
    models = sorted(set(one) & set(other))
    pairs = np.array([[one[model], other[model]] for model in models])
    if len(models) < FEW or (np.ptp(pairs, axis=0) == 0).any():
        return None
    rng = np.random.default_rng(0)
    drawn = [pairs[rng.integers(len(pairs), size=len(pairs))] for _ in range(DRAWS)]
    values = [float(spearmanr(*draw.T).statistic) for draw in drawn if (np.ptp(draw, axis=0) > 0).all()]
    low, high = np.nanquantile(values, [0.025, 0.975])
    return Rate(float(spearmanr(*pairs.T).statistic), float(low), float(high), len(models))
