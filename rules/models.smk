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


rule pretrain:
    """Train a tokenizer and a small Llama from scratch. As this is costly, external data must be valid first."""
    input:
        corpus=f"{BASES}/{{base}}/corpus.parquet",
        conversations=lambda wildcards: ancient(
            [path for path in whole(taken_from(wildcards.base)) if path in OWN_DATASETS]
        ),
        cuttable=lambda wildcards: ancient(
            [path for path in OWN_DATASETS if path not in whole(taken_from(wildcards.base))]
        ),
        data=ancient(OWN_SETS),
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
    params:
        code=code_of("pretrain"),
        settings=lambda wildcards: settings(pretrain=plain(PRETRAINED[wildcards.base].pretrain)),
    message:
        "model: pre-training {wildcards.base}, a line per step in {log}"
    shell:
        "{WARM} scripts/pretrain.py --corpus {input.corpus} --model {output.model} --snapshots {output.snapshots} "
        "--record {output.record} --conversations {input.conversations} --cuttable {input.cuttable} "
        "--settings {params.settings:q} --budget {BUDGET:q} --device {resources.device} --threads {threads} > {log} 2>&1"


def kept(model):
    """The part of a base model that is used: the final model, or the snapshots from during pre-training."""
    return f"{BASES}/{TAKEN[model]}/{'snapshots' if CONFIG.models[model].snapshot else 'model'}"


rule take_base:
    """Copy a pre-trained model with this experiment's chat template. All data must be valid first."""
    input:
        shared=lambda wildcards: kept(wildcards.model),
        record=lambda wildcards: f"{BASES}/{TAKEN[wildcards.model]}/record.json",
        conversations=lambda wildcards: ancient(whole([wildcards.model])),
        cuttable=lambda wildcards: ancient(cuttable([wildcards.model])),
        data=lambda wildcards: ancient(all_sets(wildcards.model)),
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
    params:
        code=code_of("take_base"),
        snapshot=lambda wildcards: CONFIG.models[wildcards.model].snapshot or ".",  # a subfolder, or the whole folder
        settings=lambda wildcards: settings(chat=chat(wildcards.model)),
    message:
        "model: {wildcards.model} from {input.shared}"
    shell:
        "{WARM} scripts/take_base.py --shared {input.shared}/{params.snapshot} --shared-record {input.record} --model {output.model} "
        "--record {output.record} --conversations {input.conversations} --cuttable {input.cuttable} "
        "--settings {params.settings:q} > {log} 2>&1"


rule import_model:
    """Import an existing model, with the pad token and the chat template that the other stages need."""
    input:
        conversations=lambda wildcards: ancient(whole([wildcards.model])),
        cuttable=lambda wildcards: ancient(cuttable([wildcards.model])),
        data=lambda wildcards: ancient(all_sets(wildcards.model)),
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
        "--conversations {input.conversations} --cuttable {input.cuttable} --settings {params.settings:q} > {log} 2>&1"
