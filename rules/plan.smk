"""The plan: what an experiment will cost, before it runs."""


def rows_of(dataset):
    """The dataset that gives the rows of one that is made of another, or itself."""
    made_of = CONFIG.datasets[dataset].made_of
    return rows_of(made_of[0]) if made_of else dataset


def judge_costs():
    """What the cost of a judgement depends on, besides how often the judge is asked; nothing for the oracle."""
    judge = CONFIG.judge
    if judge is None or judge.kind == "oracle":
        return {}
    answer_tokens = 1 if judge.answer == "logprobs" else 10
    price = plain(judge.server.price) if judge.server else None
    return dict(stage="judge", kind=judge.kind, evaluator=judge.evaluator, answer_tokens=answer_tokens, price=price)


def planned_jobs():
    """The costly jobs, those of the same cost together: what the cost depends on, and the jobs' outputs."""
    jobs = {}

    def add(output, **job):
        jobs.setdefault(json.dumps(job, sort_keys=True), job | {"outputs": []})["outputs"].append(output)

    def size(name):
        return CONFIG.evaluation_sets[name].instructions or 1000

    test, validation = CONFIG.generation.evaluation_set, CONFIG.selection.evaluation_set
    asked = 2 if CONFIG.judge and CONFIG.judge.both_orders else 1
    costs = judge_costs()
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
                system = f"{mode}/epochs{epochs}/seed{seed}"
                add(f"{RESULTS}/{model}/{system}/record.json", epochs=epochs, **data)
                add(
                    responses_path(model, system, validation),
                    stage="generate",
                    parameters=parameters,
                    instructions=size(validation),
                )
                if costs:
                    add(
                        judgement_path(model, system, "references", validation), calls=asked * size(validation), **costs
                    )
            for system in chosen(mode, model):  # whose epoch count is not known yet: at most the largest
                add(f"{RESULTS}/{model}/{system}/record.json", epochs=max(grid), **data)
        for system in tested_systems(model):
            add(responses_path(model, system), stage="generate", parameters=parameters, instructions=size(test))
        for system, _, _ in ranked_systems(model):
            others = CONFIG.ranking.others * len(CONFIG.ranking.negatives)
            count, responses = CONFIG.ranking.instructions, others + 1
            add(
                f"{RESULTS}/{model}/{system}/ranking.json",
                stage="rank",
                parameters=parameters,
                instructions=count,
                responses=responses,
            )
        for _, system in drifting_systems(model):
            documents = CONFIG.drift.documents
            add(drift_path(model, system), stage="drift", parameters=parameters, documents=documents)
        for system, seed, *_ in comparisons(model) if costs else []:
            add(judgement_path(model, system, f"seed{seed}"), calls=asked * size(test), **costs)
    return sorted(
        jobs.values(), key=lambda job: ("rewrite", "tune", "generate", "rank", "drift", "judge").index(job["stage"])
    )


rule plan:
    """Print the plan. It makes nothing, so that it is always done anew."""
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
            ceilings=CONFIG.ceilings.model_dump(),
            ledger=f"{RESULTS}/ledger",
        ),
    message:
        "plan: what {CONFIG.experiment} will cost"
    shell:
        "printf %s {params.settings:q} | python scripts/make_plan.py --settings -"
