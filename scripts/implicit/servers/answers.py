"""A store of paid answers in an append-only JSONL file: one line each, flushed to disk as soon as it arrives.

A crash loses nothing that had arrived, and the next run asks only for the rest. An answer is looked up by a key of
everything that it depends on, so a change of the judge, its prompt or a text leads to a new request; what does not
affect answers (number of concurrent requests, number of attempts) is not in the key.
"""

import fcntl
import hashlib
import json
import os
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self


@dataclass(frozen=True)
class Answer:
    """The raw answer and its cost: tokens, the price at that time (None: unknown), the UTC time."""

    key: str
    model: str  # as the server names it, which may be more specific than the name requested
    content: Any
    prompt_tokens: int
    completion_tokens: int
    price: float | None
    time: str


class AnswersError(ValueError):
    """A file of answers cannot be used; the message says which one and what to do."""


def answer_key(kind: str, model: str, prompt: Any, request: dict[str, Any]) -> str:
    """The sha256 of everything an answer depends on: the whole prompt, and so also the order of the outputs."""
    text = json.dumps([kind, model, prompt, request], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


class Answers:
    """The answers in a file, or only in memory if ``path`` is None. For one process at a time; threads may share it.

    Use it in a ``with`` block. An incomplete last line, left by a crash, is dropped, and ``log`` says so. Raises
    AnswersError if the file is damaged; waits while another process uses it.
    """

    def __init__(self, path: Path | None, *, log: Callable[[str], None] = lambda line: None) -> None:
        self.path = None if path is None else Path(path)
        self.log = log
        self._found: dict[str, Answer] = {}
        self._paid, self._unpriced = 0.0, 0
        self._lock = threading.Lock()
        self._file: int | None = None

    def __enter__(self) -> Self:
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                self._claim()
                self._read()
            except BaseException:
                self.__exit__()
                raise
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __len__(self) -> int:
        return len(self._found)

    def paid(self) -> float:
        """The total known price of all answers; one that was requested again counts each time."""
        return self._paid

    def unpriced(self) -> int:
        """The number of answers of unknown price."""
        return self._unpriced

    def get(self, key: str) -> Answer | None:
        """The answer for a key, if there is one."""
        return self._found.get(key)

    def add(self, answer: Answer) -> None:
        """Store an answer on disk. If this fails, raises AnswersError and leaves the file as it was."""
        line = json.dumps(asdict(answer)) + "\n"  # in ASCII: a server may send text that UTF-8 cannot encode
        with self._lock:
            if self._file is not None:
                end = os.fstat(self._file).st_size
                try:
                    _write(self._file, line.encode())
                    os.fsync(self._file)
                except OSError as error:
                    os.ftruncate(self._file, end)
                    raise AnswersError(f"{self.path} cannot be written: {error.strerror}; it is unchanged") from None
            self._hold(answer)

    def _hold(self, answer: Answer) -> None:
        self._found[answer.key] = answer
        self._paid += answer.price or 0.0
        self._unpriced += answer.price is None

    def _claim(self) -> None:
        """Lock the file until it is closed: two writers would interleave their lines and pay twice.

        If a killed run has left a process that is still asking, wait for it: its answers need not be requested again.
        """
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.log(f"{self.path} is in use by another process; waiting for it")
            fcntl.flock(self._file, fcntl.LOCK_EX)
        except OSError as error:  # some network file systems have no locks
            self.log(f"{self.path} cannot be locked ({error}): make sure that no other process writes to it")

    def _read(self) -> None:
        content = self.path.read_bytes()
        whole, _, torn = content.rpartition(b"\n")
        if torn:
            self.log(f"{self.path}: dropped an incomplete last line ({len(torn)} bytes); it will be requested again")
            os.ftruncate(self._file, len(content) - len(torn))
        for number, line in enumerate(whole.split(b"\n") if whole else [], start=1):
            try:
                answer = Answer(**json.loads(line))
                if not isinstance(answer.key, str) or not isinstance(answer.price, int | float | None):
                    raise TypeError
            except (ValueError, TypeError):
                raise AnswersError(f"{self.path}, line {number}: not an answer; fix or delete that line") from None
            self._hold(answer)


def _write(file: int, content: bytes) -> None:
    while content:
        content = content[os.write(file, content) :]
