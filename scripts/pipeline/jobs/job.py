"""The frame of a costly job: what a script does before and after its computation, however it ends.

    with job("rank", args, record=args.summary, inputs={...}, execution=execution_of(args)) as this:
        this.reserve(scoring_hours, parameters=7.0, tokens=100_000)  # before a GPU is used
        ...
        this.finish("capability 0.812", outputs={"table": args.output}, summary=summary)

The frame claims the job's record, hashes every input once, compares models with their records, counts against the
experiment's ceilings, sets the number of threads, writes the record, and logs the last line. If a job fails or is
stopped, the ledger contains what it used.
"""

import argparse
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from pipeline.jobs.claim import check_wanted, claimed
from pipeline.jobs.command import InputError, plain, say
from pipeline.jobs.ledger import Ledger
from pipeline.jobs.record import Record, check_record, fingerprint
from pipeline.models.directories import pick_device, pick_precision

if TYPE_CHECKING:
    from implicit.servers.answers import Answers
    from implicit.tuning.sharding import Processes


class Stopped(SystemExit):
    """SIGTERM, sent by a cluster before a time limit, by Snakemake, or by a job that replaces this one."""


class Job:
    """A running job. ``hashes`` are the inputs' sha256 by name, empty in all processes but the first."""

    def __init__(
        self,
        record: Record,
        ledger: Ledger,
        *,
        path: Path,
        device: str | None = None,
        precision: str | None = None,
        processes: int = 1,
    ) -> None:
        self.record, self.ledger, self.path = record, ledger, path
        self.device, self.precision, self.processes = device, precision, processes
        self.hashes = {name: entry["sha256"] for name, entry in record.content["inputs"].items()}
        self.reserved = False
        self.price = 0.0  # of all answers for this job, including earlier runs
        self.paid_now = 0.0  # the part that this run has paid, as far as the script knows
        self.unpriced = 0  # answers of unknown price, including earlier runs
        self.unpriced_now = 0  # the part from this run, as far as the script knows
        self.earlier_hours = 0.0  # GPU hours of killed runs, as recorded in a checkpoint

    @property
    def on_gpu(self) -> bool:
        """Whether the job computes on a GPU, and therefore counts GPU hours."""
        return self.device is not None and self.device != "cpu"

    def reserve(self, estimate: Callable[..., float], **size: Any) -> None:
        """Reserve the GPU hours that ``estimate`` (from `pipeline.jobs.costs`) gives for a ``size``; none on a CPU.

        Raises CeilingReached, so call it before a GPU is used.
        """
        if self.on_gpu and self.ledger.machine:
            self.ledger.reserve(gpu_hours=estimate(self.ledger.machine, **size))
            self.reserved = True

    @contextmanager
    def paying(self, answers: "Answers") -> Iterator[Ledger | None]:
        """Count the price of all answers, including earlier runs. Gives the guard of the ceiling, if there is one."""
        check_wanted()
        before, unpriced_before = answers.paid(), answers.unpriced()
        self.ledger.spend(before)
        try:
            yield None if self.ledger.ceilings["price"] is None else self.ledger
        finally:
            self.price = max(answers.paid(), self.ledger.spent["price"], before + self.paid_now)
            self.unpriced = max(answers.unpriced(), unpriced_before + self.unpriced_now)

    def gpu_seconds(self) -> float:
        """GPU seconds that this run has used so far."""
        return self.record.seconds() * self.processes if self.on_gpu else 0.0

    def finish(self, finding: str, *, outputs: dict[str, Path], **results: Any) -> None:
        """Write the record; then log ``finding``, the main result in a sentence, as the last line."""
        self.record.write(self.path, outputs=outputs, **results)
        say(finding)

    def settle(self) -> None:
        """Enter what the job has used into the ledger."""
        if self.reserved or self.price != 0.0 or self.unpriced or self.ledger.reserved["price"]:
            killed = max(0.0, self.earlier_hours - self.ledger.used_before)
            hours = killed + self.gpu_seconds() / 3600 if self.reserved else 0.0
            self.ledger.settle(price=self.price, gpu_hours=hours, unpriced_calls=self.unpriced)


@contextmanager
def job(
    stage: str,
    args: argparse.Namespace,
    *,
    record: Path,
    inputs: dict[str, Path | None],
    execution: dict[str, Any] | None = None,
    claims: Sequence[Path] | None = None,
    processes: "Processes | None" = None,
) -> Iterator[Job]:
    """Open a job of a stage. Its ``record`` is written last; the ledger knows the job by this path.

    Optional ``inputs`` may be None; one with a record (``--base`` with ``--base-record``) is checked against it.
    ``execution`` is how a model is run, if one is (`execution_of`). No other process may do the same job at the same
    time: the job claims the paths in ``claims``, by default its record.
    With several ``processes``, only the first claims, hashes, counts and records.

    Raises InputError for an input that is missing or differs from its record.
    """
    first = processes is None or processes.first
    with ExitStack() as stack:
        if first:
            for path in [record] if claims is None else claims:
                stack.enter_context(claimed(path, log=say))
            stack.enter_context(_sigterm_raises())
        given = {name: path for name, path in inputs.items() if path is not None}
        hashed = _hashed(given, args) if first else {}
        execution = execution or {}
        this = Job(
            Record(stage, settings=plain(args.settings), inputs=hashed, execution=execution),
            Ledger(getattr(args, "budget", None) if first else None, str(record)),
            path=record,
            device=execution.get("device"),
            precision=execution.get("precision"),
            processes=processes.count if processes else 1,
        )
        if execution:
            import torch

            torch.set_num_threads(execution.get("threads", 1))
        try:
            yield this
        finally:
            this.settle()


def execution_of(args: argparse.Namespace, *, precision: str | None = None, **more: Any) -> dict[str, Any]:
    """How a stage computes, for its record: this may change the last bits of its results, and more if ``precision``
    is ``auto``, which the device decides on.

    Raises InputError if a GPU is requested and there is none.
    """
    device = pick_device(args.device)
    picked = {"precision": pick_precision(precision, device)} if precision else {}
    return {"device": device, "threads": args.threads, "batch": args.batch} | picked | more


def _hashed(inputs: dict[str, Path], args: argparse.Namespace) -> dict[str, dict[str, str]]:
    """The inputs for a record: each path is hashed once, and checked against its own record, if it has one."""
    for name, path in inputs.items():
        if not path.exists():
            raise InputError(f"{path} ({name}): no such file or directory")
    hashes = {path: fingerprint(path) for path in dict.fromkeys(inputs.values())}
    for name, path in inputs.items():
        record = getattr(args, f"{name}_record", None)
        if record is not None:
            check_record(record, path, hashes[path])
    return {name: {"path": str(path), "sha256": hashes[path]} for name, path in inputs.items()}


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Let SIGTERM end the block like an error, so that costs are settled and locks removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second signal ends it immediately
        raise Stopped(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except Stopped:
        say("error: stopped by SIGTERM; run the same command again to continue")
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
