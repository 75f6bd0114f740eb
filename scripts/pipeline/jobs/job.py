"""The frame of a costly job: what its script does before it computes, and afterwards, whatever ends it.

    with job("rank", args, record=args.summary, inputs={...}, execution=execution_of(args)) as this:
        this.reserve(scoring_hours, parameters=7.0, tokens=100_000)  # before a GPU is used
        ...
        this.finish("capability 0.812", outputs={"table": args.output}, summary=summary)

The frame claims the job's record, hashes every input once and compares models with their records, counts against the
experiment's ceilings, sets threads, writes the record, and logs the last line. A job that fails or is stopped leaves in
the ledger what it has used.
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
from pipeline.models.directories import pick_device

if TYPE_CHECKING:
    from implicit.servers.answers import Answers
    from implicit.tuning.sharding import Processes


class Stopped(SystemExit):
    """SIGTERM came: from a cluster before a time limit, from Snakemake, or from a job that takes this one's place."""


class Job:
    """A job under way. ``hashes`` are the inputs' sha256 by name: none in a process that is not the first."""

    def __init__(self, record: Record, ledger: Ledger, *, path: Path, device: str | None, processes: int) -> None:
        self.record, self.ledger, self.path, self.device, self.processes = record, ledger, path, device, processes
        self.hashes = {name: entry["sha256"] for name, entry in record.content["inputs"].items()}
        self.reserved = False
        self.price = 0.0  # of all answers that servers have given for this job, in earlier runs, too
        self.paid_now = 0.0  # of it, what the script knows that this run has paid
        self.unpriced = 0  # answers of unknown price, in earlier runs, too
        self.unpriced_now = 0  # of them, those that the script knows this run has had
        self.earlier_hours = 0.0  # GPU hours of runs that were killed, as far as a checkpoint knows them

    @property
    def on_gpu(self) -> bool:
        """Whether the job computes on a GPU, and so counts GPU hours."""
        return self.device is not None and self.device != "cpu"

    def reserve(self, estimate: Callable[..., float], **size: Any) -> None:
        """Set aside the GPU hours that ``estimate`` (of `pipeline.jobs.costs`) gives for a ``size``; on a CPU, none.

        Raises CeilingReached: so call it before a GPU is used.
        """
        if self.on_gpu and self.ledger.machine:
            self.ledger.reserve(gpu_hours=estimate(self.ledger.machine, **size))
            self.reserved = True

    @contextmanager
    def paying(self, answers: "Answers") -> Iterator[Ledger | None]:
        """Count the price of all answers, those of earlier runs included. Gives what guards the ceiling, if any."""
        check_wanted()
        before, unpriced_before = answers.paid(), answers.unpriced()
        self.ledger.spend(before)
        try:
            yield None if self.ledger.ceilings["price"] is None else self.ledger
        finally:
            self.price = max(answers.paid(), self.ledger.spent["price"], before + self.paid_now)
            self.unpriced = max(answers.unpriced(), unpriced_before + self.unpriced_now)

    def gpu_seconds(self) -> float:
        """What this run has used of GPUs so far."""
        return self.record.seconds() * self.processes if self.on_gpu else 0.0

    def finish(self, finding: str, *, outputs: dict[str, Path], **results: Any) -> None:
        """Write the record; then log ``finding``, a sentence on what came out, as the log's last line."""
        self.record.write(self.path, outputs=outputs, **results)
        say(finding)

    def settle(self) -> None:
        """Leave in the ledger what the job has used."""
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

    ``inputs`` may be None where they are optional; one with a record (``--base`` with ``--base-record``) is checked
    against it. ``execution`` is how it is computed, if a model is run (`execution_of`). No other process may do the
    same job meanwhile: its record is claimed, or else the path that ``claims`` holds, if any.
    Of several ``processes`` the first alone claims, hashes, counts and records.

    Raises InputError for an input that is missing or is not what its record describes.
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
            processes=processes.count if processes else 1,
        )
        if execution:
            import torch

            torch.set_num_threads(execution.get("threads", 1))
        try:
            yield this
        finally:
            this.settle()


def execution_of(args: argparse.Namespace, **more: Any) -> dict[str, Any]:
    """How a stage computes, for its record: what may change the last bits of what it computes.

    Raises InputError where a GPU is asked for and there is none.
    """
    return {"device": pick_device(args.device), "threads": args.threads, "batch": args.batch} | more


def _hashed(inputs: dict[str, Path], args: argparse.Namespace) -> dict[str, dict[str, str]]:
    """The inputs as a record keeps them, each path hashed once, and checked against the record that it has."""
    for name, path in inputs.items():
        if not path.exists():
            raise InputError(f"{path} ({name}): there is no such file or directory")
    hashes = {path: fingerprint(path) for path in dict.fromkeys(inputs.values())}
    for name, path in inputs.items():
        record = getattr(args, f"{name}_record", None)
        if record is not None:
            check_record(record, path, hashes[path])
    return {name: {"path": str(path), "sha256": hashes[path]} for name, path in inputs.items()}


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Let SIGTERM end the block like an error, so that what was used is settled and locks are removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second one ends it at once
        raise Stopped(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except Stopped:
        say("error: stopped by SIGTERM; run the same command again to go on")
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
