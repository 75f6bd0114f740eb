"""Response ranking: is the true response more likely than another one?"""


rule rank:
    input:
        [
            f"{RESULTS}/{model}/{system.path}/ranking.json"
            for model in CONFIG.run.models
            for system in ranked_systems(model)
        ],


rule rank_responses:
    """Score true and other responses with one model."""
    input:
        model=f"{RESULTS}/{{model}}/{{system}}/model",
        record=f"{RESULTS}/{{model}}/{{system}}/record.json",
        set=lambda wildcards: set_path(CONFIG.ranking.evaluation_set, wildcards.model),
    output:
        table=f"{RESULTS}/{{model}}/{{system}}/ranking.parquet",
        summary=f"{RESULTS}/{{model}}/{{system}}/ranking.json",
    log:
        f"{LOGS}/rank/{{model}}/{{system}}.log",
    threads: EXECUTION.threads
    resources:
        mem_mb=lambda wildcards, attempt: memory(wildcards.model, attempt),
        runtime=60,
        gpu=gpus(),
        device=EXECUTION.device,
        batch=EXECUTION.ranking_batch_tokens,
    params:
        code=code_of("rank_responses"),
        settings=lambda wildcards: settings(
            **CONFIG.ranking.model_dump(exclude={"evaluation_set", "modes"}), chat=chat(wildcards.model)
        ),
    message:
        "rank: {wildcards.model}, {wildcards.system}"
    shell:
        "{WARM} scripts/rank_responses.py --model {input.model} --model-record {input.record} --set {input.set} "
        "--output {output.table} --summary {output.summary} --settings {params.settings:q} "
        "--budget {BUDGET:q} --device {resources.device} --threads {EXECUTION.threads} --batch {resources.batch} > {log} 2>&1"


def similarity_path(model, mode):
    return f"{RESULTS}/{model}/{tuned(mode, CONFIG.similarity.seed).path}/similarity.json"


rule similarity:
    input:
        [
            similarity_path(model, mode)
            for model in CONFIG.run.models
            for mode in (CONFIG.similarity.modes if CONFIG.similarity else [])
        ],


rule measure_similarity:
    """Measure whether responses resemble the tuning data and its style if instructions do (paper, section 5.2)."""
    input:
        set=lambda wildcards: set_path(CONFIG.generation.evaluation_set, wildcards.model),
        responses=lambda wildcards: responses_path(wildcards.model, tuned(wildcards.mode, wildcards.seed)),
        data=lambda wildcards: dataset_path(CONFIG.modes[wildcards.mode].dataset, wildcards.model),
        baseline=lambda wildcards: dataset_path(CONFIG.similarity.baseline, wildcards.model),
        access=lambda wildcards: (
            ancient(f"{RESULTS}/data/access.json") if is_hub_id(CONFIG.similarity.encoder) else []
        ),
    output:
        table=f"{RESULTS}/{{model}}/{{mode}}/chosen/seed{{seed}}/similarity.parquet",
        summary=f"{RESULTS}/{{model}}/{{mode}}/chosen/seed{{seed}}/similarity.json",
    log:
        f"{LOGS}/similarity/{{model}}/{{mode}}/seed{{seed}}.log",
    threads: EXECUTION.threads
    resources:
        mem_mb=4000,
        runtime=60,
        gpu=gpus(),
        device=EXECUTION.device,
        batch=EXECUTION.generation_batch_size,
    params:
        code=code_of("measure_similarity"),
        settings=(
            settings(encoder=CONFIG.similarity.encoder, revision=CONFIG.similarity.revision)
            if CONFIG.similarity
            else None
        ),
    message:
        "similarity: {wildcards.model}, {wildcards.mode}"
    shell:
        "{WARM} scripts/measure_similarity.py --set {input.set} --responses {input.responses} --data {input.data} "
        "--baseline {input.baseline} --output {output.table} --summary {output.summary} --settings {params.settings:q} "
        "--budget {BUDGET:q} --device {resources.device} --threads {EXECUTION.threads} --batch {resources.batch} > {log} 2>&1"
