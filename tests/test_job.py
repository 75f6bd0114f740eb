"""The common frame of costly jobs: what all their scripts have in common, each run on a small world."""

import importlib
import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from tuned import TUNING, save_base, save_conversations

import pipeline.jobs.job
from implicit.judging.oracle import describe
from pipeline.files.storage import read_json, write_table
from pipeline.jobs.command import InputError
from pipeline.jobs.ledger import CeilingReached, spent
from pipeline.jobs.record import fingerprint
from pipeline.run.display import finding

ROOT = Path(__file__).parents[1]
CHAT = {"user_tag": "<|user|>", "assistant_tag": "<|assistant|>", "add_bos": True}
MACHINE = {"tflops": 312.0, "bandwidth": 2.0, "utilisation": 0.4}
# A stand-in for lm-evaluation-harness: its progress bars, its table, its results file.
HARNESS = """
import sys
from pathlib import Path
for i in range(1, 5):
    sys.stderr.write(f"\\rRunning loglikelihood requests: {25 * i}%|####| {i}/4 [00:0{i}<00:00,  9.00it/s]")
print("\\n|Tasks|Value|")
folder = Path(sys.argv[sys.argv.index("--output_path") + 1])
folder.mkdir(parents=True, exist_ok=True)
(folder / "results_1.json").write_text('{"results": {"two": {"acc,none": 0.5}}}')
"""


def budget(folder, **ceilings):
    return {"folder": str(folder), "ceilings": {"gpu_hours": None, "price": None} | ceilings, "machine": MACHINE}


@pytest.fixture(scope="module")
def small(tmp_path_factory, world, tokenizer, clear_cut):
    """A folder with everything that the costly scripts read."""
    folder = tmp_path_factory.mktemp("small")
    save_base(clear_cut(3), tokenizer, folder / "base")
    save_base(clear_cut(4), tokenizer, folder / "tuned")
    items = world.evaluation("test", 6)
    rows = [
        {"id": f"e{i}", "index": i, "instruction": item.instruction, "reference": item.response}
        | {"request": describe(item, world.seed), "source": "x"}
        for i, item in enumerate(items)
    ]
    write_table("evaluation_set", rows, folder / "set.parquet")
    for name in ("mine", "theirs"):
        responses = [
            {key: row[key] for key in ("id", "index", "instruction")}
            | {"output": f"{row['reference']} {name}", "stopped": True, "tokens": 3, "cut": 0, "generator": name}
            for row in rows
        ]
        write_table("responses", responses, folder / f"{name}.parquet")
    save_conversations(world.conversations("instructions", 12), folder / "data.parquet")
    save_conversations(world.conversations("poem", 5), folder / "poems.parquet")
    write_table("corpus", [{"text": text} for text in world.corpus(300)], folder / "corpus.parquet")
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in world.corpus(5)))
    (folder / "template.txt").write_text("{instruction} {output_1} {output_2}")
    harness = folder / "lm_eval"
    harness.write_text(f"#!{sys.executable}\n{HARNESS}")
    harness.chmod(0o755)
    return folder


PRETRAIN = {
    "documents": 800, "vocab_size": 400, "architecture": {"hidden_size": 32, "layers": 2, "heads": 2, "context": 128}, "tokens": 4096,
    "sequence_length": 64, "batch_size": 8, "learning_rate": 1e-3, "matrix_learning_rate": 1e-2, "warmup": 0.1,
    "precision": "float32", "seed": 1, "snapshots": 1,
}  # fmt: skip


def commands(small, out):
    """Script -> its options, as given in a shell."""
    base = {"base": small / "base/model", "base-record": small / "base/record.json"}
    model = {"model": small / "tuned/model", "model-record": small / "tuned/record.json"}
    common = {"chat": CHAT, "precision": "float32"}
    files = {"output": out / "out.parquet", "summary": out / "out.json"}
    judge = {
        "min_label_probability": 0.0,
        "name": "j",
        "kind": "local",
        "path": str(small / "tuned/model"),
        "template": str(small / "template.txt"),
    }
    judge |= {"seed": 0, "bootstrap": 5, "metric": "length_controlled_minimal"}
    tuning = {"mode": "m", "user_turn": "shown", "seed": 5, "tuning": TUNING, "chat": CHAT}
    ranking = {"instructions": 6, "others": 2, "negatives": ["any"], "seed": 0, "bootstrap": 5} | common
    drift = {"documents": 3, "file": str(small / "texts.jsonl"), "world_seed": None, "controls": {}} | common
    return {
        "pretrain": {"corpus": small / "corpus.parquet", "model": out / "model", "snapshots": out / "snapshots",
                     "record": out / "out.json", "settings": {"pretrain": PRETRAIN}},
        "tune": base | {"data": small / "data.parquet", "model": out / "model", "record": out / "out.json", "epochs": 1,
                        "checkpoints": out / "checkpoints", "batch": 200, "settings": tuning},
        "generate_responses": model | {
            "set": small / "set.parquet", "output": out / "out.parquet", "json": out / "a.json",
            "record": out / "out.json", "batch": 2,
            "settings": {"generator": "g", "set": "s", "rules": None, "max_new_tokens": 8} | common},
        "rank_responses": model | files | {"set": small / "set.parquet", "settings": ranking, "batch": 200},
        "judge_responses": files | {"set": small / "set.parquet", "responses": small / "mine.parquet",
                                    "opponent": small / "theirs.parquet", "settings": judge},
        "measure_drift": base | model | files | {"recall": out / "recall.parquet", "settings": drift, "batch": 100},
        "measure_similarity": files | {
            "set": small / "set.parquet", "responses": small / "mine.parquet", "data": small / "data.parquet",
            "baseline": small / "poems.parquet", "batch": 4,
            "settings": {"encoder": str(small / "tuned/model"), "revision": None}},
        "run_harness": model | files | {"settings": {"command": str(small / "lm_eval"), "tasks": ["two"], "options": [],
                                                     "precision": "float32"}},
    }  # fmt: skip


ON_GPU = ("pretrain", "tune", "generate_responses", "rank_responses", "judge_responses", "measure_drift",
          "measure_similarity", "run_harness")  # fmt: skip


def words(script, small, out, **more):
    options = commands(small, out)[script] | more
    return [
        str(ROOT / "scripts" / f"{script}.py"),
        *(f"--{name}={json.dumps(v) if isinstance(v, dict) else v}" for name, v in options.items()),
    ]


def in_shell(line, **environment):
    """Run a script in a process of its own: its exit status, and its log as a rule would write it."""
    done = subprocess.run(
        [sys.executable, *line], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=os.environ | environment,
        check=False,
    )  # fmt: skip
    return done.returncode, done.stdout.decode(errors="replace")


@pytest.fixture(scope="module")
def on_cpu(small, tmp_path_factory):
    """Runs a script once on a CPU, with a ceiling of zero GPU hours, in an ASCII-only locale."""
    seen = {}

    def run(script):
        if script not in seen:
            out = tmp_path_factory.mktemp(script)
            line = words(script, small, out, device="cpu", budget=budget(out / "ledger", gpu_hours=0.0))
            seen[script] = (*in_shell(line, PYTHONIOENCODING="ascii"), out)
        return seen[script]

    return run


@pytest.mark.parametrize("script", ON_GPU)
def test_wrong_settings_are_one_line_before_anything_is_done(small, tmp_path, script):
    given = commands(small, tmp_path)[script]["settings"]
    # Those of the others that have no default come first.
    missing = {"run_harness": "tasks", "judge_responses": "name"}.get(script, next(iter(given)))
    settings = {key: value for key, value in given.items() if key != missing} | {"unknwon": 1}
    status, log = in_shell(words(script, small, tmp_path, settings=settings))
    (line,) = [line for line in log.splitlines() if line.startswith("error: ")]
    assert status == 1 and "Traceback" not in log and line.startswith("error: --settings: ")
    assert f"{missing}: missing" in line and "unknwon: unknown key; known keys here are " in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("script", ON_GPU)
def test_a_job_on_a_cpu_counts_no_gpu_hours(on_cpu, script):
    """It ran in spite of a ceiling of zero GPU hours."""
    status, log, out = on_cpu(script)
    assert status == 0, log
    assert not list(out.glob("ledger/*.json"))


@pytest.mark.parametrize("script", ON_GPU)
def test_a_job_on_a_gpu_sets_hours_aside_before_it_takes_one(small, tmp_path, script, monkeypatch):
    """There is no GPU here: a job that used it before checking the ceiling would say so."""
    monkeypatch.setattr(pipeline.jobs.job, "pick_device", lambda wanted: "cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    line = words(script, small, tmp_path, device="cuda", budget=budget(tmp_path / "ledger", gpu_hours=0.0))
    monkeypatch.setattr(sys, "argv", line)
    with pytest.raises(CeilingReached, match=r"ceilings\.gpu_hours"):
        importlib.import_module(script).main()
    assert {path.name for path in tmp_path.iterdir()} <= {"ledger", "out.answers.jsonl", "checkpoints"}
    assert spent(tmp_path / "ledger") == {"gpu_hours": 0.0, "price": 0.0}


@pytest.mark.parametrize("script", ON_GPU)
def test_the_last_line_of_a_log_says_what_came_out_and_no_line_is_a_bar(on_cpu, tmp_path, script):
    status, log, _ = on_cpu(script)
    lines = [line for line in re.split(r"[\r\n]+", log) if line.strip()]
    assert status == 0 and not [line for line in lines if re.search(r"\d+%\||it/s\]|\d+it \[", line)], log
    assert (
        re.search(r"[a-z]{3,}", lines[-1])
        and re.search(r"\d", lines[-1])
        and not lines[-1].endswith(" s left")
        and len(lines[-1]) < 200
    )
    (tmp_path / "log").write_text(log)
    assert finding(tmp_path / "log") == lines[-1][:100]


@pytest.mark.parametrize(
    ("script", "unit"),
    [("rank_responses", "responses"), ("generate_responses", "responses"), ("measure_drift", "documents"),
     ("measure_similarity", "texts"), ("run_harness", "items")],
)  # fmt: skip
def test_long_work_says_how_far_it_is_after_the_first_batch(on_cpu, script, unit):
    _, log, _ = on_cpu(script)
    assert re.search(rf"\d+/\d+ {unit}, \S+ {unit}/s, \d+ s left$", log, re.M), log


def test_the_record_says_what_the_process_that_did_the_work_has_used(on_cpu):
    _, _, out = on_cpu("run_harness")
    _, _, tuned = on_cpu("tune")
    for record in (read_json(out / "out.json"), read_json(tuned / "out.json")):
        assert record["cpu_seconds"] > 0.5 and record["peak_memory_mib"] > 100 and record["written_mib"] >= 0


@pytest.mark.parametrize("script", ["tune", "generate_responses", "rank_responses", "measure_drift", "run_harness"])
@pytest.mark.parametrize("how", ["changed", "torn", "other", "missing"])
def test_a_model_that_is_not_its_records_is_one_line(small, tmp_path, script, how, monkeypatch):
    record = tmp_path / "record.json"
    option = "base-record" if script in ("tune", "measure_drift") else "model-record"
    if how != "missing":
        content = {"changed": {"outputs": {"model": {"sha256": "0" * 64}}}, "other": [1], "torn": None}[how]
        record.write_text("{" if how == "torn" else json.dumps(content))
    monkeypatch.setattr(sys, "argv", words(script, small, tmp_path, device="cpu", **{option: record}))
    with pytest.raises(InputError) as caught:
        importlib.import_module(script).main()
    said = str(caught.value)
    assert str(record) in said and "/model" in said and "delete" in said and "\n" not in said


def test_an_input_that_is_missing_is_named(small, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", words("rank_responses", small, tmp_path, set=tmp_path / "none.parquet"))
    with pytest.raises(InputError, match=r"none\.parquet"):
        importlib.import_module("rank_responses").main()


# --- hashing --------------------------------------------------------------------------------------------------------


def test_a_large_file_is_hashed_in_pieces(tmp_path):
    """In a process whose memory limit is below the size of the file."""
    (tmp_path / "weights").mkdir()
    with (tmp_path / "weights" / "shard.safetensors").open("wb") as file:
        file.truncate(1 << 30)
    code = f"""
        import resource, sys, tracemalloc
        sys.path.insert(0, "{ROOT}/scripts")
        from pathlib import Path
        from pipeline.jobs.record import fingerprint
        tracemalloc.start()
        fingerprint(Path("{tmp_path}/weights"))
        print(tracemalloc.get_traced_memory()[1])
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], text=True, capture_output=True, check=True)
    assert int(done.stdout) < 4 << 20


def test_a_fingerprint_is_what_it_was_before(tmp_path):
    """From names and contents: earlier records remain valid."""
    import hashlib

    (tmp_path / "m" / "sub").mkdir(parents=True)
    for name, content in (("b", b"2" * 700_000), ("a", b"1"), ("sub/c", b""), (".hidden", b"3")):
        (tmp_path / "m" / name).write_bytes(content)
    assert fingerprint(tmp_path / "m") == hashlib.sha256(b"a\x001b\x00" + b"2" * 700_000 + b"sub/c\x00").hexdigest()
    assert fingerprint(tmp_path / "m" / "a") == hashlib.sha256(b"1").hexdigest()


COUNTING = """
import hashlib, os
whole = hashlib.file_digest
def counted(file, digest, **more):
    with open(os.environ["COUNTED"], "a") as seen:
        seen.write(f"{os.getpid()} {file.name}\\n")
    return whole(file, digest, **more)
hashlib.file_digest = counted
"""


@pytest.mark.parametrize("processes", [1, 2])
def test_every_input_is_read_once_by_the_first_process(small, tmp_path, processes):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(COUNTING)
    more = {"PYTHONPATH": str(tmp_path / "site"), "COUNTED": str(tmp_path / "counted"), "OMP_NUM_THREADS": "1"}
    line = words("tune", small, tmp_path / "out", device="cpu", processes=processes)
    status, log = in_shell(line, **more)
    assert status == 0, log
    seen = [entry.split(" ", 1) for entry in (tmp_path / "counted").read_text().splitlines()]
    inputs = [(process, path) for process, path in seen if path.startswith(str(small))]
    files = [*sorted((small / "base/model").iterdir()), small / "data.parquet"]
    assert sorted(path for _, path in inputs) == sorted(map(str, files))
    assert len({process for process, _ in inputs}) == 1
    record = read_json(tmp_path / "out" / "out.json")
    assert record["inputs"]["base"]["sha256"] == fingerprint(small / "base/model")
    if processes == 2:
        assert record["cpu_seconds"] > 1


# --- what is printed ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["ascii", "ascii:strict", "latin-1", "utf-8"])
def test_settings_and_output_do_not_depend_on_the_terminals_encoding(tmp_path, encoding):
    """Settings are read from standard input as UTF-8; unprintable characters are escaped."""
    settings = json.dumps({"name": "ä", "n": "±", "world_seed": 1, "documents": 2, "controls": {}}, ensure_ascii=False)
    code = f"""
        import sys
        sys.path.insert(0, "{ROOT}/scripts")
        from pipeline.jobs.command import arguments, run_stage, say
        def main():
            args = arguments("doc", paths=["output"])
            say("win rate 1 " + args.settings["n"] + " 2 ×")
            print("to stderr ±", file=sys.stderr)
            assert args.settings["name"] == "\\xe4"
            raise SystemExit(0)
        run_stage(main)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), "--output", "x", "--settings", "-"],
        input=settings.encode(), capture_output=True, env=os.environ | {"PYTHONIOENCODING": encoding}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"win rate 1 ")
