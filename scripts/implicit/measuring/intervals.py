"""Bootstrap intervals in which dependent observations are drawn together.

Several instructions may ask for the same thing in other words, so that the responses to them are correlated. Such
instructions form a cluster, and clusters are drawn, not instructions. Over seeds, every seed's model gets the same
instructions: seeds and clusters are crossed, and both are drawn, independently of each other (Owen 2007, "The
pigeonhole bootstrap"). In simulations the intervals are somewhat too wide if seeds are similar, and too narrow for two
seeds that differ a lot: 87 % coverage instead of 95 % at ten points (docs/log.md).
"""

from collections.abc import Sequence

import numpy as np


def cluster_places(clusters: Sequence[str]) -> np.ndarray:
    """The index of each row's cluster, from 0 in order of first appearance: int64 [rows]."""
    numbers = {name: number for number, name in enumerate(dict.fromkeys(clusters))}
    return np.array([numbers[name] for name in clusters], dtype=np.int64)


def draw_clusters(clusters: Sequence[str], *, draws: int, rng: np.random.Generator) -> np.ndarray:
    """How often each row is in each bootstrap draw: float64 [draws, rows].

    Each draw takes as many clusters as there are, with replacement, with all rows of each.
    """
    places = cluster_places(clusters)
    count = int(places.max()) + 1
    drawn = rng.integers(count, size=(draws, count))
    counts = np.stack([np.bincount(draw, minlength=count) for draw in drawn]).astype(float)
    return counts[:, places]


def mean_interval(
    numerators: Sequence[Sequence[float]],
    denominators: Sequence[Sequence[float]],
    clusters: Sequence[str],
    *,
    draws: int,
    seed: int,
) -> tuple[float, float]:
    """The 95 % percentile interval of the mean over seeds of a ratio of sums, such as the share of pairs won.

    ``numerators`` and ``denominators`` [seeds, rows] are each instruction's contribution to the two sums, ``clusters``
    [rows] is what each instruction is about. With a single seed, only clusters are drawn: the interval then does not
    cover variation between seeds.
    """
    above, below = np.asarray(numerators, dtype=float), np.asarray(denominators, dtype=float)
    rng = np.random.default_rng(seed)
    counts = draw_clusters(clusters, draws=draws, rng=rng)
    rates = (counts @ above.T) / (counts @ below.T)  # [draws, seeds]
    seeds = len(above)
    drawn = rng.integers(seeds, size=(draws, seeds)) if seeds > 1 else np.zeros((draws, 1), dtype=np.int64)
    means = np.take_along_axis(rates, drawn, axis=1).mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
