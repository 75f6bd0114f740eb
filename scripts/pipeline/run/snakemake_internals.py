"""Uses of undocumented parts of Snakemake, each by name, so that a version that lacks one can be detected.

The Snakefile syntax, Python's logging, and the events of the logger plugin interface are documented. The display
is not a plugin: a plugin must be installed before Snakemake reads the workflow, and a run in an environment without it
would be refused.
"""

import logging
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from inspect import signature
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import snakemake
from packaging.version import Version
from snakemake.exceptions import WorkflowError

TOO_NEW = "10"  # a new major version may break any use; the oldest supported version is in the Snakefile


class Use(NamedTuple):
    """A use: how to look it up, and its purpose."""

    look_up: Callable[[Any], Any]
    purpose: str


# Looked up in the `workflow` when a run starts.
USES = {
    "workflow.configfiles": Use(attrgetter("configfiles"), "the config's files, to find duplicate keys"),
    "workflow.output_settings": Use(
        attrgetter("output_settings.verbose", "output_settings.printshellcmds", "output_settings.quiet"),
        "whether Snakemake's own messages, or none, were requested",
    ),
    "workflow.dag.needrun_jobs": Use(lambda workflow: list(workflow.dag.needrun_jobs()), "the jobs to do"),
    "workflow.dag.jobs": Use(lambda workflow: list(workflow.dag.jobs), "the requested targets"),
    "workflow.dag.bfs": Use(attrgetter("dag.bfs"), "what depends on a job by its results, not only by the order"),
    "workflow.non_local_exec": Use(attrgetter("non_local_exec"), "whether jobs run on this machine"),
    "workflow.scheduler.job_rate_limiter": Use(
        attrgetter("scheduler.job_rate_limiter"), "a limit that slows local runs"
    ),
    "workflow.scheduler.failed": Use(attrgetter("scheduler.failed"), "the jobs that failed permanently"),
}
MISSING = object()
FOR_DISPLAY = ("workflow.output_settings", "workflow.dag.needrun_jobs", "workflow.scheduler.failed")


def check_max_version(version: str = snakemake.__version__) -> None:
    """Raise WorkflowError for a major version of Snakemake that the workflow was not tested with."""
    if Version(version) >= Version(TOO_NEW):
        raise WorkflowError(
            f"this workflow needs Snakemake below {TOO_NEW}, but this is {version}: "
            "run `make environment`, or install the version in envs/cpu.txt"
        )


def mend_ancient() -> bool:
    """Let Snakemake examine every job by itself, even if something stale precedes it as an ``ancient`` input.

    Snakemake 9 does not look for changes in jobs downstream of a stale one, as they will be rerun because of it. But it
    follows ancient inputs as well, because of which they are not rerun: a job with other parameters than before would
    then be taken to be up to date, for this run. False if this version has no such function to mend: then use no
    ancient inputs.
    """
    from snakemake.dag import DAG

    found = getattr(DAG, "bfs", None)
    if found is None or list(signature(found).parameters) != ["self", "direction", "jobs", "stop"]:
        return False

    def bfs(self: Any, direction: Any, *jobs: Any, stop: Callable[[Any], bool] = lambda job: False) -> Iterator[Any]:
        """As Snakemake's, breadth first, but downstream without edges that are all ancient."""
        downstream, seen, queue = direction is self.depending, set(jobs), deque(jobs)
        while queue:
            job = queue.popleft()
            if stop(job):
                continue
            yield job
            for other, files in direction[job].items():
                if other not in seen and not (downstream and files and all(file.is_ancient for file in files)):
                    seen.add(other)
                    queue.append(other)

    DAG.bfs = bfs
    return True


def inside(workflow: Any, name: str, otherwise: Any) -> Any:
    """What a use finds; ``otherwise`` if this version of Snakemake does not have it."""
    try:
        return USES[name].look_up(workflow)
    except (AttributeError, TypeError, LookupError):  # renamed, called differently, or removed
        return otherwise


def missing(workflow: Any) -> list[str]:
    """The names of the uses that this version of Snakemake does not have."""
    return [name for name in USES if inside(workflow, name, MISSING) is MISSING]


def stream_handler() -> logging.Handler | None:
    """The handler that prints Snakemake's messages; None if it has another name, or another logger is used."""
    handlers = logging.getLogger("snakemake.logging").handlers
    return next((handler for handler in handlers if handler.name == "DefaultStreamHandler"), None)


def config_files(workflow: Any) -> list[Any]:
    """The files that a config was read from; later ones take precedence.

    Snakemake lists those of the command line first, and then the Snakefile's own, which they are laid over.
    """
    files = list(dict.fromkeys(inside(workflow, "workflow.configfiles", [])))
    own = [file for file in files if Path(file).resolve() == Path("config.yaml").resolve()]
    return own + [file for file in files if file not in own]


def wants_display(workflow: Any) -> bool:
    """Whether to use our own display: not if Snakemake was told to be verbose or silent, or lacks what it shows."""
    if set(FOR_DISPLAY) & set(missing(workflow)):
        return False
    verbose, commands, quiet = inside(workflow, "workflow.output_settings", None)
    return not (verbose or commands or "all" in {str(kind).lower() for kind in quiet or ()})


def rules_to_run(workflow: Any) -> list[str]:
    """The rule of every job to do, except targets."""
    return [job.rule.name for job in inside(workflow, "workflow.dag.needrun_jobs", []) if job.output]


def all_rules(workflow: Any) -> set[str]:
    """The rules of all jobs, including those that need not run."""
    return {job.rule.name for job in inside(workflow, "workflow.dag.jobs", [])}


def on_cluster(workflow: Any) -> bool | None:
    """Whether jobs run on other machines; None if this version of Snakemake does not say."""
    return inside(workflow, "workflow.non_local_exec", None)


def start_without_limit(workflow: Any) -> None:
    """Remove Snakemake's limit on job starts per second, which only a cluster's queue needs.

    To enforce it, Snakemake 9 rescans all ready jobs a second after each scan, and once more for every job that has
    ended since: with a hundred ready jobs it is always busy, and takes CPU time from the jobs.
    """
    workflow.scheduler.job_rate_limiter = None


def failed_jobs(workflow: Any) -> list[Any]:
    """The jobs that failed permanently, including those in groups."""
    failed = inside(workflow, "workflow.scheduler.failed", [])
    return sorted((job for entry in failed for job in (entry.jobs if entry.is_group() else [entry])), key=str)


def say_what_is_missing(names: Iterable[str]) -> None:
    """Print a line to standard error for each use that is missing."""
    for name in names:
        print(
            f"Snakemake {snakemake.__version__} has no {name} ({USES[name].purpose}): the run continues without it",
            file=sys.stderr,
        )
