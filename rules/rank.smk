"""Response ranking: is the true response more likely than another one?"""


rule rank:
    input:
        [
            f"{RESULTS}/{model}/{system}/ranking.json"
            for model in CONFIG.run.models
            for system, _, _ in ranked_systems(model)
        ],


rule rank_responses:
    """The scores of true and other responses under one model."""
    input:
        code=sources("rank_responses"),
        model=f"{RESULTS}/{{model}}/{{system}}/model",
        record=f"{RESULTS}/{{model}}/{{system}}/record.json",
        set=lambda wildcards: set_path(CONFIG.ranking.evaluation_set, wildcards.model),
    output:
        table=f"{RESULTS}/{{model}}/{{system}}/ranking.parquet",
        summary=f"{RESULTS}/{{model}}/{{system}}/ranking.json",
    log:
        f"{LOGS}/rank/{{model}}/{{system}}.log",
    benchmark:
        f"{BENCHMARKS}/rank/{{model}}/{{system}}.tsv"
    threads: EXECUTION.threads
    resources:
        mem_mb=2000,
        runtime=60,
        device=EXECUTION.device,
        batch=EXECUTION.ranking_batch_tokens,
    params:
        settings=(
            settings(**CONFIG.ranking.model_dump(exclude={"evaluation_set", "modes"}), chat=CHAT)
            if CONFIG.ranking
            else None
        ),
    message:
        "rank: {wildcards.model}, {wildcards.system}"
    shell:
        "python {input.code[0]} --model {input.model} --model-record {input.record} --set {input.set} "
        "--output {output.table} --summary {output.summary} --settings {params.settings:q} "
        "--device {resources.device} --threads {threads} --batch {resources.batch} > {log} 2>&1"
