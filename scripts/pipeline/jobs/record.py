"""The record next to the output of a costly stage: its inputs, code, machine and cost."""

import hashlib
import platform
import resource
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline.files.storage import read_json, write_json
from pipeline.identity.sources import running_code
from pipeline.jobs.command import InputError

PACKAGES = ("torch", "transformers", "tokenizers", "pyarrow", "alpaca_eval", "scikit-learn", "numpy", "snakemake")


class Record:
    """Collects the record of a job; call ``write`` when the job is done."""

    def __init__(
        self,
        stage: str,
        *,
        settings: dict[str, Any],
        inputs: dict[str, dict[str, str]],
        execution: dict[str, Any] | None = None,
    ) -> None:
        """``inputs`` comes from `fingerprints`.

        ``execution`` is how it is computed: batch size, threads, anything that may change the last bits of a result.
        """
        self.started = time.monotonic()
        self.content: dict[str, Any] = {
            "stage": stage,
            "settings": settings,
            "execution": execution or {},
            "inputs": inputs,
            "versions": {"python": platform.python_version()} | {package: version(package) for package in PACKAGES},
            "commit": commit(),
            "code": running_code(),
            "command": " ".join(sys.argv[:1]),
            "machine": f"{platform.system()} {platform.machine()}" + (instructions() if execution else ""),
        }

    def seconds(self) -> float:
        """Seconds since the job began."""
        return time.monotonic() - self.started

    def write(self, path: Path, *, outputs: dict[str, Path], **results: Any) -> None:
        """Write the record with the fingerprints of ``outputs``, ``results``, and the process's resource use so far."""
        found = {"outputs": fingerprints(outputs)} | used() | results
        write_json(self.content | found | {"seconds": round(self.seconds(), 2)}, path)


def fingerprints(paths: dict[str, Path]) -> dict[str, dict[str, str]]:
    """The path and sha256 of each file, as kept in a record."""
    return {name: {"path": str(path), "sha256": fingerprint(path)} for name, path in paths.items()}


def used() -> dict[str, float]:
    """Resource use of this process and its finished children: memory and disk in MiB, CPU in seconds.

    Reads from the page cache do not count.
    """
    own = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {
        "peak_memory_mib": peak_memory(),
        "cpu_seconds": round(sum(one.ru_utime + one.ru_stime for one in own), 2),
        "read_mib": round(sum(one.ru_inblock for one in own) / 2048, 1),  # blocks of 512 bytes
        "written_mib": round(sum(one.ru_oublock for one in own) / 2048, 1),
    }


def used_by_all(parts: list[dict[str, float]]) -> dict[str, float]:
    """Resource use of several processes: sums, except for memory, which is the largest."""
    sums = {key: round(sum(part[key] for part in parts), 2) for key in parts[0]}
    return sums | {"peak_memory_mib": max(part["peak_memory_mib"] for part in parts)}


def peak_memory() -> int:
    """The peak memory of this process in MiB: GPU memory if it computed on a GPU, otherwise main memory."""
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() >> 20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak >> (20 if sys.platform == "darwin" else 10)  # bytes on macOS, KiB elsewhere


def instructions() -> str:
    """The vector instructions that torch uses, which affect rounding."""
    torch = sys.modules.get("torch")
    return f", {torch.backends.cpu.get_cpu_capability()}" if torch else ""


def fingerprint(path: Path) -> str:
    """The sha256 of a file, or of the names and contents of a directory's files. Files are read in small pieces."""
    path = Path(path)
    digest = hashlib.sha256()
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file() and p.name[0] != ".")
    for file in files:
        if file != path:
            digest.update(str(file.relative_to(path)).encode() + b"\0")
        with file.open("rb") as opened:
            hashlib.file_digest(opened, lambda: digest)
    return digest.hexdigest()


def check_record(record_path: Path, model: Path, found: str) -> None:
    """Raise InputError unless a model with sha256 ``found`` is the one that its record lists as an output.

    The output is named after the directory (a snapshot's number), or else ``model``.
    """
    again = f"delete {model} and {record_path}, and run the command that made them again"
    try:
        outputs = read_json(record_path)["outputs"]
        recorded = outputs[model.name if model.name in outputs else "model"]["sha256"]
    except FileNotFoundError:
        raise InputError(f"{record_path}, the record of {model}, is missing: {again}") from None
    except (ValueError, TypeError, KeyError):
        raise InputError(f"{record_path} is not the record of {model}: {again}") from None
    if recorded != found:
        raise InputError(
            f"{model} has changed since {record_path} was written (sha256 {recorded[:12]}, now {found[:12]}): {again}"
        )


def commit() -> str | None:
    """The commit of the checkout that contains this file, followed by '+' if files differ; None outside git."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(here), *arguments], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        head = git("rev-parse", "HEAD")
        return head + ("+" if git("status", "--porcelain", "--untracked-files=no") else "") if head else None
    except FileNotFoundError:  # no git on this machine
        return None
