"""The archive of an experiment: what it contains, what it leaves out, and that its metadata is correct."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from workflow import ROOT

from archive_results import METADATA, pack
from pipeline.files.storage import read_table
from pipeline.jobs.command import InputError

COMMITS = ("a" * 40, "b" * 40 + "+")


@pytest.fixture
def made(tmp_path):
    """A minimal results folder, with a mode called `model`, which must not be mistaken for weights."""
    files = {
        "config.json": {"experiment": "made"},
        "tables/table1.csv": "a,b\n",
        "figures/win_rates.png": "\x89PNG",
        "report.html": "<html>",
        "../bases/world1-01234567/record.json": {"commit": COMMITS[0]},
        "../bases/world1-76543210/record.json": {"commit": "of another experiment"},
        "tiny/base/record.json": {"inputs": {"shared": {"path": "results/bases/world1-01234567/snapshots/3"}}},
        "tiny/base/model/config.json": {"model_type": "llama"},
        "tiny/base/model/model.safetensors": "weights",
        "tiny/base/test.against-seed1.json": {"win_rate": 1.0, "date": "2026-11-24"},
        "tiny/model/chosen/seed1/record.json": {"commit": COMMITS[1]},
        "tiny/model/chosen/seed1/model/config.json": {"model_type": "llama"},
        "tiny/model/chosen/seed1/test.alpaca_eval.json": [{"output": "ü"}],
        "tiny/model/chosen/seed1/.snakemake_timestamp": "",
        "data/files/lima.parquet": "rows",
        "answers/judge/a.jsonl": "{}",
        "logs/tune.log": "line",
    }
    for name, content in files.items():
        path = tmp_path / "made" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return tmp_path / "made"


def opened(path):
    """The crate's files by name, and its metadata entities by id."""
    with zipfile.ZipFile(path) as crate:
        assert crate.testzip() is None
        names = crate.namelist()
        assert len(set(names)) == len(names)
        files = {name: crate.read(name) for name in names}
    return files, {entity["@id"]: entity for entity in json.loads(files[METADATA])["@graph"]}


def test_what_is_packed_and_what_is_not(made, tmp_path):
    assert pack(made, tmp_path / "x.zip") == 11
    files, _ = opened(tmp_path / "x.zip")
    assert sorted(files) == sorted([
        METADATA, "bases/world1-01234567/record.json", "config.json", "envs/cpu.txt", "figures/win_rates.png", "report.html", "tables/table1.csv",
        "tiny/base/record.json", "tiny/base/test.against-seed1.json", "tiny/model/chosen/seed1/record.json",
        "tiny/model/chosen/seed1/test.alpaca_eval.json",
    ])  # fmt: skip


def check(files, entities):
    """The requirements of RO-Crate 1.1, and that sizes and hashes match the files."""
    described = json.loads(files[METADATA])
    assert described["@context"][0] == "https://w3id.org/ro/crate/1.1/context"
    assert entities[METADATA]["conformsTo"] == {"@id": "https://w3id.org/ro/crate/1.1"}
    assert entities[METADATA]["about"] == {"@id": "./"}
    root = entities["./"]
    assert root["@type"] == "Dataset" and {"name", "description", "datePublished", "license"} <= set(root)
    assert entities[root["license"]["@id"]]["@type"] == "CreativeWork"  # not a string: rocrate-validator
    parts = [part["@id"] for part in root["hasPart"]]
    assert sorted([*parts, METADATA]) == sorted(files)
    for name in parts:
        entity = entities[name]
        assert (entity["@type"], entity["contentSize"]) == ("File", str(len(files[name])))
        assert entity["sha256"] == hashlib.sha256(files[name]).hexdigest()
    for entity in entities.values():  # every reference resolves, inside or outside the crate
        for value in entity.values():
            if isinstance(value, dict):
                assert value["@id"] in entities or value["@id"].startswith("https://")


def test_the_description_is_true(made, tmp_path):
    pack(made, tmp_path / "x.zip")
    files, entities = opened(tmp_path / "x.zip")
    check(files, entities)
    assert entities["#implicit-tuning"]["version"] == ", ".join(COMMITS)
    assert entities["./"]["datePublished"] == "2026-11-24"
    assert files["envs/cpu.txt"] == (ROOT / "envs" / "cpu.txt").read_bytes()


def test_the_same_files_give_the_same_bytes(made, tmp_path):
    pack(made, tmp_path / "x.zip")
    for folder in (made, made.parent / "bases"):
        shutil.copytree(folder, tmp_path / "again" / folder.name, copy_function=shutil.copyfile)
    for path in (tmp_path / "again").rglob("*"):
        os.utime(path, (1, 1))
        path.chmod(0o700)
    pack(tmp_path / "again" / "made", tmp_path / "y.zip")
    assert (tmp_path / "x.zip").read_bytes() == (tmp_path / "y.zip").read_bytes()


def test_where_no_judge_was_asked_the_date_is_the_reports(made, tmp_path):
    (made / "tiny/base/test.against-seed1.json").write_text('{"date": null}')
    os.utime(made / "report.html", (1_700_000_000, 1_700_000_000))
    pack(made, tmp_path / "x.zip")
    assert opened(tmp_path / "x.zip")[1]["./"]["datePublished"] == "2023-11-14"


def test_an_unfinished_experiment_is_not_packed(made, tmp_path):
    (made / "report.html").unlink()
    with pytest.raises(InputError, match=r"made is not a finished experiment: report.html missing$"):
        pack(made, tmp_path / "x.zip")
    assert not (tmp_path / "x.zip").exists()
    done = subprocess.run(
        [sys.executable, "scripts/archive_results.py", str(made)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and done.stderr.startswith("error: ") and "Traceback" not in done.stderr


def test_the_test_experiments_archive_holds_all_that_its_tables_are_made_of(project, tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "archive_results.py", "results/test"],
        cwd=project, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    files, entities = opened(project / "results" / "test.crate.zip")
    check(files, entities)
    assert not [name for name in files if name.endswith((".safetensors", "tokenizer.json")) or "data/" in name]
    for pattern in (
        "tables/*",
        "figures/*",
        "tiny/**/*.against-*.*",
        "tiny/**/*record.json",
        "tiny/**/*.alpaca_eval.json",
    ):
        wanted = {
            str(path.relative_to(project / "results" / "test")) for path in (project / "results" / "test").glob(pattern)
        }
        assert wanted and wanted <= set(files), pattern
    (base,) = [json.loads(files[name]) for name in files if re.fullmatch(r"bases/world1-[0-9a-f]{8}/record.json", name)]
    assert base["stage"] == "pretrain" and base["settings"]["pretrain"]["tokens"] == 120000
    (tmp_path / "judged.parquet").write_bytes(files["tiny/base/test.against-seed1.parquet"])
    assert len(read_table("judgements", Path(tmp_path / "judged.parquet"))) == 30
