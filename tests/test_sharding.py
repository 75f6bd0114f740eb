"""Two processes over gloo, started by the real launcher, compute the same as one process."""

import json
import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tuned import TUNING, command_line, save_base, save_conversations

import tune as script
from implicit.tuning.checkpoint import Interrupted
from implicit.tuning.sharding import Processes, divide, total
from implicit.tuning.tune import CompilerMissing, check_compiler, rounds
from pipeline.files.storage import read_json
from pipeline.jobs.command import InputError

ROOT = Path(__file__).parents[1]
LAUNCH = (
    "accelerate launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no "
    "--gpu_ids all --main_process_port 0"
).split()
OWN = TUNING | {
    "batch_size": 5, "max_grad_norm": 2.6, "precision": "float32", "lora": TUNING["lora"] | {"dropout": 0.0},
}  # fmt: skip
# Runs the script's main several times in the processes that the launcher has started. The first process is told to stop
# at the step that STOP names, as by a cluster.
DRIVER = """
import json, os, signal, sys
import tune
from implicit.tuning.checkpoint import Interrupted

stop, say = None, tune.say
def listening(line):
    say(line)
    if stop and str(line).startswith(f"step {stop}/"):
        os.kill(os.getpid(), signal.SIGTERM)
tune.say = listening
for stop, argv in json.loads(open(sys.argv[1]).read()):
    sys.argv = ["tune.py", *argv]
    try:
        tune.main()
    except Interrupted as error:
        print(f"rank {os.environ['RANK']}: {error}", flush=True)
from torch._dynamo.utils import counters
print(f"rank {os.environ['RANK']} compiled {counters['stats']['unique_graphs']} graphs", flush=True)
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory, world, tokenizer):
    """Two models, with and without tied embeddings, each with its record; and a dataset."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("base")
    for tied in (True, False):
        torch.manual_seed(3)
        config = LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=256, tie_word_embeddings=tied, bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, initializer_range=0.1,
        )  # fmt: skip
        save_base(LlamaForCausalLM(config), tokenizer, folder / ("tied" if tied else "untied"))
    save_conversations(world.conversations("instructions", 11), folder / "data.parquet")
    return folder


def words(base, out, *, model="untied", more=(), batch=200, **tuning):
    options = {"epochs": 2, "checkpoint-steps": 100, "batch": batch}
    return [*command_line(base / model, base / "data.parquet", out, OWN | tuning, **options), *more]


def run_alone(argv):
    sys.argv = ["tune.py", *argv]
    script.main()


VARIANTS = {
    "example": {"model": "untied"},
    "token": {"model": "tied", "normalise_by": "token"},
    "checkpointing": {"model": "untied", "more": ["--gradient-checkpointing"]},
    "bfloat16": {"model": "untied", "precision": "bfloat16", "saved_precision": "bfloat16", "batch": 1},
    "idle": {"model": "untied", "batch_size": 1, "batch": 1},
}


@pytest.fixture(scope="module")
def both(base, tmp_path_factory):
    """Output folders of one process and of two for each variant, and the log of the two."""
    folder = tmp_path_factory.mktemp("both")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["tune.py"])
        variants = dict(VARIANTS)
        try:
            import peft  # noqa: F401

            variants["lora"] = {"model": "tied", "method": "lora"}
        except ImportError:
            pass
        with suppress(CompilerMissing):
            check_compiler("cpu")
            variants["compiled"] = {"model": "untied", "more": ["--compile", "--gradient-checkpointing"]}
        jobs = []
        for name, variant in variants.items():
            run_alone(words(base, folder / "one" / name, **variant))
            jobs.append((None, words(base, folder / "two" / name, **variant)))
        # One run started by one process and finished by two, and one the other way round.
        patch.setattr(script, "say", stop_at(2))
        with pytest.raises(Interrupted):
            run_alone(words(base, folder / "two" / "begun_by_one"))
        patch.undo()
        jobs.append((None, words(base, folder / "two" / "begun_by_one")))
        jobs.append((2, words(base, folder / "two" / "begun_by_two")))
        (folder / "driver.py").write_text(DRIVER)
        (folder / "jobs.json").write_text(json.dumps(jobs))
        python_path = os.pathsep.join([str(ROOT / "scripts"), *filter(None, [os.environ.get("PYTHONPATH")])])
        done = subprocess.run(
            [*LAUNCH, str(folder / "driver.py"), str(folder / "jobs.json")],
            env=os.environ | {"PYTHONPATH": python_path, "OMP_NUM_THREADS": "1"},
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        (folder / "said.txt").write_text(done.stdout + done.stderr)
        assert done.returncode == 0, f"the processes failed: see {folder / 'said.txt'}"
        patch.setattr(sys, "argv", ["tune.py"])
        run_alone(words(base, folder / "two" / "begun_by_two"))
    return folder, done.stdout


def stop_at(step):
    """The effect of SIGTERM at a step."""
    import signal

    def say(line):
        if str(line).startswith(f"step {step}/"):
            os.kill(os.getpid(), signal.SIGTERM)

    return say


def made(folder, processes, name):
    out = folder / processes / name
    return read_json(out / "record.json"), load_file(out / "model" / "model.safetensors")


@pytest.mark.parametrize("name", ["example", "token", "checkpointing", "idle", "lora", "compiled"])
def test_two_processes_equal_one(both, name):
    folder, _ = both
    if not (folder / "one" / name).exists():
        pytest.skip({"lora": "peft is not installed", "compiled": "there is no C++ compiler"}[name])
    (one, weights), (two, sharded) = made(folder, "one", name), made(folder, "two", name)
    assert (one["execution"]["processes"], two["execution"]["processes"]) == (1, 2)
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-5)
    assert one["losses"][-1] < one["losses"][0]
    assert {key: one[key] for key in ("rows", "tokens", "trained_tokens")} == {
        key: two[key] for key in ("rows", "tokens", "trained_tokens")
    }
    assert weights.keys() == sharded.keys()
    for key in weights:
        torch.testing.assert_close(
            sharded[key], weights[key], rtol=1e-4, atol=2e-5, msg=lambda text, key=key: f"{key}: {text}"
        )


def test_layers_of_both_processes_were_compiled(both):
    folder, said = both
    if not (folder / "one" / "compiled").exists():
        pytest.skip("there is no C++ compiler")
    assert [len(re.findall(rf"rank {rank} compiled [1-9]\d* graphs", said)) for rank in (0, 1)] == [1, 1]


def test_two_processes_in_bfloat16_round_where_one_does(both):
    folder, _ = both
    (one, weights), (two, sharded) = made(folder, "one", "bfloat16"), made(folder, "two", "bfloat16")
    exact, _ = made(folder, "one", "example")
    assert two["losses"][0] == pytest.approx(one["losses"][0], rel=1e-6)  # before any update: the same arithmetic
    assert one["losses"][0] != pytest.approx(exact["losses"][0], rel=1e-6)
    assert two["losses"] == pytest.approx(one["losses"], rel=2e-3)
    assert {tensor.dtype for tensor in (*weights.values(), *sharded.values())} == {torch.bfloat16}


def test_a_sharded_model_is_saved_like_any_other(both):
    folder, _ = both
    for name in ("example", "token"):
        files = [
            {path.name for path in (folder / processes / name / "model").iterdir()} for processes in ("one", "two")
        ]
        assert files[0] == files[1]
        one, two = (read_json(folder / processes / name / "model" / "config.json") for processes in ("one", "two"))
        assert one == two


@pytest.mark.parametrize(("name", "first"), [("begun_by_one", 1), ("begun_by_two", 2)])
def test_a_run_goes_on_with_another_number_of_processes(both, name, first):
    folder, said = both
    (one, weights), (resumed, other) = made(folder, "one", "example"), made(folder, "two", name)
    assert resumed["resumed_at"] == [3] and resumed["execution"]["processes"] == 3 - first
    assert resumed["losses"] == pytest.approx(one["losses"], rel=1e-5)
    for key in weights:
        torch.testing.assert_close(other[key], weights[key], rtol=1e-4, atol=2e-5)
    assert not (folder / "two" / name / "checkpoints").exists()
    if first == 2:
        for rank in (0, 1):
            assert f"rank {rank}: stopped by SIGTERM after step 3 of 6" in said


def test_only_the_first_process_logs(both):
    folder, said = both
    assert said.count("11 rows, ") == len(list((folder / "two").iterdir()))


def test_shares_are_balanced_and_complete():
    lengths = [100, 90, 10, 10, 10, 70, 60, 5, 5]
    shares = divide(range(9), lengths, count=3)
    assert sorted(row for share in shares for row in share) == list(range(9))
    sizes = [sum(lengths[row] for row in share) for share in shares]
    assert max(sizes) - min(sizes) <= 20
    alone = divide([3, 1, 2], lengths, count=1)
    assert sorted(alone[0]) == [1, 2, 3]


@pytest.mark.parametrize("count", [1, 2, 4])
def test_every_process_has_as_many_rounds_and_every_row_counts_once(count):
    lengths = [50, 7, 8, 9, 30]
    plans = [rounds(range(5), lengths, tokens=50, processes=Processes(rank=rank, count=count)) for rank in range(count)]
    assert len({len(plan) for plan in plans}) == 1
    assert sorted(row for plan in plans for part, counts in plan if counts for row in part) == list(range(5))
    assert all(part for plan in plans for part, _ in plan)


def test_one_process_exchanges_nothing():
    assert total([0.1, 2.0], Processes()) == [0.1, 2.0]


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1000")
    with pytest.raises(InputError, match=r"execution.processes: 1000 processes need a GPU each, but torch sees \d+: "):
        script.join("cuda")


def test_the_script_starts_its_processes_itself(base, both, tmp_path):
    """As a rule with execution.processes: the same model as from the launcher."""
    folder, _ = both
    argv = words(base, tmp_path / "out")
    argv[argv.index("--processes") + 1] = "2"
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "tune.py"), *argv],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    record = read_json(tmp_path / "out" / "record.json")
    assert record["execution"]["processes"] == 2 and record["losses"] == pytest.approx(
        made(folder, "two", "example")[0]["losses"]
    )
    assert done.stdout.count("step 1/") == 1 and not (tmp_path / "out" / "checkpoints").exists()
