"""What a run shows while it goes on: a line for each job that has ended, with what it found and the time that is left.

Snakemake's own messages about jobs still go to its log file; here they would be some ten lines for each job. On a
terminal a last line is drawn anew now and then; elsewhere nothing is ever drawn over, and there are no colours.
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
from typing import Any, TextIO

from pipeline.run.snakemake_internals import stream_handler

REFRESH = 2.0  # seconds between two looks at the clock, on a terminal
TAIL = 4096  # bytes of a log that are read
# Of Snakemake's messages, those that a line here replaces, or that say once more what `explain_failures` says.
REPLACED = {"job_info", "job_started", "job_finished", "job_error", "progress", "shellcmd", "group_info", "group_error"}
BAR = re.compile(r"\d+%\|.*\d+/\d+ \[|\b\d+it \[\d+:\d+")  # a library's, with a known end or without
STEP = re.compile(r" \d+ s left$")  # how far a long loop is: nothing that was found
REPEATED = re.compile(
    r"Select jobs to execute|Execute \d+ jobs|RuleException:|WorkflowError:\s+At least one job|Exiting because a job"
    r"|Removing output files of failed job"
)


@dataclass
class Job:
    """A job that is running: its rule, what it is of, its log, and when it began (monotonic seconds)."""

    rule: str
    what: str
    log: Path | None
    began: float


def last_lines(log: Path | None, count: int) -> list[str]:
    """The last lines of a log that say something; bars of progress do not."""
    if log is None or not log.is_file():
        return []
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL))
        text = file.read().decode(errors="replace")
    lines = [line.rstrip() for line in re.split(r"[\r\n]+", text)]
    return [line for line in lines if line and not BAR.search(line)][-count:]


def finding(log: Path | None) -> str:
    """What a job has found: the last line of its log that is not about its progress. Nothing where there is no log."""
    lines = [line for line in last_lines(log, TAIL) if not STEP.search(line)]
    if log is None or lines:
        return lines[-1][:100] if lines else ""
    return f"{log} does not say what came out"


def failure(log: Path | None) -> str:
    """Why a job has failed: the beginning of its message, or else what its log says last."""
    lines = last_lines(log, TAIL)
    messages = [line for line in lines if line.startswith("error: ")]
    return (messages or lines or [""])[-1][:200]


def seconds_left(log: Path | None) -> float | None:
    """What a running job's log says of its own time left, if it does."""
    found = re.search(r" (\d+) s left$", (last_lines(log, 1) or [""])[0])
    return float(found[1]) if found else None


def format_duration(seconds: float) -> str:
    """A time in the largest unit that fits."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}" if seconds < 10 * size else f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


class Progress(logging.Handler):
    """Takes Snakemake's log events, and prints a line for each job that ends. ``jobs`` counts what there is to do."""

    def __init__(self, jobs: Counter, stream: TextIO) -> None:
        super().__init__()
        self.jobs, self.stream = jobs, stream
        self.running: dict[int, Job] = {}
        self.done: Counter[str] = Counter()
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.at_once = 1  # the most jobs that have been running together
        self.terminal = stream.isatty()
        self.drawn = False
        if self.terminal:
            threading.Thread(target=self._refresh, daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Follow one event; errors in here are logging's to report, and never end a run."""
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
        except Exception:  # whatever it is: a line that cannot be shown must not end hours of jobs
            self.handleError(record)  # prints the traceback, as every handler of logging does

    def _start(self, record: Any) -> None:
        told = (record.rule_msg or "").split(": ", maxsplit=1)[-1]
        what = re.sub(r", a line per step in .*", "", told) or ", ".join(map(str, record.wildcards.values()))
        log = Path(record.log[0]) if record.log else None
        self.running[record.jobid] = Job(record.rule_name, what, log, time.monotonic())
        self.at_once = max(self.at_once, len(self.running))

    def _finish(self, id_: int, message: str) -> None:
        job = self.running.pop(id_, None)
        if job is None:  # one of a group, whose start was not told
            named = re.search(r"\(Rule: (\w+)\)", message)
            job = Job(named[1] if named else "job", "", None, time.monotonic())
        took = time.monotonic() - job.began
        self.done[job.rule] += 1
        self.seconds[job.rule].append(took)
        if job.rule not in self.jobs:  # targets, which have no work of their own
            return
        found = finding(job.log)
        rule = f"{job.rule} {self.done[job.rule]}/{self.jobs[job.rule]}"
        left = self.time_left()
        told = "; ".join(part for part in (format_duration(took), rule, left) if part)
        self._print(f"{self._count()} {job.rule}: {job.what}{f': {found}' if found else ''} ({told})")

    def _fail(self, record: Any) -> None:
        job = self.running.pop(record.jobid, None)
        logs = ", ".join(map(str, record.log))
        why = failure(Path(record.log[0])) if record.log else ""
        what = f"{job.what if job else ''}{f': {why}' if why else ''}"
        self._print(f"{self._count()} FAILED {record.rule_name}: {what} (log: {logs or 'none'})")
        if record.rule_msg:  # a cluster's, on what became of its job
            self._print(f"  {record.rule_msg}")

    def _count(self) -> str:
        total, done = sum(self.jobs.values()), sum(self.done[rule] for rule in self.jobs)
        return f"[{done:>{len(str(total))}}/{total}]"

    def time_left(self) -> str:
        """A guess from the jobs of each rule that have ended, and from what running ones say; in words."""
        now, unknown, work = time.monotonic(), False, 0.0
        for rule, count in self.jobs.items():
            own = [job for job in self.running.values() if job.rule == rule]
            waiting = count - self.done[rule] - len(own)
            mean = sum(self.seconds[rule]) / len(self.seconds[rule]) if self.seconds[rule] else None
            unknown |= mean is None and waiting > 0
            work += max(0, waiting) * (mean or 0.0)
            for job in own:
                told = seconds_left(job.log)
                unknown |= told is None and mean is None
                work += told if told is not None else max(0.0, (mean or 0.0) - (now - job.began))
        if sum(self.jobs.values()) == sum(self.done[rule] for rule in self.jobs):
            return ""
        if unknown:
            return f"more than {format_duration(work / self.at_once)} left" if work >= 1 else "time left not known yet"
        return f"about {format_duration(work / self.at_once)} left"

    def _print(self, line: str) -> None:
        self.stream.write(line + "\n")
        self.stream.flush()

    def _clear(self) -> None:
        if self.drawn:
            self.stream.write("\r\x1b[2K")
            self.stream.flush()
            self.drawn = False

    def _draw(self) -> None:
        if self.terminal and self.running:
            rules = Counter(job.rule for job in self.running.values())
            now = ", ".join(f"{rule} ×{count}" if count > 1 else rule for rule, count in rules.items())
            line = f"{self._count()} running: {now}; {self.time_left()}"
            self.stream.write("\r\x1b[2K" + line[: shutil.get_terminal_size().columns - 1])
            self.stream.flush()
            self.drawn = True

    def _refresh(self) -> None:
        while True:
            time.sleep(REFRESH)
            with self.lock:
                self._draw()


def not_replaced(record: logging.LogRecord) -> bool:
    """Whether Snakemake's own handler is to show a message."""
    return str(getattr(record, "event", "")) not in REPLACED and not REPEATED.match(record.getMessage())


def show_progress(rules: Iterable[str]) -> None:
    """Take over what Snakemake shows of the jobs that are to do, of which ``rules`` has each one's.

    Nothing changes where Snakemake's own handler is not there (another logger plugin was asked for).
    """
    theirs = stream_handler()
    if theirs:
        theirs.addFilter(not_replaced)
        # First, so that the line that is drawn anew is gone before others write.
        logging.getLogger("snakemake.logging").handlers.insert(
            0, Progress(Counter(rules), getattr(theirs, "stream", sys.stderr))
        )
