"""Base models: pre-trained here, or taken from a directory or a hub."""

PRETRAINED = [model for model in CONFIG.run.models if CONFIG.models[model].pretrain]
IMPORTED = [model for model in CONFIG.run.models if not CONFIG.models[model].pretrain]


rule model:
    input:
        [f"{RESULTS}/{model}/base/record.json" for model in CONFIG.run.models],


rule pretrain:
    """A tokenizer and a small Llama from nothing. All data must be sound first, as this is what costs."""
    input:
        code=sources("pretrain"),
        corpus=lambda wildcards: f"{RESULTS}/data/world{CONFIG.models[wildcards.model].world}/corpus/{wildcards.model}.parquet",
        conversations=lambda wildcards: ancient(all_datasets(wildcards.model)),
        sets=lambda wildcards: ancient(all_sets(wildcards.model)),
    output:
        model=directory(f"{RESULTS}/{{model}}/base/model"),
        record=f"{RESULTS}/{{model}}/base/record.json",
    log:
        f"{LOGS}/pretrain/{{model}}.log",
    benchmark:
        f"{BENCHMARKS}/pretrain/{{model}}.tsv"
    wildcard_constraints:
        model="|".join(PRETRAINED) or "none",
    threads: EXECUTION.pretrain_threads
    resources:
        mem_mb=3000,
        runtime=60,
        device=EXECUTION.device,
    params:
        settings=lambda wildcards: settings(
            pretrain=plain(CONFIG.models[wildcards.model].pretrain),
            too_long=CONFIG.tuning.too_long,
            chat=chat(wildcards.model),
        ),
    message:
        "model: pre-training {wildcards.model}, a line per step in {log}"
    shell:
        "{WARM} {input.code[0]} --corpus {input.corpus} --model {output.model} --record {output.record} "
        "--conversations {input.conversations} --settings {params.settings:q} --device {resources.device} --threads {threads} > {log} 2>&1"


rule import_model:
    """A model that exists already, with the pad token and the chat template that the other stages need."""
    input:
        code=sources("import_model"),
        conversations=lambda wildcards: ancient(all_datasets(wildcards.model)),
        sets=lambda wildcards: ancient(all_sets(wildcards.model)),
        access=lambda wildcards: (
            ancient(f"{RESULTS}/data/access.json") if is_hub_id(CONFIG.models[wildcards.model].path) else []
        ),
    output:
        model=directory(f"{RESULTS}/{{model}}/base/model"),
        record=f"{RESULTS}/{{model}}/base/record.json",
    log:
        f"{LOGS}/import_model/{{model}}.log",
    benchmark:
        f"{BENCHMARKS}/import_model/{{model}}.tsv"
    wildcard_constraints:
        model="|".join(IMPORTED) or "none",
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: memory(wildcards.model, attempt),
    params:
        settings=lambda wildcards: settings(
            path=CONFIG.models[wildcards.model].path,
            revision=CONFIG.models[wildcards.model].revision,
            too_long=CONFIG.tuning.too_long,
            chat=chat(wildcards.model),
        ),
    message:
        "model: importing {wildcards.model}"
    shell:
        "{WARM} {input.code[0]} --model {output.model} --record {output.record} "
        "--conversations {input.conversations} --settings {params.settings:q} > {log} 2>&1"
