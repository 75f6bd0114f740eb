"""What a run displays: a line per finished job, no redrawing without a terminal, the end of the log on failure."""

import io
import logging
import re
from collections import Counter
from types import SimpleNamespace

import pytest

from pipeline.run.display import SILENCE, Progress, finding, format_duration, last_lines, not_replaced, seconds_left

TUNE = Counter({"tune": 2, "judge": 1})


def event(name, message="", **more):
    record = logging.LogRecord("snakemake", logging.INFO, "", 0, message, None, None)
    record.__dict__ |= {"event": name} | more
    return record


def started(id_, log, rule="tune", message="tune: tiny, poem, a line per step in a.log"):
    return event("job_info", jobid=id_, rule_name=rule, rule_msg=message, log=[str(log)], wildcards={})


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "a.log"
    path.write_text("step 1/9  loss 4.1  lr 1e-4  9 tokens/s  80 s left\n")
    return path


def test_a_job_that_ends_is_one_line_with_what_it_found(log):
    out = io.StringIO()
    progress = Progress(TUNE, out)
    progress.emit(started(7, log))
    progress.emit(event(None, "Select jobs to execute..."))
    assert out.getvalue() == ""
    log.write_text(
        "loss 3.25 after 8 steps\n7/8 rows, 2 rows/s, 3 s left\nWriting model shards: 100%|####| 1/1 [00:00<00:00, 9it/s]\n"
    )
    progress.emit(event("job_finished", "Finished jobid: 7 (Rule: tune)", job_id=7))
    assert re.fullmatch(
        r"\[1/3\] tune: tiny, poem: loss 3.25 after 8 steps \(0 s; tune 1/2; time left not known yet\)\n",
        out.getvalue(),
    )
    progress.emit(event("job_finished", "Finished jobid: 0 (Rule: all)", job_id=0))  # a target is not a job
    assert out.getvalue().count("\n") == 1


def test_a_job_that_fails_is_named_with_its_log_and_one_of_a_group_by_its_rule(log):
    out = io.StringIO()
    progress = Progress(TUNE, out)
    progress.emit(started(7, log))
    log.write_text(log.read_text() + "error: the data is bad\n  in row 7\n")
    progress.emit(event("job_error", jobid=7, rule_name="tune", log=[str(log)], rule_msg="SLURM-job '9' failed"))
    progress.emit(event("job_finished", "Finished jobid: 9 (Rule: judge)", job_id=9))
    failed, why, judged = out.getvalue().splitlines()
    assert (failed, why) == (
        f"[0/3] FAILED tune: tiny, poem: error: the data is bad (log: {log})",
        "  SLURM-job '9' failed",
    ) and judged.startswith("[1/3] judge:")


def test_time_left_is_from_finished_jobs_and_what_running_ones_say(log):
    progress = Progress(Counter({"tune": 4}), io.StringIO())
    progress.seconds["tune"], progress.done["tune"] = [10.0, 30.0], 2
    assert progress.time_left() == "about 40 s left"  # two jobs of 20 s
    progress.emit(started(7, log))
    assert progress.time_left() == "about 1.7 min left"  # 80 s according to its own log, and one of 20 s
    progress.jobs["judge"] = 1
    assert progress.time_left() == "more than 1.7 min left"
    assert [format_duration(s) for s in (0.4, 89, 91, 7200, 72000)] == ["0 s", "89 s", "1.5 min", "2.0 h", "20 h"]


def test_only_a_terminal_is_drawn_over(log):
    plain, terminal = io.StringIO(), Terminal()
    for out in (plain, terminal):
        progress = Progress(TUNE, out)
        progress.emit(started(7, log))
        progress.emit(event("job_finished", "", job_id=7))
    assert "\x1b" not in plain.getvalue() and "\r" not in plain.getvalue()
    assert "running: tune" in terminal.getvalue() and terminal.getvalue().count("\r\x1b[2K") >= 2


def test_what_logs_say_last(log, tmp_path):
    assert seconds_left(log) == 80.0 and seconds_left(tmp_path / "none.log") is None
    log.write_text("\n".join(f"line {i}" for i in range(9000)) + "\n\nerror: it is bad\n")
    assert last_lines(log, 2) == ["line 8999", "error: it is bad"] and finding(log) == "error: it is bad"
    log.write_text("12it [00:01, 9.0it/s]\rChunk:  50%|##| 1/2 [00:00<00:00]\n1/2 rows, 1 rows/s, 1 s left\n")
    assert finding(None) == "" and str(log) in finding(log) and "%" not in finding(log)


def test_a_long_result_is_cut_between_words_and_says_so(log):
    log.write_text("a result of " + "many words " * 30)
    found = finding(log)
    assert (
        found.startswith("a result of many words") and found.endswith((" many ...", " words ...")) and len(found) <= 140
    )


def test_of_snakemakes_messages_only_those_that_are_replaced_are_gone():
    for name in ("job_info", "job_finished", "job_error", "progress", "shellcmd"):
        assert not not_replaced(event(name))
    assert not not_replaced(event("error", "WorkflowError:\nAt least one job did not complete successfully."))
    for message in ("Building DAG of jobs...", "WorkflowError:\nerrors in the config:", "Trying to restart job 3."):
        assert not_replaced(event(None, message)) and not_replaced(event("error", message))


def test_an_error_in_here_is_reported_and_ends_nothing(capsys):
    progress = Progress(TUNE, io.StringIO())
    progress.emit(SimpleNamespace(event="job_finished", exc_info=None))
    assert "AttributeError" in capsys.readouterr().err


def test_a_long_job_is_not_silent_and_says_how_long(log):
    plain = io.StringIO()
    progress = Progress(Counter({"pretrain": 1}), plain)
    progress.emit(started(7, log, rule="pretrain"))
    progress.remind()
    assert plain.getvalue() == ""  # less than a minute
    progress.printed -= SILENCE
    progress.remind()
    progress.remind()
    assert plain.getvalue() == "[0/1] running: pretrain (80 s left); all: about 80 s left\n"


def test_the_run_takes_at_least_as_long_as_its_longest_job(log):
    progress = Progress(Counter({"pretrain": 1, "tune": 1}), io.StringIO())
    progress.at_once = 2
    progress.emit(started(7, log, rule="pretrain"))
    assert progress.time_left() == "more than 80 s left"
