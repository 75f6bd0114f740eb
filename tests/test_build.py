"""The build script reports problems in one line, and does nothing if the environment is up to date."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]


@pytest.fixture
def build(tmp_path):
    """Run envs/build.sh in an empty copy, with our own stub programs first on the PATH."""
    (tmp_path / "envs").mkdir()
    (tmp_path / "programs").mkdir()
    for name in ("build.sh", "cpu.txt"):
        shutil.copy(ROOT / "envs" / name, tmp_path / "envs" / name)

    def run(programs=None, **variables):
        for name, text in (programs or {}).items():
            (tmp_path / "programs" / name).write_text(f"#!/bin/sh\n{text}\n")
            (tmp_path / "programs" / name).chmod(0o755)
        path = f"{tmp_path / 'programs'}{os.pathsep}{os.environ['PATH']}"
        environment = os.environ | {"PATH": path} | variables
        return subprocess.run(
            ["sh", "envs/build.sh"], cwd=tmp_path, env=environment, text=True, capture_output=True, check=False
        )

    run.folder = tmp_path
    return run


def test_a_python_that_is_too_old(build):
    old = 'case "$2" in *exit*) exit 1;; *) echo 3.8;; esac'
    done = build({"old-python": old}, PYTHON="old-python")
    assert done.returncode == 1
    assert done.stderr == (
        "error: old-python is Python 3.8, but 3.11 or later is required: set PYTHON=/path/to/a/newer/python\n"
    )


def test_no_python(build):
    done = build(PYTHON="no-such-python")
    assert done.returncode == 1 and done.stderr.startswith("error: no no-such-python found: install Python 3.11")


def test_a_full_disk(build):
    full = "echo Filesystem; echo '/dev/x 100 95 5 95% /'"
    done = build({"df": full})
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "has 5 MiB free, but the environment needs 3000 MiB" in done.stderr
    assert not (build.folder / ".venv").exists()


PYTHON = """case "$*" in
*"config list"*) echo "$PIP_SAYS" ;;
*sys.exit*) ;;
*version_info*) echo 3.11 ;;
*urlopen*) echo "$4" >> asked; exit "${UNREACHABLE:-0}" ;;
*"-m venv"*) mkdir -p .venv/bin; cp "$0" .venv/bin/python ;;
*install*) echo "$*" >> installed ;;
esac"""
FREE = "echo Filesystem; echo '/dev/x 100 95 5000 95% /'"
UNSET = dict.fromkeys(("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX"), "")


@pytest.mark.skipif(os.path.exists("/dev/nvidiactl") or os.uname().sysname != "Linux", reason="for Linux without a GPU")
@pytest.mark.parametrize(
    ("variables", "taken"),
    [
        ({}, True),
        ({"PIP_SAYS": "global.index-url='https://mine'"}, False),  # in a file of pip's
        ({"PIP_EXTRA_INDEX_URL": "https://mine"}, False),
        ({"PIP_FIND_LINKS": "/wheels"}, False),
    ],
)
def test_without_a_gpu_torch_is_its_cpu_build_unless_pip_is_told_where_to_look(build, variables, taken):
    stubs = {"own-python": PYTHON, "df": FREE}
    done = build(stubs, **UNSET | {"PYTHON": "own-python", "TORCH_CPU_INDEX": "https://torch/cpu"} | variables)
    assert done.returncode == 0, done.stderr
    installed = (build.folder / "installed").read_text()
    assert ("--extra-index-url https://torch/cpu -r envs/cpu.txt" in installed) == taken
    assert (build.folder / "asked").exists() == taken


@pytest.mark.skipif(os.path.exists("/dev/nvidiactl") or os.uname().sysname != "Linux", reason="for Linux without a GPU")
def test_where_the_cpu_build_cannot_be_had_the_other_needs_more_room(build):
    stubs = {"own-python": PYTHON, "df": FREE}
    done = build(stubs, **UNSET | {"PYTHON": "own-python", "UNREACHABLE": "1"})
    assert done.returncode == 1 and "has 5000 MiB free, but the environment needs 12000 MiB" in done.stderr
    assert "cannot be reached" in done.stdout and not (build.folder / "installed").exists()
    done = build(stubs | {"df": FREE.replace("5000", "50000")}, **UNSET | {"PYTHON": "own-python", "UNREACHABLE": "1"})
    assert done.returncode == 0 and "extra-index-url" not in (build.folder / "installed").read_text()


def test_an_environment_that_is_up_to_date_is_left_alone(build):
    (build.folder / ".venv").mkdir()
    shutil.copy(ROOT / "envs" / "cpu.txt", build.folder / ".venv" / "built-from.txt")
    done = build({"df": "exit 1"})
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_every_requirement_is_pinned():
    lines = [line for line in (ROOT / "envs" / "cpu.txt").read_text().splitlines() if not line.startswith("#")]
    assert len(lines) > 80 and all(line.count("==") == 1 for line in lines)
    assert "torch==2.13.0" in lines


def test_hooks_run_what_is_pinned_and_what_lint_runs():
    """`make lint`, the hooks and CI use the same tools, from envs/dev.txt."""
    hooks = read_hooks()
    tools = {hook["entry"].split()[0] for hook in hooks} - {"python"}
    pinned = {line.split("==")[0] for line in (ROOT / "envs" / "dev.txt").read_text().splitlines() if "==" in line}
    lint = (ROOT / "Makefile").read_text().split("\nlint:")[1].replace("\n", " ")
    assert tools and tools <= pinned
    assert all(f"{hook['entry'].removesuffix(' --fix')} " in lint for hook in hooks if hook["id"] != "docs")
    assert "\nmake lint\n" in (ROOT / ".ci" / "run").read_text()


def test_hooks_look_at_every_file_of_their_kind():
    (snakefmt,) = (hook for hook in read_hooks() if hook["id"] == "snakefmt")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    if not listed:
        pytest.skip("not in a git checkout")
    workflows = [name for name in listed if name == "Snakefile" or name.endswith(".smk")]
    assert len(workflows) > 8 and all(re.search(snakefmt["files"], name) for name in workflows)


def read_hooks():
    (repo,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    return repo["hooks"]
