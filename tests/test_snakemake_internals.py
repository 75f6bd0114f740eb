"""The Snakemake internals that are used exist, and a run works without those that do not."""

import os

import pytest
from snakemake.exceptions import WorkflowError
from workflow import ROOT, copy_project, snakemake

from pipeline.run.snakemake_internals import TOO_NEW, USES, check_max_version

# Removes one thing after the other, by name, and prints what is then missing.
SNAKEFILE = f"""
import sys
from operator import attrgetter
sys.path.insert(0, {str(ROOT / "scripts")!r})
from pipeline.run.snakemake_internals import USES, missing

rule one:
    output: "one.txt"
    shell: "touch {{output}}"

class Without:
    def __init__(self, inner, path):
        self.inner, self.path = inner, path
    def __getattr__(self, name):
        first, _, rest = self.path.partition(".")
        if name == first and not rest:
            raise AttributeError(name)
        value = getattr(self.inner, name)
        return Without(value, rest) if name == first else value

onstart:
    print("all there:", missing(workflow))
    for name in USES:
        print(f"without {{name}}:", missing(Without(workflow, name.removeprefix("workflow."))))
"""


def test_each_use_is_there_and_is_missed_alone(tmp_path):
    """Fails for a Snakemake version that has renamed or removed one of them, with its name in the first line."""
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    (tmp_path / "some.yaml").write_text("key: value")
    done = snakemake(tmp_path, configs=["some.yaml"])
    assert done.returncode == 0, done.stdout
    assert "all there: []" in done.stdout
    for name in USES:
        assert f"without {name}: ['{name}']" in done.stdout


def without(folder, *names, more=""):
    """Let a copy of the project find nothing under these names."""
    with (folder / "Snakefile").open("a") as file:
        file.write("\nfrom operator import attrgetter\nfrom pipeline.run.snakemake_internals import USES, Use\n")
        for name in names:
            file.write(f'USES["{name}"] = Use(attrgetter("gone"), USES["{name}"].purpose)\n')
        file.write(more)


def test_a_run_continues_with_snakemakes_own_messages(tmp_path):
    folder = copy_project(tmp_path)
    shown = snakemake(folder, "results/test/config.json")
    assert shown.returncode == 0 and "] record_config: results/test/config.json" in shown.stdout, shown.stdout
    (folder / "results/test/config.json").unlink()
    without(folder, *USES)
    plain = snakemake(folder, "results/test/config.json")
    assert plain.returncode == 0
    for name, use in USES.items():
        assert f"has no {name} ({use.purpose}): the run continues without it" in plain.stdout
    assert "] record_config:" not in plain.stdout and "config: results/test/config.json" in plain.stdout
    assert (folder / "results/test/config.json").is_file()


def test_queued_jobs_are_refused_whatever_else_is_missing(tmp_path, monkeypatch):
    """Otherwise they would run twice: this check must not depend on what is only for the display."""
    folder, commands = copy_project(tmp_path), tmp_path / "bin"
    commands.mkdir()
    (commands / "squeue").write_text(f"#!/bin/sh\necho '7|PENDING|{folder}|rule_tune_wildcards_x'\n")
    (commands / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    remote = '\nUSES["workflow.non_local_exec"] = Use(lambda workflow: True, "")\n'
    without(folder, *(name for name in USES if name != "workflow.non_local_exec"), more=remote)
    done = snakemake(folder, "results/test/config.json")
    assert done.returncode == 1 and "7 pending: rule_tune_wildcards_x" in done.stdout
    assert not (folder / "results/test/config.json").exists()


def test_a_major_version_that_was_not_tested_is_refused(tmp_path):
    check_max_version("9.99.1")
    for version in ("10.0.0", "11.2"):
        with pytest.raises(WorkflowError, match=rf"below {TOO_NEW}, but this is {version}"):
            check_max_version(version)
    folder = copy_project(tmp_path)
    module = folder / "scripts" / "pipeline" / "run" / "snakemake_internals.py"
    module.write_text(module.read_text().replace(f'TOO_NEW = "{TOO_NEW}"', 'TOO_NEW = "9.2"'))
    done = snakemake(folder, "-n")
    assert done.returncode == 1 and "needs Snakemake below 9.2" in done.stdout
