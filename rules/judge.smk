"""Judging: responses against an opponent's, and the choice of epoch counts based on it."""


rule judge:
    input:
        [
            judgement_path(model, system, f"seed{seed}")
            for model in CONFIG.run.models
            for system, seed in comparisons(model)
        ],


PANEL = CONFIG.judge.panel() if CONFIG.judge else {}
TRAINED = {name: member.train for name, member in PANEL.items() if member.train}
COMPUTES = CONFIG.judge is not None and CONFIG.judge.computes()


def judge_settings(name, **more):
    """The judge's settings for an evaluation set. AlpacaEval's own length model is only for the reported set."""
    reported = name == CONFIG.generation.evaluation_set
    metric = CONFIG.judge.metric if reported else "length_controlled_minimal"
    own = CONFIG.judge.model_dump(exclude={"reference_mode", "df_gamed", "card"})
    return settings(**own | {"metric": metric} | more)


def from_hub(member):
    """Whether a judge's model is on the hub."""
    return member.path is not None and is_hub_id(member.path)


def judge_inputs(model):
    """What the judge itself needs: templates, sets with references, and the model that is trained for it."""
    return dict(
        templates=[member.template for member in PANEL.values() if member.template],
        references=[set_path(name, model) for member in PANEL.values() for name in member.references],
        judge=[f"{RESULTS}/judge/{name}/model" for name in TRAINED],
        own=[
            path
            for member in PANEL.values()
            for path in (member.path, member.evaluator)
            if path and Path(path).exists()
        ],
        access=ancient(f"{RESULTS}/data/access.json") if any(map(from_hub, PANEL.values())) else [],
    )


def judge_options(input):
    """The options for these inputs."""
    words = ["--references", *input.references] if input.references else []
    models = [f"{name}={path}" for name, path in zip(TRAINED, input.judge)]
    return " ".join([*words, *(["--model", *models] if models else [])])


rule judge_responses:
    """Judge one system against the reference mode's model of a seed, or against a set's own references."""
    input:
        unpack(lambda wildcards: judge_inputs(wildcards.model)),
        set=lambda wildcards: set_path(wildcards.set, wildcards.model),
        responses=f"{RESULTS}/{{model}}/{{system}}/{{set}}.parquet",
        opponent=lambda wildcards: (
            []
            if wildcards.opponent == "references"
            else responses_path(
                wildcards.model, tuned(REFERENCE, wildcards.opponent.removeprefix("seed")), wildcards.set
            )
        ),
        gamed=CONFIG.judge.df_gamed or [] if CONFIG.judge else [],
    output:
        table=f"{RESULTS}/{{model}}/{{system}}/{{set}}.against-{{opponent}}.parquet",
        summary=f"{RESULTS}/{{model}}/{{system}}/{{set}}.against-{{opponent}}.json",
    log:
        f"{LOGS}/judge/{{model}}/{{system}}/{{set}}.against-{{opponent}}.log",
    wildcard_constraints:
        opponent=r"references|seed-?\d+",
    threads: EXECUTION.threads if COMPUTES else 1
    resources:
        mem_mb=lambda wildcards, attempt: attempt * (16000 if COMPUTES else 2000),
        gpu=gpus() if COMPUTES else 0,
        device=EXECUTION.device,
        batch=EXECUTION.ranking_batch_tokens,
    params:
        code=code_of("judge_responses"),
        settings=lambda wildcards: judge_settings(wildcards.set),
        opponent=lambda wildcards, input: f"--opponent {input.opponent}" if input.opponent else "",
        gamed=lambda wildcards, input: f"--gamed={input.gamed}" if input.gamed else "",
        judge=lambda wildcards, input: judge_options(input),
        answers=f"{RESULTS}/answers/{{model}}/{{system}}/{{set}}.against-{{opponent}}.jsonl",  # not an output: kept after a failure
    message:
        "judge: {wildcards.model}, {wildcards.system} against {wildcards.opponent}, {wildcards.set}"
    shell:
        "{WARM} scripts/judge_responses.py --set {input.set} --responses {input.responses} {params.opponent} {params.gamed:q} "
        "{params.judge} --output {output.table} --summary {output.summary} --answers {params.answers} "
        "--settings {params.settings:q} {REQUESTS} --budget {BUDGET:q} "
        "--device {resources.device} --threads {EXECUTION.threads} --batch {resources.batch} > {log} 2>&1"


def card_path(name):
    return f"{RESULTS}/judge/card/{name}.json"


rule judge_annotations:
    """Judge pairs of responses on which judgements are known."""
    input:
        unpack(lambda wildcards: judge_inputs(CONFIG.run.models[0])),
        annotations=f"{RESULTS}/data/annotations/{{annotations}}.parquet",
        set=(
            set_path(CONFIG.generation.evaluation_set, CONFIG.run.models[0])
            if any(member.kind == "reference" and not member.references for member in PANEL.values())
            else []
        ),
    output:
        table=f"{RESULTS}/judge/card/{{annotations}}.parquet",
        summary=f"{RESULTS}/judge/card/{{annotations}}.json",
    log:
        f"{LOGS}/judge/card/{{annotations}}.log",
    threads: EXECUTION.threads if COMPUTES else 1
    resources:
        mem_mb=lambda wildcards, attempt: attempt * (16000 if COMPUTES else 4000),
        gpu=gpus() if COMPUTES else 0,
        device=EXECUTION.device,
        batch=EXECUTION.ranking_batch_tokens,
    params:
        code=code_of("judge_annotations"),
        settings=lambda wildcards: judge_settings(None, bootstrap=2),
        judge=lambda wildcards, input: judge_options(input),
        set=lambda wildcards, input: f"--set {input.set}" if input.set else "",
        answers=f"{RESULTS}/answers/judge/{{annotations}}.jsonl",  # not an output: kept after a failure
    message:
        "judge: known judgements {wildcards.annotations}"
    shell:
        "{WARM} scripts/judge_annotations.py --annotations {input.annotations} {params.set} "
        "{params.judge} --output {output.table} --summary {output.summary} --answers {params.answers} "
        "--settings {params.settings:q} {REQUESTS} --budget {BUDGET:q} "
        "--device {resources.device} --threads {EXECUTION.threads} --batch {resources.batch} > {log} 2>&1"


def judge_base(training):
    """The model that a judge is trained from: one of the experiment's, a directory, or nothing if it is on the hub."""
    if not own_base(training):
        return f"{RESULTS}/{training.base}/base/model"
    return [] if is_hub_id(training.base) else training.base


rule train_judge:
    """Train a reward model on known judgements."""
    input:
        base=lambda wildcards: judge_base(TRAINED[wildcards.judge]),
        annotations=lambda wildcards: [
            f"{RESULTS}/data/annotations/{name}.parquet" for name in TRAINED[wildcards.judge].annotations
        ],
        held_out=lambda wildcards: [
            (
                f"{RESULTS}/data/annotations/{name}.parquet"
                if name in CONFIG.annotations
                else set_path(name, CONFIG.run.models[0])
            )
            for name in TRAINED[wildcards.judge].held_out.sets
        ],
        access=lambda wildcards: (
            ancient(f"{RESULTS}/data/access.json") if is_hub_id(TRAINED[wildcards.judge].base) else []
        ),
    output:
        model=directory(f"{RESULTS}/judge/{{judge}}/model"),
        record=f"{RESULTS}/judge/{{judge}}/record.json",
    log:
        f"{LOGS}/judge/{{judge}}.log",
    wildcard_constraints:
        judge="|".join(TRAINED) or "none",
    threads: EXECUTION.threads
    resources:
        mem_mb=lambda wildcards, attempt: attempt * 16000,
        gpu=gpus(),
        runtime=240,
        device=EXECUTION.device,
        batch=EXECUTION.micro_batch_tokens,
    params:
        code=code_of("train_judge"),
        settings=lambda wildcards: settings(
            **plain(TRAINED[wildcards.judge]),
            annotators={
                name: CONFIG.annotations[name].annotator
                for name in TRAINED[wildcards.judge].annotations
                if CONFIG.annotations[name].annotator
            },
        ),
        base=lambda wildcards, input: f"--base {input.base}" if input.base else "",
        held_out=lambda wildcards, input: f"--held-out {input.held_out}" if input.held_out else "",
        checkpoints=f"{RESULTS}/checkpoints/judge/{{judge}}",
    message:
        "judge: training {wildcards.judge}, a line per step in {log}"
    shell:
        "{WARM} scripts/train_judge.py {params.base} --annotations {input.annotations} {params.held_out} "
        "--model {output.model} --record {output.record} "
        "--checkpoints {params.checkpoints} --checkpoint-steps {EXECUTION.checkpoint_steps} "
        "--settings {params.settings:q} --budget {BUDGET:q} "
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
