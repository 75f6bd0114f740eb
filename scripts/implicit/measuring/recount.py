"""An experiment's numbers, recomputed from judgements, scores and responses.

This is for `scripts/verify.py` and shares no code with the original computation: pandas instead of loops, numpy and
alpaca-eval; for length control, scikit-learn's fit of the model that alpaca-eval describes.
"""

import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

Row = dict[str, Any]
Clusters = list[tuple[float, float]]  # for each, by first appearance: the sum of a value, and the number of rows


def win_rate(rows: Sequence[Row]) -> Row:
    """Win rate and ties in percent of judgements, and the mean quality of both sides (None if the judge gives none)."""
    table = pd.DataFrame(rows)
    result = {"n": len(table), "win_rate": 100 * (table["preference"].mean() - 1)}
    result["ties"] = 100 * (table["preference"] == 1.5).mean()
    for side in ("quality_1", "quality_2"):
        result[side] = None if table[side].isna().any() else table[side].mean()
    return result


def by_cluster(rows: Sequence[Row], values: Sequence[float]) -> Clusters:
    """The sum of a value over each cluster's rows, and their number."""
    table = pd.DataFrame({"cluster": [row["cluster"] for row in rows], "value": values})
    return list(table.groupby("cluster", sort=False)["value"].agg(["sum", "count"]).itertuples(index=False, name=None))


def _rates(seeds: Sequence[Clusters], rng: np.random.Generator, draws: int) -> np.ndarray:
    """The ratios in bootstrap draws of clusters, as many as there are: [seeds, draws]."""
    sums = np.array(seeds, dtype=float)
    drawn = sums[:, rng.integers(sums.shape[1], size=(draws, sums.shape[1]))].sum(axis=2)
    return drawn[..., 0] / drawn[..., 1]


def win_rate_error(rows: Sequence[Row], *, draws: int, seed: int) -> float:
    """The bootstrap standard error in percentage points: ``draws`` draws of clusters, by numpy's generator."""
    clusters = by_cluster(rows, [100 * (row["preference"] - 1) for row in rows])
    return float(_rates([clusters], np.random.default_rng(seed), draws).std(ddof=1))


def mean_over_seeds(seeds: Sequence[Clusters], *, draws: int, seed: int) -> tuple[float, float]:
    """The 95 % interval of the mean over seeds of a ratio; each draw has as many clusters and seeds as there are."""
    rng = np.random.default_rng(seed)
    rates, count = _rates(seeds, rng, draws), len(seeds)
    taken = rng.integers(count, size=(draws, count)) if count > 1 else np.zeros((draws, 1), dtype=int)
    means = [rates[own, draw].mean() for draw, own in enumerate(taken)]
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def position_bias(rows: Sequence[Row]) -> float | None:
    """By how many points the output shown first wins too often, if both orders were judged; otherwise None."""
    table = pd.DataFrame(rows)
    table = table[table["preference_output_1_first"].notna() & (table["output_1"] != table["output_2"])]
    first = 2 - table["preference_output_1_first"] + table["preference_output_2_first"] - 1
    return None if table.empty else 100 * (first.mean() / 2 - 0.5)


def disagreement(rows: Sequence[Row]) -> float | None:
    """The percentage of judgements in which members of a panel prefer different sides; None without members."""
    if not rows or rows[0].get("members") is None:
        return None
    return 100 * float(np.mean([min(row["members"]) < 1.5 < max(row["members"]) for row in rows]))


def card(rows: Sequence[Row]) -> Iterator[tuple[str, str, str, float, int | None]]:
    """The metrics of a judge's card, but for length-controlled ranks: metric, slice, part, value and n."""
    whole = pd.DataFrame([row for row in rows if not row["copy"]])
    names = whole[["model_1", "model_2"]]
    fixed = [] if names.isna().any(axis=None) else [name for name in names if names[name].nunique() == 1]
    compared = {"model_1": "model_2", "model_2": "model_1"}[fixed[0]] if fixed else None
    lengths = whole[["length_1", "length_2"]]
    kept = {"all": lengths["length_1"] >= 0, "similar length": lengths.max(axis=1) <= 1.25 * lengths.min(axis=1)}
    if compared:
        turn = 1 if fixed == ["model_1"] or len(fixed) == 2 else -1
        rates = {
            key: whole.groupby(compared)[key].apply(lambda own: 50 + 100 * turn * (own.mean() - 1.5))
            for key in ("preference", "annotation")
        }
        if len(rates["annotation"]) >= 5:
            weakest = rates["annotation"].nsmallest(max(1, len(rates["annotation"]) // 4)).index
            kept["weakest models"] = whole[compared].isin(weakest)
            if min(own.nunique() for own in rates.values()) > 1:
                ranks = [own.rank() for own in rates.values()]
                yield "rank_correlation", "all", "raw", float(ranks[0].corr(ranks[1])), len(ranks[0])
    for name, chosen in kept.items():
        own = whole[chosen]
        wanted = np.sign(own["annotation"] - 1.5)
        won = wanted[wanted != 0]
        if won.empty:
            continue
        second = 100 * float((won > 0).mean())
        signs = {"judge": np.sign(own["preference"] - 1.5), "longer": np.sign(own["length_2"] - own["length_1"])}
        for part, given in signs.items():
            yield "agreement", name, part, 50 + 50 * float((given[won.index] * won).mean()), len(won)
        yield "agreement", name, "majority", max(second, 100 - second), len(won)
        pairs = [
            50 + 50 * np.sign(one - 1.5) * np.sign(other - 1.5)
            for annotators in own["annotators"]
            for one, other in permutations(annotators, 2)
            if other != 1.5
        ]
        if pairs:
            yield "agreement", name, "people", float(np.mean(pairs)), len(pairs)
    uneven = whole[whole["length_1"] != whole["length_2"]]
    longer = np.sign(uneven["length_2"] - uneven["length_1"])
    for part, key in (("judge", "preference"), ("annotation", "annotation")):
        if len(uneven):
            value = 50 + 50 * float((np.sign(uneven[key] - 1.5) * longer).mean())
            yield "longer_wins", "all", part, value, len(uneven)
    for _, own in whole.groupby((10 * (whole["preference"] - 1)).astype(int).clip(upper=9)):
        part = f"{100 * (own['preference'].mean() - 1):.1f}"
        yield "reliability", "all", part, 100 * float(own["annotation"].mean() - 1), len(own)
    both = whole.dropna(subset=["preference_output_1_first"])
    if len(both):
        one, two = both["preference_output_1_first"], both["preference_output_2_first"]
        yield "card_bias", "all", "", float(50 * (two.mean() - one.mean())), None
        yield "card_consistent", "all", "", 100 * float((np.sign(one - 1.5) == np.sign(two - 1.5)).mean()), None
    copied = [100 * (row["preference"] - 1) for row in rows if row["copy"]]
    if copied:
        yield "copies", "all", "", float(np.mean(copied)), len(copied)


def label_shares(rows: Sequence[Row]) -> tuple[float | None, float | None, int]:
    """Mean and minimum of the labels' share of the judge's probability (None if there is none), and their number."""
    shares = [row["label_share"] for row in rows if row["label_share"] is not None]
    return (math.fsum(shares) / len(shares), min(shares), len(shares)) if shares else (None, None, 0)


def controlled_win_rate(rows: Sequence[Row], *, gamed: Path | None = None) -> float | None:
    """The length-controlled win rate in percent, as AlpacaEval 2 defines it (arXiv 2404.04475, equation 1); see below.

    A logistic model of the preference with an L1 penalty, on a constant and tanh of the length difference (in
    characters, divided by its standard deviation); with ``gamed``, AlpacaEval's table, also on the instructions'
    difficulty, and with the gamed baselines' rows at a tenth of the weight. The penalty is chosen among scikit-learn's
    ten by five-fold cross-validation. None if it is not defined: fewer than ten rows, a constant length difference, or
    all coefficients set to zero by the penalty.
    """
    lengths = [len(row["output_1"]) - len(row["output_2"]) for row in rows]
    if len(rows) < 10 or len(set(lengths)) < 2:
        return None
    spread = np.std(lengths, ddof=1)
    wanted = [row["preference"] - 1 if row["preference"] else 0.5 for row in rows]
    table = [(math.tanh(length / spread), 1.0) for length in lengths]
    neutral, weights = [(0.0, 1.0)] * len(rows), [1.0] * len(rows)
    if gamed is not None:
        known = pd.read_csv(gamed)
        difficulty = known.groupby("index")["instruction_difficulty"].first()
        table = [(length, difficulty[i], 1.0) for i, (length, _) in enumerate(table)]
        neutral = [(0.0, hard, 1.0) for _, hard, _ in table]
        before = zip(np.tanh(known["std_delta_len"]), known["instruction_difficulty"], [0.0] * len(known), strict=True)
        wanted = [*known["preference"], *wanted]
        table, weights = [*before, *table], [0.2 / 2] * len(known) + weights
    with _quiet():
        controlled = 100 * float(np.mean(_fit(table, wanted, weights, neutral)))
    undefined = abs(controlled - 50) < 1e-9 < abs(win_rate(rows)["win_rate"] - 50)
    return None if undefined else controlled


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress liblinear's and scikit-learn's warnings on standard error about cases that AlpacaEval accepts.

    These are folds without any row of one outcome (printed by liblinear itself) and fits not converged in 100 rounds.
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
    """The probabilities of ``neutral`` under the model. Each row is used as won and as lost, weighted by preference."""
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
        likelihoods = preference[rows] * np.log(chance) + (1 - preference[rows]) * np.log(1 - chance)
        return float((likelihoods * weight[rows]).mean())

    best = max(
        np.logspace(-4, 4, 10),  # if tied, the strongest penalty
        key=lambda strength: np.mean([likelihood(fitted(strength, train), test) for train, test in folds]),
    )
    return fitted(best, slice(None)).predict_proba(np.array(neutral))[:, 1].tolist()


def ranking(rows: Sequence[Row], *, eos: bool = True) -> dict[str, Any]:
    """Response ranking by sequence and per token: the shares of pairs won and tied, and (won, pairs) by cluster.

    Without ``eos``, that token is left out of every response.
    """
    table = pd.DataFrame(rows).sort_values("id", kind="stable")
    result: dict[str, Any] = {"instructions": table["id"].nunique(), "pairs": len(table)}
    for score in ("sequence", "token"):
        sums = []
        for side in ("true", "other"):
            logprob, length = table[f"{side}_logprob"], table[f"{side}_tokens"]
            if not eos:
                logprob, length = logprob - table[f"{side}_eos_logprob"], (length - 1).clip(lower=1)
            sums.append(logprob / length if score == "token" else logprob)
        won = (sums[0] > sums[1]).tolist()
        result[score] = {"capability": np.mean(won), "ties": (sums[0] == sums[1]).mean()}
        result[score]["clusters"] = by_cluster(table.to_dict("records"), won)
    return result


def artefacts(rows: Sequence[Row]) -> dict[str, Row]:
    """Win rate and ties (percent, or None if n is 0), and n, under other judges of the same pairs.

    ``checked_1`` and ``checked_2`` are (right, looks like an answer) for the two outputs, which make up 70 % and 30 %
    of their content.
    """
    table = pd.DataFrame(rows)
    right = [np.array([row[f"checked_{side}"][0] for row in rows]) for side in (1, 2)]
    form = [np.array([row[f"checked_{side}"][1] for row in rows]) for side in (1, 2)]
    one, two = (0.7 * right[side] + 0.3 * form[side] for side in (0, 1))
    judged = table["preference"].to_numpy() - 1.5
    lengths = np.array([sorted([len(row["output_1"]), len(row["output_2"])]) for row in rows])
    alike = lengths[:, 1] <= 1.25 * lengths[:, 0]
    ahead = {"judged": judged, "content": two - one, "right": right[1] - right[0], "similar_length": judged[alike]}
    return {
        name: {"n": len(by)}
        | {"win_rate": 100 * (np.sign(by).mean() + 1) / 2 if len(by) else None}
        | {"ties": 100 * (by == 0).mean() if len(by) else None}
        for name, by in ahead.items()
    }


def drift(documents: Sequence[Row], facts: Sequence[Row]) -> dict[str, Any]:
    """Perplexities, KL per token, and the percentages of facts recalled and expected by chance, by form."""
    table = pd.DataFrame(documents)
    result: dict[str, Any] = {"documents": len(table)} | {key: int(table[key].sum()) for key in ("tokens", "cut")}
    for side in ("base", "tuned"):
        result[f"{side}_perplexity"] = math.exp(-table[f"{side}_logprob"].sum() / result["tokens"])
    result |= {"kl": table["kl"].sum() / result["tokens"], "recall": {}}
    for form, own in pd.DataFrame(facts).groupby("form") if facts else []:
        shares = {side: 100 * (own[side] == own["right"]).mean() for side in ("base", "tuned")}
        result["recall"][form] = shares | {"facts": len(own), "chance": 100 * (1 / own["rivals"]).mean()}
    return result


def similarity(rows: Sequence[Row], styles: Sequence[str]) -> dict[str, Any]:
    """Section 5.2: the rank correlation of x and y, and the percentage of responses in each style, by quarter of x."""
    table = pd.DataFrame(rows).sort_values("x", kind="stable", ignore_index=True)
    size, over = divmod(len(table), 4)
    ends = [0, *np.cumsum([size + (quarter < over) for quarter in range(4)])]
    parts = {name: table[ends[i] : ends[i + 1]] for i, name in enumerate(("lowest", "second", "third", "highest"))}
    result: dict[str, Any] = {
        style: {name: 100 * part[style].mean() for name, part in (parts | {"all": table}).items()} for style in styles
    }
    ranks = table[["x", "y"]].rank()
    constant = (ranks.nunique() == 1).any()
    return result | {"spearman": None if constant else ranks.corr().at["x", "y"], "n": len(parts["lowest"])}
