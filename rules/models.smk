"""Base models: pre-trained here, or imported from a directory or the hub."""

IMPORTED = [model for model in CONFIG.run.models if not CONFIG.models[model].pretrain]


rule model:
    input:
        [f"{RESULTS}/{model}/base/record.json" for model in CONFIG.run.models],


def whole(models):
    """The datasets whose responses must fit in the context of the models that are tuned: these are checked first."""
    return list(dict.fromkeys(dataset_path(name, m) for m in models for name in CONFIG.whole_datasets(m)))


def cuttable(models):
    """The other datasets for tuning or comparison, whose rows may be truncated."""
    return [path for model in models for path in all_datasets(model) if path not in whole(models)]


def taken_from(base):
    """The models that use a base model."""
    return [model for model in TAKEN if TAKEN[model] == base]


def checked_data(owner):
    """The datasets that are checked for a model, in whole or as rows that may be cut, and the sets that must be valid.

    For a base model that is pre-trained here, they are those not drawn from a world.
    """
    if owner in CONFIG.run.models:
        return whole([owner]), cuttable([owner]), all_sets(owner)
    strict = [path for path in whole(taken_from(owner)) if path in OWN_DATASETS]
    return strict, [path for path in OWN_DATASETS if path not in strict], OWN_SETS


def ready(owner):
    """The list of the data that a model is checked with. It must exist, but what it lists may change later.

    Were the data inputs of the model's own job, a dataset for one more mode, or one more evaluation set, would make the
    model anew, and tune all others again. `tune` checks its own data, too.
    """
    parts = ("whole", "cuttable")
    return ancient([f"{RESULTS}/data/ready/{owner}.{part}.txt" for part in parts]) if any(checked_data(owner)) else []


def to_check(files):
    """The options that tell a script which conversations to check: argparse reads them from the lists."""
    return f"--conversations @{files[0]} --cuttable @{files[1]}" if files else ""


rule list_data:
    """List the datasets to check for a model, as soon as all its data are there."""
    input:
        lambda wildcards: [path for part in checked_data(wildcards.owner) for path in part],
    output:
        whole=f"{RESULTS}/data/ready/{{owner}}.whole.txt",
        cuttable=f"{RESULTS}/data/ready/{{owner}}.cuttable.txt",
    log:
        f"{LOGS}/list_data/{{owner}}.log",
    benchmark:
        f"{BENCHMARKS}/list_data/{{owner}}.tsv"
    wildcard_constraints:
        owner="|".join([*CONFIG.run.models, *PRETRAINED]),
    localrule: True
    threads: 1
    params:
        whole=lambda wildcards: "\n".join(checked_data(wildcards.owner)[0]),
        cuttable=lambda wildcards: "\n".join(checked_data(wildcards.owner)[1]),
    message:
        "data: all of {wildcards.owner}'s"
    shell:
        "(printf %s {params.whole:q} > {output.whole} && printf %s {params.cuttable:q} > {output.cuttable}) 2> {log}"


rule pretrain:
    """Train a tokenizer and a small Llama from scratch. As this is costly, external data must be valid first."""
    input:
        corpus=f"{BASES}/{{base}}/corpus.parquet",
        data=lambda wildcards: ready(wildcards.base),
    output:
        model=directory(f"{BASES}/{{base}}/model"),
        snapshots=directory(f"{BASES}/{{base}}/snapshots"),
        record=f"{BASES}/{{base}}/record.json",
    log:
        f"{BASES}/{{base}}/pretrain.log",
    threads: EXECUTION.pretrain_threads
    resources:
        mem_mb=3000,
        runtime=60,
        device=EXECUTION.device,
        check=lambda wildcards, input: to_check(input.data),
    params:
        code=code_of("pretrain"),
        settings=lambda wildcards: settings(pretrain=plain(PRETRAINED[wildcards.base].pretrain)),
    message:
        "model: pre-training {wildcards.base}, a line per step in {log}"
    shell:
        "{WARM} scripts/pretrain.py --corpus {input.corpus} --model {output.model} --snapshots {output.snapshots} "
        "--record {output.record} {resources.check} "
        "--settings {params.settings:q} --budget {BUDGET:q} --device {resources.device} --threads {threads} > {log} 2>&1"


def kept(model):
    """The part of a base model that is used: the final model, or the snapshots from during pre-training."""
    return f"{BASES}/{TAKEN[model]}/{'snapshots' if CONFIG.models[model].snapshot else 'model'}"


rule take_base:
    """Copy a pre-trained model with this experiment's chat template. All data must be valid first."""
    input:
        shared=lambda wildcards: kept(wildcards.model),
        record=lambda wildcards: f"{BASES}/{TAKEN[wildcards.model]}/record.json",
        data=lambda wildcards: ready(wildcards.model),
    output:
        model=directory(f"{RESULTS}/{{model}}/base/model"),
        record=f"{RESULTS}/{{model}}/base/record.json",
    log:
        f"{LOGS}/take_base/{{model}}.log",
    wildcard_constraints:
        model="|".join(TAKEN) or "none",
    threads: 1
    resources:
        mem_mb=1000,
        check=lambda wildcards, input: to_check(input.data),
    params:
        code=code_of("take_base"),
        snapshot=lambda wildcards: CONFIG.models[wildcards.model].snapshot or ".",  # a subfolder, or the whole folder
        settings=lambda wildcards: settings(chat=chat(wildcards.model)),
    message:
        "model: {wildcards.model} from {input.shared}"
    shell:
        "{WARM} scripts/take_base.py --shared {input.shared}/{params.snapshot} --shared-record {input.record} --model {output.model} "
        "--record {output.record} {resources.check} "
        "--settings {params.settings:q} > {log} 2>&1"


rule import_model:
    """Import an existing model, with the pad token and the chat template that the other stages need."""
    input:
        data=lambda wildcards: ready(wildcards.model),
        access=lambda wildcards: (
            ancient(f"{RESULTS}/data/access.json") if is_hub_id(CONFIG.models[wildcards.model].path) else []
        ),
    output:
        model=directory(f"{RESULTS}/{{model}}/base/model"),
        record=f"{RESULTS}/{{model}}/base/record.json",
    log:
        f"{LOGS}/import_model/{{model}}.log",
    wildcard_constraints:
        model="|".join(IMPORTED) or "none",
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: memory(wildcards.model, attempt),
        check=lambda wildcards, input: to_check(input.data),
    params:
        code=code_of("import_model"),
        settings=lambda wildcards: settings(
            path=CONFIG.models[wildcards.model].path,
            max_length=max(CONFIG.mode_tuning(wildcards.model, mode).max_length for mode in CONFIG.run.modes),
            revision=CONFIG.models[wildcards.model].revision,
            chat=chat(wildcards.model),
        ),
    message:
        "model: importing {wildcards.model}"
    shell:
        "{WARM} scripts/import_model.py --model {output.model} --record {output.record} "
        "{resources.check} --settings {params.settings:q} > {log} 2>&1"
