"""The display of a run, and what a cluster needs besides its profile: no job may run twice at the same time."""

import re
import shlex
import subprocess

from snakemake.exceptions import WorkflowError

from pipeline.config.judges import BY_PROMPT
from pipeline.config.values import mixed_worlds
from pipeline.run.display import last_lines, show_progress
from pipeline.run.made_with import OtherExperiment, refuse_other, remember
from pipeline.run.snakemake_internals import (
    all_rules,
    failed_jobs,
    missing,
    on_cluster,
    rules_to_run,
    say_what_is_missing,
    start_without_limit,
    wants_display,
)

# Messages in SLURM's log of a job that was ended from outside -> what to do.
ENDS = {
    r"exceeded .*memory limit|oom.kill": "it needed more memory than mem_mb: increase it in the profile's set-resources",
    r"DUE TO TIME LIMIT": "it needed more minutes than runtime: increase it in the profile's set-resources",
    r"CANCELLED AT": "it was cancelled",
}


def start_run():
    """Start of a run: set up the display, then refuse to run if jobs are still queued, or prepare for local jobs."""
    if lacking := missing(workflow):
        say_what_is_missing(lacking)
    for note in mixed_worlds(CONFIG):
        print(note, file=sys.stderr)
    if not {"plan", "verify"} & all_rules(workflow):
        keep_experiments_apart()
        ask_judge_first()
    if wants_display(workflow):
        show_progress(rules_to_run(workflow))
    if on_cluster(workflow):
        refuse_queued_jobs()
    elif on_cluster(workflow) is False:  # not where it is unknown: a node of a cluster has no warm process
        start_without_limit(workflow)
        keep_warm()


def keep_experiments_apart():
    """Refuse to replace the results of an experiment with the same name by accident; see made_with."""
    files = config_files(workflow)
    try:
        refuse_other(CONFIG, files)
    except OtherExperiment as error:
        raise WorkflowError(str(error))
    remember(CONFIG, files)


def ask_judge_first():
    """Ask the judge for one comparison before anything runs, if it is one that is asked and is going to be.

    It is not a job: whether the judge answers now must not affect which results are up to date.
    """
    asked = {member.kind for member in PANEL.values()} & set(BY_PROMPT)
    to_come = {"judge_responses", "judge_annotations"} & set(rules_to_run(workflow))
    if not (asked and to_come and EXECUTION.check_judge):
        return
    if "local" in asked and on_cluster(workflow) is not False:  # a login node may have no room for the model
        return
    folder, log = f"{RESULTS}/judge", f"{LOGS}/check_judge.log"
    Path(folder).mkdir(parents=True, exist_ok=True)
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    command = [
        *("python", "scripts/check_judge.py", "--output", f"{folder}/check.json"),
        *("--answers", f"{folder}/check.answers.jsonl", "--settings", judge_settings(None), *shlex.split(REQUESTS)),
        *("--budget", BUDGET, "--device", EXECUTION.device, "--threads", str(EXECUTION.threads)),
        *("--batch", str(EXECUTION.ranking_batch_tokens)),
    ]
    with open(log, "w", encoding="utf-8") as file:
        done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT)
    last = last_lines(Path(log), 1)
    if done.returncode:
        how = f"(log: {log}; to start without this check: execution.check_judge: false)"
        raise WorkflowError("\n".join(["the judge cannot be used, so nothing has been started:", *last, how]))
    print(*last, sep="\n", file=sys.stderr)


def queued_jobs():
    """SLURM jobs that Snakemake submitted from this folder, as [id, state, comment]; empty without SLURM."""
    if not shutil.which("squeue"):
        return []
    command = ["squeue", "--me", "--noheader", "--format=%i|%T|%Z|%k"]
    done = subprocess.run(command, text=True, capture_output=True, timeout=120)
    if done.returncode:
        raise WorkflowError(f"squeue cannot list the queued jobs:\n{done.stderr.strip()}")
    rows = [line.split("|", maxsplit=3) for line in done.stdout.splitlines()]
    ours = [row for row in rows if row[2] == os.getcwd() and row[3].startswith("rule_")]
    return [[id, state.lower(), comment] for id, state, _, comment in ours]


def refuse_queued_jobs():
    """Stop the run if jobs of an earlier, killed run in this folder are still queued: they would run twice."""
    queued = queued_jobs()
    if queued:
        rows = "\n".join(f"  {id} {state}: {comment}" for id, state, comment in queued)
        raise WorkflowError(
            f"jobs of an earlier run in this folder are still queued:\n{rows}\n"
            f"Wait until they have ended, or cancel them: scancel {' '.join(id for id, _, _ in queued)}\n"
            "Then run the same command again."
        )


def slurm_log(job):
    """SLURM's own log of a job's last attempt, or None."""
    where = "_".join(job.wildcards).replace("/", "_")
    logs = Path(".snakemake/slurm_logs", f"rule_{job.rule.name}", where).glob("*.log")
    return max(logs, key=lambda path: path.stat().st_mtime_ns, default=None)


def explain_failures():
    """Print each job that failed permanently, with its resources, its log, and what to do."""
    for job in failed_jobs(workflow):
        own = slurm_log(job)
        text = own.read_text(encoding="utf-8", errors="replace") if own else ""
        reasons = [reason for sign, reason in ENDS.items() if re.search(sign, text)] or [
            "fix what the end of the log says"
        ]
        lines = [
            f"Job failed permanently: {job.rule.name}, attempt {job.attempt}",
            "  wildcards: " + (", ".join(f"{name}={value}" for name, value in job.wildcards.items()) or "none"),
            f"  resources: mem_mb={job.resources.get('mem_mb')}, runtime={job.resources.get('runtime')}",
            f"  log: {', '.join(map(str, [*job.log, *([own] if own else [])]))}",
            *(f"    {line}" for log in job.log for line in last_lines(Path(log), 12)),
            f"  what to do: {reasons[0]}, then rerun.",
            f"  rerun with: {shlex.join(['snakemake', *sys.argv[1:]])}",
        ]
        print("", *lines, sep="\n", file=sys.stderr)
