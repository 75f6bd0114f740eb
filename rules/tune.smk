"""Tuning: one job for each model, mode, epoch count and seed."""


def tuning_settings(model, mode, seed):
    """Everything that identifies a tuned model except its epoch count."""
    return settings(
        mode=mode,
        user_turn=CONFIG.modes[mode].user_turn,
        seed=int(seed),
        tuning=plain(CONFIG.mode_tuning(model, mode)),
        chat=chat(model),
    )


def candidate(path):
    """A model that is only needed to choose an epoch count: kept, or deleted after it has responded."""
    return directory(path) if EXECUTION.keep_candidates else temp(directory(path))


rule tune:
    input:
        [
            f"{RESULTS}/{m}/{s.path}/record.json"
            for m in CONFIG.run.models
            for mode in CONFIG.run.modes
            for s in chosen(mode, m)
        ],


rule tune_candidate:
    """Tune a model with one of the epoch counts to choose from."""
    input:
        base=f"{RESULTS}/{{model}}/base/model",
        base_record=f"{RESULTS}/{{model}}/base/record.json",
        data=lambda wildcards: dataset_path(CONFIG.modes[wildcards.mode].dataset, wildcards.model),
        rules=lambda wildcards: resolved_rules(wildcards.model),
    output:
        model=candidate(f"{RESULTS}/{{model}}/{{mode}}/epochs{{epochs}}/seed{{seed}}/model"),
        record=f"{RESULTS}/{{model}}/{{mode}}/epochs{{epochs}}/seed{{seed}}/record.json",
    log:
        f"{LOGS}/tune/{{model}}/{{mode}}/epochs{{epochs}}/seed{{seed}}.log",
    threads: EXECUTION.threads
    resources:
        mem_mb=lambda wildcards, attempt: memory(wildcards.model, attempt, EXECUTION.processes),
        runtime=60,
        gpu=gpus(EXECUTION.processes),
        processes=EXECUTION.processes,
        device=EXECUTION.device,
        batch=EXECUTION.micro_batch_tokens,
    params:
        code=code_of("tune"),
        epochs=lambda wildcards: int(wildcards.epochs),
        settings=lambda wildcards: tuning_settings(wildcards.model, wildcards.mode, wildcards.seed),
        checkpoints=f"{RESULTS}/checkpoints/{{model}}/{{mode}}/epochs{{epochs}}/seed{{seed}}",  # not an output: kept after a failure
    message:
        "tune: {wildcards.model}, {wildcards.mode}, epochs: {wildcards.epochs} (validation), a line per step in {log}"
    shell:
        "{WARM} scripts/tune.py --base {input.base} --base-record {input.base_record} --data {input.data} "
        "--model {output.model} --record {output.record} --settings {params.settings:q} --epochs {params.epochs} "
        "--checkpoints {params.checkpoints} --processes {resources.processes} {TUNING_OPTIONS} --budget {BUDGET:q} "
        "--device {resources.device} --threads {EXECUTION.threads} --batch {resources.batch} > {log} 2>&1"


def chosen_epochs(file):
    """The epoch count in a selection's JSON."""
    return json.load(file)["epochs"]


use rule tune_candidate as tune_chosen with:
    """Tune a model with the chosen epoch count, whose results are reported."""
    input:
        base=f"{RESULTS}/{{model}}/base/model",
        base_record=f"{RESULTS}/{{model}}/base/record.json",
        data=lambda wildcards: dataset_path(CONFIG.modes[wildcards.mode].dataset, wildcards.model),
        rules=lambda wildcards: resolved_rules(wildcards.model),
        selected=f"{RESULTS}/{{model}}/{{mode}}/selected.json",
    output:
        model=directory(f"{RESULTS}/{{model}}/{{mode}}/chosen/seed{{seed}}/model"),
        record=f"{RESULTS}/{{model}}/{{mode}}/chosen/seed{{seed}}/record.json",
    log:
        f"{LOGS}/tune/{{model}}/{{mode}}/chosen/seed{{seed}}.log",
    params:
        code=code_of("tune"),
        epochs=parse_input(input.selected, parser=chosen_epochs),
        settings=lambda wildcards: tuning_settings(wildcards.model, wildcards.mode, wildcards.seed),
        checkpoints=f"{RESULTS}/checkpoints/{{model}}/{{mode}}/chosen/seed{{seed}}",
    message:
        "tune: {wildcards.model}, {wildcards.mode}, seed {wildcards.seed}, epochs: {params.epochs}, a line per step in {log}"
