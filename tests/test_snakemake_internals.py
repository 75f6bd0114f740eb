"""The Snakemake internals that are used exist, and a run works without those that do not."""

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


def test_a_run_goes_on_with_snakemakes_own_messages(tmp_path):
    folder = copy_project(tmp_path)
    shown = snakemake(folder, "results/test/config.json")
    assert shown.returncode == 0 and "] record_config: results/test/config.json" in shown.stdout, shown.stdout
    with (folder / "Snakefile").open("a") as file:
        file.write(
            "\nfrom operator import attrgetter\nfrom pipeline.run.snakemake_internals import USES, Use\n"
            'USES["workflow.gone"] = Use(attrgetter("gone"), "a use that no version has")\n'
        )
    (folder / "results/test/config.json").unlink()
    plain = snakemake(folder, "results/test/config.json")
    assert plain.returncode == 0 and "lacks workflow.gone: continuing with Snakemake's own messages" in plain.stdout
    assert "] record_config:" not in plain.stdout and "config: results/test/config.json" in plain.stdout
    assert (folder / "results/test/config.json").is_file()


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
