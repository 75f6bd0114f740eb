"""Answers that were paid for, in an append-only JSONL file: a line each, on disk before the next is counted on.

A crash loses nothing that had arrived, and the next run asks only for the rest. An answer is found by a key of all that
it depends on, so that a change of the judge, its prompt or a text asks anew; what depends on nobody's answer (how many
requests at a time, how often something was tried) is not in the key.
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
    """What came back, raw, and what it took: tokens, the price at that time (None: not known), the UTC time."""

    key: str
    model: str  # as the server names it, which may say more than the name that was asked for
    content: Any
    prompt_tokens: int
    completion_tokens: int
    price: float | None
    time: str


class AnswersError(ValueError):
    """A file of answers cannot be used; the message says which, and what to do."""


def answer_key(kind: str, model: str, prompt: Any, request: dict[str, Any]) -> str:
    """The sha256 of everything that an answer depends on. The whole prompt counts, so the order of outputs does too."""
    told = json.dumps([kind, model, prompt, request], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(told.encode()).hexdigest()


class Answers:
    """The answers in a file, or in memory alone where there is no path. One process at a time; threads may share it.

    Use it in a ``with`` block. A last line without an end is what a crash left: it is cut off, and ``log`` says so.
    Raises AnswersError when the file is damaged; waits while it is in use.
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
        """The price of all answers together, as far as it is known; one that was asked for again counts each time."""
        return self._paid

    def unpriced(self) -> int:
        """The number of answers of unknown price."""
        return self._unpriced

    def get(self, key: str) -> Answer | None:
        """The answer of a key, if there is one."""
        return self._found.get(key)

    def add(self, answer: Answer) -> None:
        """Keep an answer: when this returns, it is on disk. Raises AnswersError, with no part left, where it cannot."""
        line = json.dumps(asdict(answer)) + "\n"  # in ASCII: a server may send what is no UTF-8
        with self._lock:
            if self._file is not None:
                end = os.fstat(self._file).st_size
                try:
                    _write(self._file, line.encode())
                    os.fsync(self._file)
                except OSError as error:
                    os.ftruncate(self._file, end)
                    raise AnswersError(f"{self.path} cannot be written: {error.strerror}; it is as it was") from None
            self._hold(answer)

    def _hold(self, answer: Answer) -> None:
        self._found[answer.key] = answer
        self._paid += answer.price or 0.0
        self._unpriced += answer.price is None

    def _claim(self) -> None:
        """Keep other processes out until the file is closed: two writers would mix their lines, and pay twice.

        What a killed run has left asking is waited for: every answer that it gets is one that need not be asked for.
        """
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.log(f"{self.path} is in use by another process, which is waited for")
            fcntl.flock(self._file, fcntl.LOCK_EX)
        except OSError as error:  # some network file systems have no locks
            self.log(f"{self.path} cannot be locked ({error}): see to it that no other process writes it")

    def _read(self) -> None:
        content = self.path.read_bytes()
        whole, _, torn = content.rpartition(b"\n")
        if torn:
            self.log(f"{self.path}: its last line is torn and was dropped ({len(torn)} bytes); it will be asked again")
            os.ftruncate(self._file, len(content) - len(torn))
        for number, line in enumerate(whole.split(b"\n") if whole else [], start=1):
            try:
                answer = Answer(**json.loads(line))
                if not isinstance(answer.key, str) or not isinstance(answer.price, int | float | None):
                    raise TypeError
            except (ValueError, TypeError):
                raise AnswersError(f"{self.path}, line {number}: no answer; mend or delete that line") from None
            self._hold(answer)


def _write(file: int, content: bytes) -> None:
    while content:
        content = content[os.write(file, content) :]
