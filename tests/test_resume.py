"""An interrupted tuning run resumes seamlessly, and never from a damaged checkpoint or one of another run."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tuned import PowerCut

import tune as script
from implicit.tuning.checkpoint import Checkpoints, Interrupted
from implicit.tuning.optimise import StepLog
from implicit.tuning.sharding import ALONE
from pipeline.jobs.command import run_stage

ROOT = Path(__file__).parents[1]
STEPS = 16


@pytest.fixture
def lines(monkeypatch):
    """Collects the log lines of the next runs."""

    def take():
        said = []
        monkeypatch.setattr(script, "say", lambda line: said.append(str(line)))
        return said

    return take


def checkpoints_in(folder):
    return sorted(path.name for path in folder.glob("*/step-*"))


def test_a_killed_run_goes_on_without_a_seam(run, tmp_path):
    """The process is killed, also with a half-written checkpoint."""
    straight, weights = run("straight")
    code = "import os, signal, sys, tune\nsay = tune.say\ndef say_and_die(line):\n    say(line)\n"
    code += "    if str(line).startswith('step 8/'): os.kill(os.getpid(), signal.SIGKILL)\n"
    code += "tune.say = say_and_die\ntune.main()\n"
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT / "scripts"), os.environ.get("PYTHONPATH", "")])
    }
    killed = subprocess.run(
        [sys.executable, "-c", code, *run.command_line("killed")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    folder = tmp_path / "killed" / "checkpoints"
    assert checkpoints_in(folder) == ["step-00000003", "step-00000006"]
    assert not (tmp_path / "killed" / "model").exists()
    (own,) = folder.iterdir()
    (own / ".step-00000009").mkdir()
    (own / ".step-00000009" / "progress.json").write_text("{")
    resumed, again = run("killed")
    assert len(straight["losses"]) == STEPS and straight["losses"] == resumed["losses"]
    assert weights == again
    assert (straight["resumed_at"], resumed["resumed_at"]) == ([], [6])
    assert straight["tokens"] == resumed["tokens"]
    assert not folder.exists() and not (tmp_path / "straight" / "checkpoints").exists()


def test_dropout_of_adapters_is_repeated_too(run, cut_at, lines):
    pytest.importorskip("peft", reason="peft is not installed")
    straight, weights = run("straight", method="lora")
    cut_at(8)
    with pytest.raises(PowerCut):
        run("cut", method="lora")
    lines()
    resumed, again = run("cut", method="lora")
    assert resumed["resumed_at"] == [6]
    assert straight["losses"] == resumed["losses"] and weights == again


def test_a_run_may_be_cut_more_than_once(run, cut_at, lines):
    straight, weights = run("straight")
    for step in (4, 5, 11):
        cut_at(step)
        with pytest.raises(PowerCut):
            run("cut")
    lines()
    resumed, again = run("cut")
    assert straight["losses"] == resumed["losses"] and weights == again
    assert resumed["resumed_at"] == [3, 9]  # the checkpoint begun at 3 for the second time left no trace


@pytest.mark.parametrize("how", ["shorter", "changed", "missing", "unfinished"])
def test_a_torn_checkpoint_is_left_out_for_the_one_before(run, cut_at, lines, tmp_path, how):
    straight, weights = run("straight")
    cut_at(8)
    with pytest.raises(PowerCut):
        run("torn")
    last = max((tmp_path / "torn" / "checkpoints").glob("*/step-*"))
    data = next(last.glob("*.distcp"))
    if how == "shorter":
        data.write_bytes(data.read_bytes()[:-100])
    elif how == "changed":
        content = bytearray(data.read_bytes())
        content[len(content) // 2] ^= 1
        data.write_bytes(bytes(content))
    elif how == "missing":
        data.unlink()
    else:
        (last / "complete.json").unlink()
    said = lines()
    resumed, again = run("torn")
    assert [line for line in said if "damaged checkpoint" in line and last.name in line]
    assert "resuming from the checkpoint step-00000003 of 16 steps" in said
    assert resumed["resumed_at"] == [3] and straight["losses"] == resumed["losses"] and weights == again


def test_without_a_whole_checkpoint_it_begins_again(run, cut_at, lines, tmp_path):
    straight, weights = run("straight")
    cut_at(8)
    with pytest.raises(PowerCut):
        run("torn")
    for path in (tmp_path / "torn" / "checkpoints").glob("*/step-*/complete.json"):
        path.write_text("{")
    said = lines()
    begun, again = run("torn")
    assert sum("damaged checkpoint" in line for line in said) == 2
    assert begun["resumed_at"] == [] and straight["losses"] == begun["losses"] and weights == again


def test_sigterm_ends_a_run_with_a_checkpoint(run, cut_at, lines, tmp_path):
    straight, weights = run("straight")
    cut_at(4, end=signal.SIGTERM)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match="stopped by SIGTERM after step 5 of 16; the same command resumes from"):
        run("stopped")
    assert signal.getsignal(signal.SIGTERM) == before
    lines()
    resumed, again = run("stopped")
    assert resumed["resumed_at"] == [5] and straight["losses"] == resumed["losses"] and weights == again


def test_sigterm_ends_the_script_with_a_status(run, tmp_path):
    command = [sys.executable, str(ROOT / "scripts" / "tune.py"), *run.command_line("stopped")]
    command[command.index("--epochs") + 1] = "4000"
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in started.stdout:
        if line.startswith("step 5/"):
            break
    started.terminate()
    _, errors = started.communicate(timeout=60)
    assert started.returncode == 1
    assert errors.splitlines()[-1].startswith("error: stopped by SIGTERM after step ")
    assert len(checkpoints_in(tmp_path / "stopped" / "checkpoints")) == 2
    assert not (tmp_path / "stopped" / "model").exists() and not (tmp_path / "stopped" / "record.json").exists()


def test_a_checkpoint_of_other_settings_is_removed_not_used(run, cut_at, lines, tmp_path):
    other, weights = run("straight", learning_rate=1e-3)
    cut_at(8)
    with pytest.raises(PowerCut):
        run("changed")
    folder = tmp_path / "changed" / "checkpoints"
    (folder / "notes").mkdir()
    said = lines()
    changed, again = run("changed", learning_rate=1e-3)
    assert sum("they are for other settings, data or code" in line for line in said) == 1
    assert changed["resumed_at"] == [] and changed["losses"] == other["losses"] and weights == again
    assert [path.name for path in folder.iterdir()] == ["notes"]  # other files are kept


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore."),
        torch.AcceleratorError("CUDA error: out of memory\nMore."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
    ],
)
def test_too_small_a_gpu_is_said_with_what_helps(run, monkeypatch, tmp_path, error):
    def full(line):
        raise error

    monkeypatch.setattr(script, "say", full)
    with pytest.raises(SystemExit) as caught:
        run_stage(lambda: run("full"), if_gpu_is_full="Lower the batch size")
    told = str(error).splitlines()[0].rstrip(".")
    assert caught.value.code == (
        f"error: the GPU's memory is too small, or in use (see nvidia-smi): {told}. Lower the batch size"
    )
    assert not (tmp_path / "full" / "record.json").exists()


def test_what_else_a_gpu_says_is_not_taken_for_that(run, monkeypatch):
    def broken(line):
        raise torch.AcceleratorError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(script, "say", broken)
    with pytest.raises(torch.AcceleratorError):
        run_stage(lambda: run("broken"), if_gpu_is_full="Lower the batch size")


def test_a_checkpoint_of_other_code_is_removed_not_used(run, cut_at, lines, monkeypatch):
    cut_at(8)
    with pytest.raises(PowerCut):
        run("changed")
    said = lines()
    monkeypatch.setattr(script, "code_of", lambda stage: "of another loss")
    changed, _ = run("changed")
    assert sum("they are for other settings, data or code" in line for line in said) == 1
    assert changed["resumed_at"] == []


def test_the_last_two_checkpoints_are_kept(model, tmp_path):
    kept = Checkpoints(tmp_path, {"a": 1}, every=1, processes=ALONE)
    optimizer = torch.optim.AdamW(model.parameters())
    steps = []
    for number in range(1, 5):
        started = time.monotonic()
        steps.append(StepLog(number, 9, 1.0, 0.1, 10, time.monotonic() - started))
        path = kept.save(model, optimizer, steps)
        assert path.is_dir()
    assert checkpoints_in(tmp_path) == ["step-00000003", "step-00000004"]
    assert Checkpoints(tmp_path, {"a": 1}, every=1, processes=ALONE).resume(model, optimizer) == steps
