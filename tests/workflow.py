"""Copying the project and running Snakemake in the copy."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
# Entries of a record about how a job ran, which differ between any two runs.
HOW_IT_WENT = (
    "seconds",
    "resumed_at",
    "peak_memory_mib",
    "cpu_seconds",
    "read_mib",
    "written_mib",
    "calls",
    "cached",
    "retries",
    "price_now",
)
PARTS = ("Snakefile", "config.yaml", "rules", "scripts", "experiments", "profiles")


def copy_project(folder, *more):
    """Copy the files of the workflow, and ``more``, to a folder."""
    for part in (*PARTS, *more):
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, folder / part)
    return folder


def environment():
    """The environment in which Snakemake's jobs use this Python and make no requests to the hub."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "HF_HUB_OFFLINE": "1"}


def snakemake(folder, *arguments, configs=("experiments/test.yaml",), cores=2):
    """Run Snakemake in a folder with this Python; returns the finished process, both streams as one text."""
    return subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", str(cores), *arguments, "--configfile", *configs],
        cwd=folder, env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip


def planned(folder, *, configs=("experiments/test.yaml",)):
    """The jobs of a dry run: rule -> number of jobs, without the target rule."""
    done = snakemake(folder, "-n", configs=configs)
    assert done.returncode == 0, done.stdout
    jobs = dict(re.findall(r"^(\w+) +(\d+)$", done.stdout, flags=re.MULTILINE))
    return {rule: int(count) for rule, count in jobs.items() if rule not in ("all", "total")}


def what_came_out(record):
    """A record without the entries about how its job ran."""
    return {key: value for key, value in record.items() if key not in HOW_IT_WENT}


def overlay(folder, name, content):
    (folder / name).write_text(yaml.safe_dump(content), encoding="utf-8")
    return ("experiments/test.yaml", name)


def results(project):
    return project / "results" / "test"


def bases(project):
    """The folders of pre-trained base models."""
    return sorted(path.parent for path in (project / "results" / "bases").glob("*/record.json"))
