"""What a job leaves in the spending ledger, however it ends."""

import signal
import subprocess
import sys
import textwrap

import pytest
from test_job import ROOT, budget

import pipeline.jobs.job
from pipeline.jobs.command import InputError
from pipeline.jobs.job import execution_of, job
from pipeline.jobs.ledger import CeilingReached, Ledger, spent


def arguments(folder, **ceilings):
    more = {"settings": {}, "device": "cuda", "threads": 1, "batch": 1, "budget": budget(folder / "ledger", **ceilings)}
    return type("Arguments", (), more)()


def open_job(folder, monkeypatch, *, seconds=3600.0, **ceilings):
    """A job on a GPU that appears to have taken some seconds."""
    monkeypatch.setattr(pipeline.jobs.job, "pick_device", lambda wanted: wanted)
    monkeypatch.setattr(pipeline.jobs.job.Record, "seconds", lambda record: seconds)
    args = arguments(folder, **ceilings)
    return job("s", args, record=folder / "a.json", inputs={}, execution=execution_of(args))


@pytest.mark.parametrize("end", [RuntimeError, KeyboardInterrupt, SystemExit, None])
def test_hours_that_were_used_count_whatever_ends_the_job(tmp_path, monkeypatch, end):
    for run in (1, 2):
        try:
            with open_job(tmp_path, monkeypatch) as this:
                this.reserve(lambda machine: 100.0)
                assert spent(tmp_path / "ledger")["gpu_hours"] == 100.0 + run - 1
                if end:
                    raise end
        except (RuntimeError, KeyboardInterrupt, SystemExit):
            pass
        assert spent(tmp_path / "ledger")["gpu_hours"] == pytest.approx(run), "what earlier runs used counts as well"


def test_what_earlier_runs_of_a_job_have_used_counts_against_the_ceiling(tmp_path, monkeypatch):
    with open_job(tmp_path, monkeypatch, gpu_hours=5.0) as this:
        this.reserve(lambda machine: 4.5)
    with pytest.raises(CeilingReached), open_job(tmp_path, monkeypatch, gpu_hours=5.0) as this:
        this.reserve(lambda machine: 4.5)
    assert spent(tmp_path / "ledger")["gpu_hours"] == pytest.approx(1.0)


def test_what_a_killed_run_had_set_aside_is_replaced_and_its_hours_count_as_far_as_they_are_known(
    tmp_path, monkeypatch
):
    Ledger(budget(tmp_path / "ledger"), str(tmp_path / "a.json")).reserve(gpu_hours=50.0)
    with open_job(tmp_path, monkeypatch) as this:
        this.reserve(lambda machine: 4.0)
        this.earlier_hours = 3.0  # according to its checkpoint
    assert spent(tmp_path / "ledger")["gpu_hours"] == pytest.approx(4.0)


def test_a_job_that_fails_before_it_computes_has_used_nothing(tmp_path, monkeypatch):
    with pytest.raises(InputError), open_job(tmp_path, monkeypatch):
        raise InputError("no")
    assert not list((tmp_path / "ledger").glob("*.json"))


def test_sigterm_settles_removes_the_lock_and_says_so(tmp_path):
    code = f"""
        import sys, time
        sys.path[:0] = ["{ROOT}/scripts", "{ROOT}/tests"]
        import pipeline.jobs.job
        from pathlib import Path
        from pipeline.jobs.command import run_stage
        from test_job_ledger import arguments, execution_of, job
        def main():
            pipeline.jobs.job.pick_device = lambda wanted: wanted
            folder = Path("{tmp_path}")
            args = arguments(folder)
            how = dict(record=folder / "a.json", inputs={{}}, execution=execution_of(args))
            with job("s", args, **how) as this:
                this.reserve(lambda machine: 100.0)
                print("begun", flush=True)
                time.sleep(60)
        run_stage(main)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    for line in process.stdout:
        if line == "begun\n":
            break
    assert (tmp_path / "a.json.lock").exists()
    process.terminate()
    said = process.stdout.read()
    assert process.wait(timeout=30) == 128 + signal.SIGTERM and "Traceback" not in said
    assert said.splitlines()[-1].startswith("error: stopped by SIGTERM")
    assert not (tmp_path / "a.json.lock").exists() and 0 < spent(tmp_path / "ledger")["gpu_hours"] < 1
