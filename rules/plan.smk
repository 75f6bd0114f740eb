"""The plan: what an experiment will cost, before it runs."""


def rows_of(dataset):
    """The dataset that gives the rows of one that is made of another, or itself."""
    made_of = CONFIG.datasets[dataset].made_of
    return rows_of(made_of[0]) if made_of else dataset


def planned_jobs():
    """The costly jobs, those of the same cost together: what the cost depends on, and the jobs' outputs."""
    jobs = {}

    def add(output, **job):
        jobs.setdefault(json.dumps(job, sort_keys=True), job | {"outputs": []})["outputs"].append(output)

    def size(name):
        return CONFIG.evaluation_sets[name].instructions or 1000

    test, validation = CONFIG.generation.evaluation_set, CONFIG.selection.evaluation_set
    asked = 2 if CONFIG.judge and CONFIG.judge.both_orders else 1
    answered = CONFIG.judge is not None and CONFIG.judge.kind in ("server", "evaluator")
    price = plain(CONFIG.judge.server.price) if CONFIG.judge and CONFIG.judge.server else {"input": 0, "output": 0}
    answer_tokens = 1 if CONFIG.judge and CONFIG.judge.answer == "logprobs" else 10
    for name in dict.fromkeys(one for used in used_datasets() for one in CONFIG.ancestry(used)):
        if CONFIG.datasets[name].origin == "rewrite":
            source = rows_of(name)
            add(
                dataset_path(name, CONFIG.run.models[0]),
                stage="rewrite",
                examples=CONFIG.datasets[source].examples,
                mean_tokens=CONFIG.plan.tokens.get(source),
                price=plain(CONFIG.rewriting.server.price),
            )
    for model in CONFIG.run.models:
        parameters = CONFIG.models[model].parameters
        for mode in CONFIG.run.modes:
            name, grid = CONFIG.modes[mode].dataset, CONFIG.epoch_grid(model, mode)
            source = rows_of(name)
            data = {
                "stage": "tune",
                "parameters": parameters,
                "data": dataset_path(name, model),
                "examples": CONFIG.datasets[source].examples,
                "mean_tokens": CONFIG.plan.tokens.get(name, CONFIG.plan.tokens.get(source)),
            }
            seed = CONFIG.validation_seed(model)
            for epochs in grid if len(grid) > 1 else []:
                system = tuned(mode, seed, epochs)
                add(f"{RESULTS}/{model}/{system.path}/record.json", epochs=epochs, **data)
                add(
                    responses_path(model, system, validation),
                    stage="generate",
                    parameters=parameters,
                    instructions=size(validation),
                )
                judged = judgement_path(model, system, "references", validation)
                if answered:
                    add(judged, stage="judge", calls=asked * size(validation), answer_tokens=answer_tokens, price=price)
            for system in chosen(mode, model):  # whose epoch count is not known yet: at most the largest
                add(f"{RESULTS}/{model}/{system.path}/record.json", epochs=max(grid), **data)
        for system in tested_systems(model):
            add(responses_path(model, system), stage="generate", parameters=parameters, instructions=size(test))
        for system in ranked_systems(model):
            others = CONFIG.ranking.others * len(CONFIG.ranking.negatives)
            count, responses = CONFIG.ranking.instructions, others + 1
            add(
                f"{RESULTS}/{model}/{system.path}/ranking.json",
                stage="rank",
                parameters=parameters,
                instructions=count,
                responses=responses,
            )
        for system in drifting_systems(model):
            documents = CONFIG.drift.documents
            add(drift_path(model, system), stage="drift", parameters=parameters, documents=documents)
        for system, seed in comparisons(model) if answered else []:
            judged = judgement_path(model, system, f"seed{seed}")
            add(judged, stage="judge", calls=asked * size(test), answer_tokens=answer_tokens, price=price)
    return sorted(
        jobs.values(), key=lambda job: ("rewrite", "tune", "generate", "rank", "drift", "judge").index(job["stage"])
    )


rule plan:
    """Print the plan. It makes nothing, so that it is always done anew."""
    input:
        code=sources("make_plan"),
    localrule: True
    threads: 1
    params:
        settings=settings(
            jobs=planned_jobs(),
            machine=MACHINE,
            gpu=CONFIG.plan.gpu,
            response_tokens=min(CONFIG.plan.response_tokens, CONFIG.generation.max_new_tokens),
            batch=EXECUTION.generation_batch_size,
            checkpointing=EXECUTION.gradient_checkpointing,
            price=(
                plain(CONFIG.judge.server.price) if CONFIG.judge and CONFIG.judge.server else {"input": 0, "output": 0}
            ),
            ceilings=CONFIG.ceilings.model_dump(),
            ledger=f"{RESULTS}/ledger",
        ),
    message:
        "plan: what {CONFIG.experiment} will cost"
    shell:
        "printf %s {params.settings:q} | python {input.code[0]} --settings -"
