"""What goes wrong in a run: each stops it with one message, before what is costly, and leaves nothing half-written."""

import json
import re
import subprocess
import sys

from workflow import bases, overlay, results, snakemake

from pipeline.files.storage import read_json


def test_a_wrong_config_is_one_message_before_any_job(project):
    configs = overlay(project, "wrong.yaml", {"experiment": "wrong", "tuning": {"learning_rat": 1.0}})
    done = snakemake(project, configs=configs)
    assert done.returncode == 1
    assert "tuning.learning_rat: unknown key; known keys here are learning_rate" in done.stdout
    assert "Traceback" not in done.stdout and not (project / "results" / "wrong").exists()


def test_a_broken_row_stops_the_run_before_pretraining(project):
    (project / "rows.jsonl").write_text('{"q": "a", "a": "b"}\n{"q": \n')
    broken = {
        "experiment": "broken",
        "datasets": {
            "poem": {"world_part": None, "examples": None, "file": "rows.jsonl", "user": "{q}", "assistant": "{a}"}
        },
    }
    before = bases(project)
    done = snakemake(project, configs=overlay(project, "broken.yaml", broken))
    assert bases(project) == before
    assert done.returncode == 1 and "Traceback" not in done.stdout
    assert re.search(r"error: rows\.jsonl, line 2: .*JSON", done.stdout)
    told = done.stdout[done.stdout.index("Job failed permanently: make_dataset") :]
    assert "wildcards: source=files, dataset=poem" in told and "log: results/broken/logs/make_dataset/" in told
    assert "  rerun with: snakemake --cores 2 --configfile experiments/test.yaml broken.yaml" in told
    assert not list((project / "results" / "broken").rglob("poem.parquet"))
    assert not (project / "results" / "broken" / "tiny").exists()


def test_a_response_longer_than_the_context_stops_before_pretraining(project):
    (project / "long.jsonl").write_text(json.dumps({"q": "a", "a": "word " * 3000}) + "\n")
    long = {
        "experiment": "long",
        "run": {"modes": ["instruction_tuning", "poem"]},
        "datasets": {
            "poem": {"world_part": None, "examples": None, "file": "long.jsonl", "user": "{q}", "assistant": "{a}"}
        },
    }
    before = bases(project)
    done = snakemake(project, configs=overlay(project, "long.yaml", long))
    assert done.returncode == 1 and bases(project) == before
    assert re.search(r"error: row poem-0 \(long.jsonl\): a response of \d+ tokens is longer than .* 1024", done.stdout)
    assert "step 1/" not in done.stdout and not (project / "results" / "long" / "tiny" / "base").exists()


def tune_alone(project, tmp_path, **changes):
    """Run the tuning script from a shell, on the finished experiment's files."""
    base = results(project) / "tiny" / "base"
    settings = read_json(results(project) / "tiny" / "poem" / "chosen" / "seed1" / "record.json")["settings"]
    settings["tuning"] |= changes
    command = [sys.executable, project / "scripts" / "tune.py", "--base", base / "model"]
    command += ["--base-record", base / "record.json", "--data", results(project) / "data" / "world1" / "poem.parquet"]
    command += ["--model", tmp_path / "out" / "model", "--record", tmp_path / "out" / "record.json", "--epochs", "2"]
    command += ["--settings", json.dumps(settings)]
    return subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)


def test_a_loss_that_is_not_finite_stops_the_job_with_nothing_written(project, tmp_path):
    done = tune_alone(project, tmp_path, learning_rate=1e30, warmup=0.0)
    assert done.returncode == 1
    fault = (
        r"error: the (loss at step \d+ is (nan|inf)|gradient at step \d+ is not finite), at learning rate [\d.]+e\+\d+"
    )
    assert re.search(fault, done.stdout)
    assert "Traceback" not in done.stdout and not list((tmp_path / "out").rglob("*"))


def test_a_model_that_is_not_the_recorded_one_is_an_error_that_names_both(project, tmp_path):
    record = results(project) / "tiny" / "base" / "record.json"
    before = record.read_text()
    sha = read_json(record)["outputs"]["model"]["sha256"]
    record.write_text(before.replace(sha, "0" * 64))
    try:
        done = tune_alone(project, tmp_path)
    finally:
        record.write_text(before)
    assert done.returncode == 1 and "0" * 12 in done.stdout and sha[:12] in done.stdout
    assert str(record) in done.stdout and "Traceback" not in done.stdout
