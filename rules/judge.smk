"""Judging: responses against an opponent's, and the choice of epoch counts based on it."""


rule judge:
    input:
        [
            judgement_path(model, system, f"seed{seed}")
            for model in CONFIG.run.models
            for system, seed in comparisons(model)
        ],


def judge_settings(name):
    """The judge's settings for an evaluation set. AlpacaEval's own length model is only for the reported set."""
    reported = name == CONFIG.generation.evaluation_set
    metric = CONFIG.judge.metric if reported else "length_controlled_minimal"
    return settings(**CONFIG.judge.model_dump(exclude={"reference_mode", "df_gamed"}) | {"metric": metric})


rule judge_responses:
    """Judge one system against the reference mode's model of a seed, or against a set's own references."""
    input:
        set=lambda wildcards: set_path(wildcards.set, wildcards.model),
        responses=f"{RESULTS}/{{model}}/{{system}}/{{set}}.parquet",
        opponent=lambda wildcards: (
            []
            if wildcards.opponent == "references"
            else responses_path(
                wildcards.model, tuned(REFERENCE, wildcards.opponent.removeprefix("seed")), wildcards.set
            )
        ),
        template=CONFIG.judge.template or [] if CONFIG.judge else [],
        gamed=CONFIG.judge.df_gamed or [] if CONFIG.judge else [],
    output:
        table=f"{RESULTS}/{{model}}/{{system}}/{{set}}.against-{{opponent}}.parquet",
        summary=f"{RESULTS}/{{model}}/{{system}}/{{set}}.against-{{opponent}}.json",
    log:
        f"{LOGS}/judge/{{model}}/{{system}}/{{set}}.against-{{opponent}}.log",
    wildcard_constraints:
        opponent=r"references|seed-?\d+",
    threads: EXECUTION.threads if CONFIG.judge and CONFIG.judge.kind == "local" else 1
    resources:
        mem_mb=2000,
        gpu=gpus() if CONFIG.judge and CONFIG.judge.kind == "local" else 0,
        device=EXECUTION.device,
        batch=EXECUTION.ranking_batch_tokens,
    params:
        code=code_of("judge_responses"),
        settings=lambda wildcards: judge_settings(wildcards.set),
        opponent=lambda wildcards, input: f"--opponent {input.opponent}" if input.opponent else "",
        gamed=lambda wildcards, input: f"--gamed={input.gamed}" if input.gamed else "",
        answers=f"{RESULTS}/answers/{{model}}/{{system}}/{{set}}.against-{{opponent}}.jsonl",  # not an output: kept after a failure
    message:
        "judge: {wildcards.model}, {wildcards.system} against {wildcards.opponent}, {wildcards.set}"
    shell:
        "{WARM} scripts/judge_responses.py --set {input.set} --responses {input.responses} {params.opponent} {params.gamed:q} "
        "--output {output.table} --summary {output.summary} --answers {params.answers} --settings {params.settings:q} "
        "{REQUESTS} --budget {BUDGET:q} "
        "--device {resources.device} --threads {EXECUTION.threads} --batch {resources.batch} > {log} 2>&1"


def validations(model, mode):
    """The validation summaries of every epoch count, in order; empty if there is only one."""
    grid = CONFIG.epoch_grid(model, mode)
    seed, name = CONFIG.validation_seed(model), CONFIG.selection.evaluation_set
    return [
        judgement_path(model, tuned(mode, seed, count), "references", name) for count in (grid if len(grid) > 1 else [])
    ]


rule select:
    input:
        [f"{RESULTS}/{model}/{mode}/selected.json" for model in CONFIG.run.models for mode in CONFIG.run.modes],


rule select_epochs:
    """Select the epoch count of a mode by validation win rate."""
    input:
        summaries=lambda wildcards: validations(wildcards.model, wildcards.mode),
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
        code=code_of("select_epochs"),
        settings=lambda wildcards: settings(epochs=CONFIG.epoch_grid(wildcards.model, wildcards.mode)),
    message:
        "select: epochs of {wildcards.model}, {wildcards.mode}"
    shell:
        "python scripts/select_epochs.py --settings {params.settings:q} --output {output} {input.summaries} > {log} 2>&1"
