"""One process at a time: jobs that a killed run left running must not share a folder with the next run."""

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
    """Be the only process that makes ``output`` while the block runs, using a lock file next to it.

    When Snakemake is killed, its jobs keep running. One that makes the same output on this machine is terminated
    (SIGTERM); one on another machine is waited for. A killed job's stale lock file is harmless. If the file system has
    no locks, ``log`` says so and there is no protection. Raises InputError like `check_wanted`.
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
    """Raise InputError if the Snakemake that started this job has ended: the next one may have done the job already.

    The job's output would then be newer than what was made from it. Local runs set SNAKEMAKE_PID to their process.
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
                _stop_holder(file, path, log)
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError as error:
                log(f"{path} cannot be locked ({error}): make sure that no other process runs the same job")
            if _is_still(file, path):
                yield file
                return


def _stop_holder(file: IO[str], path: Path, log: Callable[[str], None]) -> None:
    file.seek(0)
    host, _, process = file.read().partition(" ")
    here = host == socket.gethostname() and process.isdecimal() and int(process) != os.getpid()
    if here:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(int(process), signal.SIGTERM)
    action = "terminating it and waiting for it to end" if here else "waiting for it to end"
    log(f"process {process} on {host}, left over from a killed run, is already running this job: {action} ({path})")


def _is_still(file: IO[str], path: Path) -> bool:
    """Whether a path still refers to an open file, which its previous holder may have removed."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
