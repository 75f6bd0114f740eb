"""Uses of undocumented parts of Snakemake, each by name, so that a version that lacks one can be detected.

The Snakefile syntax, Python's logging, and the events of the logger plugin interface are documented. The display
is not a plugin: a plugin must be installed before Snakemake reads the workflow, and a run in an environment without it
would be refused.
"""

import logging
import sys
from collections.abc import Callable, Iterable
from operator import attrgetter
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
    "workflow.non_local_exec": Use(attrgetter("non_local_exec"), "whether jobs run on this machine"),
    "workflow.scheduler.job_rate_limiter": Use(
        attrgetter("scheduler.job_rate_limiter"), "a limit that slows local runs"
    ),
    "workflow.scheduler.failed": Use(attrgetter("scheduler.failed"), "the jobs that failed permanently"),
}


def check_max_version(version: str = snakemake.__version__) -> None:
    """Raise WorkflowError for a major version of Snakemake that the workflow was not tested with."""
    if Version(version) >= Version(TOO_NEW):
        raise WorkflowError(
            f"this workflow needs Snakemake below {TOO_NEW}, but this is {version}: "
            "run `make environment`, or install the version in envs/cpu.txt"
        )


def missing(workflow: Any) -> list[str]:
    """The uses that this version of Snakemake does not support."""
    return [name for name, use in USES.items() if not _found(use, workflow)]


def _found(use: Use, workflow: Any) -> bool:
    try:
        use.look_up(workflow)
    except (AttributeError, TypeError, LookupError):  # renamed, called differently, or removed
        return False
    return True


def stream_handler() -> logging.Handler | None:
    """The handler that prints Snakemake's messages; None if it has another name, or another logger is used."""
    handlers = logging.getLogger("snakemake.logging").handlers
    return next((handler for handler in handlers if handler.name == "DefaultStreamHandler"), None)


def config_files(workflow: Any) -> list[Any]:
    """The files that a config was read from; empty if this version of Snakemake does not tell."""
    use = USES["workflow.configfiles"]
    return list(use.look_up(workflow)) if _found(use, workflow) else []


def wants_display(workflow: Any) -> bool:
    """Whether to use our own display: not if Snakemake was told to be verbose or silent."""
    verbose, commands, quiet = USES["workflow.output_settings"].look_up(workflow)
    return not (verbose or commands or "all" in {str(kind).lower() for kind in quiet or ()})


def rules_to_run(workflow: Any) -> list[str]:
    """The rule of every job to do, except targets."""
    return [job.rule.name for job in workflow.dag.needrun_jobs() if job.output]


def all_rules(workflow: Any) -> set[str]:
    """The rules of all jobs, including those that need not run; empty if this version of Snakemake does not tell."""
    use = USES["workflow.dag.jobs"]
    return {job.rule.name for job in use.look_up(workflow)} if _found(use, workflow) else set()


def on_cluster(workflow: Any) -> bool:
    """Whether jobs run on other machines."""
    return workflow.non_local_exec


def start_without_limit(workflow: Any) -> None:
    """Remove Snakemake's limit on job starts per second, which only a cluster's queue needs.

    To enforce it, Snakemake 9 rescans all ready jobs a second after each scan, and once more for every job that has
    ended since: with a hundred ready jobs it is always busy, and takes CPU time from the jobs.
    """
    workflow.scheduler.job_rate_limiter = None


def failed_jobs(workflow: Any) -> list[Any]:
    """The jobs that failed permanently, including those in groups; empty if this version of Snakemake does not tell."""
    use = USES["workflow.scheduler.failed"]
    failed: Iterable[Any] = use.look_up(workflow) if _found(use, workflow) else ()
    return sorted((job for entry in failed for job in (entry.jobs if entry.is_group() else [entry])), key=str)


def say_what_is_missing(names: Iterable[str]) -> None:
    """Print one line to standard error."""
    print(
        f"Snakemake {snakemake.__version__} lacks {', '.join(names)}: continuing with Snakemake's own messages",
        file=sys.stderr,
    )
