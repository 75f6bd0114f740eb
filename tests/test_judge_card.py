"""A judge's card in the workflow: a judge is trained, compared with known judgements, and its card stands in tables."""

import json

import pytest
from test_train_judge import judged
from workflow import copy_project, overlay, snakemake

from pipeline.files.storage import read_json, read_table

TRAIN = {"base": "tiny", "annotations": ["known"], "held_out": {"models": 0.25, "instructions": 0.2, "sets": ["asked"]}, "validation": 0.3,
         "pairs": 4, "batch_size": 8, "max_length": 128, "evaluations": 3, "learning_rate": 1e-3}  # fmt: skip
JUDGE = {"name": "both", "kind": "panel", "card": ["known"], "members": {
    "rouge": {"kind": "reference", "measure": "rouge"}, "scores": {"kind": "reward", "train": TRAIN}}}  # fmt: skip
SMALL = {"run": {"modes": ["instruction_tuning", "response_tuning"], "test_seeds": [1]}, "ranking": None, "rules": None, "drift": None,
         "selection": {"epochs": [1]}}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return copy_project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def configs(folder):
    """Known judgements, of which some are on instructions of the test set, which has references."""
    rows = [{**row, "preference": row["annotation"]} for row in judged()]
    (folder / "known.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    asked = [{"q": f"What is item {i}?", "a": f"It is {i}."} for i in range(0, 30, 2)]
    (folder / "asked.jsonl").write_text("\n".join(map(json.dumps, asked)) + "\n", encoding="utf-8")
    known = {"file": "known.jsonl", "models": ["model_1", "model_2"], "annotator": "nobody (no licence)"}
    sets = {"asked": {"file": "asked.jsonl", "instruction": "{q}", "reference": "{a}", "instructions": 15}}
    content = SMALL | {"annotations": {"known": known}, "evaluation_sets": sets, "judge": JUDGE}
    content["generation"] = {"evaluation_set": "asked", "max_new_tokens": 16}
    return overlay(folder, "judged.yaml", content)


def test_the_card_comes_without_the_experiment_and_then_in_its_tables(folder, configs):
    done = snakemake(folder, "judge_card", configs=configs)
    assert done.returncode == 0, done.stdout[-4000:]
    assert "agreement with known judgements, percent" in done.stdout
    results = folder / "results" / "test"
    assert not list(results.glob("tiny/*_tuning"))
    record, trained = (read_json(results / "judge" / name) for name in ("card/known.json", "scores/record.json"))
    seen = read_json(results / "judge" / "scores" / "model" / "seen.json")
    table = read_table("compared", results / "judge" / "card" / "known.parquet")
    assert record["pairs"] == len(table) == 2 * 15  # two models and fifteen instructions were held out
    assert not {row["model_2"] for row in table} & set(seen["models"]) and trained["pairs"] > 0
    assert [member["judge"] for member in record["members"]] == ["rouge", "scores"] and "@" in record["members"][1][
        "model"
    ]
    card = results / "judge" / "card"
    line = (card / "tables" / "judge_card.csv").read_text(encoding="utf-8").splitlines()[1]
    assert line.startswith("both,known,all,") and (card / "figures" / "judge_card.png").is_file()
    assert "known (nobody (no licence))" in (results / "judge" / "scores" / "model" / "README.md").read_text("utf-8")
    done = snakemake(folder, configs=configs)
    assert done.returncode == 0, done.stdout[-4000:]
    text = (results / "tables" / "table1.md").read_text(encoding="utf-8")
    assert "Agreement of this judge with known judgements: known " in text
    assert "| by each member " in text and "| members agree |" in text and "rouge " in text
    assert (results / "tables" / "judge_card.tex").is_file() and (results / "figures" / "judge_card.pdf").is_file()
    checked = snakemake(folder, "verify", configs=configs)
    assert checked.returncode == 0 and "no discrepancies" in checked.stdout, checked.stdout[-3000:]
    assert "member_win_rate" not in checked.stdout.partition("from records only:")[2].partition("\n")[0]


def test_without_known_judgements_the_card_says_what_is_missing(folder):
    done = snakemake(folder, "judge_card", "-n")
    assert done.returncode == 1 and "judge.card: empty; name sets of known judgements" in done.stdout
