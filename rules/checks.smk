"""Checks of responses that need no judge: IFEval's instructions, and answers to GSM8K's questions."""


def checks_path(model, system, name):
    return f"{RESULTS}/{model}/{system.path}/{name}.checks.json"


rule check:
    input:
        [
            checks_path(model, system, name)
            for model in CONFIG.run.models
            for system in tested_systems(model)
            for name in CONFIG.checks
        ],


rule check_responses:
    """Check the responses of a system to an evaluation set."""
    input:
        set=lambda wildcards: set_path(wildcards.set, wildcards.model),
        responses=f"{RESULTS}/{{model}}/{{system}}/{{set}}.parquet",
    output:
        table=f"{RESULTS}/{{model}}/{{system}}/{{set}}.checks.parquet",
        summary=f"{RESULTS}/{{model}}/{{system}}/{{set}}.checks.json",
    log:
        f"{LOGS}/checks/{{model}}/{{system}}/{{set}}.log",
    wildcard_constraints:
        set="|".join(CONFIG.checks) or "none",
    threads: 1
    resources:
        mem_mb=1000,
    params:
        code=code_of("check_responses"),
        settings=lambda wildcards: settings(checker=CONFIG.checks[wildcards.set]),
    message:
        "check: {wildcards.model}, {wildcards.system}, {wildcards.set}"
    shell:
        "python scripts/check_responses.py --set {input.set} --responses {input.responses} --output {output.table} "
        "--summary {output.summary} --settings {params.settings:q} > {log} 2>&1"
