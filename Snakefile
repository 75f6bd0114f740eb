# "Instruction Following without Instruction Tuning" as a DAG: data, models, tuning, generation, ranking, judging, tables.
# Each stage can be requested by name: snakemake --cores all tune

import shlex
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

min_version("9.20")  # and below the next major version: rules/common.smk

if Path(workflow.basedir).resolve() != Path.cwd():
    project = shlex.quote(str(workflow.basedir))
    raise WorkflowError(
        f"the working directory is {Path.cwd()}, but paths of config, scripts and results are relative to the project: "
        f"run `cd {project}` first, or add --directory {project}"
    )


configfile: "config.yaml"


include: "rules/common.smk"
include: "rules/cluster.smk"
include: "rules/data.smk"
include: "rules/models.smk"
include: "rules/tune.smk"
include: "rules/generate.smk"
include: "rules/rank.smk"
include: "rules/drift.smk"
include: "rules/checks.smk"
include: "rules/judge.smk"
include: "rules/tables.smk"
include: "rules/report.smk"
include: "rules/plan.smk"
include: "rules/findings.smk"


rule all:
    default_target: True
    input:
        rules.tables.input,
        rules.make_examples.output,
        rules.make_report.output,
        rules.make_events.output,
        rules.track_metrics.output if CONFIG.execution.tracking else [],


onstart:
    start_run()


onsuccess:
    if not {"plan", "verify"} & all_rules(workflow):
        shell("python scripts/print_summary.py {RESULTS}")


onerror:
    explain_failures()
