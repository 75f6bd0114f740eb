import os
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from pipeline.files.storage import read_table, write_table, write_text, written_whole
from pipeline.jobs.claim import claimed
from pipeline.jobs.command import InputError


def test_a_failed_write_leaves_the_former_file_and_nothing_else(tmp_path):
    path = tmp_path / "table.txt"
    write_text("before", path)
    with pytest.raises(RuntimeError, match="in the middle"), written_whole(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("in the middle")
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


def test_a_directory_is_replaced_whole(tmp_path):
    path = tmp_path / "model"
    for content in ("one", "two"):
        with written_whole(path) as temporary:
            temporary.mkdir()
            (temporary / content).write_text(content)
    assert [file.name for file in path.iterdir()] == ["two"]


def started(code, *arguments):
    """A Python process that imports our code and has printed its first line."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1] / "scripts")}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "begun\n"
    return process


WRITING = """
import sys, time
from pipeline.files.storage import written_whole
with written_whole(sys.argv[1]) as temporary:
    temporary.write_text("half")
    print("begun", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def test_what_a_killed_job_left_is_removed_by_the_next_and_what_a_living_one_writes_is_not(tmp_path):
    path = tmp_path / "table.txt"
    killed, living = started(WRITING, path, 60), started(WRITING, path, 1.5)
    killed.kill()
    killed.wait()
    assert len(list(tmp_path.iterdir())) == 2
    write_text("whole", path)
    assert path.read_text() == "whole" and len(list(tmp_path.iterdir())) == 2
    assert living.wait(timeout=30) == 0
    assert path.read_text() == "half" and list(tmp_path.iterdir()) == [path]


def test_a_temporary_folder_that_was_never_locked_is_removed(tmp_path):
    (tmp_path / ".table.txt.old").mkdir()
    write_text("whole", tmp_path / "table.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["table.txt"]


def test_writers_at_the_same_time_do_not_take_each_others_folders_for_left_overs(tmp_path):
    code = "import sys; from pathlib import Path; from pipeline.files.storage import write_text\n"
    code += "for i in range(300): write_text(sys.argv[2] * 50, Path(sys.argv[1]))"
    run = [
        subprocess.Popen(
            [sys.executable, "-c", code, tmp_path / "table.txt", name],
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1] / "scripts")},
        )
        for name in "abc"
    ]
    assert [process.wait(timeout=60) for process in run] == [0, 0, 0]
    assert (tmp_path / "table.txt").read_text() in {name * 50 for name in "abc"}
    assert [path.name for path in tmp_path.iterdir()] == ["table.txt"]


CLAIMING = """
import sys, time
from pathlib import Path
from pipeline.jobs.claim import claimed
with claimed(Path(sys.argv[1]), log=print):
    print("begun", flush=True)
    time.sleep(60)
"""


def test_a_job_that_a_killed_run_left_behind_is_ended_by_the_one_that_takes_its_place(tmp_path):
    path, said = tmp_path / "checkpoints.lock", []
    left = started(CLAIMING, tmp_path / "checkpoints")
    with claimed(tmp_path / "checkpoints", log=said.append):
        assert left.wait(timeout=10) == -signal.SIGTERM
        assert path.read_text().endswith(f" {os.getpid()}")
    assert not path.exists()
    assert len(said) == 1 and said[0].startswith(f"process {left.pid} on ") and "terminating it" in said[0]


def test_a_claim_of_a_dead_process_or_of_another_machine_is_no_hindrance(tmp_path):
    path, said = tmp_path / "checkpoints.lock", []
    path.write_text("elsewhere 1")
    with claimed(tmp_path / "checkpoints", log=said.append):
        pass
    assert not path.exists() and said == []


def test_a_job_whose_snakemake_is_gone_does_not_begin(tmp_path, monkeypatch):
    gone = subprocess.Popen(["true"])
    gone.wait()
    for snakemake, begins in ((os.getpid(), True), (gone.pid, False)):
        monkeypatch.setenv("SNAKEMAKE_PID", str(snakemake))
        refused = nullcontext() if begins else pytest.raises(InputError, match=f"{gone.pid}.*ended before it began")
        with refused, claimed(tmp_path / "output", log=print):
            assert begins
    assert [*tmp_path.iterdir()] == []


def test_tables_keep_to_their_schema(tmp_path):
    path = tmp_path / "corpus.parquet"
    write_table("corpus", [{"text": "a\x00🙂"}], path)
    assert read_table("corpus", path) == [{"text": "a\x00🙂"}]
    with pytest.raises(ValueError, match="is not a table of responses"):
        read_table("responses", path)
    with pytest.raises(ValueError, match=r"does not have: \['extra'\]"):
        write_table("corpus", [{"text": "a", "extra": 1}], path)
    with pytest.raises(TypeError):
        write_table("corpus", [{"text": 3}], path)
    assert read_table("corpus", path) == [{"text": "a\x00🙂"}]
