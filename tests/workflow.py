"""A copy of the project, and Snakemake run in it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
# What a record tells of how a job went, and what no two runs have in common.
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
    """Copy what the workflow consists of, and ``more``, into a folder."""
    for part in (*PARTS, *more):
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, folder / part)
    return folder


def environment():
    """The environment in which Snakemake's jobs find this Python, and no hub is asked."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "HF_HUB_OFFLINE": "1"}


def snakemake(folder, *arguments, configs=("experiments/test.yaml",), cores=2):
    """Run Snakemake in a folder with this Python; returns the finished process, both streams as one text."""
    return subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", str(cores), *arguments, "--configfile", *configs],
        cwd=folder, env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip


def planned(folder, *, configs=("experiments/test.yaml",)):
    """What a dry run would do: rule -> number of jobs, the target rule left out."""
    done = snakemake(folder, "-n", configs=configs)
    assert done.returncode == 0, done.stdout
    jobs = dict(re.findall(r"^(\w+) +(\d+)$", done.stdout, flags=re.MULTILINE))
    return {rule: int(count) for rule, count in jobs.items() if rule not in ("all", "total")}


def what_came_out(record):
    """A record without how its job went."""
    return {key: value for key, value in record.items() if key not in HOW_IT_WENT}
