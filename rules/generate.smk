"""Generation: greedy responses of every model to the instructions, and of the base model with the rules."""


def generating_model(wildcards):
    """The directory of the model that generates a system's responses."""
    system = BASE.path if wildcards.system in RULES_SYSTEMS else wildcards.system
    return f"{RESULTS}/{wildcards.model}/{system}"


def rule_settings(system):
    """The rules of a system with their weights, or None."""
    if system not in RULES_SYSTEMS:
        return None
    weights = CONFIG.rules.model_dump(exclude={"variants"}) | {"token_scores": CONFIG.rules.scores()}
    return weights | {"use": RULE_VARIANTS[RULES_SYSTEMS[system].variant].use}


def max_new_tokens(system):
    """The maximum length of a system's responses; a set of rules may have its own limit."""
    own = RULE_VARIANTS[RULES_SYSTEMS[system].variant].max_new_tokens if system in RULES_SYSTEMS else None
    return own or CONFIG.generation.max_new_tokens


rule generate:
    input:
        [responses_path(model, system) for model in CONFIG.run.models for system in tested_systems(model)],


rule resolve_rules:
    """Look up the rules' tokens in a model's vocabulary: a string that is not a token stops the run before tuning."""
    input:
        model=f"{RESULTS}/{{model}}/base/model",
    output:
        f"{RESULTS}/{{model}}/rules/tokens.json",
    log:
        f"{LOGS}/resolve_rules/{{model}}.log",
    localrule: True
    threads: 1
    resources:
        mem_mb=1000,
    params:
        code=code_of("resolve_rules"),
        settings=settings(token_scores=CONFIG.rules.scores()) if CONFIG.rules else None,
    message:
        "rules: tokens in the vocabulary of {wildcards.model}"
    shell:
        "{WARM} scripts/resolve_rules.py --model {input.model} --output {output} --settings {params.settings:q} > {log} 2>&1"


rule generate_responses:
    """Generate greedy responses to an evaluation set."""
    input:
        model=lambda wildcards: f"{generating_model(wildcards)}/model",
        record=lambda wildcards: f"{generating_model(wildcards)}/record.json",
        set=lambda wildcards: set_path(wildcards.set, wildcards.model),
    output:
        table=f"{RESULTS}/{{model}}/{{system}}/{{set}}.parquet",
        json=f"{RESULTS}/{{model}}/{{system}}/{{set}}.alpaca_eval.json",
        record=f"{RESULTS}/{{model}}/{{system}}/{{set}}.record.json",
    log:
        f"{LOGS}/generate/{{model}}/{{system}}/{{set}}.log",
    threads: EXECUTION.threads
    resources:
        mem_mb=lambda wildcards, attempt: memory(wildcards.model, attempt),
        runtime=60,
        gpu=gpus(),
        device=EXECUTION.device,
        batch=EXECUTION.generation_batch_size,
    params:
        code=code_of("generate_responses"),
        settings=lambda wildcards: settings(
            generator=f"{wildcards.model}/{wildcards.system}",
            set=wildcards.set,
            rules=rule_settings(wildcards.system),
            max_new_tokens=max_new_tokens(wildcards.system),
            precision=CONFIG.generation.precision,
            chat=chat(wildcards.model),
        ),
    message:
        "generate: {wildcards.model}, {wildcards.system}, {wildcards.set}"
    shell:
        "{WARM} scripts/generate_responses.py --model {input.model} --model-record {input.record} --set {input.set} "
        "--output {output.table} --json {output.json} --record {output.record} --settings {params.settings:q} "
        "--backend {EXECUTION.backend} --budget {BUDGET:q} "
        "--device {resources.device} --threads {EXECUTION.threads} --batch {resources.batch} > {log} 2>&1"
