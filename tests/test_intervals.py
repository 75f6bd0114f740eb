"""Bootstrap intervals: dependent observations are drawn together, and intervals over seeds have the right coverage."""

import numpy as np
import pytest

from implicit.judging.win_rates import win_rates
from implicit.measuring.intervals import draw_clusters, mean_interval
from implicit.measuring.recount import mean_over_seeds, win_rate_error
from implicit.scoring.rank import capability_interval, ranking_capability


def judged(preferences, clusters):
    """Judgements with these preferences; the preferred output is usually longer."""
    return [
        {"id": str(i), "cluster": cluster, "instruction": str(i), "preference": p, "generator_1": "one", "generator_2": "two",
         "output_1": "a" * 20, "output_2": "b" * (10 + round(10 * p) + 5 * i % 13)}
        for i, (p, cluster) in enumerate(zip(preferences, clusters, strict=True))
    ]  # fmt: skip


def ranked(won, *, clusters, pairs=4):
    """A ranking table in which the share ``won`` of each instruction's pairs is won."""
    return [
        {"id": f"{i:03}", "cluster": clusters[i], "true_logprob": -1.0, "other_logprob": -2.0 if j < share * pairs else 0.0,
         "true_tokens": 1, "other_tokens": 1, "true_eos_logprob": 0.0, "other_eos_logprob": 0.0}
        for i, share in enumerate(won) for j in range(pairs)
    ]  # fmt: skip


def test_a_draw_takes_all_rows_of_as_many_clusters_as_there_are():
    clusters = ["a", "b", "a", "c", "b", "a"]
    drawn = draw_clusters(clusters, draws=200, rng=np.random.default_rng(1))
    assert (
        (drawn[:, 0] == drawn[:, 2]).all() and (drawn[:, 0] == drawn[:, 5]).all() and (drawn[:, 1] == drawn[:, 4]).all()
    )
    assert (drawn[:, [0, 1, 3]].sum(axis=1) == 3).all() and len(np.unique(drawn, axis=0)) > 5


def test_asking_the_same_thing_three_times_makes_a_win_rate_no_surer():
    once = np.random.default_rng(0).choice([1.0, 1.5, 2.0], size=60).tolist()
    alone = win_rates(judged(once, [str(i) for i in range(60)]), bootstrap=300, seed=4)
    thrice = [p for p in once for _ in range(3)]
    together = win_rates(judged(thrice, [str(i // 3) for i in range(180)]), bootstrap=300, seed=4)
    assert together["win_rate_error"] == pytest.approx(alone["win_rate_error"])
    assert (together["n"], together["clusters"]) == (180, 60)
    apart = win_rates(judged(thrice, [str(i) for i in range(180)]), bootstrap=300, seed=4)
    assert apart["win_rate_error"] < 0.7 * together["win_rate_error"]
    assert apart["lc_win_rate_error"] < together["lc_win_rate_error"]
    rows = judged(thrice, [str(i // 3) for i in range(180)])
    assert win_rate_error(rows, draws=300, seed=4) == pytest.approx(together["win_rate_error"])


def test_a_rankings_interval_is_over_clusters():
    won = np.random.default_rng(2).integers(0, 5, size=40) / 4
    alone = ranking_capability(ranked(won, clusters=[str(i) for i in range(40)]), bootstrap=400, seed=1)["sequence"]
    rows = ranked(np.repeat(won, 3), clusters=[str(i // 3) for i in range(120)])
    together = ranking_capability(rows, bootstrap=400, seed=1)["sequence"]
    assert (together["low"], together["high"]) == pytest.approx((alone["low"], alone["high"]))


def test_the_interval_of_a_mean_over_seeds_is_wide_where_seeds_differ_and_narrow_where_they_average_out():
    rng = np.random.default_rng(3)
    clusters = [str(i) for i in range(200)]
    noise = [rng.random(200) < 0.5 for _ in range(8)]  # the same for each seed, with answers drawn independently
    tables = [ranked(own, clusters=clusters, pairs=1) for own in noise]
    ends = np.array([capability_interval([table], "token", bootstrap=500, seed=0) for table in tables])
    low, high = capability_interval(tables, "token", bootstrap=500, seed=0)
    assert high - low < 0.75 * (ends[:, 1] - ends[:, 0]).mean(), "eight seeds say more than one"
    seeds = [ranked(np.arange(200) < share, clusters=clusters, pairs=1) for share in (60, 140)]
    ends = np.array([capability_interval([table], "token", bootstrap=500, seed=0) for table in seeds])
    low, high = capability_interval(seeds, "token", bootstrap=500, seed=0)
    assert low < 0.35 and high > 0.65, "two seeds so different say that the next may be anywhere between them"
    assert high - low > 2 * (ends[:, 1] - ends[:, 0]).mean()


@pytest.mark.parametrize(("seed_spread", "seeds"), [(0.0, 5), (0.05, 10)])
def test_the_interval_holds_the_true_mean_about_as_often_as_it_says(seed_spread, seeds):
    """Answers depend on cluster, seed and chance; 300 experiments with 30 clusters of three each."""
    rng, held = np.random.default_rng(5), 0
    clusters = [str(i // 3) for i in range(90)]
    for run in range(300):
        chance = np.repeat(rng.normal(0.5, 0.15, size=30), 3) + rng.normal(0, seed_spread, size=(seeds, 1))
        won = rng.random((seeds, 90)) < chance
        low, high = mean_interval(won, np.ones_like(won, dtype=float), clusters, draws=200, seed=run)
        held += low <= 0.5 <= high
    assert 0.90 < held / 300 <= 1


def test_other_code_counts_the_same_interval():
    rng = np.random.default_rng(6)
    clusters = [str(i // 2) for i in range(30)]
    values = rng.random((3, 30))
    by_cluster = [[(own[2 * i] + own[2 * i + 1], 2) for i in range(15)] for own in values]
    ours = mean_interval(values, np.ones((3, 30)), clusters, draws=100, seed=9)
    assert mean_over_seeds(by_cluster, draws=100, seed=9) == pytest.approx(ours)
