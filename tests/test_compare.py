"""Comparing two experiments: config differences, and differences that exceed the noise between seeds."""

import re
import shutil
import subprocess
import sys

import pytest
from results_folder import WithoutSimilarity
from scipy.stats import ttest_ind
from workflow import ROOT

from compare_results import compared, config_differences
from pipeline.files.storage import read_json, write_json
from reporting.metrics.collect import read_metrics, table_of


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return WithoutSimilarity(tmp_path_factory.mktemp("made"), seeds=3).make()


@pytest.fixture
def pair(made, tmp_path):
    """Two folders with the same results for three seeds."""
    folders = [shutil.copytree(made.folder, tmp_path / name) / "results" / "made" for name in ("a", "b")]
    for name, folder in zip("ab", folders, strict=True):
        write_json({"experiment": name, "tuning": {"learning_rate": 1e-4}}, folder / "config.json")
    return folders


def compare(a, b):
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "compare_results.py", a, b], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def change(folder, label, *rates, **more):
    """Give a system these win rates, one per seed; with none, leave it out."""
    metrics = read_metrics(folder / "metrics.parquet")
    own = (metrics["label"] == label) & (metrics["metric"] == "win_rate") & (metrics["set"] == "test")
    own &= metrics["level"] == "seed"
    kept = own.cumsum() <= len(rates)
    metrics.loc[own & kept, "value"] = rates
    for name, value in more.items():
        metrics.loc[own, name] = value
    metrics[~own | kept].to_parquet(folder / "metrics.parquet", index=False)


def verdict(printed, name):
    (line,) = [line for line in printed.splitlines() if line.strip().startswith(name)]
    return line


def test_the_same_results_are_the_same(pair):
    printed = compare(*pair)
    assert "experiment: A a, B b" in printed and "DIFFERS by" not in printed
    assert "the same" in verdict(printed, "tiny, response tuning: win rate")
    assert "commit 0123456789ab" in printed


def test_only_what_is_beyond_the_noise_differs(pair):
    change(pair[0], "response tuning", 40.0, 41.0, 40.5)
    change(pair[1], "response tuning", 20.0, 21.0, 20.5)
    change(pair[0], "task 0", 30.0, 40.0, 50.0)
    change(pair[1], "task 0", 33.0, 43.0, 53.0)
    write_json(read_json(pair[1] / "config.json") | {"tuning": {"learning_rate": 3e-4}}, pair[1] / "config.json")
    printed = compare(*pair)
    assert "tuning.learning_rate: A 0.0001, B 0.0003" in printed
    line = verdict(printed, "tiny, response tuning: win rate")
    assert "DIFFERS by more than seeds do (3 and 3 seeds, p = " in line and "-20.0" in line
    assert "within seed noise" in verdict(printed, "tiny, task 0: win rate")


def test_many_figures_make_it_harder(pair):
    """p = 0.02 for one figure among several is not significant: among many, some get there by chance."""
    change(pair[0], "response tuning", 40.0, 41.0, 42.0)
    change(pair[1], "response tuning", 43.5, 44.5, 45.5)
    line = verdict(compare(*pair), "tiny, response tuning: win rate")
    assert 0.005 < ttest_ind([40.0, 41.0, 42.0], [43.5, 44.5, 45.5], equal_var=False).pvalue < 0.05
    assert "within seed noise" in line


def test_what_cannot_be_compared_is_named(pair, tmp_path):
    change(pair[1], "response tuning", 1.0, judge="another")
    change(pair[1], "base + rules")
    metrics = read_metrics(pair[1] / "metrics.parquet")
    metrics.loc[metrics["metric"] == "data_rows", "sha256"] = "other"
    chosen = (metrics["metric"] == "chosen") & (metrics["name"] == "task_0")
    metrics.loc[chosen, "value"] = metrics.loc[chosen, "value"].tolist()[::-1]
    metrics.to_parquet(pair[1] / "metrics.parquet", index=False)
    printed = compare(*pair)
    line = verdict(printed, "tiny, response tuning: win rate")
    assert "undecided: one seed (not the same judge) (3 and 1 seeds)" in line
    assert "tiny, base + rules: win rate: only in A" in printed and "evaluation set, test: sha256 A " in printed
    assert re.search(r"tiny, task_0: A (5, B 10|10, B 5)\n", printed)
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "compare_results.py", pair[0], tmp_path], capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert (
        done.returncode == 1
        and done.stderr.startswith(f"error: {tmp_path}: not the results of an experiment")
        and not done.stdout
    )


def test_p_is_welchs_of_the_values_themselves_and_holm_steps_down():
    def metrics(**rates):
        same = {"model": "m", "slice": "all", "metric": "win_rate", "level": "seed", "opponent": "o"}
        return table_of([same | {"label": name, "value": v} for name, values in rates.items() for v in values])

    a, b = [40.0, 41.5, 42.0], [43.5, 44.0, 46.0, 47.0]
    both = compared(metrics(one=a, two=[40.0], flat=[5.0, 5.0]), metrics(one=b, two=b, flat=[5.0, 5.0])).set_index(
        "row_a"
    )
    assert both.at["m, one", "p"] == pytest.approx(ttest_ind(a, b, equal_var=False).pvalue)
    assert both["p"].isna().to_dict() == {"m, one": False, "m, two": True, "m, flat": False}
    assert both.at["m, flat", "verdict"] == "the same" and both.at["m, flat", "p"] == pytest.approx(1.0)
    assert both.at["m, one", "verdict"].startswith("DIFFERS") and 0.01 < both.at["m, one", "p"] < 0.025
    five = (metrics(**dict.fromkeys("vwxyz", values)) for values in (a, b))
    assert not compared(*five)["verdict"].str.startswith("DIFFERS").any()  # one of five may occur by chance


def test_a_config_is_compared_key_by_key():
    a, b = {"a": {"b": 1, "c": {}}, "d": [1], "x": None}, {"a": {"b": 2, "c": {"e": 3}}, "d": [1]}
    assert config_differences(a, b) == ["a.b: A 1, B 2", "a.c.e: only in B: 3", "x: only in A: None"]
