"""One process at a time: what a killed run has left running must not share a folder with the run that goes on."""

import fcntl
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from pipeline.jobs.command import InputError


@contextmanager
def claimed(output: Path, *, log: Callable[[str], None]) -> Iterator[None]:
    """Be the only process that makes ``output`` for as long as the block lasts, by a lock file beside it.

    When Snakemake is killed, its jobs run on. One that makes the same output on this machine is asked to end (SIGTERM);
    one on another machine is waited for. What was killed leaves the file, which hinders nobody, until the output is
    made. Where the file system has no locks, ``log`` says so, and nothing is held. Raises InputError as `check_wanted`.
    """
    path = Path(f"{output}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path, log) as file:
        try:
            check_wanted()
            file.truncate(0)
            file.write(f"{socket.gethostname()} {os.getpid()}")
            file.flush()
            yield
        finally:
            path.unlink(missing_ok=True)


def check_wanted() -> None:
    """Raise InputError when the Snakemake that has started this job is gone: the next one may have done the job by now.

    What a job writes then would be newer than what was made of it. A run on one machine names itself in SNAKEMAKE_PID.
    """
    snakemake = os.environ.get("SNAKEMAKE_PID")
    try:
        if snakemake:
            os.kill(int(snakemake), 0)
    except ProcessLookupError:
        raise InputError(f"Snakemake (process {snakemake}), which started this job, ended before it began") from None


@contextmanager
def _locked(path: Path, log: Callable[[str], None]) -> Iterator[IO[str]]:
    while True:
        with path.open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                _tell(file, path, log)
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError as error:
                log(f"{path} cannot be locked ({error}): see to it that no other process does the same job")
            if _is_still(file, path):
                yield file
                return


def _tell(file: IO[str], path: Path, log: Callable[[str], None]) -> None:
    file.seek(0)
    host, _, process = file.read().partition(" ")
    here = host == socket.gethostname() and process.isdecimal() and int(process) != os.getpid()
    if here:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(int(process), signal.SIGTERM)
    asked = "it was asked to end, and is waited for" if here else "it is waited for"
    log(f"process {process} on {host} does this job already, left over from a run that was killed: {asked} ({path})")


def _is_still(file: IO[str], path: Path) -> bool:
    """Whether a path still names an open file: who held it may have removed it."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
