"""A whole SLURM on this machine, and the workflow on it. Not part of the ordinary tests: `make test-slurm`.

The cluster is that of tests/slurm: one node, which claims to have eight CPUs and two GPUs. All workflows use
profiles/slurm unchanged, except for `SHORT`. Most of the time is spent waiting for jobs and polls, so everything runs
at once: the trials (jobs that get into trouble), the experiment on the cluster, which is disturbed in four ways, and an
undisturbed run of it without SLURM.
"""

import csv
import filecmp
import json
import re
import subprocess
import sys
import threading
import time
from itertools import pairwise
from types import SimpleNamespace

import psutil
import pytest
import yaml
from workflow import ROOT, copy_project, environment, what_came_out

pytestmark = pytest.mark.slurm

SCRIPTS = ROOT / "tests" / "slurm"
CONFIGS = ("--configfile", "experiments/test.yaml", "tests/slurm/small.yaml")
# There is no accounting database, jobs are short, and the file system is local.
SHORT = ("--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "3", "--latency-wait", "10")
ON_SLURM = ("--workflow-profile", "profiles/slurm", *SHORT)


def output_of(*command):
    return subprocess.run(command, text=True, check=True, capture_output=True, timeout=60).stdout


def start(folder, name, *arguments):
    """Start Snakemake in a folder with this Python; what it prints goes to a file of that name."""
    with (folder / f"{name}.out").open("w") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "snakemake", *arguments], cwd=folder, env=environment(),
            stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip


def finish(process, folder, name, *, within=420):
    """Wait for it: its exit status and what it printed."""
    try:
        process.wait(timeout=within)
    except subprocess.TimeoutExpired:
        process.kill()
        pytest.fail(f"{name} took longer than {within} s:\n{(folder / f'{name}.out').read_text()[-4000:]}")
    return process.returncode, (folder / f"{name}.out").read_text()


def run(folder, name, *arguments):
    return finish(start(folder, name, *arguments), folder, name)


def queued(folder):
    """SLURM's jobs for a folder: id -> (state, comment, which begins with `rule_` and the rule's name)."""
    rows = [line.split("|", 3) for line in output_of("squeue", "--noheader", "--format=%i|%T|%Z|%k").splitlines()]
    return {id: (state, comment) for id, state, where, comment in rows if where == str(folder)}


def wait_for(what, condition, *, within=240):
    """Wait until a condition returns something true, and return that."""
    end = time.monotonic() + within
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.3)
    pytest.fail(f"no {what} within {within} s; the queue is:\n{output_of('squeue')}")


def running(folder, rule):
    """The id of a running job of a rule, or None."""
    jobs = queued(folder).items()
    return next((id for id, (state, comment) in jobs if state == "RUNNING" and f"rule_{rule}" in comment), None)


def suspended(folder):
    """The id of a job that was running and is now suspended, so that it does not end by itself; or None."""
    found = running(folder, "")
    done = subprocess.run(["scontrol", "suspend", found], check=False) if found else None
    return found if done and done.returncode == 0 else None


def finished(printed):
    """rule -> number of its jobs that Snakemake reports as finished."""
    rules = re.findall(r"^\[ *\d+/\d+\] (\w+):", printed, flags=re.MULTILINE)
    return {rule: rules.count(rule) for rule in rules}


def planned(folder):
    """rule -> number of jobs that a dry run would do."""
    status, printed = run(folder, "planned", "-n", "--cores", "1", *CONFIGS)
    assert status == 0, printed
    return {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", printed, flags=re.MULTILINE)}


def processes(folder, script):
    """The processes that run a script of a folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd() == str(folder) and f"scripts/{script}.py" in process.cmdline():
                found.append(process.pid)
        except psutil.Error:  # ended in the meantime
            continue
    return found


def steps(job):
    """SLURM's own processes for the steps of a job, which end some time after what they have run."""
    return [
        p.pid for p in psutil.process_iter(["cmdline"]) if f"slurmstepd: [{job}." in " ".join(p.info["cmdline"] or [])
    ]


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """A running SLURM, or a skip with the reason why there can be none."""
    installed = subprocess.run(["sh", SCRIPTS / "install.sh"], text=True, capture_output=True, check=False)
    if installed.returncode:
        pytest.skip(f"NOT TESTED ON SLURM: {installed.stderr.strip()}")
    folder = tmp_path_factory.mktemp("cluster")
    try:
        subprocess.run(["sh", SCRIPTS / "start.sh", folder], check=True, timeout=60)
        yield folder
    finally:
        subprocess.run(["sh", SCRIPTS / "stop.sh", folder], check=True, timeout=60)


@pytest.fixture(scope="session")
def gpus(cluster):
    """The GPUs of each job, polled twice a second while the tests run: a list of {job: indices}."""
    looks, over = [], threading.Event()

    def look():
        while not over.wait(0.5):
            jobs = output_of("scontrol", "--details", "--oneliner", "show", "job").splitlines()
            held = {}
            for job in jobs:
                indices = re.search(r"GRES=gpu:fake:\d+\(IDX:([\d,-]+)\)", job)
                if "JobState=RUNNING" in job and indices:
                    first, _, last = indices[1].replace(",", "-").partition("-")
                    held[re.search(r"JobId=(\d+)", job)[1]] = set(range(int(first), int(last or first) + 1))
            looks.append(held)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    yield looks
    over.set()
    thread.join()


@pytest.fixture(scope="session")
def started():
    """Processes started that must not outlive the tests."""
    processes = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()


def bring_down(seen):
    """While the base model is pre-trained, the node goes down, and comes back."""
    wait_for("running pretrain", lambda: processes(seen.slurm, "pretrain"))
    seen.pretrain = running(seen.slurm, "pretrain")
    output_of("scontrol", "update", "nodename=localhost", "state=down", "reason=test")
    # SLURM holds a restarted job while one of its steps is still ending.
    wait_for("end of pretrain", lambda: not processes(seen.slurm, "pretrain") and not steps(seen.pretrain))
    seen.queued_when_down = queued(seen.slurm)
    output_of("scontrol", "update", "nodename=localhost", "state=resume")
    # By default, SLURM makes it wait for two minutes.
    output_of("scontrol", "update", f"jobid={seen.pretrain}", "starttime=now")
    wait_for("second start of pretrain", lambda: running(seen.slurm, "pretrain") == seen.pretrain)
    seen.restarts = re.search(r"Restarts=(\d+)", output_of("scontrol", "show", "job", seen.pretrain))[1]


def kill_and_restart(seen, snakemake):
    """When some models have been tuned, Snakemake is killed with jobs running, and then restarted."""
    said = seen.slurm / "first.out"
    wait_for("tuned models", lambda: finished(said.read_text()).get("tune_candidate", 0) >= 2)
    seen.left = wait_for("running job", lambda: suspended(seen.slurm))
    snakemake.kill()
    snakemake.wait()
    seen.first = said.read_text()
    seen.locked = run(seen.slurm, "locked", *ON_SLURM, *CONFIGS)
    seen.unlocked = run(seen.slurm, "unlocked", "--unlock", *ON_SLURM, *CONFIGS)
    seen.refused = run(seen.slurm, "refused", *ON_SLURM, *CONFIGS)
    told = re.search(r"scancel ([\d ]+)", seen.refused[1])
    output_of("scancel", *(told[1].split() if told else [seen.left]))
    wait_for("empty queue", lambda: not queued(seen.slurm))
    seen.planned = planned(seen.slurm)


@pytest.fixture(scope="session")
def session(cluster, gpus, started, tmp_path_factory):
    """Run everything once; the tests inspect the results."""
    seen = SimpleNamespace()
    seen.local, seen.slurm, seen.trials = (
        copy_project(tmp_path_factory.mktemp(name).resolve(), "tests/slurm") for name in ("local", "slurm", "trials")
    )
    first = start(seen.slurm, "first", *ON_SLURM, *CONFIGS)
    local = start(seen.local, "run", "--cores", "2", *CONFIGS)
    started += [first, local]
    bring_down(seen)
    trials = start(seen.trials, "trials", *ON_SLURM, "--snakefile", "tests/slurm/trials.smk")
    started.append(trials)
    wait_for("trial to cancel", lambda: (seen.trials / "begun").exists())
    output_of("scancel", running(seen.trials, "cancelled"))
    seen.cancelled = wait_for("running tune_candidate", lambda: running(seen.slurm, "tune_candidate"))
    output_of("scancel", seen.cancelled)
    kill_and_restart(seen, first)
    again = start(seen.slurm, "again", *ON_SLURM, *CONFIGS)
    started.append(again)
    seen.again = finish(again, seen.slurm, "again")
    seen.trial = finish(trials, seen.trials, "trials")
    seen.run = finish(local, seen.local, "run")
    return seen


def test_the_run_on_slurm_ends_well_and_then_there_is_nothing_to_do(session):
    assert session.run[0] == 0, session.run[1][-4000:]
    assert session.again[0] == 0, session.again[1][-6000:]
    assert planned(session.slurm) == {}


def test_tables_judgements_and_weights_are_those_of_a_local_run(session):
    local, slurm = (folder / "results" / "small" for folder in (session.local, session.slurm))
    patterns = ("tables/*", "figures/*.csv", "tiny/**/*.safetensors", "tiny/**/*.parquet", "tiny/**/*.alpaca_eval.json")
    names = [path.relative_to(local) for pattern in patterns for path in local.glob(pattern)]
    assert [sum(name.suffix == kind for name in names) for kind in (".safetensors", ".md")] == [7, 13]
    assert filecmp.cmpfiles(local, slurm, names, shallow=False)[1:] == ([], [])
    for path in [*local.glob("tiny/**/*.against-*.json"), *local.glob("tiny/**/ranking.json")]:
        here, there = (json.loads(root.read_text()) for root in (path, slurm / path.relative_to(local)))
        assert what_came_out(here) == what_came_out(there)
    with (slurm / "tables" / "table3.csv").open() as file:
        assert [row["tuning"] for row in csv.DictReader(file)] == ["base", "poem"]


def test_a_node_that_goes_down_loses_nothing(session):
    assert session.queued_when_down[session.pretrain][0] == "PENDING"
    assert session.restarts == "1"
    assert finished(session.first)["pretrain"] == 1
    assert "FAILED pretrain" not in session.first


def test_a_job_that_is_cancelled_is_submitted_again(session):
    assert f"SLURM-job '{session.cancelled}' failed, SLURM status is: 'CANCELLED'" in session.first
    assert "Trying to restart job" in session.first
    assert (session.trials / "cancelled.txt").read_text() == "2000\n"


def test_after_snakemake_was_killed_it_says_how_to_go_on(session):
    status, printed = session.locked
    assert status == 1 and "--unlock" in printed
    assert session.unlocked[0] == 0
    status, printed = session.refused
    assert status == 1
    assert "jobs of an earlier run in this folder are still queued" in printed
    assert "Traceback" not in printed
    assert f"  {session.left} suspended: rule_" in printed
    assert re.search(rf"scancel [\d ]*\b{session.left}\b", printed)


def test_after_snakemake_was_killed_what_was_done_stays_done(session):
    before, after = finished(session.first), finished(session.again[1])
    everything = finished(session.run[1])
    assert before["tune_candidate"] >= 2
    assert not {"make_corpus", "make_dataset", "make_evaluation_set", "pretrain"} & (set(session.planned) | set(after))
    for rule, count in everything.items():
        assert before.get(rule, 0) + session.planned.get(rule, 0) <= count
        assert session.planned.get(rule, 0) == after.get(rule, 0)


def test_a_job_over_its_memory_or_time_gets_more(session):
    assert (session.trials / "hungry.txt").read_text() == "2000\n"
    assert (session.trials / "slow.txt").read_text() == "2\n"
    assert "SLURM status is: 'TIMEOUT'" in session.trial[1]


def test_a_job_that_fails_for_good_says_what_it_was_and_what_to_do(session):
    status, printed = session.trial
    assert status == 1
    assert printed.count("Error in rule hopeless") == 3
    told = re.findall(r"^Job failed permanently: .*\n(?:  .*\n)+", printed, flags=re.MULTILINE)
    assert len(told) == 1
    assert told[0].startswith(
        "Job failed permanently: hopeless, attempt 3\n  wildcards: what=of-memory\n  resources: mem_mb=3000, runtime=90\n"
    )
    assert re.search(
        r"^  log: hopeless/of-memory.log, \.snakemake/slurm_logs/rule_hopeless/of-memory/\d+\.log$",
        told[0],
        re.MULTILINE,
    )
    assert "what to do: it needed more memory than mem_mb: increase it in the profile's set-resources" in told[0]


def test_no_two_jobs_ever_have_the_same_gpu(session, gpus):
    held = []
    for path in [*sorted(session.trials.glob("card*.txt")), session.trials / "both_cards.txt"]:
        begin, end, devices = path.read_text().split()
        held += [(device, float(begin), float(end)) for device in devices.split(",")]
    assert len(held) == 6 and {device for device, _, _ in held} == {"0", "1"}
    for device in "01":
        times = sorted((begin, end) for held_device, begin, end in held if held_device == device)
        assert all(end <= begin for (_, end), (begin, _) in pairwise(times))
    for look in gpus:
        assert sum(len(indices) for indices in look.values()) == len(set().union(*look.values())) <= 2
    assert any(len(look) == 2 for look in gpus)


def test_the_profile_names_rules_that_there_are():
    """Otherwise a renamed rule would silently lose its resources."""
    profile = yaml.safe_load((ROOT / "profiles" / "slurm" / "profile.yaml").read_text())
    text = "".join(path.read_text() for path in sorted((ROOT / "rules").glob("*.smk")))
    rules = set(re.findall(r"^(?:use )?rule (?:\w+ as )?(\w+)", text, flags=re.MULTILINE))
    assert set(profile["set-resources"]) | set(profile["groups"]) <= rules
