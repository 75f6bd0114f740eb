"""The frame of the scripts that judge: their job, and the errors that end them in one line."""

import argparse
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from pipeline.jobs.command import directories, hide_progress_bars, run_stage
from pipeline.jobs.job import Job, execution_of, job


def judging_job(
    stage: str, args: argparse.Namespace, *, record: Path, **inputs: Path | None
) -> AbstractContextManager[Job]:
    """Open the job of a script that judges with ``args.settings``, with the sets of references and trained models.

    It claims nothing: the file of answers is locked while it judges.
    """
    given = inputs | {f"references {path.stem}": path for path in args.references}
    given |= {f"model {name}": path for name, path in directories(args.model).items()}
    settings = args.settings
    execution = execution_of(args, precision=settings.own_precision()) if settings.computes() else None
    return job(stage, args, record=record, inputs=given, execution=execution, claims=())


def run_judging(main: Callable[[], None], *, if_gpu_is_full: str) -> None:
    """Run a script that judges; errors of all kinds of judge are one line."""
    hide_progress_bars()  # before alpaca_eval is imported

    from implicit.judging.judge import IncompleteJudging, JudgeError
    from implicit.judging.local_judge import LocalJudgeError
    from implicit.judging.rewards import RewardError
    from implicit.judging.win_rates import MetricError
    from implicit.servers.answers import AnswersError
    from implicit.servers.chat_client import ServerError

    errors = (AnswersError, IncompleteJudging, JudgeError, LocalJudgeError, MetricError, RewardError, ServerError)
    run_stage(main, *errors, if_gpu_is_full=if_gpu_is_full)
