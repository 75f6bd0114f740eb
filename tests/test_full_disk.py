"""If the disk is full while a stage writes, one line says so, existing files survive, and nothing is half-written."""

import json
import os
import subprocess
import sys

import pytest
from workflow import ROOT

from implicit.servers.answers import Answer, Answers, AnswersError
from pipeline.files.storage import read_json
from pipeline.jobs.record import fingerprint

SIZE = 4 << 20  # size of the disk in bytes


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """A small disk in memory, or a skip with the reason why there is none."""
    folder = tmp_path_factory.mktemp("disk")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "none", str(folder)], text=True, capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"NOT TESTED ON A FULL DISK: no tmpfs can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def full(disk):
    """Fills the disk except for some bytes; other files on it are removed afterwards."""

    def fill(left):
        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
        (disk / "filling").write_bytes(bytes(max(0, free - left)))

    yield fill
    subprocess.run(f"rm -rf {disk}/* {disk}/.[!.]*", shell=True, check=True)


def commands(project):
    """The command line of a job of every rule that writes, as in the finished experiment: rule -> arguments."""
    results = project / "results" / "test"
    base, poem = results / "tiny" / "base", results / "tiny" / "poem" / "chosen" / "seed1"
    data, test = results / "data" / "world1", results / "data" / "world1" / "sets" / "test.parquet"
    shared = next((project / "results" / "bases").glob("*/record.json")).parent
    said = {
        path: read_json(path)["settings"]
        for path in (shared / "record.json", base / "record.json", poem / "record.json")
    }
    model = {"model": base / "model", "model-record": base / "record.json", "set": test}
    judge = {"name": "oracle", "kind": "oracle", "seed": 0, "bootstrap": 5, "metric": "length_controlled_minimal"}
    judge["min_label_probability"] = 0.5
    generating = read_json(base / "test.record.json")["settings"]
    ranking = read_json(base / "ranking.json")["settings"]
    world = {"world_part": "poem", "examples": 500}
    return {
        "make_corpus": ({"settings": {"world_seed": 1, "documents": 4000, "controls": {}}}, {"output": "corpus.parquet"}),
        "make_dataset": ({"settings": {"name": "poem", "source": world, "world_seed": 1}}, {"output": "poem.parquet"}),
        "make_evaluation_set": (
            {"settings": {"name": "test", "source": {"world_part": "test", "instructions": 200}, "world_seed": 1}},
            {"output": "test.parquet"},
        ),
        "pretrain": (
            {"corpus": shared / "corpus.parquet", "settings": said[shared / "record.json"]},
            {"model": "model", "snapshots": "snapshots", "record": "record.json"},
        ),
        "take_base": (
            {"shared": shared / "model", "shared-record": shared / "record.json", "settings": said[base / "record.json"]},
            {"model": "model", "record": "record.json"},
        ),
        "tune": (
            {"base": base / "model", "base-record": base / "record.json", "data": data / "poem.parquet",
             "settings": said[poem / "record.json"], "epochs": 1, "checkpoint-steps": 2},
            {"model": "model", "record": "record.json", "checkpoints": "checkpoints"},
        ),
        "generate_responses": (
            model | {"settings": generating}, {"output": "r.parquet", "json": "r.json", "record": "record.json"},
        ),
        "rank_responses": (model | {"settings": ranking}, {"output": "r.parquet", "summary": "r.json"}),
        "measure_drift": (
            {"base": base / "model", "base-record": base / "record.json", "model": poem / "model",
             "model-record": poem / "record.json", "settings": read_json(poem / "drift.json")["settings"]},
            {"output": "d.parquet", "recall": "f.parquet", "summary": "d.json"},
        ),
        "judge_responses": (
            {"set": test, "responses": base / "test.parquet", "settings": judge,
             "opponent": results / "tiny" / "instruction_tuning" / "chosen" / "seed1" / "test.parquet"},
            {"output": "j.parquet", "summary": "j.json"},
        ),
        "resolve_rules": ({"model": base / "model", "settings": {"token_scores": {"!": 1.0}}}, {"output": "t.json"}),
    }  # fmt: skip


def run(script, given, outputs, disk):
    words = [word for name, path in outputs.items() for word in (f"--{name}", str(disk / path))]
    for name, value in given.items():
        words += [f"--{name}", json.dumps(value) if isinstance(value, dict) else str(value)]
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / f"{script}.py"), *words], text=True, capture_output=True, check=False
    )


@pytest.mark.parametrize(
    "script",
    [
        "make_corpus",
        "make_dataset",
        "make_evaluation_set",
        "pretrain",
        "take_base",
        "tune",
        "generate_responses",
        "rank_responses",
        "measure_drift",
        "judge_responses",
        "resolve_rules",
    ],
)
def test_a_stage_on_a_full_disk_leaves_the_former_state_and_says_so(project, disk, full, script):
    given, outputs = commands(project)[script]
    written = {name: path for name, path in outputs.items() if name != "checkpoints"}
    for path in written.values():
        if path in ("model", "snapshots"):
            (disk / path).mkdir()
            (disk / path / "config.json").write_text("former")
        else:
            (disk / path).write_text("former")
    before = {path: fingerprint(disk / path) for path in written.values()}
    full(0)
    done = run(script, given, outputs, disk)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: the disk is full"), done.stderr
    assert "Free some space, and run the same command again" in done.stderr and "Traceback" not in done.stderr
    assert {path: fingerprint(disk / path) for path in written.values()} == before
    left = {path.name for path in disk.iterdir()} - {"filling", "checkpoints"} - set(written.values())
    assert left == set()
    assert not [path for path in disk.rglob(".*") if path.is_file()]


def test_an_answer_on_a_full_disk_is_no_half_line(disk, full):
    path = disk / "answers.jsonl"
    answer = Answer("a", "judge", "m" * 3000, 1, 1, 0.1, "2026-01-01T00:00:00")
    full(8192)
    with Answers(path) as answers, pytest.raises(AnswersError, match="No space left on device; it is unchanged"):
        for number in range(9):
            answers.add(Answer(**{**vars(answer), "key": str(number)}))
    whole = path.read_bytes()
    assert whole.endswith(b"\n")
    with Answers(path) as answers:
        assert len(answers) == whole.count(b"\n") > 0
