"""The ledger of an experiment: what its jobs have spent and reserved, compared with the ceilings of the config.

Each job has one entry, a small file. GPU hours that a job has used stay counted, even if it failed and runs again;
its reservation is replaced. Entries are read and written under a lock, so that jobs that start at the same time
cannot exceed a ceiling together.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from filelock import FileLock

from pipeline.files.storage import read_json, write_json
from pipeline.jobs.command import InputError
from pipeline.jobs.costs import Machine

UNITS = {"gpu_hours": "GPU hours", "price": "of price"}


class CeilingReached(InputError):
    """A job would exceed a ceiling, so it must not start."""


class Ledger:
    """One job's entry, and the sum of all others. ``settings`` is what rules pass as ``--budget``; None: no ledger."""

    def __init__(self, settings: dict[str, Any] | None, job: str) -> None:
        self.ceilings = {unit: (settings or {}).get("ceilings", {}).get(unit) for unit in UNITS}
        self.folder = Path(settings["folder"]) if settings else None
        self.machine = Machine(**settings["machine"]) if settings else None  # the GPU that hours are estimated for
        self.job = job
        self.used_before = self._used_before()  # GPU hours
        self.reserved = dict.fromkeys(UNITS, 0.0) | {"gpu_hours": self.used_before}
        self.spent = dict.fromkeys(UNITS, 0.0)

    def reserve(self, **amounts: float) -> None:
        """Reserve amounts before they are spent. Raises CeilingReached if a sum would exceed its ceiling."""
        if self.folder is None:
            return
        with self._locked():
            others = self._sum_of_others()
            if "gpu_hours" in amounts:
                amounts |= {"gpu_hours": self.used_before + amounts["gpu_hours"]}
            wanted = self.reserved | amounts
            for unit, ceiling in self.ceilings.items():
                if ceiling is not None and unit in amounts and others[unit] + wanted[unit] > ceiling:
                    raise CeilingReached(
                        f"ceilings.{unit}: {self.job} needs about {wanted[unit]:.3g} {UNITS[unit]}, {others[unit]:.3g} "
                        f"are spent or reserved, and the ceiling is {ceiling:g}: raise it, or run less"
                    )
            self.reserved = wanted
            self._write(self.reserved)

    def begin(self, price: float) -> None:
        """Reserve the price of all coming requests, in addition to what has been spent."""
        self.reserve(price=self.spent["price"] + price)

    def spend(self, price: float) -> None:
        """Count a request's price before it is sent; reserve more once the reservation is used up."""
        self.spent["price"] += price
        if self.spent["price"] > self.reserved["price"]:
            self.reserve(price=self.spent["price"])

    def correct(self, difference: float) -> None:
        """Count the difference between an answer's price and its estimate. Raises CeilingReached to stop requests."""
        self.spend(difference)

    def settle(self, *, price: float = 0.0, gpu_hours: float = 0.0, unpriced_calls: int = 0) -> None:
        """Replace the reservation by the actual amounts: the price of all runs, and the GPU hours of this one.

        ``unpriced_calls`` counts the calls whose price is unknown.
        """
        if self.folder is not None:
            hours = self.used_before + gpu_hours
            with self._locked():
                amounts = {"gpu_hours": hours, "price": price, "unpriced_calls": unpriced_calls}
                self._write(amounts, used=hours)

    def _path(self) -> Path:
        return self.folder / f"{hashlib.sha256(self.job.encode()).hexdigest()[:16]}.json"

    def _used_before(self) -> float:
        """GPU hours that earlier runs of this job have used."""
        if self.folder is None or not self._path().is_file():
            return 0.0
        return read_json(self._path()).get("gpu_hours_used", 0.0)

    def _write(self, amounts: dict[str, float], *, used: float | None = None) -> None:
        used = self.used_before if used is None else used
        write_json({"job": self.job} | amounts | {"gpu_hours_used": used}, self._path())

    def _sum_of_others(self) -> dict[str, float]:
        entries = [read_json(path) for path in self.folder.glob("*.json") if path != self._path()]
        return {unit: sum(entry[unit] for entry in entries) for unit in UNITS}

    def _locked(self) -> FileLock:
        self.folder.mkdir(parents=True, exist_ok=True)
        return FileLock(self.folder / "lock")


def spent(folder: Path) -> dict[str, float]:
    """The sum of all entries of a ledger."""
    entries = [json.loads(path.read_text(encoding="utf-8")) for path in Path(folder).glob("*.json")]
    return {unit: sum(entry[unit] for entry in entries) for unit in UNITS}


def unpriced_calls(folder: Path) -> int:
    """The number of calls in a ledger whose price is unknown."""
    entries = [json.loads(path.read_text(encoding="utf-8")) for path in Path(folder).glob("*.json")]
    return sum(entry.get("unpriced_calls", 0) for entry in entries)
