"""Checkpoints of a tuning run, from which it resumes as if it had not been interrupted.

A checkpoint is a folder: the trained parameters and the optimizer state, by torch.distributed.checkpoint, so that a
different number of processes can read it; ``progress.json``, the log of every step; and ``complete.json``, the size and
sha256 of all other files, written last. The order of the data and the dropout seeds are functions of the step.
"""

import hashlib
import json
import re
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict

from implicit.tuning.optimise import StepLog
from implicit.tuning.sharding import Processes, from_all

KEPT = 2  # checkpoints: the last one, and the one before in case the last is damaged


class Interrupted(RuntimeError):
    """A run was asked to stop, wrote a checkpoint, and stopped."""

    def __init__(self, *, step: int, steps: int, folder: Path) -> None:
        super().__init__(
            f"stopped by SIGTERM after step {step} of {steps}; the same command resumes from the checkpoint in {folder}"
        )


class Checkpoints:
    """The checkpoints of one run, in ``folder``, which must not be shared with another run.

    ``identity`` is everything that the result depends on, as plain values. Checkpoints with another identity in the
    folder are removed. All processes of a run must call the methods together. ``every`` is in steps.
    """

    def __init__(
        self,
        folder: Path,
        identity: dict[str, Any],
        *,
        every: int,
        processes: Processes,
        log: Callable[[str], None] = lambda line: None,
    ) -> None:
        key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
        self.folder, self.own, self.every = Path(folder), Path(folder) / key, every
        self.processes, self.log = processes, log
        self.resumed_at: list[int] = []  # the steps after which this run was resumed
        self.earlier_seconds = 0.0  # of training, before it was resumed

    def resume(self, module: torch.nn.Module, optimizer: torch.optim.Optimizer) -> list[StepLog]:
        """Load the last intact checkpoint into a module and its optimizer; returns the log up to there, or []."""
        self._remove_others()
        for path in reversed(self._written()):
            fault = self._fault(path)
            if fault:
                self.log(f"skipping the damaged checkpoint {path.name}: {fault}")
                continue
            self._load(path, module, optimizer)
            progress = json.loads((path / "progress.json").read_text())
            steps = [StepLog(**step) for step in progress["steps"]]
            self.resumed_at = [*progress["resumed_at"], len(steps)]
            self.earlier_seconds = steps[-1].seconds
            self.log(f"resuming from the checkpoint {path.name} of {steps[-1].steps} steps")
            return steps
        return []

    def save(self, module: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: Sequence[StepLog]) -> Path:
        """Write a checkpoint atomically, and remove all but the last KEPT."""
        path = self.own / f"step-{len(steps):08}"
        temporary = self.own / f".{path.name}"
        if self.processes.first:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            progress = {"steps": [asdict(step) for step in steps], "resumed_at": self.resumed_at}
            (temporary / "progress.json").write_text(json.dumps(progress, allow_nan=False))
        from_all(None, self.processes)  # wait until the folder exists
        with _quiet():
            dcp.save(_state(module, optimizer), checkpoint_id=temporary, no_dist=self.processes.count == 1)
        files = {
            name: entry for part in from_all(self._digests(temporary), self.processes) for name, entry in part.items()
        }
        if self.processes.first:
            (temporary / "complete.json").write_text(json.dumps(files, indent=2, sort_keys=True))
            shutil.rmtree(path, ignore_errors=True)
            temporary.rename(path)
            for old in self._written()[:-KEPT]:
                shutil.rmtree(old)
        from_all(None, self.processes)  # wait until the checkpoint is in place
        return path

    def clear(self) -> None:
        """Remove the run's checkpoints once it is finished."""
        if self.processes.first:
            shutil.rmtree(self.own, ignore_errors=True)
            if self.folder.is_dir() and not any(self.folder.iterdir()):
                self.folder.rmdir()

    def _written(self) -> list[Path]:
        return sorted(path for path in self.own.glob("step-*") if path.is_dir())

    def _remove_others(self) -> None:
        """Remove checkpoints written for other settings, data or code, and nothing else."""
        others = [
            path
            for path in (self.folder.iterdir() if self.folder.is_dir() else [])
            if path.is_dir() and re.fullmatch("[0-9a-f]{16}", path.name) and path != self.own
        ]
        from_all(None, self.processes)  # wait until all have listed the folder
        if self.processes.first:
            for path in others:
                self.log(f"removing the checkpoints in {path}: they are for other settings, data or code")
                shutil.rmtree(path)

    def _digests(self, path: Path) -> dict[str, dict[str, Any]]:
        """Size and sha256 of this process's share of a checkpoint's files."""
        files = sorted(file for file in path.iterdir() if file.name != "complete.json")
        mine = files[self.processes.rank :: self.processes.count]
        return {file.name: {"size": file.stat().st_size, "sha256": _sha256(file)} for file in mine}

    def _fault(self, path: Path) -> str:
        """What is wrong with a checkpoint, the same on all processes; empty if it is intact."""
        faults: list[str] = []
        try:
            expected = json.loads((path / "complete.json").read_text())
            found = self._digests(path)
        except (OSError, ValueError) as error:
            faults.append(f"complete.json: {error}")
        else:
            faults += [f"{name} is missing" for name in expected if not (path / name).is_file()]
            faults += [f"{name} has changed since it was saved" for name in found if found[name] != expected.get(name)]
        return next((fault for part in from_all(faults, self.processes) for fault in part), "")

    def _load(self, path: Path, module: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        state = _state(module, optimizer)
        with _quiet():
            dcp.load(state, checkpoint_id=path, no_dist=self.processes.count == 1)
        set_state_dict(
            module,
            optimizer,
            model_state_dict=state["model"],
            optim_state_dict=state["optimizer"],
            options=StateDictOptions(ignore_frozen_params=True, strict=False),  # frozen ones are not saved
        )


def _state(module: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The contents of a checkpoint: trained parameters and optimizer state, by name."""
    weights, moments = get_state_dict(module, optimizer, options=StateDictOptions(ignore_frozen_params=True))
    return {"model": weights, "optimizer": moments}


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress torch's warning that a single process has no process group."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="torch.distributed.checkpoint")
        yield


@contextmanager
def noticing_sigterm() -> Iterator[Callable[[], bool]]:
    """Catch SIGTERM, which clusters send before a time limit; yields a function that says whether it has arrived."""
    received: list[int] = []

    def notice(number: int, frame: FrameType | None) -> None:
        received.append(number)

    before = signal.signal(signal.SIGTERM, notice)
    try:
        yield lambda: bool(received)
    finally:
        signal.signal(signal.SIGTERM, before)
