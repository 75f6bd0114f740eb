"""Judging: responses against an opponent's, and the choice of epoch counts that follows from it."""


rule judge:
    input:
        [
            judgement_path(model, system, f"seed{seed}")
            for model in CONFIG.run.models
            for system, seed, *_ in comparisons(model)
        ],


rule judge_responses:
    """One system against the reference mode's model of a seed, or against a set's own references."""
    input:
        code=sources("judge_responses"),
        set=lambda wildcards: set_path(wildcards.set, wildcards.model),
        responses=f"{RESULTS}/{{model}}/{{system}}/{{set}}.parquet",
        opponent=lambda wildcards: (
            []
            if wildcards.opponent == "references"
            else responses_path(wildcards.model, f"{REFERENCE}/chosen/{wildcards.opponent}", wildcards.set)
        ),
    output:
        table=f"{RESULTS}/{{model}}/{{system}}/{{set}}.against-{{opponent}}.parquet",
        summary=f"{RESULTS}/{{model}}/{{system}}/{{set}}.against-{{opponent}}.json",
    log:
        f"{LOGS}/judge/{{model}}/{{system}}/{{set}}.against-{{opponent}}.log",
    benchmark:
        f"{BENCHMARKS}/judge/{{model}}/{{system}}/{{set}}.against-{{opponent}}.tsv"
    wildcard_constraints:
        opponent=r"references|seed-?\d+",
    threads: 1
    resources:
        mem_mb=2000,
    params:
        settings=settings(**CONFIG.judge.model_dump(exclude={"reference_mode"})) if CONFIG.judge else None,
        opponent=lambda wildcards, input: f"--opponent {input.opponent}" if input.opponent else "",
    message:
        "judge: {wildcards.model}, {wildcards.system} against {wildcards.opponent}, {wildcards.set}"
    shell:
        "python {input.code[0]} --set {input.set} --responses {input.responses} {params.opponent} "
        "--output {output.table} --summary {output.summary} --settings {params.settings:q} > {log} 2>&1"


def validations(wildcards):
    """The validation summaries of every epoch count, in order; none when there is nothing to choose."""
    epochs = CONFIG.selection.epochs if len(CONFIG.selection.epochs) > 1 else []
    seed = CONFIG.validation_seed(wildcards.model)
    return [
        judgement_path(
            wildcards.model,
            f"{wildcards.mode}/epochs{count}/seed{seed}",
            "references",
            CONFIG.selection.evaluation_set,
        )
        for count in epochs
    ]


rule select:
    input:
        [f"{RESULTS}/{model}/{mode}/selected.json" for model in CONFIG.run.models for mode in CONFIG.run.modes],


rule select_epochs:
    """The epoch count of a mode, by validation win rate."""
    input:
        code=sources("select_epochs"),
        summaries=validations,
    output:
        f"{RESULTS}/{{model}}/{{mode}}/selected.json",
    log:
        f"{LOGS}/select/{{model}}/{{mode}}.log",
    benchmark:
        f"{BENCHMARKS}/select/{{model}}/{{mode}}.tsv"
    localrule: True
    threads: 1
    resources:
        mem_mb=500,
    params:
        settings=settings(epochs=CONFIG.selection.epochs),
    message:
        "select: epochs of {wildcards.model}, {wildcards.mode}"
    shell:
        "python {input.code[0]} --settings {params.settings:q} --output {output} {input.summaries} > {log} 2>&1"
