"""The experiment on a small real model, all of it, with a Gemma that has random weights and a small vocabulary."""

import json

import architectures
import paper_rows
import pytest
import yaml
from conftest import SHARED
from paper_config import PAPER, config_of
from test_workflow import read_csv
from workflow import copy_project, snakemake

from implicit.judging.training import key_of
from pipeline.files.storage import read_json, read_table

LAYERS = (PAPER, "experiments/small.yaml", "experiments/laptop.yaml")
COUNT = paper_rows.COUNT


def overlay(folder, data):
    """The reductions: rows, epochs, lengths, and local files. Everything else is the experiment's."""
    files = {"lima": "lima.jsonl", "gsm8k": "gsm8k.jsonl", "mbpp": "mbpp.jsonl", "poetry": "poetry.csv"}
    files |= {"recipes": "recipes.csv", "chess": "chess.txt"}
    limit = {"max_characters": 100_000, "examples": COUNT - 2}
    ifeval = [
        {"prompt": f"Say {i} briefly.", "instruction_id_list": ["length_constraints:number_words"],
         "kwargs": [{"relation": "less than", "num_words": 99}]}
        for i in range(6)
    ]  # fmt: skip
    (data / "ifeval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ifeval))
    sets = {
        "alpaca_eval": {"file": "alpaca_eval.json", "reference": "{instruction}", "every": 2, "instructions": 6},
        "alpaca": {"file": "alpaca.json", "templates": str(data / "templates.py"), "instructions": 10},
        "ifeval": {"file": "ifeval.jsonl", "every": 2, "instructions": 3},
    }
    return {
        "run": {"test_seeds": [1, 2]},
        "models": {"gemma": {"path": str(folder / "gemma"), "parameters": None}},
        "datasets": {name: {"file": str(data / file)} | limit for name, file in files.items()},
        "evaluation_sets": {name: own | {"file": str(data / own["file"])} for name, own in sets.items()},
        "tuning": {"max_length": 512},
        "selection": {"epochs": [1]},
        "generation": {"max_new_tokens": 16},
        "rules": {"eos_ramp": 16, "variants": {"no_eos": {"max_new_tokens": 16}}},
        "ranking": {"instructions": 10, "others": 2, "bootstrap": 50},
        "judge": {"bootstrap": 10},
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    pytest.importorskip("langdetect", reason="IFEval's checker is not installed: envs/harness.txt")
    project, folder = (tmp_path_factory.mktemp(name) for name in ("small", "given"))
    copy_project(project)
    paper_rows.write_all(folder / "data", SHARED if SHARED.is_dir() else None)
    architectures.save("gemma-3", folder / "gemma", context=1024)
    (project / "reduced.yaml").write_text(yaml.safe_dump(overlay(folder, folder / "data")))
    done = snakemake(project, configs=[*LAYERS, "reduced.yaml"])
    assert done.returncode == 0, done.stdout[-6000:]
    return project, done.stdout


def test_every_mode_is_compared_ranked_and_checked(finished):
    results = finished[0] / "results" / "laptop"
    modes = config_of("paper").run.modes
    table1, table2, table3, table4, checks = (
        read_csv(results / "tables" / f"{name}.csv") for name in ("table1", "table2", "table3", "table4", "checks")
    )
    assert [row["tuning"] for row in table1] == ["base", "response tuning"]
    assert [row["tuning"] for row in table3] == ["base", "GSM", "MBPP", "Poetry", "Recipes", "Chess"]
    assert len(table4) == 5 and len(table2) == 3
    assert {row["judge"] for row in table1 + table3 + table4} == {"chrf"} and {row["n"] for row in table1} == {"6"}
    assert len(checks) == 2 * (1 + 4 + len(modes)) and {row["n, prompts"] for row in checks} == {"3"}
    for mode in modes:
        assert read_json(results / "gemma" / mode / "selected.json")["epochs"] == 1


def test_all_modes_have_the_same_number_of_rows_and_the_same_settings(finished):
    folder = finished[0] / "results" / "laptop" / "gemma"
    records = [read_json(folder / mode / "chosen" / "seed1" / "record.json") for mode in config_of("paper").run.modes]
    assert {record["rows"] for record in records} == {COUNT - 2}
    assert len({json.dumps(record["settings"]["tuning"], sort_keys=True) for record in records}) == 1
    assert {record["settings"]["tuning"]["method"] for record in records} == {"lora"}


def test_what_auto_was_is_in_the_records(finished):
    folder = finished[0] / "results" / "laptop" / "gemma"
    paths = ["base/alpaca_eval.record.json", "base/ranking.json", "poetry/chosen/seed2/record.json"]
    records = [read_json(folder / path) for path in paths]
    (precision,) = {record["execution"]["precision"] for record in records}
    assert precision in ("bfloat16", "float32")


def test_every_eighth_instruction_keeps_its_place_in_the_set(finished):
    table = read_table(
        "evaluation_set", finished[0] / "results" / "laptop" / "data" / "files" / "sets" / "alpaca_eval.parquet"
    )
    assert [row["index"] for row in table] == [0, 2, 4, 6, 8, 10]


def test_nothing_is_stale_and_verify_agrees(finished):
    project, _ = finished
    again = snakemake(project, "-n", configs=[*LAYERS, "reduced.yaml"])
    assert "Nothing to be done" in again.stdout, again.stdout[-3000:]
    done = snakemake(project, "verify", configs=[*LAYERS, "reduced.yaml"])
    assert done.returncode == 0 and "no discrepancies" in done.stdout, done.stdout[-3000:]


def test_with_a_judge_of_its_own_only_the_judging_is_done_again(finished):
    project, _ = finished
    data = project / "data"
    data.mkdir(exist_ok=True)
    texts = [f"It is {word}." for word in ("far", "near", "old", "new", "blue", "here")]
    rows = [
        {"instruction": f"What is item {i}?", "generator_1": "base", "generator_2": f"m{m}", "output_1": "It is.",
         "output_2": texts[(i + m) % 6], "preference": 1 + (i + m) % 2}
        for i in range(20) for m in range(8)
    ]  # fmt: skip
    (data / "gpt4.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = read_table("evaluation_set", next((project / "results").rglob("sets/alpaca_eval.parquet")))
    people = [
        {"instruction": row["instruction"], "input": "", "response1": "It is far.", "response2": "It is here, and old."}
        | {f"annotator{i}": 1 + i % 2 for i in (1, 2, 3)}
        for row in asked
    ]
    (data / "pandalm.jsonl").write_text("".join(json.dumps(row) + "\n" for row in people))
    few = {"judge": {"members": {"gemma": {"train": {"max_length": 128, "evaluations": 2, "batch_size": 16}}}}}
    (project / "few.yaml").write_text(yaml.safe_dump(few))
    done = snakemake(project, configs=[*LAYERS, "experiments/laptop-judge.yaml", "reduced.yaml", "few.yaml"])
    assert done.returncode == 0, done.stdout[-6000:]
    counted = done.stdout.split("job  ")[1].split("total")[0]
    assert not {"tune_chosen", "generate_responses", "import_model", "rank_responses"} & set(counted.split())
    assert {"train_judge", "judge_responses", "judge_annotations"} <= set(counted.split())
    folder = project / "results" / "laptop"
    seen = read_json(folder / "judge" / "gemma" / "model" / "seen.json")
    assert not {key_of(row["instruction"]) for row in asked} & set(seen["instructions"])
    for row in read_csv(folder / "tables" / "table1.csv"):
        assert {own.split(" ")[0] for own in row["by each member"].split(", ")} == {"chrf", "gemma"}
    assert "Agreement of this judge with known judgements: pandalm" in (folder / "tables" / "table1.md").read_text()
