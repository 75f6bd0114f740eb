"""What a run shows, and what one on a cluster needs besides its profile: no job is done by two at once."""

import re
import shlex
import subprocess

from snakemake.exceptions import WorkflowError
from snakemake.settings.enums import Quietness

from pipeline.run.display import last_lines, show_progress

# What SLURM's log of a job says when the job was ended from outside, and what to do then.
ENDS = {
    r"exceeded .*memory limit|oom.kill": "it needed more memory than mem_mb: raise that in the profile's set-resources",
    r"DUE TO TIME LIMIT": "it needed more minutes than runtime: raise that in the profile's set-resources",
    r"CANCELLED AT": "it was cancelled",
}


def follow_progress():
    """Print a line for each job that ends, unless Snakemake was told to be verbose, or to say nothing."""
    shown = workflow.output_settings
    if not (shown.verbose or shown.printshellcmds or Quietness.ALL in (shown.quiet or ())):
        show_progress([job.rule.name for job in workflow.dag.needrun_jobs() if job.output])


def start_without_limit():
    """Take away Snakemake's limit of jobs that start in a second, which only a cluster's queue needs.

    To keep it, Snakemake 9 goes through all ready jobs anew a second after each time that it did, and once more for every
    job that has ended since: with a hundred ready jobs it never rests, and takes a share of a core from the jobs.
    """
    workflow.scheduler.job_rate_limiter = None


def queued_jobs():
    """SLURM jobs that Snakemake has submitted from this folder, as [id, state, comment]; none without SLURM."""
    if not shutil.which("squeue"):
        return []
    command = ["squeue", "--me", "--noheader", "--format=%i|%T|%Z|%k"]
    done = subprocess.run(command, text=True, capture_output=True, timeout=120)
    if done.returncode:
        raise WorkflowError(f"squeue does not say which jobs are queued:\n{done.stderr.strip()}")
    rows = [line.split("|", maxsplit=3) for line in done.stdout.splitlines()]
    ours = [row for row in rows if row[2] == os.getcwd() and row[3].startswith("rule_")]
    return [[id, state.lower(), comment] for id, state, _, comment in ours]


def refuse_queued_jobs():
    """Stop a run in whose folder jobs of a former run, which was killed, are still queued: they would be done twice."""
    queued = queued_jobs()
    if queued:
        rows = "\n".join(f"  {id} {state}: {comment}" for id, state, comment in queued)
        raise WorkflowError(
            f"jobs of a former run in this folder are still queued:\n{rows}\n"
            f"Wait until they have ended, or cancel them: scancel {' '.join(id for id, _, _ in queued)}\n"
            "Then run the same command again."
        )


def slurm_log(job):
    """SLURM's own log of a job's last attempt, or None."""
    where = "_".join(job.wildcards).replace("/", "_")
    logs = Path(".snakemake/slurm_logs", f"rule_{job.rule.name}", where).glob("*.log")
    return max(logs, key=lambda path: path.stat().st_mtime_ns, default=None)


def explain_failures(failed):
    """Say of every job that has failed for good what it was, what it had, where its log is, and what to do."""
    for job in sorted((job for entry in failed for job in (entry.jobs if entry.is_group() else [entry])), key=str):
        own = slurm_log(job)
        text = own.read_text(encoding="utf-8", errors="replace") if own else ""
        told = [reason for sign, reason in ENDS.items() if re.search(sign, text)] or ["mend what the log's end says"]
        lines = [
            f"Failed for good: {job.rule.name}, attempt {job.attempt}",
            "  wildcards: " + (", ".join(f"{name}={value}" for name, value in job.wildcards.items()) or "none"),
            f"  had: mem_mb={job.resources.get('mem_mb')}, runtime={job.resources.get('runtime')}",
            f"  log: {', '.join(map(str, [*job.log, *([own] if own else [])]))}",
            *(f"    {line}" for log in job.log for line in last_lines(Path(log), 12)),
            f"  what to do: {told[0]}; then run the same command again.",
            f"  type: {shlex.join(['snakemake', *sys.argv[1:]])}",
        ]
        print("", *lines, sep="\n", file=sys.stderr)
