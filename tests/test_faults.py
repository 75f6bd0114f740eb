"""Jobs and Snakemake itself are repeatedly killed at random moments of a whole run. `make test-faults`.

The test experiment is run twice: once undisturbed, on one core, every job in a process of its own; and once on two
cores, jobs forked from the warm process, with SIGKILLs. The results must be identical, byte for byte. Which process is
killed next, and how far into its work, is drawn from FAULTS_SEED; FAULTS_EACH is how often each rule's jobs are killed. The judge is a server on loopback, which counts what it is asked.
"""

import filecmp
import hashlib
import json
import os
import random
import re
import subprocess
import sys
import time
from collections import Counter, defaultdict
from types import SimpleNamespace

import psutil
import pytest
import yaml
from judge_server import Service, reply, says, served
from workflow import ROOT, copy_project, environment, planned, snakemake, what_came_out

from pipeline.files.storage import read_json

pytestmark = pytest.mark.faults

SEED, EACH = int(os.environ.get("FAULTS_SEED", "1")), int(os.environ.get("FAULTS_EACH", "2"))
MINUTES = 25  # before the test gives up
DYING = 1.0  # seconds that a job forked from the warm process may outlive the killed process that requested it
CONFIGS = ("experiments/test.yaml", "faults.yaml")
RULES = (
    "make_corpus", "make_dataset", "make_evaluation_set", "list_data", "pretrain", "take_base", "resolve_rules", "tune_candidate",
    "tune_chosen", "generate_responses", "rank_responses", "measure_drift", "judge_responses", "select_epochs",
    "collect_metrics", "make_tables", "make_figures", "make_examples", "make_events", "make_report",
)  # fmt: skip


class Counting(Service):
    """A slow judge that prefers an output by its prompt's hash and remembers all requests."""

    def __init__(self):
        super().__init__(self.prefer)
        self.asked = []  # (prompt, when it came, when it was answered)

    def prefer(self, body):
        return reply(says("", logprobs={"content": [{"token": "m", "logprob": -0.1, "top_logprobs": self.top(body)}]}))

    def top(self, body):
        first = int(hashlib.sha256(json.dumps(body["messages"]).encode()).hexdigest()[:4], 16) % 8 + 1
        return [{"token": "m", "logprob": -first / 4}, {"token": "M", "logprob": first / 4 - 2.5}]

    def respond(self, body, headers):
        came = time.time()
        time.sleep(0.02)
        answer = super().respond(body, headers)
        self.asked.append((json.dumps(body["messages"]), came, time.time()))
        return answer


def results(folder):
    return folder / "results" / "test"


def bases(folder):
    return folder / "results" / "bases"


def rule_of(process):
    """The rule whose job a process runs, or None: for the Python process, not the shell that started it."""
    try:
        words = process.cmdline()
    except psutil.Error:
        return None
    script = next((word for word in words[1:3] if re.fullmatch(r"scripts/\w+\.py", word)), None)
    if not words or "python" not in words[0] or script is None:
        return None
    name = script.removeprefix("scripts/").removesuffix(".py")
    return f"tune_{'chosen' if any('/chosen/' in word for word in words) else 'candidate'}" if name == "tune" else name


def jobs_of(snakemake_process):
    """The jobs that a Snakemake process is running: process -> rule."""
    try:
        found = {child: rule_of(child) for child in psutil.Process(snakemake_process.pid).children(recursive=True)}
    except psutil.Error:
        return {}
    return {child: rule for child, rule in found.items() if rule in RULES}  # not the summary at the end


def durations(folder):
    """Seconds at work of a rule's jobs in an undisturbed run; most start from a warm process in the disturbed one."""
    taken, recorded = defaultdict(list), defaultdict(list)
    for path in [*results(folder).glob("tiny/**/*.json"), *bases(folder).glob("*/record.json")]:
        record = read_json(path)
        if "outputs" in record:
            rules = {"generate": "generate_responses", "rank": "rank_responses", "judge": "judge_responses"}
            rules["drift"] = "measure_drift"
            rules["tune"] = "tune_chosen" if "chosen" in path.parts else "tune_candidate"
            recorded[rules.get(record["stage"], record["stage"])].append(0.3 + record["seconds"])
    for path in [*(results(folder) / "benchmarks").rglob("*.tsv"), *bases(folder).glob("*/*.tsv")]:
        shared = path.is_relative_to(bases(folder))
        name = path.stem if shared else path.relative_to(results(folder) / "benchmarks").parts[0]
        if name == "tune":
            name = "tune_chosen" if "chosen" in path.parts else "tune_candidate"
        name = {"generate": "generate_responses", "rank": "rank_responses", "judge": "judge_responses"}.get(name, name)
        name = {"select": "select_epochs", "drift": "measure_drift"}.get(name, name)
        taken[name].append(float(path.read_text().split("\n")[1].split("\t")[0]))
    return {name: sum(seconds) / len(seconds) for name, seconds in (taken | recorded).items()}


def start(folder, said, *arguments, **more):
    command = [sys.executable, "-m", "snakemake", "--cores", "2", *arguments, "--configfile", *CONFIGS]
    return subprocess.Popen(
        command, cwd=folder, env=environment() | {"JUDGE_KEY": "k"} | more, stdout=said, stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip


def has_checkpoint(folder, process):
    """Whether a tuning job has written a checkpoint."""
    try:
        words = process.cmdline()
    except psutil.Error:
        return False
    return any((folder / words[words.index("--checkpoints") + 1]).glob("*/*/complete.json"))


def times_resumed(folder):
    """The tuned models whose training was resumed, as (record, steps)."""
    records = {path: read_json(path) for path in results(folder).glob("tiny/*/*/*/record.json")}
    return {(str(path), *record["resumed_at"]) for path, record in records.items() if record["resumed_at"]}


def disturb(folder, typical, chance):
    """Run the experiment to its end, killing processes on the way.

    Returns what was killed, when, as [(what, rule, time)], and the steps at which tuning was resumed. Tuning
    jobs of chosen models are killed once they have a checkpoint, so that they can resume from it.
    """
    resumed = set()
    wanted = Counter(dict.fromkeys(RULES, EACH)) + Counter({"snakemake": 5 * EACH})
    killed, end = [], time.monotonic() + 60 * MINUTES
    again = []  # jobs forced to run again, as a user may do after a change of mind
    with (folder / "said.txt").open("w") as said:
        while True:
            assert time.monotonic() < end, f"not done after {MINUTES} minutes: {+wanted} are left"
            if not again and not planned(folder, configs=CONFIGS):
                if not +wanted:
                    return killed, resumed
                again = ["-R", *(sorted(+wanted - Counter(snakemake=99)) or ["generate_responses"])]
            run = start(folder, said, "--keep-going", "--retries", str(chance.randrange(2)), *again)
            of_snakemake = wanted["snakemake"] > 0 and chance.random() < 0.5  # kill it instead of the first doomed job
            doomed = {}  # process -> time of its kill
            while run.poll() is None:
                assert time.monotonic() < end, f"a run did not end within {MINUTES} minutes: {+wanted} are left"
                for process, rule in jobs_of(run).items():
                    if process not in doomed and (of_snakemake or wanted[rule] > 0):
                        late = rule == "tune_chosen"
                        if not late or has_checkpoint(folder, process):
                            doomed[process] = (
                                rule,
                                time.monotonic() + (not late) * chance.random() * typical.get(rule, 1.0),
                            )
                for process, (rule, when) in [*doomed.items()]:
                    if time.monotonic() >= when and (of_snakemake or wanted[rule] > 0) and process.is_running():
                        if of_snakemake:
                            run.kill()
                            run.wait()
                            wanted["snakemake"] -= 1
                            killed.append(("snakemake", rule, time.time()))
                            break
                        process.kill()
                        wanted[rule] -= 1
                        killed.append(("job", rule, time.time()))
                        doomed[process] = rule, float("inf")
                time.sleep(0.02)
            resumed |= times_resumed(folder)
            if run.returncode == 0:
                again = []  # otherwise the same command is given again: Snakemake forgets what it was to force
            if run.returncode < 0:
                unlock(folder, killed)


def unlock(folder, killed):
    """What a user does after Snakemake was killed. The first attempt, without unlocking, must be refused with advice."""
    if [what for what, _, _ in killed].count("snakemake") == 1:
        refused = snakemake(folder, configs=CONFIGS)
        assert refused.returncode == 1 and "--unlock" in refused.stdout, refused.stdout
    assert snakemake(folder, "--unlock", configs=CONFIGS).returncode == 0


@pytest.fixture(scope="session")
def both(tmp_path_factory):
    """An undisturbed run and a disturbed one."""
    seen = SimpleNamespace(service=Counting())
    seen.peace, seen.war = (copy_project(tmp_path_factory.mktemp(name).resolve()) for name in ("peace", "war"))
    with served(seen.service) as url:
        overlay = yaml.safe_load((ROOT / "tests" / "faults.yaml").read_text())
        overlay["judge"]["server"]["base_url"] = url
        for folder in (seen.peace, seen.war):
            (folder / "faults.yaml").write_text(yaml.safe_dump(overlay))
        with (seen.peace / "said.txt").open("w") as said:
            run = start(seen.peace, said, "--cores", "1", WARM_FOLDER="")
            assert run.wait() == 0, (seen.peace / "said.txt").read_text()[-4000:]
        seen.asked_in_peace, seen.service.asked = seen.service.asked, []
        seen.killed, seen.resumed = disturb(seen.war, durations(seen.peace), random.Random(SEED))
    seen.asked_in_war = seen.service.asked
    print(
        f"\nkilled, with seed {SEED}: {dict(Counter(rule if what == 'job' else what for what, rule, _ in seen.killed))}"
    )
    return seen


def test_there_were_enough_kills_in_every_stage(both):
    of_jobs = Counter(rule for what, rule, _ in both.killed if what == "job")
    assert set(of_jobs) == set(RULES) and min(of_jobs.values()) >= EACH
    assert len(both.killed) >= 18 * EACH and sum(what == "snakemake" for what, _, _ in both.killed) >= 5 * EACH


def test_results_are_those_of_the_run_in_peace_byte_for_byte(both):
    patterns = (
        "tables/*",
        "figures/*",
        "data/**/*.parquet",
        "tiny/**/*.parquet",
        "tiny/**/model/*",
        "tiny/**/*.alpaca_eval.json",
    )
    patterns += ("tiny/**/selected.json", "tiny/rules/tokens.json")
    names = sorted(
        {p.relative_to(results(both.peace)) for pattern in patterns for p in results(both.peace).glob(pattern)}
    )
    names = [name for name in names if (results(both.peace) / name).is_file() and name.name != "README.md"]
    assert sum(name.suffix == ".safetensors" for name in names) == 13 and len(names) > 150
    assert filecmp.cmpfiles(results(both.peace), results(both.war), names, shallow=False)[1:] == ([], [])


def test_base_models_are_those_of_the_run_in_peace_byte_for_byte(both):
    names = sorted(path.relative_to(bases(both.peace)) for path in bases(both.peace).glob("*/**/*"))
    names = [name for name in names if name.suffix in (".parquet", ".safetensors") or name.name == "tokenizer.json"]
    assert len(names) == 3
    assert filecmp.cmpfiles(bases(both.peace), bases(both.war), names, shallow=False)[1:] == ([], [])


def test_records_differ_in_nothing_but_how_it_went(both):
    for path in results(both.peace).glob("tiny/**/*.json"):
        here, there = read_json(path), read_json(results(both.war) / path.relative_to(results(both.peace)))
        if "outputs" in here:
            assert what_came_out(here) == what_came_out(there)


def test_nothing_is_judged_twice_but_what_was_being_judged_when_a_job_was_killed(both):
    kills = [when for _, rule, when in both.killed if rule == "judge_responses"]
    more = Counter(prompt for prompt, _, _ in both.asked_in_war) - Counter(
        prompt for prompt, _, _ in both.asked_in_peace
    )
    in_flight = Counter(
        prompt
        for prompt, came, answered in both.asked_in_war
        if any(came - DYING <= when <= answered + 0.2 for when in kills)
    )
    twice = {prompt[-300:]: [came for what, came, _ in both.asked_in_war if what == prompt] for prompt in more}
    assert not more - in_flight, f"jobs were killed at {kills}, and asked: {twice}"
    assert sum(more.values()) <= 2 * len(kills)  # two requests at a time


def test_every_answer_was_kept_once(both):
    for path in results(both.peace).glob("answers/**/*.jsonl"):
        keys = [
            sorted(
                json.loads(line)["key"]
                for line in (root / path.relative_to(results(both.peace))).read_text().splitlines()
            )
            for root in (results(both.peace), results(both.war))
        ]
        assert keys[0] == keys[1] == sorted(set(keys[0]))


def test_tuning_went_on_from_checkpoints(both):
    assert both.resumed


def test_nothing_is_left_behind(both):
    left = [path for path in results(both.war).rglob(".*") if path.name != ".snakemake_timestamp"]
    left += [path for path in bases(both.war).rglob(".*") if path.name != ".snakemake_timestamp"]
    left += [path for root in (results(both.war), bases(both.war)) for path in root.rglob("*.lock")]
    left += [path for path in results(both.war).glob("checkpoints/**/*") if path.is_file()]
    assert left == []
    assert planned(both.war, configs=CONFIGS) == {}


def test_what_came_out_is_verified(both):
    done = snakemake(both.war, "verify", configs=CONFIGS)
    assert done.returncode == 0 and "no discrepancies" in done.stdout, done.stdout
