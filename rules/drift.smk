"""The cost of tuning: how far a tuned model has drifted from its base model, and what it still knows."""


def drift_path(model, system):
    return f"{RESULTS}/{model}/{system.path}/drift.json"


def harness_path(model, system):
    return f"{RESULTS}/{model}/{system.path}/harness.record.json"


def drifting_systems(model):
    """Every tuned model that is compared with its base model."""
    return [system for mode in CONFIG.run.modes for system in chosen(mode, model)] if CONFIG.drift else []


def harness_systems(model):
    """Every model that the harness runs on."""
    return [BASE, *drifting_systems(model)] if CONFIG.drift and CONFIG.drift.harness else []


rule drift:
    input:
        [drift_path(model, system) for model in CONFIG.run.models for system in drifting_systems(model)],
        [harness_path(model, system) for model in CONFIG.run.models for system in harness_systems(model)],


rule measure_drift:
    """Measure perplexity, KL and recall of facts of a tuned model and of its base model."""
    input:
        base=f"{RESULTS}/{{model}}/base/model",
        base_record=f"{RESULTS}/{{model}}/base/record.json",
        model=f"{RESULTS}/{{model}}/{{system}}/model",
        record=f"{RESULTS}/{{model}}/{{system}}/record.json",
        file=local(CONFIG.drift.file) if CONFIG.drift else [],
    output:
        table=f"{RESULTS}/{{model}}/{{system}}/drift.parquet",
        recall=f"{RESULTS}/{{model}}/{{system}}/recall.parquet",
        summary=f"{RESULTS}/{{model}}/{{system}}/drift.json",
    log:
        f"{LOGS}/drift/{{model}}/{{system}}.log",
    threads: EXECUTION.threads
    resources:
        mem_mb=lambda wildcards, attempt: memory(wildcards.model, attempt, 2),
        runtime=60,
        gpu=gpus(),
        device=EXECUTION.device,
        batch=EXECUTION.ranking_batch_tokens,
    params:
        code=code_of("measure_drift"),
        settings=lambda wildcards: settings(
            **CONFIG.drift.model_dump(exclude={"harness"}),
            world_seed=CONFIG.models[wildcards.model].world_seed,
            controls=(
                plain(CONFIG.models[wildcards.model].pretrain.corpus)
                if CONFIG.models[wildcards.model].pretrain
                else {}
            ),
            chat=chat(wildcards.model),
        ),
    message:
        "drift: {wildcards.model}, {wildcards.system}"
    shell:
        "{WARM} scripts/measure_drift.py --base {input.base} --base-record {input.base_record} --model {input.model} "
        "--model-record {input.record} --output {output.table} --recall {output.recall} --summary {output.summary} "
        "--settings {params.settings:q} --budget {BUDGET:q} "
        "--device {resources.device} --threads {EXECUTION.threads} --batch {resources.batch} > {log} 2>&1"


rule run_harness:
    """Run lm-evaluation-harness on one model."""
    input:
        model=f"{RESULTS}/{{model}}/{{system}}/model",
        record=f"{RESULTS}/{{model}}/{{system}}/record.json",
    output:
        results=f"{RESULTS}/{{model}}/{{system}}/harness.json",
        summary=f"{RESULTS}/{{model}}/{{system}}/harness.record.json",
    log:
        f"{LOGS}/harness/{{model}}/{{system}}.log",
    threads: EXECUTION.threads
    resources:
        mem_mb=lambda wildcards, attempt: memory(wildcards.model, attempt),
        runtime=240,
        gpu=gpus(),
        device=EXECUTION.device,
        batch=EXECUTION.generation_batch_size,
    params:
        code=code_of("run_harness"),
        # A function, since a task's options may contain braces, which would be treated as wildcards.
        settings=lambda wildcards: settings(**CONFIG.drift.harness.model_dump(), precision=CONFIG.drift.precision),
    message:
        "harness: {wildcards.model}, {wildcards.system}"
    shell:
        "{WARM} scripts/run_harness.py --model {input.model} --model-record {input.record} --output {output.results} "
        "--summary {output.summary} --settings {params.settings:q} --budget {BUDGET:q} "
        "--device {resources.device} --threads {EXECUTION.threads} --batch {resources.batch} > {log} 2>&1"
