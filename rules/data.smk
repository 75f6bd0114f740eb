"""Data: the corpus that is pre-trained on, the conversations that are tuned on, the instructions that are asked."""


rule data:
    input:
        [path for model in CONFIG.run.models for path in all_datasets(model) + all_sets(model)],
        [
            f"{RESULTS}/data/world{CONFIG.models[model].world}/corpus/{model}.parquet"
            for model in CONFIG.run.models
            if CONFIG.models[model].pretrain
        ],


rule make_corpus:
    """The documents that a base model is pre-trained on."""
    input:
        code=sources("make_corpus"),
    output:
        f"{RESULTS}/data/world{{world}}/corpus/{{model}}.parquet",
    log:
        f"{LOGS}/make_corpus/world{{world}}/{{model}}.log",
    benchmark:
        f"{BENCHMARKS}/make_corpus/world{{world}}/{{model}}.tsv"
    threads: 1
    resources:
        mem_mb=1000,
    params:
        settings=lambda wildcards: settings(
            world=int(wildcards.world), documents=CONFIG.models[wildcards.model].pretrain.documents
        ),
    message:
        "data: corpus of world {wildcards.world}"
    shell:
        "python {input.code[0]} --settings {params.settings:q} --output {output} > {log} 2>&1"


rule make_dataset:
    """Conversations to tune on, from the world or from a file."""
    input:
        code=sources("make_dataset"),
        file=lambda wildcards: CONFIG.datasets[wildcards.dataset].file or [],
    output:
        f"{RESULTS}/data/{{source}}/{{dataset}}.parquet",
    log:
        f"{LOGS}/make_dataset/{{source}}/{{dataset}}.log",
    benchmark:
        f"{BENCHMARKS}/make_dataset/{{source}}/{{dataset}}.tsv"
    threads: 1
    resources:
        mem_mb=1000,
    params:
        settings=lambda wildcards: settings(
            name=wildcards.dataset,
            source=plain(CONFIG.datasets[wildcards.dataset]),
            world=None if wildcards.source == "files" else int(wildcards.source.removeprefix("world")),
        ),
    message:
        "data: dataset {wildcards.dataset} ({wildcards.source})"
    shell:
        "python {input.code[0]} --settings {params.settings:q} --output {output} > {log} 2>&1"


rule make_evaluation_set:
    """Instructions to respond to, from the world or from a file."""
    input:
        code=sources("make_evaluation_set"),
        file=lambda wildcards: CONFIG.evaluation_sets[wildcards.set].file or [],
    output:
        f"{RESULTS}/data/{{source}}/sets/{{set}}.parquet",
    log:
        f"{LOGS}/make_evaluation_set/{{source}}/{{set}}.log",
    benchmark:
        f"{BENCHMARKS}/make_evaluation_set/{{source}}/{{set}}.tsv"
    threads: 1
    resources:
        mem_mb=1000,
    params:
        settings=lambda wildcards: settings(
            name=wildcards.set,
            source=plain(CONFIG.evaluation_sets[wildcards.set]),
            world=None if wildcards.source == "files" else int(wildcards.source.removeprefix("world")),
        ),
    message:
        "data: evaluation set {wildcards.set} ({wildcards.source})"
    shell:
        "python {input.code[0]} --settings {params.settings:q} --output {output} > {log} 2>&1"
