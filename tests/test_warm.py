"""A job forked from the warm process behaves like one in a process of its own, but starts sooner."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from workflow import ROOT

WARM = ROOT / "scripts" / "pipeline" / "jobs" / "warm.py"
SCRIPT = """
import atexit, json, os, sys, time
before = sorted(sys.modules)
import helper
atexit.register(lambda: print("at exit"))
print(json.dumps({
    "words": sys.argv, "folder": os.getcwd(), "mine": os.environ.get("MINE"), "input": sys.stdin.read(), "name": __name__,
    "file": __file__, "path": sys.path[0], "helper": helper.value, "warm": "torch" in before,
    "ours": [name for name in before if "scripts" in str(getattr(sys.modules[name], "__file__", "")) and name != "__main__"],
}))
print("to standard error", file=sys.stderr)
what = sys.argv[1]
if what == "wait":
    print(os.getpid(), flush=True)
    time.sleep(60)
if what == "error":
    raise ValueError("wrong")
if what == "kill":
    os.kill(os.getpid(), 9)
sys.exit({"said": "error: a reason", "status": 3, "none": None}.get(what, 0))
"""


@pytest.fixture(scope="module")
def warm(tmp_path_factory):
    """The environment of a running warm process, and a folder with a script."""
    # A shell's background processes ignore SIGINT, and so would all processes started here.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    folder = tmp_path_factory.mktemp("scripts")
    (folder / "job.py").write_text(SCRIPT)
    (folder / "helper.py").write_text("value = 1\n")
    socket = tmp_path_factory.mktemp("w")
    environment = os.environ | {"WARM_FOLDER": str(socket), "SNAKEMAKE_PID": str(os.getpid()), "MINE": "some"}
    first = run(folder, "none", environment)
    assert not json.loads(first.stdout.splitlines()[0])["warm"]  # it does not wait for its child processes
    end = time.monotonic() + 120
    while not (socket / "socket").exists():
        assert time.monotonic() < end, (socket / "log").read_text()
        time.sleep(0.1)
    yield folder, environment, socket
    signal.signal(signal.SIGINT, before)
    for process in psutil.process_iter(["cmdline", "environ"]):
        if "--serve" in (process.info["cmdline"] or []) and (process.info["environ"] or {}).get("WARM_FOLDER") == str(
            socket
        ):
            process.kill()


def run(folder, what, environment):
    return subprocess.run(
        [sys.executable, WARM, "job.py", what, "a b"], cwd=folder, env=environment, input="typed", text=True,
        capture_output=True, check=False, timeout=120,
    )  # fmt: skip


@pytest.mark.parametrize("what", ["none", "said", "status", "error", "kill"])
def test_it_is_as_in_a_process_of_its_own(warm, what):
    folder, environment, _ = warm
    forked, own = run(folder, what, environment), run(folder, what, environment | {"WARM_FOLDER": ""})
    assert forked.returncode == own.returncode == {"none": 0, "said": 1, "status": 3, "error": 1, "kill": -9}[what]
    if what == "kill":
        return
    told, plain = (json.loads(done.stdout.splitlines()[0]) for done in (forked, own))
    assert told.pop("warm") and not plain.pop("warm")
    assert told == plain and told["ours"] == []
    assert forked.stdout.splitlines()[1:] == own.stdout.splitlines()[1:] == ["at exit"]
    ends = [done.stderr.splitlines()[:: len(done.stderr.splitlines()) - 1 or 1] for done in (forked, own)]
    assert ends[0] == ends[1]


def test_an_edit_of_a_module_is_seen_by_the_next_job(warm):
    folder, environment, _ = warm
    (folder / "helper.py").write_text("value = 'another'\n")
    assert json.loads(run(folder, "none", environment).stdout.splitlines()[0])["helper"] == "another"


def waiting(warm):
    folder, environment, _ = warm
    asked = subprocess.Popen(
        [sys.executable, WARM, "job.py", "wait"], cwd=folder, env=environment, text=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert json.loads(asked.stdout.readline())["warm"]
    return asked, psutil.Process(int(asked.stdout.readline()))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_signal_ends_the_job(warm, number):
    asked, job = waiting(warm)
    asked.send_signal(number)
    assert asked.wait(timeout=10) == (1 if number == signal.SIGINT else -number)
    psutil.wait_procs([job], timeout=10)
    assert not job.is_running()


def test_a_job_that_is_killed_is_told_of(warm):
    asked, job = waiting(warm)
    job.kill()
    assert asked.wait(timeout=10) == -signal.SIGKILL


def test_the_warm_process_ends_with_snakemake(tmp_path):
    environment = os.environ | {"WARM_FOLDER": str(tmp_path / "w")}
    (tmp_path / "w").mkdir()
    parent = subprocess.Popen(["sleep", "60"])
    serving = subprocess.Popen([sys.executable, WARM, "--serve"], env=environment | {"SNAKEMAKE_PID": str(parent.pid)})
    while not (tmp_path / "w" / "socket").exists():
        time.sleep(0.1)
        assert serving.poll() is None
    parent.kill()
    parent.wait()
    assert serving.wait(timeout=10) == 0 and not (tmp_path / "w").exists()
