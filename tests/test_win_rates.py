"""Win rates, raw and length-controlled, against alpaca-eval's own and the public leaderboard's."""

import gzip
import hashlib
import json
import random

import numpy as np
import pandas as pd
import pytest
from alpaca_eval.metrics import get_length_controlled_winrate, glm_winrate
from sklearn.linear_model import LogisticRegression

from implicit.judging.win_rates import (
    ALPACA_EVAL_SHA256,
    MINIMAL,
    VERSION_1,
    MetricError,
    check_alpaca_eval,
    find_df_gamed,
    fit_logistic,
    instructions_sha256,
    length_table,
    refits,
    win_rates,
)


def table(first, second, preferences):
    return [
        {
            "id": a["id"], "instruction": a["instruction"], "output_1": a["output"], "output_2": b["output"],
            "generator_1": "one", "generator_2": "two", "preference": p, "cluster": a["id"],
        }
        for a, b, p in zip(first, second, preferences, strict=True)
    ]  # fmt: skip


def test_win_rate_and_its_error(sides):
    first, second = sides
    preferences = [1.0] * 10 + [2.0] * 20 + [1.5] * 10
    rates = win_rates(table(first, second, preferences), bootstrap=400, seed=0)
    assert (rates["n"], rates["wins"], rates["losses"], rates["ties"]) == (40, 20, 10, 10)
    assert rates["win_rate"] == pytest.approx(100 * (20 + 5) / 40)
    exact = 100 * np.std(np.array(preferences) - 1) / np.sqrt(40)  # the error of a mean over draws with replacement
    assert rates["win_rate_error"] == pytest.approx(exact, rel=0.12)


def test_length_control_is_left_out_where_it_is_not_defined(sides):
    first, _ = sides
    rates = win_rates(table(first, first, [1.5] * 40), bootstrap=5, seed=0)
    assert rates["lc_win_rate"] is None and "same length" in rates["lc_note"]
    rates = win_rates(table(*sides, [1.5] * 40)[:6], bootstrap=5, seed=0)
    assert rates["lc_win_rate"] is None and "too few" in rates["lc_note"]
    rates = win_rates(table(*sides, [1.0] * 40), bootstrap=5, seed=0)  # all lost: alpaca-eval gives 50
    assert rates["win_rate"] == 0 and rates["lc_win_rate"] is None and "gives 50" in rates["lc_note"]


def test_rows_that_alpaca_eval_would_silently_make_another_figure_of_are_refused(sides, tmp_path):
    rows = table(*sides, [1.0, 2.0] * 20)
    with pytest.raises(MetricError, match="one generator, different from the other's"):  # it gives 50
        win_rates([row | {"generator_2": "one"} for row in rows], bootstrap=5, seed=0)
    with pytest.raises(MetricError, match="3 of 40 rows have no preference"):  # it ignores them
        win_rates([row | {"preference": None} for row in rows[:3]] + rows[3:], bootstrap=5, seed=0)
    with pytest.raises(MetricError, match="805 rows, but there are 40"):  # it uses the difficulties of others
        win_rates(rows, bootstrap=5, seed=0, metric=VERSION_1, gamed=tmp_path / "table.csv")


@pytest.fixture(scope="module")
def gamed(shared, tmp_path_factory):
    path = tmp_path_factory.mktemp("gamed") / "df_gamed.csv"
    path.write_bytes(gzip.decompress((shared / "alpaca_eval/df_gamed.csv.gz").read_bytes()))
    return path


def real_rows(shared, name):
    rows = json.loads(gzip.decompress((shared / "alpaca_eval" / f"{name}.json.gz").read_bytes()))
    expected = json.loads((shared / "alpaca_eval" / "expected.json").read_text())[name]
    return [row | {"id": str(i), "cluster": str(i)} for i, row in enumerate(rows)], expected


@pytest.mark.parametrize("name", ["claude-2.1", "gpt4_gamed"])
def test_win_rates_of_real_annotations_are_the_public_leaderboards(shared, gamed, name):
    rows, expected = real_rows(shared, name)
    ours = win_rates(rows, bootstrap=60, seed=0, metric=VERSION_1, gamed=gamed)
    assert ours["win_rate"] == pytest.approx(expected["win_rate"], abs=1e-8)
    assert (ours["n"], ours["metric"]) == (expected["n_total"], VERSION_1)
    assert ours["win_rate_error"] == pytest.approx(expected["standard_error"], rel=0.25)
    assert ours["lc_win_rate"] == pytest.approx(expected["length_controlled_winrate_sklearn_1_9"], abs=1e-4)
    if name == "claude-2.1":  # measured independently of this code, with 100 refits
        assert ours["lc_win_rate_error"] == pytest.approx(1.56, rel=0.15)


def test_refits_are_alpaca_evals_own_at_its_fixed_strength(shared, gamed):
    """Its solver stops early: ours minimises the same objective to convergence."""
    rows, _ = real_rows(shared, "gpt4_gamed")
    frame = pd.DataFrame(rows).assign(index=range(805))
    info = glm_winrate.GLM_INFO[VERSION_1]
    with length_table(gamed, 805):
        theirs = get_length_controlled_winrate(
            frame, glm_name=VERSION_1, glm_info=info | {"kwargs": {"n_splits": 0}}, save_weights_dir=None
        )
        features, neutral, weights = glm_winrate._get_featurized_data(
            frame, formula=info["formula"], regularize_to_baseline_lambda=info["regularize_to_baseline_lambda"]
        )
    easy = np.argsort(neutral["instruction_difficulty"].to_numpy())[:805]
    draws = np.stack([np.arange(805), np.resize(easy[:400], 805), np.resize(easy[400:], 805)])
    ours = refits(features, neutral, weights, np.stack([np.bincount(draw, minlength=805) for draw in draws]))
    assert ours[0] == pytest.approx(theirs["length_controlled_winrate"], abs=0.02)
    for draw, found in zip(draws, ours, strict=True):
        drawn = np.concatenate([np.arange(1610), 1610 + draw])
        fitted = glm_winrate.fit_LogisticRegressionCV(
            features.iloc[drawn], "preference", n_splits=0, sample_weight=weights.iloc[drawn].to_numpy(),
            tol=1e-10, max_iter=100_000,
        )  # fmt: skip
        assert found == pytest.approx(fitted.predict_proba(neutral.iloc[draw])[:, 1].mean() * 100, abs=1e-4)
    assert abs(ours[1] - ours[2]) > 1


@pytest.mark.parametrize("strength", [0.01, 0.1, 1.0, 100.0])
def test_a_logistic_fit_is_at_the_minimum_of_what_it_minimises(strength):
    """If a coefficient is not 0, the loss's slope equals the penalty's; if it is 0, the slope is no larger than that."""
    rng = np.random.default_rng(0)
    inputs, weights = rng.normal(size=(60, 3)), rng.integers(0, 4, size=(20, 60)).astype(float)
    targets = np.where(rng.random(60) < 0.3, rng.random(60), inputs[:, 0] > 0)
    targets[:3] = 1.0, 0.0, 0.5
    fitted = fit_logistic(inputs, targets, weights, strength=strength)
    slopes = strength * (weights * (1 / (1 + np.exp(-fitted @ inputs.T)) - targets)) @ inputs
    assert np.allclose(slopes[fitted != 0], -np.sign(fitted[fitted != 0]), atol=1e-5)
    assert (np.abs(slopes[fitted == 0]) <= 1 + 1e-6).all()
    none = (fitted == 0).mean()
    assert none == {0.01: 1.0, 100.0: 0.0}.get(strength, none)
    one_by_one = [fit_logistic(inputs, targets, weights[i : i + 1], strength=strength)[0] for i in range(20)]
    assert np.allclose(fitted, one_by_one, atol=1e-7)


def penalised_loss(found, inputs, targets, weights):
    score = inputs @ found
    return np.abs(found).sum() + 100 * weights @ (np.logaddexp(0, score) - targets * score)


@pytest.mark.parametrize("kind", ["any", "lost", "tied", "alike", "separable", "twice"])
def test_fits_of_awkward_judgements_are_no_worse_than_liblinears(kind):
    """All lost, all ties, almost equal lengths, lengths that decide, a duplicated feature."""
    rng = np.random.default_rng(0)
    for _ in range(10):
        count = int(rng.integers(10, 60))
        lengths = np.full(count, 0.3) + 1e-3 * np.eye(count)[0] if kind == "alike" else np.tanh(rng.normal(size=count))
        inputs = np.stack([lengths, lengths, np.ones(count)][kind != "twice" :], axis=1)
        targets = {"lost": np.zeros(count), "tied": np.full(count, 0.5), "separable": (lengths > 0) * 1.0}.get(
            kind, rng.random(count)
        )
        weights = np.bincount(rng.integers(count, size=count), minlength=count)[None].astype(float)
        ours = fit_logistic(inputs, targets, weights)[0]
        doubled = np.concatenate([weights[0] * targets, weights[0] * (1 - targets)])
        labels = np.repeat([1, 0], count)
        used = doubled > 0
        if len(set(labels[used])) < 2:  # liblinear refuses: everything is lost, and the coefficients show it
            assert (1 / (1 + np.exp(-inputs @ ours)) < 0.01).all()
            continue
        theirs = LogisticRegression(
            penalty="l1", solver="liblinear", C=100, fit_intercept=False, tol=1e-10, max_iter=100_000
        ).fit(np.tile(inputs, (2, 1))[used], labels[used], sample_weight=doubled[used])
        ours, theirs = (penalised_loss(found, inputs, targets, weights[0]) for found in (ours, theirs.coef_[0]))
        assert ours <= theirs * (1 + 1e-7) + 1e-7


def test_the_minimal_variant_reads_nothing_of_the_table(shared, gamed, monkeypatch):
    rows, _ = real_rows(shared, "claude-2.1")
    ours = win_rates(rows, bootstrap=2, seed=0)
    monkeypatch.setattr(glm_winrate, "hf_hub_download", lambda *args, **kwargs: str(gamed))
    frame = pd.DataFrame(rows).assign(index=range(len(rows)))
    theirs = get_length_controlled_winrate(
        frame, glm_name=MINIMAL, save_weights_dir=None, is_warn_extreme_changes=False
    )
    assert ours["lc_win_rate"] == pytest.approx(theirs["length_controlled_winrate"], abs=1e-8)


def test_the_full_variant_is_for_alpaca_evals_instructions_in_order_alone(shared):
    rows = json.loads(gzip.decompress((shared / "alpaca_eval/text_davinci_003.annotations.json.gz").read_bytes()))
    instructions, places = [row["instruction"] for row in rows], list(range(805))
    check_alpaca_eval(instructions, places)
    check_alpaca_eval([f" {text}\n" for text in instructions], places)  # whitespace differs between copies
    assert instructions_sha256(instructions) == ALPACA_EVAL_SHA256
    other = [*instructions[:-1], instructions[-1] + "?"]
    swapped = [instructions[1], instructions[0], *instructions[2:]]
    shuffled = random.Random(0).sample(instructions, 805)
    for texts, numbers, message in [
        (instructions[:300], places[:300], "there are 300"),
        (instructions, [p + 1 for p in places], "0 to 804"),
        (instructions, [None] * 805, "0 to 804"),
        (other, places, "these differ or are in another order"),
        (swapped, places, "in another order"),
        (shuffled, places, "in another order"),
    ]:
        with pytest.raises(MetricError, match=message):
            check_alpaca_eval(texts, numbers)


def test_the_table_of_gamed_baselines_is_checked(gamed, tmp_path):
    log = []
    path, found = find_df_gamed(gamed, log=log.append)
    assert path == gamed and found == hashlib.sha256(gamed.read_bytes()).hexdigest()
    assert len(log) == 1 and "the hub's has 97aeec3f" in log[0]
    lines = gamed.read_text().splitlines()
    (tmp_path / "short.csv").write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(MetricError, match=r"short.csv is not AlpacaEval's table"):
        find_df_gamed(tmp_path / "short.csv")
