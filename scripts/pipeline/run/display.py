"""The display of a run: a line for each finished job, with its main result and the remaining time.

Snakemake's own messages about jobs still go to its log file; here they would be about ten lines per job. What is
running, and how long it will take, is a status line, redrawn on a terminal; elsewhere it is printed once a minute,
nothing is overwritten, and there are no colours.
"""

import logging
import re
import shutil
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any, TextIO

from pipeline.run.snakemake_internals import stream_handler

REFRESH = 2.0  # seconds between updates of the status line, on a terminal
SILENCE = 60.0  # seconds without a line, elsewhere, after which it is printed
WIDTH = 140  # characters of a job's result
TAIL = 4096  # bytes of a log that are read
# Snakemake's messages that a line here replaces, or that repeat what `explain_failures` says.
REPLACED = {"job_info", "job_started", "job_finished", "job_error", "progress", "shellcmd", "group_info", "group_error"}
BAR = re.compile(r"\d+%\|.*\d+/\d+ \[|\b\d+it \[\d+:\d+")  # a library's, with a known end or without
STEP = re.compile(r" \d+ s left$")  # progress of a long loop, not a result
REPEATED = re.compile(
    r"Select jobs to execute|Execute \d+ jobs|RuleException:|WorkflowError:\s+At least one job|Exiting because a job"
    r"|Removing output files of failed job"
)


@dataclass
class Job:
    """A running job: its rule, description, log, and start time (monotonic seconds)."""

    rule: str
    what: str
    log: Path | None
    began: float


def last_lines(log: Path | None, count: int) -> list[str]:
    """The last non-empty lines of a log, without progress bars."""
    if log is None or not log.is_file():
        return []
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL))
        text = file.read().decode(errors="replace")
    lines = [line.rstrip() for line in re.split(r"[\r\n]+", text)]
    return [line for line in lines if line and not BAR.search(line)][-count:]


def finding(log: Path | None) -> str:
    """A job's main result: the last line of its log that is not about progress; empty if there is no log."""
    lines = [line for line in last_lines(log, TAIL) if not STEP.search(line)]
    if log is None or lines:
        return shorten(lines[-1], width=WIDTH, placeholder=" ...") if lines else ""
    return f"no result in {log}"


def failure(log: Path | None) -> str:
    """Why a job failed: the start of its error message, or the last line of its log."""
    lines = last_lines(log, TAIL)
    messages = [line for line in lines if line.startswith("error: ")]
    return (messages or lines or [""])[-1][:200]


def seconds_left(log: Path | None) -> float | None:
    """The remaining time that a running job's log states, if any."""
    found = re.search(r" (\d+) s left$", (last_lines(log, 1) or [""])[0])
    return float(found[1]) if found else None


def format_duration(seconds: float) -> str:
    """A duration in the largest suitable unit."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}" if seconds < 10 * size else f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


class Progress(logging.Handler):
    """Handles Snakemake's log events, and prints a line for each finished job. ``jobs`` counts the jobs to do."""

    def __init__(self, jobs: Counter, stream: TextIO) -> None:
        super().__init__()
        self.jobs, self.stream = jobs, stream
        self.running: dict[int, Job] = {}
        self.done: Counter[str] = Counter()
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.at_once = 1  # the largest number of jobs that ran at the same time
        self.terminal = stream.isatty()
        self.drawn = False
        self.printed = time.monotonic()
        threading.Thread(target=self._refresh, daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Handle one event; logging reports errors in here, and they never end a run."""
        try:
            self._clear()
            event = str(getattr(record, "event", ""))
            if event == "job_info":
                self._start(record)
            elif event == "job_finished":
                self._finish(record.job_id, record.getMessage())
            elif event == "job_error":
                self._fail(record)
            self._draw()
        except Exception:  # of any kind: a failure to show a line must not end hours of jobs
            self.handleError(record)  # prints the traceback, like every logging handler

    def _start(self, record: Any) -> None:
        message = (record.rule_msg or "").split(": ", maxsplit=1)[-1]
        what = re.sub(r", a line per step in .*", "", message) or ", ".join(map(str, record.wildcards.values()))
        log = Path(record.log[0]) if record.log else None
        self.running[record.jobid] = Job(record.rule_name, what, log, time.monotonic())
        self.at_once = max(self.at_once, len(self.running))

    def _finish(self, id_: int, message: str) -> None:
        job = self.running.pop(id_, None)
        if job is None:  # in a group, whose start is not logged
            named = re.search(r"\(Rule: (\w+)\)", message)
            job = Job(named[1] if named else "job", "", None, time.monotonic())
        took = time.monotonic() - job.began
        self.done[job.rule] += 1
        self.seconds[job.rule].append(took)
        if job.rule not in self.jobs:  # targets, which do no work themselves
            return
        found = finding(job.log)
        rule = f"{job.rule} {self.done[job.rule]}/{self.jobs[job.rule]}"
        left = self.time_left()
        details = "; ".join(part for part in (format_duration(took), rule, left) if part)
        self._print(f"{self._count()} {job.rule}: {job.what}{f': {found}' if found else ''} ({details})")

    def _fail(self, record: Any) -> None:
        job = self.running.pop(record.jobid, None)
        logs = ", ".join(map(str, record.log))
        why = failure(Path(record.log[0])) if record.log else ""
        what = f"{job.what if job else ''}{f': {why}' if why else ''}"
        self._print(f"{self._count()} FAILED {record.rule_name}: {what} (log: {logs or 'none'})")
        if record.rule_msg:  # from a cluster, about what happened to the job
            self._print(f"  {record.rule_msg}")

    def _count(self) -> str:
        total, done = sum(self.jobs.values()), sum(self.done[rule] for rule in self.jobs)
        return f"[{done:>{len(str(total))}}/{total}]"

    def time_left(self) -> str:
        """An estimate in words, from each rule's finished jobs and from the logs of running ones."""
        now, unknown, work, longest = time.monotonic(), False, 0.0, 0.0
        for rule, count in self.jobs.items():
            own = [job for job in self.running.values() if job.rule == rule]
            waiting = count - self.done[rule] - len(own)
            mean = sum(self.seconds[rule]) / len(self.seconds[rule]) if self.seconds[rule] else None
            unknown |= mean is None and waiting > 0
            work += max(0, waiting) * (mean or 0.0)
            for job in own:
                stated = seconds_left(job.log)
                unknown |= stated is None and mean is None
                own_left = stated if stated is not None else max(0.0, (mean or 0.0) - (now - job.began))
                work, longest = work + own_left, max(longest, own_left)
        if sum(self.jobs.values()) == sum(self.done[rule] for rule in self.jobs):
            return ""
        seconds = max(work / self.at_once, longest)  # a running job is not divided among the others
        if unknown:
            return f"more than {format_duration(seconds)} left" if work >= 1 else "time left not known yet"
        return f"about {format_duration(seconds)} left"

    def _print(self, line: str) -> None:
        self.stream.write(line + "\n")
        self.stream.flush()
        self.printed = time.monotonic()

    def status(self) -> str:
        """What is running, with the time left that the jobs of each rule state, and that of the whole run."""
        told = []
        for rule, count in Counter(job.rule for job in self.running.values()).items():
            stated = [seconds_left(job.log) for job in self.running.values() if job.rule == rule]
            left = [seconds for seconds in stated if seconds is not None]
            name = f"{rule} ×{count}" if count > 1 else rule
            told.append(f"{name} ({format_duration(max(left))} left)" if left else name)
        return f"{self._count()} running: {', '.join(told)}; all: {self.time_left()}"

    def _clear(self) -> None:
        if self.drawn:
            self.stream.write("\r\x1b[2K")
            self.stream.flush()
            self.drawn = False

    def _draw(self) -> None:
        if self.terminal and self.running:
            self.stream.write("\r\x1b[2K" + self.status()[: shutil.get_terminal_size().columns - 1])
            self.stream.flush()
            self.drawn = True

    def _refresh(self) -> None:
        while True:
            time.sleep(REFRESH)
            with self.lock:
                self.remind()

    def remind(self) -> None:
        """Show the status: on a terminal always, elsewhere after a minute without a line."""
        self._draw()
        if not self.terminal and self.running and time.monotonic() - self.printed >= SILENCE:
            self._print(self.status())


def not_replaced(record: logging.LogRecord) -> bool:
    """Whether Snakemake's own handler should show a message."""
    return str(getattr(record, "event", "")) not in REPLACED and not REPEATED.match(record.getMessage())


def show_progress(rules: Iterable[str]) -> None:
    """Replace Snakemake's display of the jobs to do; ``rules`` has the rule of each of them.

    Nothing changes if Snakemake's own handler is absent (because another logger plugin is used).
    """
    theirs = stream_handler()
    if theirs:
        theirs.addFilter(not_replaced)
        # First, so that the status line is cleared before others write.
        logging.getLogger("snakemake.logging").handlers.insert(
            0, Progress(Counter(rules), getattr(theirs, "stream", sys.stderr))
        )
