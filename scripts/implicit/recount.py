"""The figures of an experiment, counted anew from judgements, scores and responses.

This is for `scripts/verify.py`, and shares no code with what made the figures: plain loops over rows where there the
work is numpy's and alpaca-eval's; for length control, scikit-learn's fit of the model that alpaca-eval describes.
"""

import csv
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def win_rate(rows: Sequence[Row]) -> dict[str, Any]:
    """Outcomes of judgements, win rate in percent, and the mean quality of both sides (None for a judge without)."""
    wins = losses = ties = 0
    points = 0.0
    for row in rows:
        preference = row["preference"]
        wins, losses, ties = wins + (preference > 1.5), losses + (preference < 1.5), ties + (preference == 1.5)
        points += preference - 1
    told: dict[str, Any] = {"n": len(rows), "wins": wins, "losses": losses, "ties": ties}
    told["win_rate"] = 100 * points / len(rows)
    for side in ("quality_1", "quality_2"):
        qualities = [row[side] for row in rows]
        told[side] = None if None in qualities else math.fsum(qualities) / len(rows)
    return told


def by_cluster(rows: Sequence[Row], value: Callable[[Row], float]) -> list[tuple[float, int]]:
    """The sum of a value over each cluster's rows, and how many they are, in the order of their first rows."""
    sums: dict[str, list[Any]] = {}
    for row in rows:
        own = sums.setdefault(row["cluster"], [0.0, 0])
        own[0], own[1] = own[0] + value(row), own[1] + 1
    return [(total, count) for total, count in sums.values()]


def win_rate_error(rows: Sequence[Row], *, draws: int, seed: int) -> float:
    """The bootstrap's standard error in percent points: ``draws`` of clusters, by numpy's generator of ``seed``."""
    import numpy as np

    own = by_cluster(rows, lambda row: 100 * (row["preference"] - 1))
    places = np.random.default_rng(seed).integers(len(own), size=(draws, len(own))).tolist()
    rates = [math.fsum(own[i][0] for i in drawn) / sum(own[i][1] for i in drawn) for drawn in places]
    mean = math.fsum(rates) / draws
    return math.sqrt(math.fsum((rate - mean) ** 2 for rate in rates) / (draws - 1))


def mean_over_seeds(seeds: Sequence[Sequence[tuple[float, int]]], *, draws: int, seed: int) -> tuple[float, float]:
    """The 95 % interval of the mean over seeds of a ratio, from each seed's (sum, count) by cluster.

    In each draw, as many clusters as there are, and as many seeds, by numpy's generator of ``seed``.
    """
    import numpy as np

    rng, clusters = np.random.default_rng(seed), len(seeds[0])
    places = rng.integers(clusters, size=(draws, clusters)).tolist()
    chosen = rng.integers(len(seeds), size=(draws, len(seeds))).tolist() if len(seeds) > 1 else [[0]] * draws
    means = []
    for drawn, taken in zip(places, chosen, strict=True):
        rates = [math.fsum(seeds[s][i][0] for i in drawn) / sum(seeds[s][i][1] for i in drawn) for s in taken]
        means.append(math.fsum(rates) / len(rates))
    return quantile(means, 0.025), quantile(means, 0.975)


def position_bias(rows: Sequence[Row]) -> float | None:
    """By how many points the output shown first wins too often, where both orders were judged; else None."""
    shares = []
    for row in rows:
        first, second = row["preference_output_1_first"], row["preference_output_2_first"]
        if first is not None and row["output_1"] != row["output_2"]:
            shares.append(((2 - first) + (second - 1)) / 2)  # of the wins that go to what stands first
    return 100 * (math.fsum(shares) / len(shares) - 0.5) if shares else None


def label_shares(rows: Sequence[Row]) -> tuple[float | None, float | None]:
    """Mean and minimum of the labels' share of the judge's probability; None where it was read from none."""
    shares = [row["label_share"] for row in rows if row["label_share"] is not None]
    return (math.fsum(shares) / len(shares), min(shares)) if shares else (None, None)


def controlled_win_rate(rows: Sequence[Row], *, gamed: Path | None = None) -> float | None:
    """The length-controlled win rate in percent, as AlpacaEval 2 defines it (arXiv 2404.04475, equation 1); see below.

    A logistic model of the preference with an L1 penalty, on tanh of the difference of lengths (in characters, in units
    of its standard deviation) and a constant; with ``gamed``, AlpacaEval's table, on the instructions' difficulty, too,
    and with the gamed baselines' rows at a tenth of the weight. The strength of the penalty is chosen of scikit-learn's
    ten by cross-validation in five folds. None where it is not defined: fewer than ten rows, all of one difference, or
    nothing left by the penalty.
    """
    import numpy as np

    lengths = [len(row["output_1"]) - len(row["output_2"]) for row in rows]
    if len(rows) < 10 or len(set(lengths)) < 2:
        return None
    spread = np.std(lengths, ddof=1)
    wanted = [row["preference"] - 1 if row["preference"] else 0.5 for row in rows]
    table = [(math.tanh(length / spread), 1.0) for length in lengths]
    neutral, weights = [(0.0, 1.0)] * len(rows), [1.0] * len(rows)
    if gamed is not None:
        with gamed.open(encoding="utf-8", newline="") as file:
            known = list(csv.DictReader(file))
        difficulty: dict[int, float] = {}
        for row in known:
            difficulty.setdefault(int(row["index"]), float(row["instruction_difficulty"]))
        table = [(length, difficulty[i], 1.0) for i, (length, _) in enumerate(table)]
        neutral = [(0.0, hard, 1.0) for _, hard, _ in table]
        before = [(math.tanh(float(r["std_delta_len"])), float(r["instruction_difficulty"]), 0.0) for r in known]
        wanted = [float(row["preference"]) for row in known] + wanted
        table, weights = before + table, [0.2 / 2] * len(known) + weights
    with _quiet():
        chances = _fit(table, wanted, weights, neutral)
    controlled = 100 * math.fsum(chances) / len(chances)
    gone = (
        abs(controlled - 50) < 1e-9
        and abs(100 * math.fsum(row["preference"] - 1 for row in rows) / len(rows) - 50) > 1e-9
    )
    return None if gone else controlled


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep liblinear's and scikit-learn's complaints off standard error: what they are of, AlpacaEval takes as it is.

    An outcome that no row of a fold has, which liblinear itself prints, and a fit that did not end in a hundred rounds.
    """
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _fit(table: list, wanted: list[float], weights: list[float], neutral: list) -> list[float]:
    """The chances of ``neutral`` under the model. Every row counts once as won and once as lost, by its preference."""
    import numpy as np
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold

    twice, outcome = np.array(table + table), np.array([1] * len(table) + [0] * len(table))
    preference, weight = np.array(wanted + wanted), np.array(weights + weights)
    share = np.where(outcome == 1, preference, 1 - preference) * weight
    folds = list(GroupKFold(5).split(twice, groups=[*range(len(table))] * 2))

    def fitted(strength: float, rows: Any) -> LogisticRegression:
        model = LogisticRegression(C=strength, l1_ratio=1.0, solver="liblinear", fit_intercept=False, random_state=123)
        return model.fit(twice[rows], outcome[rows], sample_weight=share[rows])

    def likelihood(model: LogisticRegression, rows: Any) -> float:
        chance = np.clip(model.predict_proba(twice[rows])[:, 1], 1e-15, 1 - 1e-15)
        told = preference[rows] * np.log(chance) + (1 - preference[rows]) * np.log(1 - chance)
        return float((told * weight[rows]).mean())

    best = max(
        np.logspace(-4, 4, 10),  # of equals, the strongest penalty
        key=lambda strength: np.mean([likelihood(fitted(strength, train), test) for train, test in folds]),
    )
    return fitted(best, slice(None)).predict_proba(np.array(neutral))[:, 1].tolist()


def ranking(rows: Sequence[Row], *, eos: bool = True) -> dict[str, Any]:
    """Response ranking by sequence and per token: the share of pairs won, that of ties, and (won, pairs) by cluster.

    Without ``eos``, that token is taken out of every response.
    """
    rows = sorted(rows, key=lambda row: row["id"])
    told: dict[str, Any] = {"instructions": len({row["id"] for row in rows}), "pairs": len(rows)}
    for score in ("sequence", "token"):
        leads = [_lead(row, per_token=score == "token", eos=eos) for row in rows]
        won = by_cluster(
            [row | {"won": lead > 0} for row, lead in zip(rows, leads, strict=True)], lambda row: row["won"]
        )
        told[score] = {"capability": sum(count for count, _ in won) / len(rows), "clusters": won}
        told[score]["ties"] = len([lead for lead in leads if lead == 0]) / len(rows)
    return told


def _lead(row: Row, *, per_token: bool, eos: bool) -> float:
    """By how many nats, in all or per token, the true response is ahead of the other."""
    sums = []
    for side in ("true", "other"):
        logprob, length = row[f"{side}_logprob"], row[f"{side}_tokens"]
        if not eos:
            logprob, length = logprob - row[f"{side}_eos_logprob"], length - 1 or 1
        sums.append(logprob / length if per_token else logprob)
    return sums[0] - sums[1] if sums[0] != sums[1] else 0.0


def artefacts(rows: Sequence[Row]) -> dict[str, Row]:
    """Win rate and ties in percent, and n, under other judges of the same pairs; None where there are none.

    ``checked_1`` and ``checked_2`` are (right, looks like an answer) of both outputs: 7 and 3 tenths of their content.
    """
    told: dict[str, Row] = {}
    for name in ("judged", "content", "right", "similar length"):
        points = ties = n = 0.0
        for row in rows:
            (right_1, form_1), (right_2, form_2) = row["checked_1"], row["checked_2"]
            by = {"content": 0.7 * right_2 + 0.3 * form_2 - (0.7 * right_1 + 0.3 * form_1), "right": right_2 - right_1}
            shorter, longer = sorted([len(row["output_1"]), len(row["output_2"])])
            if name == "similar length" and longer > 1.25 * shorter:
                continue
            ahead = by.get(name, row["preference"] - 1.5)
            points, ties, n = points + (ahead > 0) + (ahead == 0) / 2, ties + (ahead == 0), n + 1
        told[name] = {"n": int(n)} | {
            key: 100 * value / n if n else None for key, value in (("win_rate", points), ("ties", ties))
        }
    return told


def drift(documents: Sequence[Row], facts: Sequence[Row]) -> dict[str, Any]:
    """Perplexities, KL per token, and the percentages of facts recalled and guessed right by chance, by form."""
    count = [row["tokens"] for row in documents]
    told: dict[str, Any] = {"documents": len(documents), "tokens": sum(count)}
    told["cut"] = sum([row["cut"] for row in documents])
    for side in ("base", "tuned"):
        nats = math.fsum(row[f"{side}_logprob"] for row in documents)
        told[f"{side}_perplexity"] = math.exp(-nats / sum(count))
    told["kl"] = math.fsum(row["kl"] for row in documents) / sum(count)
    told["recall"] = {}
    for row in sorted(facts, key=lambda row: row["form"]):
        own = told["recall"].setdefault(row["form"], {"facts": 0, "base": 0, "tuned": 0, "chance": 0.0})
        own["facts"] += 1
        own["chance"] += 1 / row["rivals"]
        for side in ("base", "tuned"):
            own[side] += row[side] == row["right"]
    for own in told["recall"].values():
        own |= {key: 100 * own[key] / own["facts"] for key in ("base", "tuned", "chance")}
    return told


def quantile(values: Sequence[float], share: float) -> float:
    """The quantile of values, linear between the two nearest."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    return ordered[low] + (place - low) * (ordered[min(low + 1, len(ordered) - 1)] - ordered[low])


def similarity(rows: Sequence[Row], styles: Sequence[str]) -> dict[str, Any]:
    """Of section 5.2: the rank correlation of x and y, and the share of responses in each style, by quarter of x."""
    ordered = sorted(rows, key=lambda row: row["x"])
    size, over = divmod(len(ordered), 4)
    ends = [0]
    for quarter in range(4):
        ends.append(ends[-1] + size + (quarter < over))
    parts = {name: ordered[ends[i] : ends[i + 1]] for i, name in enumerate(("lowest", "second", "third", "highest"))}
    parts["all"] = ordered
    told: dict[str, Any] = {
        style: {name: 100 * sum(row[style] for row in part) / len(part) for name, part in parts.items()}
        for style in styles
    }
    ranks = [_ranks([row[key] for row in rows]) for key in ("x", "y")]
    means = [math.fsum(own) / len(own) for own in ranks]
    away = [[rank - mean for rank in own] for own, mean in zip(ranks, means, strict=True)]
    spreads = [math.sqrt(math.fsum(each * each for each in own)) for own in away]
    together = math.fsum(a * b for a, b in zip(*away, strict=True))
    return told | {"spearman": together / spreads[0] / spreads[1] if all(spreads) else None, "n": len(parts["lowest"])}


def interval(values: Sequence[float]) -> tuple[float, ...]:
    """The 95 % interval of a mean by Student's t; none where there is one value only."""
    from scipy.stats import t

    count = len(values)
    if count < 2:
        return ()
    middle = math.fsum(values) / count
    error = math.sqrt(math.fsum((value - middle) ** 2 for value in values) / (count - 1) / count)
    return (middle, middle) if error == 0 else tuple(map(float, t.interval(0.95, count - 1, loc=middle, scale=error)))


def _ranks(values: Sequence[float]) -> list[float]:
    """Ranks from 1; equals share the mean of theirs."""
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = [0.0] * len(values)
    start = 0
    while start < len(order):
        end = start
        while end + 1 < len(order) and values[order[end + 1]] == values[order[start]]:
            end += 1
        for place in range(start, end + 1):
            ranks[order[place]] = (start + end) / 2 + 1
        start = end + 1
    return ranks
