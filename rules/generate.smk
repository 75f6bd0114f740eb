"""Generation: greedy responses of every model to the instructions, and of the base model under the rules."""


def generating_model(wildcards):
    """The directory of the model that a system's responses come from."""
    system = "base" if wildcards.system.startswith("rules/") else wildcards.system
    return f"{RESULTS}/{wildcards.model}/{system}"


def rule_settings(system):
    """The rules of a system with their weights, or None."""
    if not system.startswith("rules/"):
        return None
    weights = CONFIG.rules.model_dump(exclude={"variants"})
    return weights | {"use": RULE_VARIANTS[system.removeprefix("rules/")]}


rule generate:
    input:
        [responses_path(model, system) for model in CONFIG.run.models for system in tested_systems(model)],


rule generate_responses:
    """Greedy responses to an evaluation set."""
    input:
        code=sources("generate_responses"),
        model=lambda wildcards: f"{generating_model(wildcards)}/model",
        record=lambda wildcards: f"{generating_model(wildcards)}/record.json",
        set=lambda wildcards: set_path(wildcards.set, wildcards.model),
    output:
        table=f"{RESULTS}/{{model}}/{{system}}/{{set}}.parquet",
        json=f"{RESULTS}/{{model}}/{{system}}/{{set}}.alpaca_eval.json",
        record=f"{RESULTS}/{{model}}/{{system}}/{{set}}.record.json",
    log:
        f"{LOGS}/generate/{{model}}/{{system}}/{{set}}.log",
    benchmark:
        f"{BENCHMARKS}/generate/{{model}}/{{system}}/{{set}}.tsv"
    threads: EXECUTION.threads
    resources:
        mem_mb=2000,
        runtime=60,
        device=EXECUTION.device,
        batch=EXECUTION.generation_batch_size,
    params:
        settings=lambda wildcards: settings(
            generator=f"{wildcards.model}/{wildcards.system}",
            set=wildcards.set,
            rules=rule_settings(wildcards.system),
            max_new_tokens=CONFIG.generation.max_new_tokens,
            chat=CHAT,
        ),
    message:
        "generate: {wildcards.model}, {wildcards.system}, {wildcards.set}"
    shell:
        "python {input.code[0]} --model {input.model} --model-record {input.record} --set {input.set} "
        "--output {output.table} --json {output.json} --record {output.record} --settings {params.settings:q} "
        "--device {resources.device} --threads {threads} --batch {resources.batch} > {log} 2>&1"
