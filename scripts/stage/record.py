"""The record beside the output of a costly stage: what it was made of, by what, on what, at what cost."""

import hashlib
import platform
import resource
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from stage.sources import running_code
from stage.storage import read_json, write_json

PACKAGES = ("torch", "transformers", "tokenizers", "pyarrow", "alpaca_eval", "scikit-learn", "numpy", "snakemake")


class Record:
    """Collects what is to be recorded of a job; ``write`` it when the job is done."""

    def __init__(
        self, stage: str, *, settings: dict[str, Any], inputs: dict[str, Path], execution: dict[str, Any] | None = None
    ) -> None:
        """``execution`` is how it is computed: batch size, threads, whatever may change the last bits of a result."""
        self.started = time.monotonic()
        self.content: dict[str, Any] = {
            "stage": stage,
            "settings": settings,
            "execution": execution or {},
            "inputs": fingerprints(inputs),
            "versions": {"python": platform.python_version()} | {package: version(package) for package in PACKAGES},
            "commit": commit(),
            "code": running_code(),
            "command": " ".join(sys.argv[:1]),
            "machine": f"{platform.system()} {platform.machine()}" + (instructions() if execution else ""),
        }

    def hours(self) -> float:
        """Hours since the job began."""
        return (time.monotonic() - self.started) / 3600

    def write(self, path: Path, *, outputs: dict[str, Path], **results: Any) -> None:
        """Write the record with the fingerprints of ``outputs``, ``results`` and the seconds since the job began."""
        told = {"outputs": fingerprints(outputs), "peak_memory_mib": peak_memory()} | results
        write_json(self.content | told | {"seconds": round(time.monotonic() - self.started, 2)}, path)


def fingerprints(paths: dict[str, Path]) -> dict[str, dict[str, str]]:
    """What files are, and where, as a record keeps it."""
    return {name: {"path": str(path), "sha256": fingerprint(path)} for name, path in paths.items()}


def peak_memory() -> int:
    """The most memory that this process has held, in MiB: of the GPU, if it computed on one, else of the machine."""
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() >> 20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak >> (20 if sys.platform == "darwin" else 10)  # bytes there, KiB elsewhere


def instructions() -> str:
    """The vector instructions that torch computes with: other ones round otherwise."""
    torch = sys.modules.get("torch")
    return f", {torch.backends.cpu.get_cpu_capability()}" if torch else ""


def fingerprint(path: Path) -> str:
    """The sha256 of a file, or of the names and contents of a directory's files."""
    path = Path(path)
    digest = hashlib.sha256()
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file() and p.name[0] != ".")
    for file in files:
        if file != path:
            digest.update(str(file.relative_to(path)).encode() + b"\0")
        digest.update(file.read_bytes())
    return digest.hexdigest()


def check_record(record_path: Path, model: Path, *, output: str = "model") -> None:
    """Raise ValueError when a model is not the one that its record tells of, as one of its outputs."""
    recorded, found = read_json(record_path)["outputs"][output]["sha256"], fingerprint(model)
    if recorded != found:
        raise ValueError(
            f"{model} is not what {record_path} tells of: recorded sha256 {recorded}, found {found}. "
            "Delete both, and run again"
        )


def commit() -> str | None:
    """The commit of the checkout that this file is in, '+' behind it when files differ; None outside git."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(here), *arguments], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        head = git("rev-parse", "HEAD")
        return head + ("+" if git("status", "--porcelain", "--untracked-files=no") else "") if head else None
    except FileNotFoundError:  # no git on this machine
        return None
