"""`make verify`: a finished experiment has no discrepancies; any manual change is detected and reported."""

import gzip
import json
import shutil
from pathlib import Path

import pytest
from workflow import copy_project, snakemake

from implicit.measuring import recount
from implicit.measuring.similarity import STYLES, summarise
from implicit.scoring.rank import ranking_capability
from pipeline.files.storage import read_json, read_table, write_json, write_table
from reporting.metrics.collect import read_metrics


def test_a_finished_experiment_is_as_it_was_made(project):
    done = snakemake(project, "verify")
    assert done.returncode == 0, done.stdout
    assert "12 tables and 6 figures" in done.stdout and "no discrepancies" in done.stdout


@pytest.fixture
def copied(project, tmp_path):
    folder = copy_project(tmp_path)
    for name in ("test", "bases"):
        shutil.copytree(project / "results" / name, folder / "results" / name)
    return folder, folder / "results" / "test"


# Edits to files that are made from the metrics.
EDITS = {
    "tables/kinds.csv": ("base,", "base,1"),
    "tables/table1.csv": ("oracle", "another"),
    "tables/table4.tex": ("oracle", "nobody"),
    "tables/responses.md": ("| base ", "| bass "),
    "tables/table3.md": (" of 30", " of 31"),
    "figures/win_rates.csv": ("\ntiny,base,", "\ntiny,base,1"),
    "metrics.csv": ("poem", "prose"),
}


def change(path, old, new):
    text = path.read_text()
    assert text.count(old) >= 1, (path, old)
    path.write_text(text.replace(old, new, 1))


def test_everything_that_is_changed_by_hand_is_named(copied):
    folder, results = copied
    poem = results / "tiny" / "poem" / "chosen" / "seed1"
    weights = (poem / "model" / "model.safetensors").read_bytes()
    (poem / "model" / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    rows = read_table("responses", poem / "test.parquet")
    write_table("responses", [rows[0] | {"output": "better"}, *rows[1:]], poem / "test.parquet")
    judged = poem / "test.against-seed1.parquet"
    rows = read_table("judgements", judged)
    write_table("judgements", [row | {"preference": 2.0} for row in rows], judged)
    summary = results / "tiny" / "base" / "test.against-seed2.json"
    write_json(read_json(summary) | {"win_rate": 99.0}, summary)
    scores = results / "tiny" / "base" / "ranking.parquet"
    rows = read_table("ranking", scores)
    write_table("ranking", [row | {"true_logprob": row["other_logprob"]} for row in rows], scores)
    drift = results / "tiny" / "poem" / "chosen" / "seed2"
    rows = read_table("drift", drift / "drift.parquet")
    write_table("drift", [row | {"kl": 7.0 * row["tokens"]} for row in rows], drift / "drift.parquet")
    rows = read_table("recall", drift / "recall.parquet")
    write_table("recall", [row | {"tuned": row["right"]} for row in rows], drift / "recall.parquet")
    tuned = results / "tiny" / "response_tuning" / "chosen" / "seed1" / "record.json"
    write_json(read_json(tuned) | {"rows_cut": 39}, tuned)
    metrics = read_metrics(results / "metrics.parquet")
    own = (metrics["metric"] == "characters") & (metrics["system"] == "base")
    metrics.loc[own, "value"] += 1.0
    metrics.to_parquet(results / "metrics.parquet", index=False)
    for name, (old, new) in EDITS.items():
        change(results / name, old, new)
    shared = read_json(results / "tiny" / "base" / "record.json")["inputs"]["shared"]["path"]
    corpus = folder / Path(shared).parent / "corpus.parquet"  # other tests may have pre-trained other base models
    write_table("corpus", [{"text": "other"}], corpus)
    selected = results / "tiny" / "poem" / "selected.json"
    write_json(read_json(selected) | {"epochs": 7}, selected)
    done = snakemake(folder, "verify")
    poem = poem.relative_to(folder)
    assert done.returncode == 1 and "Traceback" not in done.stdout
    for told in (
        f"{poem}/model has sha256",
        f"{poem}/test.parquet has sha256",
        f"results/bases/{corpus.parent.name}/corpus.parquet has sha256",
        f"{poem}/test.alpaca_eval.json contains other responses than",
        f"{poem}/test.against-seed1.parquet has sha256",
        f"{poem}/test.against-seed1.json: win_rate, value is",
        f"{poem}/test.against-seed1.json: win_rate seeds, value is",
        f"{poem}/test.against-seed1.json: rejudged_win_rate judged, value is",
        "tiny/base/test.against-seed2.json: win_rate, value is",
        "tiny/base/ranking.parquet has sha256",
        "tiny/base/ranking.json: capability any sequence, value is",
        "tiny/base/ranking.json: ranking_ties same_kind sequence, value is",
        f"{drift.relative_to(folder)}/drift.json: kl, value is",
        f"{drift.relative_to(folder)}/drift.json: recall statements, value is",
        "response_tuning/chosen/seed1/record.json: rows_cut, value is",
        "tiny/base/test.parquet: characters, value is",
        "tables/responses.csv, row 1, 'characters':",
        *(f"results/test/{name}, " for name in EDITS),
        "tables/table1.csv, row 1, 'judge': found 'another', expected 'oracle'",
        "epochs, but results/test/tiny/poem/selected.json chose 7",
    ):
        assert told in done.stdout, (told, done.stdout)


def test_a_row_that_is_gone_and_a_file_that_is_gone_are_named(copied):
    folder, results = copied
    judged = results / "tiny" / "poem" / "chosen" / "seed1" / "test.against-seed1.parquet"
    write_table("judgements", read_table("judgements", judged)[1:], judged)
    done = snakemake(folder, "verify")
    assert done.returncode == 1 and "Traceback" not in done.stdout
    assert f"{judged.relative_to(folder)} has sha256" in done.stdout
    assert "the metrics cannot be collected because files were changed: ValueError" in done.stdout
    (results / "tiny" / "base" / "ranking.json").unlink()
    done = snakemake(folder, "verify")
    assert done.returncode == 1 and "results/test/tiny/base/ranking.json" in done.stdout
    assert "error: 1 files are missing" in done.stdout


@pytest.mark.parametrize("model", ["claude-2.1", "gpt4_gamed"])
def test_length_control_is_recounted_as_alpaca_eval_counts_it(shared, tmp_path, model):
    """Figures on the public leaderboard, from AlpacaEval's own annotations and table."""
    folder = shared / "alpaca_eval"
    rows = [
        row | {"quality_1": None} for row in json.loads(gzip.decompress((folder / f"{model}.json.gz").read_bytes()))
    ]
    table = tmp_path / "df_gamed.csv"
    table.write_bytes(gzip.decompress((folder / "df_gamed.csv.gz").read_bytes()))
    expected = json.loads((folder / "expected.json").read_text())[model]
    controlled = recount.controlled_win_rate(rows, gamed=table)
    assert controlled == pytest.approx(expected["length_controlled_winrate_sklearn_1_9"], abs=1e-4)
    assert recount.win_rate([row | {"quality_2": None} for row in rows])["win_rate"] == pytest.approx(
        expected["win_rate"]
    )


def test_rankings_and_similarity_are_recounted_as_they_are_counted():
    rows = [
        {"id": f"{i % 7}", "other_id": str(j), "cluster": f"{i % 7 // 2}", "true_logprob": -((i * 7 + j) % 5) - 1.0, "true_tokens": 2 + i % 3,
         "other_logprob": -((i + 3 * j) % 5) - 1.0, "other_tokens": 1 + j % 4}
        for i in range(14) for j in range(5)
    ]  # fmt: skip
    ours, theirs = recount.ranking(rows), ranking_capability(rows, bootstrap=50, seed=3)
    for score in ("sequence", "token"):
        assert {name: ours[score][name] for name in ("capability", "ties")} == pytest.approx(
            {name: theirs[score][name] for name in ("capability", "ties")}
        )
        ends = recount.mean_over_seeds([ours[score]["clusters"]], draws=50, seed=3)
        assert ends == pytest.approx((theirs[score]["low"], theirs[score]["high"]))
    assert (ours["instructions"], ours["pairs"]) == (7, 70)
    rows = [
        {"id": str(i), "x": (i * 37 % 11) / 3, "y": (i * 17 % 5) / 2}
        | {s: (i + k) % 3 == 0 for k, s in enumerate(STYLES)}
        for i in range(23)
    ]
    ours, theirs = recount.similarity(rows, list(STYLES)), summarise(rows)
    assert ours["spearman"] == pytest.approx(theirs["spearman"])
    for style, rates in theirs["adherence"].items():
        assert ours[style] == pytest.approx({name: 100 * rate["rate"] for name, rate in rates.items()})
    assert ours["n"] == theirs["adherence"]["gsm"]["lowest"]["n"]
