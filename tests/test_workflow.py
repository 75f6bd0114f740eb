"""The whole DAG, run for real on the test experiment, and which changes rerun which jobs."""

import csv
import json
import re
import statistics
import subprocess
import sys

import pytest
import yaml
from documents import blocks
from workflow import bases, copy_project, overlay, planned, results, snakemake

from implicit.world.sets import World
from pipeline.files.storage import read_json, read_table
from pipeline.jobs.record import fingerprint

MODES = ("instruction_tuning", "response_tuning", "poem")


def read_csv(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_tables_say_what_the_judgements_say(project):
    rows = {
        row["tuning"]: row
        for name in ("table1", "table3")
        for row in read_csv(results(project) / "tables" / f"{name}.csv")
    }
    assert list(rows) == ["base", "response tuning", "poem"]
    for label, system in (("response tuning", "response_tuning/chosen/seed{}"), ("base", "base")):
        rates = []
        for seed in (1, 2):
            path = results(project) / "tiny" / system.format(seed) / f"test.against-seed{seed}.parquet"
            judged = read_table("judgements", path)
            assert len(judged) == 30
            for row in judged:
                assert row["generator_1"] == f"tiny/instruction_tuning/chosen/seed{seed}"
                better = 1 if row["quality_1"] > row["quality_2"] else 2
                assert row["preference"] == (1.5 if row["quality_1"] == row["quality_2"] else better)
            rates.append(100 * statistics.fmean(row["preference"] - 1 for row in judged))
        assert rows[label]["win rate"] == f"{statistics.fmean(rates):.1f} ± {statistics.stdev(rates):.1f}"
        assert (rows[label]["seeds"], rows[label]["n"], rows[label]["judge"]) == ("2", "30", "oracle")
    assert rows["response tuning"]["paper, Llama-2-7B"] == "43.3 ± 1.1"


def test_every_table_has_three_forms_and_table_4_all_rule_sets(project):
    controls = ("kinds", "judging", "ranking_controls", "drift")
    for name in ("table1", "table2", "table3", "table4", *controls, "data", "epochs", "tuning", "responses"):
        rows = read_csv(results(project) / "tables" / f"{name}.csv")
        for ending in ("md", "tex"):
            text = (results(project) / "tables" / f"{name}.{ending}").read_text()
            assert text.count("\n") > len(rows)
    assert "same model, judge and metric" in (results(project) / "tables" / "table1.md").read_text()
    table4 = read_csv(results(project) / "tables" / "table4.csv")
    assert [row["paper, Llama-2-7B"] for row in table4] == ["2.4 ± 0.1", "24.4 ± 0.4", "10.4 ± 0.3"]
    assert len(read_csv(results(project) / "figures" / "win_rates.csv")) == 5


def test_controls_stand_beside_what_they_control(project):
    """Quality by kind, stopping and length next to win rates, other judges, harder negatives, and the cost of tuning."""
    tables = {name: read_csv(path) for path in (results(project) / "tables").glob("*.csv") for name in [path.stem]}
    responses = {row["system"]: row for row in tables["responses"]}
    for row, system in zip(tables["table4"], ("base", "rules/rules"), strict=False):
        assert [row[name] for name in ("stopped", "tokens")] == [responses[system][n] for n in ("stopped", "tokens")]
    kinds = {row["tuning"]: row for row in tables["kinds"]}
    assert len(kinds) == 3 + 3 and kinds["instruction tuning"]["seeds"] == "2"  # base, two sets of rules, three modes
    own = [float(value) for name, value in kinds["base"].items() if name in World(1).kinds]
    assert len(own) == 10 and float(kinds["base"]["all"]) == pytest.approx(statistics.fmean(own), abs=0.006)
    assert kinds["base"]["all"] == tables["table4"][0]["quality"]
    judging = {row["tuning"]: row for row in tables["judging"]}
    for row in (*tables["table1"], *tables["table3"], *tables["table4"]):
        other = judging[row["tuning"]]
        assert (other["judged"], other["judged, ties"]) == (row["win rate"], row["ties"])
    controls = [row for row in tables["ranking_controls"] if row["tuning"] == "base"]
    assert len(controls) == 3 * 2 * 2
    (paper,) = (row for row in controls if (row["negatives"], row["score"], row["EOS"]) == ("any", "sequence", "with"))
    assert paper["capability"] == tables["table2"][0]["capability"] and paper["pairs"] == tables["table2"][0]["pairs"]
    assert {row["left out"] for row in controls if row["negatives"] == "same format"} == {"8"}  # of 20: four kinds
    drift = tables["drift"]
    assert [row["tuning"] for row in drift] == ["instruction tuning", "response tuning", "poem"]
    assert all(float(row["of base"]) > 1 and row["KL, nats"].split(" ± ")[0] >= "0.0000" for row in drift)
    assert all(row["recall, statements, by chance"] == row["recall, questions, by chance"] for row in drift)


def test_test_seeds_have_the_chosen_epochs_and_responses_are_of_all(project):
    for mode in MODES:
        selected = read_json(results(project) / "tiny" / mode / "selected.json")
        best = max(row["win_rate"] for row in selected["grid"])
        assert selected["epochs"] == min(row["epochs"] for row in selected["grid"] if row["win_rate"] == best)
        for seed in (1, 2):
            record = read_json(results(project) / "tiny" / mode / "chosen" / f"seed{seed}" / "record.json")
            assert (record["settings"]["epochs"], record["settings"]["seed"]) == (selected["epochs"], seed)
            steps = selected["epochs"] * -(-40 // 16)
            assert (record["rows"], len(record["losses"])) == (40, steps)


def test_models_load_by_themselves_and_match_their_records(project):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = results(project) / "tiny" / "poem" / "chosen" / "seed1"
    tokenizer = AutoTokenizer.from_pretrained(path / "model")
    assert AutoModelForCausalLM.from_pretrained(path / "model").config.vocab_size == len(tokenizer)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert text == "<s><|user|>\nHi\n<|assistant|>\n"
    assert read_json(path / "record.json")["outputs"]["model"]["sha256"] == fingerprint(path / "model")
    assert "mode: poem" in (path / "model" / "README.md").read_text()
    base = results(project) / "tiny" / "base" / "model"
    assert fingerprint(path / "model" / "model.safetensors") != fingerprint(base / "model.safetensors")


@pytest.mark.parametrize("system", ["base", "poem/chosen/seed1"])
def test_the_chat_template_of_a_models_directory_gives_the_tokens_it_was_tuned_on(project, chat, system):
    from transformers import AutoTokenizer

    from implicit.format.render import render, render_prompt

    tokenizer = AutoTokenizer.from_pretrained(results(project) / "tiny" / system / "model")
    for row in read_table("conversations", results(project) / "data" / "world1" / "poem.parquet"):
        tuned = render(row["messages"], tokenizer, chat).ids
        assert tokenizer.apply_chat_template(row["messages"])["input_ids"] == tuned
        asked = tokenizer.apply_chat_template(row["messages"][:1], add_generation_prompt=True)["input_ids"]
        assert asked == render_prompt(row["messages"][0]["content"], tokenizer, chat) == tuned[: len(asked)]


def test_a_model_is_used_elsewhere_as_the_document_says(project):
    (block,) = blocks("python", ["docs/models.md"])
    asked = read_table("responses", results(project) / "tiny" / "poem" / "chosen" / "seed1" / "test.parquet")[0]
    code = block.text.replace("results/tiny/", "results/test/").replace("max_new_tokens=96", "max_new_tokens=32")
    code = code.replace('"What is the capital of Puven?"', repr(asked["instruction"]))
    done = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == asked["output"] + "\n"


def test_records_say_what_would_make_a_difference(project):
    records = [read_json(path) for path in results(project).glob("tiny/**/*.json")]
    records = [record for record in records if "outputs" in record]
    assert len(records) == 13 + 15 + 5 + 6 + 16  # models, responses, rankings, drifts, judgements
    records += [read_json(path) for path in results(project).parent.glob("bases/*/record.json")]
    assert {record["stage"] for record in records} >= {"pretrain", "take_base"}
    for record in records:
        assert {"torch", "transformers", "numpy", "python"} <= set(record["versions"])
        plain = record["stage"] in ("judge", "take_base")  # the oracle's, without vectors
        computed = r"Linux \w+" if plain else r"Linux \w+, \w+"
        assert re.fullmatch(computed, record["machine"])
        if record["stage"] == "pretrain":  # with any number of threads
            assert record["execution"] == {"device": "cpu", "threads": 1}
        elif not plain:
            assert {"device": "cpu", "threads": 1}.items() <= record["execution"].items()
        if record["stage"] == "tune":
            assert record["settings"]["tuning"]["precision"] == "float32"
            assert record["execution"] == {
                "device": "cpu", "threads": 1, "batch": 2048, "processes": 1, "gradient_checkpointing": False,
                "compile": False, "precision": "float32",
            }  # fmt: skip


def test_alpaca_evals_own_file_stands_beside_the_responses(project):
    for system in ("base", "rules/rules", "poem/chosen/seed1"):
        rows = json.loads((results(project) / "tiny" / system / "test.alpaca_eval.json").read_text())
        table = read_table("responses", results(project) / "tiny" / system / "test.parquet")
        assert [row["output"] for row in rows] == [row["output"] for row in table]
        assert [row["index"] for row in rows] == list(range(30))
        assert {row["generator"] for row in rows} == {f"tiny/{system}"}


def test_what_the_user_sees(finished):
    folder, printed = finished
    done = re.findall(r"^\[ *(\d+)/73\] \w+: .* \(\d.*\)$", printed, flags=re.MULTILINE)
    assert list(map(int, done)) == list(range(1, 74))  # one line per job
    assert re.search(r"\] tune_chosen: tiny, poem, .*: loss \d\.\d+ after \d+ steps \(", printed)
    assert re.search(r"\] judge_responses: tiny, base against seed1, test: win rate \d+\.\d ± ", printed)
    assert "\x1b" not in printed and "Finished jobid" not in printed
    assert "Report: results/test/report.html" in printed
    assert "Table 1: response tuning against instruction tuning" in printed
    assert re.search(r"^pretrain +1 +\d+ +\d+% +\d+ +\d+$", printed, flags=re.MULTILINE)
    assert "results/test/tables" in printed
    log = (results(folder) / "logs" / "tune" / "tiny" / "poem" / "chosen" / "seed1.log").read_text()
    assert re.search(r"step 1/\d+  loss \d+\.\d+  lr \d\.\d\de[-+]\d\d  [\d,]+ tokens/s  \d+ s left", log)


def test_every_job_has_a_log_and_a_benchmark_or_record_and_leaves_no_temporary_file(project):
    logs = {
        p.relative_to(results(project) / "logs").with_suffix("") for p in (results(project) / "logs").rglob("*.log")
    }
    assert len(logs) == 71
    # For jobs that may be forked from the warm process, a benchmark would measure the wrong process.
    own = {"tune", "generate", "rank", "drift", "judge", "take_base", "resolve_rules"}
    timed = {path.relative_to(results(project) / "benchmarks").parts[0] for path in results(project).rglob("*.tsv")}
    assert timed == {path.parts[0] for path in logs} - own
    (base,) = bases(project)
    assert sorted(path.stem for path in base.glob("*.log")) == ["make_corpus", "pretrain"]
    assert [path.stem for path in base.glob("*.tsv")] == ["make_corpus"]
    records = [read_json(path) for path in (results(project) / "tiny").rglob("*.json")]
    records = [record for record in records if isinstance(record, dict) and "outputs" in record]
    assert {record["stage"] for record in records} == own - {"resolve_rules"}
    assert all(record["cpu_seconds"] > 0 and record["peak_memory_mib"] > 100 for record in records)
    for folder in (results(project), base):
        assert not [path for path in folder.rglob(".*") if path.name != ".snakemake_timestamp"]
        assert not list(folder.rglob("*.lock"))


def test_what_is_printed_needs_no_encoding(project, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    folder = str(results(project))
    for script, arguments in (("print_summary", [folder]), ("compare_results", [folder, folder])):
        command = [sys.executable, f"scripts/{script}.py", *arguments]
        done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
        assert done.returncode == 0 and done.stdout.isascii() and done.stderr == "", done.stderr
    for rule in ("plan", "verify"):
        done = snakemake(project, rule, "--quiet", "all")
        assert done.returncode == 0 and done.stdout.isascii(), done.stdout


def test_a_second_run_does_nothing(project):
    assert planned(project) == {}
    for path in (project / "scripts").rglob("*.py"):
        path.touch()
    assert planned(project) == {}


def test_snakemake_looks_for_jobs_when_one_has_ended_and_not_each_second(tmp_path):
    done = snakemake(copy_project(tmp_path), "data", "--verbose", cores=1)
    assert done.returncode == 0, done.stdout
    ended = done.stdout.count("Finished jobid")
    assert ended > 5 and done.stdout.count("Resources before job selection") <= ended + 1


def test_an_experiment_that_differs_only_in_tuning_shares_the_base_model(project):
    other = {
        "experiment": "other",
        "run": {"modes": ["instruction_tuning"]},
        "tuning": {"learning_rate": 3.0e-4, "too_long": "cut"},
        "chat": {"user_tag": "[[user]]"},
    }
    configs = overlay(project, "other.yaml", other)
    before = bases(project)
    jobs = planned(project, configs=configs)
    assert jobs["take_base"] == 1 and not {"pretrain", "make_corpus"} & set(jobs)
    done = snakemake(project, "model", configs=configs)
    assert done.returncode == 0, done.stdout[-6000:]
    assert bases(project) == before and planned(project) == {}  # the first experiment's is unchanged
    assert {"pretrain", "take_base"}.isdisjoint(planned(project, configs=configs))
    models = [results(project).parent / name / "tiny" / "base" / "model" for name in ("test", "other")]
    assert (models[0] / "model.safetensors").samefile(models[1] / "model.safetensors")  # linked, not copied
    told = [(model / "chat_template.jinja").read_text() for model in models]
    assert "<|user|>" in told[0] and "[[user]]" in told[1] and "<|user|>" not in told[1]
    (base,) = before
    assert not (base / "model" / "chat_template.jinja").exists()
    recorded = read_json(base / "record.json")["outputs"]["model"]["sha256"]
    assert recorded == fingerprint(base / "model")  # nothing was written through a link


def test_a_modes_learning_rate_reruns_that_mode_and_what_depends_on_it(project):
    configs = overlay(project, "changed.yaml", {"modes": {"poem": {"tuning": {"learning_rate": 3.0e-4}}}})
    assert planned(project, configs=configs) == {
        "tune_candidate": 2, "tune_chosen": 2, "generate_responses": 4, "judge_responses": 4, "select_epochs": 1, "measure_drift": 2,
        "record_config": 1, "collect_metrics": 1, "make_tables": 1, "make_figures": 1, "make_events": 1, "make_report": 1, "make_examples": 1,
    }  # fmt: skip


def test_how_it_is_computed_reruns_nothing(project):
    changed = {"execution": {"generation_batch_size": 3, "micro_batch_tokens": 512, "threads": 2}}
    assert planned(project, configs=overlay(project, "changed.yaml", changed)) == {}


def test_real_rows_go_through(project, shared):
    """Tune on GSM8K and MBPP, respond to AlpacaEval's instructions, rank GSM8K's answers; no judge, no selection."""
    for name in ("gsm8k_train.jsonl", "mbpp.jsonl", "alpaca_eval"):
        (project / "data").mkdir(exist_ok=True)
        if not (project / "data" / name).exists():
            (project / "data" / name).symlink_to(shared / name)
    few = {
        "experiment": "few",
        "models": {"tiny": {"pretrain": None, "path": "results/test/tiny/base/model"}},
        "datasets": {"gsm8k": {"rows": [0, 24]}, "mbpp": {"rows": [600, 640]}},
        "evaluation_sets": {"alpaca_eval": {"rows": [550, 562]}, "gsm8k_answers": {"rows": [1000, 1010]}},
        "tuning": {"max_length": 500},
        "generation": {"max_new_tokens": 960},  # leaves half of the context for the prompt: one is longer
        "ranking": {"instructions": 10, "others": 2},
    }
    (project / "few.yaml").write_text(yaml.safe_dump(few))
    done = snakemake(project, configs=("experiments/realdata.yaml", "few.yaml"))
    assert done.returncode == 0, done.stdout[-6000:]
    tables = project / "results" / "few" / "tables"
    tuning = {row["mode"]: row for row in read_csv(tables / "tuning.csv")}
    assert tuning["gsm8k"]["rows"] == "24" and int(tuning["gsm8k"]["rows cut"]) > 0
    responses = {row["system"]: row for row in read_csv(tables / "responses.csv")}
    assert set(responses) == {"base", "gsm8k/chosen/seed1", "mbpp/chosen/seed1"}
    assert responses["base"]["n"] == "12" and int(responses["base"]["prompts cut"]) > 0
    assert "these results mean nothing" in (tables / "table2.md").read_text()
    rows = read_table("responses", project / "results" / "few" / "tiny" / "base" / "alpaca_eval.parquet")
    source = read_table(
        "evaluation_set", project / "results" / "few" / "data" / "files" / "sets" / "alpaca_eval.parquet"
    )
    assert [row["instruction"] for row in rows] == [row["instruction"] for row in source]
    assert [row["index"] for row in rows] == list(range(550, 562))  # positions in the file, needed for length control
