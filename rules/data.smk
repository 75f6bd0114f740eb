"""Data: the pre-training corpus, the conversations for tuning, and the instructions for evaluation."""


rule data:
    input:
        [path for model in CONFIG.run.models for path in all_datasets(model) + all_sets(model)],
        [f"{BASES}/{base}/corpus.parquet" for base in PRETRAINED],


rule make_corpus:
    """Make the documents for pre-training a base model."""
    output:
        f"{BASES}/{{base}}/corpus.parquet",
    log:
        f"{BASES}/{{base}}/make_corpus.log",
    benchmark:
        f"{BASES}/{{base}}/make_corpus.tsv"
    threads: 1
    resources:
        mem_mb=1000,
    params:
        code=code_of("make_corpus"),
        settings=lambda wildcards: settings(
            world_seed=PRETRAINED[wildcards.base].world_seed,
            documents=PRETRAINED[wildcards.base].pretrain.documents,
            controls=plain(PRETRAINED[wildcards.base].pretrain.corpus),
        ),
    message:
        "data: corpus of {wildcards.base}"
    shell:
        "python scripts/make_corpus.py --settings {params.settings:q} --output {output} > {log} 2>&1"


def local(file):
    """A local file as an input; a URL is not one."""
    return file if file and not is_url(file) else []


def access(source):
    """What must exist before the hub is read."""
    return ancient(f"{RESULTS}/data/access.json") if source.origin == "hub" else []


rule check_access:
    """Check access to everything from the hub, and find its commit, before anything else."""
    output:
        f"{RESULTS}/data/access.json",
    log:
        f"{LOGS}/check_access.log",
    benchmark:
        f"{BENCHMARKS}/check_access/access.tsv"
    localrule: True
    threads: 1
    resources:
        mem_mb=500,
    params:
        code=code_of("check_access"),
        settings=settings(sources=on_hub()),
    message:
        "data: access to the hub"
    shell:
        "python scripts/check_access.py --settings {params.settings:q} --output {output} > {log} 2>&1"


rule make_dataset:
    """Make conversations for tuning, from the world, a file or the hub."""
    input:
        file=lambda wildcards: local(CONFIG.datasets[wildcards.dataset].file),
        access=lambda wildcards: access(CONFIG.datasets[wildcards.dataset]),
    output:
        f"{RESULTS}/data/{{source}}/{{dataset}}.parquet",
    log:
        f"{LOGS}/make_dataset/{{source}}/{{dataset}}.log",
    benchmark:
        f"{BENCHMARKS}/make_dataset/{{source}}/{{dataset}}.tsv"
    wildcard_constraints:
        dataset="|".join(name for name in CONFIG.datasets if name not in [*REWRITTEN, *ALTERED]),
    threads: 1
    resources:
        mem_mb=1000,
    params:
        code=code_of("make_dataset"),
        settings=lambda wildcards: settings(
            name=wildcards.dataset,
            source=plain(CONFIG.datasets[wildcards.dataset]),
            world_seed=None if wildcards.source == "files" else int(wildcards.source.removeprefix("world")),
        ),
    message:
        "data: dataset {wildcards.dataset} ({wildcards.source})"
    shell:
        "python scripts/make_dataset.py --settings {params.settings:q} --output {output} > {log} 2>&1"


rule make_annotations:
    """Make known judgements of pairs of responses, from a file or the hub."""
    input:
        file=lambda wildcards: local(CONFIG.annotations[wildcards.annotations].file),
        access=lambda wildcards: access(CONFIG.annotations[wildcards.annotations]),
    output:
        f"{RESULTS}/data/annotations/{{annotations}}.parquet",
    log:
        f"{LOGS}/make_annotations/{{annotations}}.log",
    benchmark:
        f"{BENCHMARKS}/make_annotations/{{annotations}}.tsv"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        code=code_of("make_annotations"),
        settings=lambda wildcards: settings(
            name=wildcards.annotations, source=plain(CONFIG.annotations[wildcards.annotations])
        ),
    message:
        "data: known judgements {wildcards.annotations}"
    shell:
        "python scripts/make_annotations.py --settings {params.settings:q} --output {output} > {log} 2>&1"


rule make_evaluation_set:
    """Make instructions to respond to, from the world, a file or the hub."""
    input:
        file=lambda wildcards: local(CONFIG.evaluation_sets[wildcards.set].file),
        templates=lambda wildcards: local(CONFIG.evaluation_sets[wildcards.set].templates),
        access=lambda wildcards: access(CONFIG.evaluation_sets[wildcards.set]),
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
        code=code_of("make_evaluation_set"),
        settings=lambda wildcards: settings(
            name=wildcards.set,
            source=plain(CONFIG.evaluation_sets[wildcards.set]),
            world_seed=None if wildcards.source == "files" else int(wildcards.source.removeprefix("world")),
        ),
    message:
        "data: evaluation set {wildcards.set} ({wildcards.source})"
    shell:
        "python scripts/make_evaluation_set.py --settings {params.settings:q} --output {output} > {log} 2>&1"


rule rewrite_dataset:
    """Rewrite responses without a restatement of the instruction (paper, appendix C)."""
    input:
        data=lambda wildcards: f"{RESULTS}/data/{wildcards.source}/{CONFIG.datasets[wildcards.dataset].rewrite}.parquet",
    output:
        table=f"{RESULTS}/data/{{source}}/{{dataset}}.parquet",
        record=f"{RESULTS}/data/{{source}}/{{dataset}}.record.json",
    log:
        f"{LOGS}/rewrite_dataset/{{source}}/{{dataset}}.log",
    benchmark:
        f"{BENCHMARKS}/rewrite_dataset/{{source}}/{{dataset}}.tsv"
    wildcard_constraints:
        dataset="|".join(REWRITTEN) or "none",
    threads: 1
    resources:
        mem_mb=1000,
    params:
        code=code_of("rewrite_dataset"),
        # A function, since the templates' {instruction} would otherwise be treated as a wildcard.
        settings=lambda wildcards: settings(**CONFIG.rewriting.model_dump()),
        answers=f"{RESULTS}/answers/rewriting/{{source}}/{{dataset}}.jsonl",  # not an output, so that it is kept after a failure
    message:
        "data: rewriting {wildcards.dataset}"
    shell:
        "python scripts/rewrite_dataset.py --data {input.data} --output {output.table} --record {output.record} "
        "--answers {params.answers} --settings {params.settings:q} {REQUESTS} --budget {BUDGET:q} > {log} 2>&1"


def part_path(key, wildcards):
    """A dataset that another is made from, by the key that names it; empty if the key is not set."""
    name = getattr(CONFIG.datasets[wildcards.dataset], key)
    return f"{RESULTS}/data/{wildcards.source if of_world(name) else 'files'}/{name}.parquet" if name else []


rule alter_dataset:
    """Alter a dataset so that one part of it teaches nothing: a control."""
    input:
        data=lambda wildcards: part_path("alter", wildcards),
        responses_of=lambda wildcards: part_path("responses_of", wildcards),
    output:
        f"{RESULTS}/data/{{source}}/{{dataset}}.parquet",
    log:
        f"{LOGS}/alter_dataset/{{source}}/{{dataset}}.log",
    benchmark:
        f"{BENCHMARKS}/alter_dataset/{{source}}/{{dataset}}.tsv"
    wildcard_constraints:
        dataset="|".join(ALTERED) or "none",
    threads: 1
    resources:
        mem_mb=1000,
    params:
        code=code_of("alter_dataset"),
        lenders=lambda wildcards, input: f"--responses-of {input.responses_of}" if input.responses_of else "",
        settings=lambda wildcards: settings(
            name=wildcards.dataset,
            origin=wildcards.source,
            **{
                key: getattr(CONFIG.datasets[wildcards.dataset], key)
                for key in ("alter", "alteration", "responses_of", "sha256")
            },
        ),
    message:
        "data: dataset {wildcards.dataset} ({wildcards.source})"
    shell:
        "python scripts/alter_dataset.py --data {input.data} {params.lenders} --output {output} --settings {params.settings:q} "
        "> {log} 2>&1"
