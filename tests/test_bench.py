"""The benchmark measures what it claims to; its figures do not matter here."""

import csv
import os
import subprocess
import sys

import pytest
from workflow import ROOT

sys.path.insert(0, str(ROOT / "bench"))


def test_a_race_makes_a_table_of_ratios(tmp_path):
    command = [sys.executable, "bench/run.py", "--small", "--only", "ranking", "--repeats", "3", "--threads", "1"]
    done = subprocess.run(
        [*command, "--output", tmp_path], cwd=ROOT, capture_output=True, text=True, check=False, env=os.environ
    )
    assert done.returncode == 0, done.stdout + done.stderr
    with (tmp_path / "speed.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["peer"] for row in rows] == ["rank-authors:gemma", "rank-authors:5M"]  # the others need peers
    for row in rows:
        assert 0 < float(row["min"]) <= float(row["median"]) <= float(row["max"])
    assert "torch==" in (tmp_path / "speed.md").read_text()


def test_contestants_that_do_not_do_the_same_are_not_compared(tmp_path, monkeypatch, capsys):
    import run

    turns = {"one": {"seconds": 1.0, "mib": 1, "pairs": 3}, "two": {"seconds": 2.0, "mib": 1, "pairs": 4}}

    class Prepared:
        def __init__(self, name, *more):
            self.name = name

        def turn(self, limit=None):
            return turns[self.name]

        def end(self):
            pass

    monkeypatch.setattr(run, "Contestant", Prepared)
    rows = run.run_race(run.Race("work", "one", "that", ("two",), 1, 2), 3, {}, "", tmp_path)
    assert rows[0]["reached"] == "not timed" and "did not do the same: {'pairs': (3, 4)}" in capsys.readouterr().out
    turns["two"]["pairs"] = 3
    assert run.run_race(run.Race("work", "one", "that", ("two",), 1, 2), 3, {}, "", tmp_path)[0]["reached"] == "aim"


def test_a_peer_that_takes_too_long_is_not_waited_for(tmp_path, monkeypatch, capsys):
    import run

    monkeypatch.setattr(run, "patience", lambda race, ours: 0.001)
    race = run.Race("ranking", "rank:5M", "that", ("rank-authors:5M",), 1, 2)
    (row,) = run.run_race(race, 2, run.SIZES | run.SMALL | {"threads": 1}, sys.executable, tmp_path)
    assert row["reached"] == "too slow" and row["median"].startswith("> ")
    assert "a turn takes more than 0 s" in capsys.readouterr().out


def test_the_exponent_is_that_of_a_power_law():
    import growth

    assert growth.exponent([(x, 3 * x**1.7) for x in (1, 2, 5, 9)]) == pytest.approx(1.7)
