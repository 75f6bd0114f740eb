"""What is used of Snakemake beyond what it documents, each use by name, so that a version without it can be told.

Documented are the words of a Snakefile, Python's logging, and the events of the logger plugins' interface. The display
is no plugin: one would have to be installed before Snakemake reads the workflow, and a run in another environment would
be refused for want of it.
"""

import logging
import sys
from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Any, NamedTuple

import snakemake
from packaging.version import Version
from snakemake.exceptions import WorkflowError

TOO_NEW = "10"  # a new major version may change any use; the oldest that does is in the Snakefile


class Use(NamedTuple):
    """A use: what is looked up, and what it is used for."""

    look_up: Callable[[Any], Any]
    purpose: str


# Looked up when a run starts, of its `workflow`.
USES = {
    "workflow.configfiles": Use(attrgetter("configfiles"), "the config's files, for keys that are there twice"),
    "workflow.output_settings": Use(
        attrgetter("output_settings.verbose", "output_settings.printshellcmds", "output_settings.quiet"),
        "whether Snakemake was asked for its own messages, or for none",
    ),
    "workflow.dag.needrun_jobs": Use(lambda workflow: list(workflow.dag.needrun_jobs()), "what there is to do"),
    "workflow.dag.jobs": Use(lambda workflow: list(workflow.dag.jobs), "which targets were asked for"),
    "workflow.non_local_exec": Use(attrgetter("non_local_exec"), "whether jobs run on this machine"),
    "workflow.scheduler.job_rate_limiter": Use(
        attrgetter("scheduler.job_rate_limiter"), "a limit that slows local runs"
    ),
    "workflow.scheduler.failed": Use(attrgetter("scheduler.failed"), "the jobs that failed permanently"),
}


def check_max_version(version: str = snakemake.__version__) -> None:
    """Raises WorkflowError for a Snakemake of a major version that the workflow was not tested with."""
    if Version(version) >= Version(TOO_NEW):
        raise WorkflowError(
            f"this workflow needs a Snakemake below {TOO_NEW}, and this is {version}: "
            "run `make environment`, or install the version in envs/cpu.txt"
        )


def missing(workflow: Any) -> list[str]:
    """The uses that this Snakemake has no counterpart for."""
    return [name for name, use in USES.items() if not _found(use, workflow)]


def _found(use: Use, workflow: Any) -> bool:
    try:
        use.look_up(workflow)
    except (AttributeError, TypeError, LookupError):  # renamed, called otherwise, gone
        return False
    return True


def stream_handler() -> logging.Handler | None:
    """The handler that prints Snakemake's messages; None where it has another name, or another logger was asked for."""
    handlers = logging.getLogger("snakemake.logging").handlers
    return next((handler for handler in handlers if handler.name == "DefaultStreamHandler"), None)


def config_files(workflow: Any) -> list[Any]:
    """The files that a config was read from; none where this Snakemake does not say."""
    use = USES["workflow.configfiles"]
    return list(use.look_up(workflow)) if _found(use, workflow) else []


def wants_display(workflow: Any) -> bool:
    """Whether a run is to be shown by lines of our own: not where Snakemake was told to be verbose, or silent."""
    verbose, commands, quiet = USES["workflow.output_settings"].look_up(workflow)
    return not (verbose or commands or "all" in {str(kind).lower() for kind in quiet or ()})


def rules_to_run(workflow: Any) -> list[str]:
    """The rule of every job that is to do, targets aside."""
    return [job.rule.name for job in workflow.dag.needrun_jobs() if job.output]


def all_rules(workflow: Any) -> set[str]:
    """The rules of all jobs, those that need not run included; none where this Snakemake does not say."""
    use = USES["workflow.dag.jobs"]
    return {job.rule.name for job in use.look_up(workflow)} if _found(use, workflow) else set()


def on_cluster(workflow: Any) -> bool:
    """Whether jobs run elsewhere."""
    return workflow.non_local_exec


def start_without_limit(workflow: Any) -> None:
    """Take away Snakemake's limit of jobs that start in a second, which only a cluster's queue needs.

    To keep it, Snakemake 9 goes through all ready jobs again a second after each time that it did, and once more for
    every job that has ended since: with a hundred ready jobs it never rests, and takes a share of a core from the jobs.
    """
    workflow.scheduler.job_rate_limiter = None


def failed_jobs(workflow: Any) -> list[Any]:
    """The jobs that failed permanently, those of groups one by one; none where this Snakemake does not say."""
    use = USES["workflow.scheduler.failed"]
    failed: Iterable[Any] = use.look_up(workflow) if _found(use, workflow) else ()
    return sorted((job for entry in failed for job in (entry.jobs if entry.is_group() else [entry])), key=str)


def say_what_is_missing(names: Iterable[str]) -> None:
    """One line on standard error."""
    print(
        f"Snakemake {snakemake.__version__} lacks {', '.join(names)}: the run goes on with Snakemake's own messages",
        file=sys.stderr,
    )
