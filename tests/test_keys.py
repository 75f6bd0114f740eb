"""A complete small experiment with a paid judge: its key appears in no file of the run, including Snakemake's own."""

import subprocess
import sys

import architectures
import yaml
from judge_server import REQUEST, Service, labelled, served
from workflow import copy_project, environment

from pipeline.files.storage import read_json

KEYS = {"JUDGE_KEY": "sk-marked-0123456789abcdef", "HF_TOKEN": "hf_markedtoo0123456789abc"}


def test_a_key_is_in_nothing_that_a_run_wrote(tmp_path):
    """Every other reply repeats the key that was sent. The run's output is searched as well."""
    copy_project(tmp_path)
    architectures.save("llama-3", tmp_path / "model")
    key = KEYS["JUDGE_KEY"]
    service = Service(labelled(), before=lambda number, body: (200, {}, f"You sent {key}") if number % 2 else None)
    with served(service) as url:
        server = {
            "base_url": url,
            "model": "judge",
            "key_variable": "JUDGE_KEY",
            "request": REQUEST,
            "price": {"input": 1, "output": 1},
        }
        config = {
            "experiment": "keys", "run": {"models": ["mine"], "modes": ["instruction_tuning"], "test_seeds": [1]},
            "models": {"mine": {"path": "model", "world_seed": 1}}, "datasets": {"lima": {"examples": 8}},
            "evaluation_sets": {"test": {"instructions": 4}}, "selection": {"epochs": [1]}, "rules": None, "ranking": None,
            "tuning": {"max_length": 256, "learning_rate": 0.01, "batch_size": 2}, "generation": {"max_new_tokens": 8}, "ceilings": {"price": 5.0},
            "judge": {"name": "paid", "kind": "server", "server": server, "bootstrap": 5},
        }  # fmt: skip
        (tmp_path / "keys.yaml").write_text(yaml.safe_dump(config))
        done = subprocess.run(
            [sys.executable, "-m", "snakemake", "--cores", "2", "--verbose", "--printshellcmds", "--configfile", "keys.yaml"],
            cwd=tmp_path, env=environment() | KEYS, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
    assert set(service.keys) == {f"Bearer {key}"} and len(service.bodies) >= 2
    assert read_json(tmp_path / "results/keys/mine/base/test.against-seed1.json")["judge"] == "paid"
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(".snakemake/metadata" in str(path) for path in written)
    assert any(path.suffix == ".tex" for path in written) and any("judge" in str(path) for path in written)
    found = [path for path in written if any(secret.encode() in path.read_bytes() for secret in KEYS.values())]
    assert found == [] and not any(secret in done.stdout for secret in KEYS.values())
