"""The paper's own experiment: its plan, and all of it run with small models, twelve rows per set and a local judge."""

import csv
import re
from pathlib import Path

import architectures
import paper_rows
import pytest
import yaml
from paper_config import PAPER, config_of, expected_jobs
from test_judge_server import Service, reply, says, served
from workflow import copy_project, snakemake

from pipeline.files.storage import read_json, read_table
from pipeline.jobs.ledger import spent
from pipeline.jobs.record import fingerprint


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return copy_project(tmp_path_factory.mktemp("paper"))


def small_overlay(folder, data):
    """The reductions: models, rows, seeds, epochs, the judge. Everything else is the paper's."""
    datasets = {
        "lima": "lima.jsonl",
        "gsm8k": "gsm8k.jsonl",
        "mbpp": "mbpp.jsonl",
        "poetry": "poetry.csv",
        "recipes": "recipes.csv",
        "chess": "chess.txt",
    }
    sets = {"alpaca_eval": "alpaca_eval.json", "validation": "validation.json", "alpaca": "alpaca.json"}
    models = {
        name: {"path": str(folder / name), "revision": None, "gated": False, "parameters": None}
        for name in ("llama2", "olmo")
    }
    models["olmo"]["epochs"] = dict.fromkeys(config_of("paper").run.modes, 1)
    count = paper_rows.COUNT
    return {
        "run": {"test_seeds": [1]},
        "models": models,
        "datasets": {name: {"file": str(data / file), "examples": count, "sha256": None} for name, file in datasets.items()},
        "evaluation_sets": {name: {"file": str(data / file), "instructions": count, "sha256": None} for name, file in sets.items()}
        | {"alpaca": {"file": str(data / "alpaca.json"), "templates": str(data / "templates.py"), "instructions": count}},
        "tuning": {"batch_size": 8, "max_length": 512},
        "selection": {"epochs": [1, 2]},
        "generation": {"max_new_tokens": 48},
        "rules": {"variants": {"no_eos": {"max_new_tokens": 24}}},
        "ranking": {"instructions": 10, "others": 2, "bootstrap": 50},
        "judge": {"name": "small", "kind": "local", "server": None, "path": str(folder / "judge"), "min_label_probability": 0, "metric": "length_controlled_minimal", "bootstrap": 10},
        "similarity": {"encoder": str(folder / "encoder"), "modes": ["gsm8k", "poetry"]},
        "execution": {"device": "cpu", "processes": 1, "gradient_checkpointing": False, "compile": False, "generation_batch_size": 12, "micro_batch_tokens": 2048},
        "note": "Models with random weights: these figures mean nothing.",
    }  # fmt: skip


def save_encoder(path):
    """A sentence encoder with random weights, of BERT's architecture."""
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    backend = architectures.Tokenizer.from_str(architectures.train("gpt-neox"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", model_max_length=128)
    tokenizer.save_pretrained(path)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
    )
    BertModel(config).save_pretrained(path)


@pytest.fixture(scope="module")
def prepared(project, tmp_path_factory, request):
    """The project with small models beside it, and the overlay that names them."""
    folder = tmp_path_factory.mktemp("models")
    shared = Path(__file__).parents[2] / "shared" / "data"
    paper_rows.write_all(folder / "data", shared if shared.is_dir() else None)
    architectures.save("llama-2", folder / "llama2", context=1024)
    architectures.save("olmo", folder / "olmo", context=1024)
    architectures.save("llama-3", folder / "judge", context=8192, seed=1)
    save_encoder(folder / "encoder")
    (project / "small.yaml").write_text(yaml.safe_dump(small_overlay(folder, folder / "data")))
    return project


def read_csv(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def finished(prepared):
    done = snakemake(prepared, configs=[PAPER, "small.yaml"])
    assert done.returncode == 0, done.stdout[-6000:]
    return prepared / "results" / "paper", done.stdout


def test_every_rule_runs_and_every_table_comes_out(finished):
    results, printed = finished
    jobs = {rule for rule, _ in re.findall(r"^(\w+) +(\d+)$", printed, flags=re.MULTILINE)}
    assert jobs >= set(expected_jobs(config_of("paper"))) - {"check_access"}  # nothing comes from the hub
    assert {path.stem for path in (results / "tables").glob("*.csv")} == {
        "table1", "table2", "table3", "table4", "similarity", "ranking_controls", "data", "epochs", "tuning", "responses", "examples",
    }  # fmt: skip
    table1, table3, table4 = (read_csv(results / "tables" / f"table{i}.csv") for i in (1, 3, 4))
    assert [(r["model"], r["tuning"]) for r in table1] == [
        (m, t) for m in ("llama2", "olmo") for t in ("base", "response tuning")
    ]
    assert [r["tuning"] for r in table3 if r["model"] == "olmo"] == [
        "base",
        "GSM",
        "MBPP",
        "Poetry",
        "Recipes",
        "Chess",
    ]
    assert {r["model"] for r in table4} == {"llama2"} and len(table4) == 5
    for row in table1 + table3 + table4:
        assert (row["seeds"], row["n"], row["judge"], row["metric"]) == (
            "1",
            "12",
            "small",
            "length_controlled_minimal",
        )
        assert re.fullmatch(r"20\d\d-\d\d-\d\d", row["date"]) and 0 <= float(row["win rate"].split()[0]) <= 100
    assert table3[1]["paper, Llama-2-7B"] == "23.7 ± 0.7"
    similar = read_csv(results / "tables" / "similarity.csv")
    assert {(row["model"], row["tuning"]) for row in similar} == {
        (m, t) for m in ("llama2", "olmo") for t in ("GSM", "Poetry")
    }


def test_what_the_data_are_is_told(finished):
    results, _ = finished
    rows = {row["name"]: row for row in read_csv(results / "tables" / "data.csv")}
    assert {row["rows"] for row in rows.values()} == {"12"} and len({row["sha256"] for row in rows.values()}) == 9
    lima = read_table("conversations", results / "data" / "files" / "lima.parquet")
    assert [len(row["messages"]) for row in lima] == [2] * 10 + [4, 5]  # the last turn has no answer
    note = (results / "tables" / "table1.md").read_text(encoding="utf-8")
    assert re.search(
        r"^Turns dropped because no response follows them: .*instruction_tuning 1 of 29", note, re.MULTILINE
    )
    chess = read_table("conversations", results / "data" / "files" / "chess.parquet")
    assert chess[0]["messages"][0]["content"].strip() == '[WhiteElo "1500"]\n[BlackElo "1400"]'
    assert chess[0]["messages"][1]["content"].startswith("1. e4")
    asked = read_table("evaluation_set", results / "data" / "files" / "sets" / "alpaca_eval.parquet")
    assert [row["index"] for row in asked] == list(range(12))


def test_each_model_has_its_own_learning_rate_rules_and_epochs(finished):
    results, _ = finished
    records = {
        model: read_json(results / model / "gsm8k" / "chosen" / "seed1" / "record.json") for model in ("llama2", "olmo")
    }
    assert [records[model]["settings"]["tuning"]["learning_rate"] for model in ("llama2", "olmo")] == [1e-5, 3e-6]
    assert read_json(results / "olmo" / "chess" / "selected.json")["epochs"] == 1
    assert len(read_json(results / "llama2" / "chess" / "selected.json")["grid"]) == 2
    assert (results / "llama2" / "rules").is_dir() and not (results / "olmo" / "rules").exists()
    lengths = {name: max(row["tokens"] for row in read_table("responses", results / "llama2" / "rules" / name / "alpaca_eval.parquet")) for name in ("rules", "no_eos")}  # fmt: skip
    assert lengths["no_eos"] <= 24 < lengths["rules"] <= 48


def test_candidates_are_deleted_once_they_have_responded_and_nothing_runs_again(finished, prepared):
    results, _ = finished
    assert (
        not list(results.glob("llama2/*/epochs*/seed*/model"))
        and len(list(results.glob("llama2/*/epochs*/seed*/record.json"))) == 14
    )
    assert len(list(results.glob("*/*/chosen/seed*/model"))) == 14
    assert not list(results.glob("checkpoints/**/*.distcp"))
    done = snakemake(prepared, "-n", configs=[PAPER, "small.yaml"])
    assert "Nothing to be done" in done.stdout, done.stdout[-3000:]


def test_jobs_on_a_cpu_leave_no_gpu_hours_in_the_ledger(finished):
    results, _ = finished
    assert spent(results / "ledger") == {"gpu_hours": 0.0, "price": 0.0}


def ablation(project, name, further=None):
    """Run an ablation with one epoch and ``further`` overrides: its first table and its results folder."""
    modes = ("instruction_tuning", "response_tuning")
    last = {"models": {model: {"epochs": dict.fromkeys(modes, 1)} for model in ("llama2", "olmo")}} | (further or {})
    (project / f"last-{name}.yaml").write_text(yaml.safe_dump(last))
    configs = [PAPER, "small.yaml", f"experiments/{name}.yaml", f"last-{name}.yaml"]
    done = snakemake(project, configs=configs)
    assert done.returncode == 0, done.stdout[-6000:]
    results = project / "results" / name
    return read_csv(results / "tables" / "table1.csv"), results


def test_the_tags_ablation_comes_out(prepared):
    """Each tuning job runs in two processes, as on two GPUs."""
    (base, tuned), results = ablation(prepared, "paper-tags", {"execution": {"processes": 2}})
    assert (base["model"], tuned["tuning"], tuned["paper, Llama-2-7B"]) == ("llama2", "response tuning", "41.8 ± 0.8")
    record = read_json(results / "llama2" / "response_tuning" / "chosen" / "seed1" / "record.json")
    assert record["settings"]["chat"]["user_tag"] == "<|A|>" and record["execution"]["processes"] == 2
    template = (results / "llama2" / "base" / "model" / "chat_template.jinja").read_text()
    assert "<|B|>" in template and "<|user|>" not in template


def restatement_remover(body):
    """A server model that detects and removes text up to the colon in responses that begin with 'Sure'."""
    prompt = body["messages"][0]["content"]
    response = prompt.split("Response:\n", 1)[1].split("\n\nEnd with one line", 1)[0].strip()
    if "#### YES" in prompt:
        return reply(says("#### YES" if response.startswith("Sure") else "#### NO"))
    return reply(says(response.split(": ", 1)[1], finish_reason="stop"))


def test_the_no_rephrase_ablation_comes_out(prepared):
    service = Service(restatement_remover)
    with served(service) as url:
        further = {"rewriting": {"server": {"base_url": url}}, "tuning": {"method": "lora"}}
        (base, tuned), results = ablation(prepared, "paper-no-rephrase", further)
    assert (base["model"], tuned["tuning"], tuned["paper, OLMo-7B"]) == ("olmo", "response tuning", "43.3 ± 5.3")
    before, after = (
        read_table("conversations", results / "data" / "files" / f"{name}.parquet")
        for name in ("lima", "lima_rewritten")
    )
    changed = [row["id"] for row, new in zip(before, after, strict=True) if row["messages"] != new["messages"]]
    assert len(before) == 12 and changed == ["lima-0", "lima-3", "lima-6", "lima-9"]
    assert all(new["messages"][1]["content"].startswith("It is one.") for new in after[:10])
    record = read_json(results / "olmo" / "response_tuning" / "chosen" / "seed1" / "record.json")
    assert record["inputs"]["data"]["path"].endswith("lima_rewritten.parquet")
    assert len(service.bodies) == 14 + 4  # all turns, then those that restate
    rewritten = read_json(results / "data" / "files" / "lima_rewritten.record.json")
    assert (rewritten["stage"], rewritten["calls"], rewritten["flagged"]) == ("rewrite_dataset", 18, 4)
    assert {"model", "price", "settings", "inputs"} <= rewritten.keys()
    assert rewritten["outputs"]["table"]["sha256"] == fingerprint(results / "data" / "files" / "lima_rewritten.parquet")
