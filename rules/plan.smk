"""The plan: the estimated cost of an experiment, before it runs."""


def rows_of(dataset):
    """The dataset that the rows come from, if a dataset is made from another; otherwise itself."""
    made_of = CONFIG.datasets[dataset].made_of
    return rows_of(made_of[0]) if made_of else dataset


def judge_costs():
    """What the cost of a judgement depends on, besides the number of requests; empty if it costs nothing."""

    def asked(judge):
        answer_tokens = 1 if judge.answer == "logprobs" else 10
        price = plain(judge.server.price) if judge.server else None
        return dict(kind=judge.kind, evaluator=judge.evaluator, answer_tokens=answer_tokens, price=price)

    judges = [asked(judge) for judge in PANEL.values() if judge.kind not in ("oracle", "reference")]
    return dict(stage="judge", judges=judges) if judges else {}


def set_size(name):
    """The number of instructions in an evaluation set; a thousand if the config does not state it."""
    return CONFIG.evaluation_sets[name].instructions or 1000


def shared_jobs():
    """Jobs shared by all models, rewritten datasets and base models, as (output, what the cost depends on)."""
    for name in dict.fromkeys(one for used in used_datasets() for one in CONFIG.ancestry(used)):
        if CONFIG.datasets[name].origin == "rewrite":
            source = rows_of(name)
            yield dataset_path(name, CONFIG.run.models[0]), dict(
                stage="rewrite",
                examples=CONFIG.datasets[source].examples,
                mean_tokens=CONFIG.plan.tokens.get(source),
                price=plain(CONFIG.rewriting.server.price),
            )
    for name in TRAINED:
        yield f"{RESULTS}/judge/{name}/record.json", dict(stage="train_judge")
    for name in CONFIG.judge.card if CONFIG.judge and judge_costs() else []:
        known = dict(annotations=f"{RESULTS}/data/annotations/{name}.parquet", sample=CONFIG.annotations[name].sample)
        yield card_path(name), judge_costs() | dict(stage="card", orders=ASKED) | known
    for base, model in PRETRAINED.items():
        shape = dict(vocabulary=model.pretrain.vocab_size, layers=model.pretrain.architecture.layers)
        shape |= dict(width=model.pretrain.architecture.hidden_size, tokens=model.pretrain.tokens)
        yield f"{BASES}/{base}/record.json", dict(stage="pretrain", **shape)


def tuning_jobs(model):
    """Tuning, and the validation for choosing epoch counts."""
    costs, validation = judge_costs(), CONFIG.selection.evaluation_set
    parameters, seed = CONFIG.models[model].parameters, CONFIG.validation_seed(model)
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
        for epochs in grid if len(grid) > 1 else []:
            system, count = tuned(mode, seed, epochs), set_size(validation)
            yield f"{RESULTS}/{model}/{system.path}/record.json", data | dict(epochs=epochs)
            asked = dict(stage="generate", parameters=parameters, instructions=count)
            yield responses_path(model, system, validation), asked
            if costs:
                yield judgement_path(model, system, "references", validation), costs | dict(calls=ASKED * count)
        for system in chosen(mode, model):  # epoch count not known yet: at most the largest
            yield f"{RESULTS}/{model}/{system.path}/record.json", data | dict(epochs=max(grid))


def measuring_jobs(model):
    """The measurements of a model's systems."""
    costs, parameters = judge_costs(), CONFIG.models[model].parameters
    count = set_size(CONFIG.generation.evaluation_set)
    for system in tested_systems(model):
        yield responses_path(model, system), dict(stage="generate", parameters=parameters, instructions=count)
    for system in ranked_systems(model):
        yield f"{RESULTS}/{model}/{system.path}/ranking.json", dict(
            stage="rank",
            parameters=parameters,
            instructions=CONFIG.ranking.instructions,
            responses=CONFIG.ranking.others * len(CONFIG.ranking.negatives) + 1,
        )
    for system in drifting_systems(model):
        yield drift_path(model, system), dict(stage="drift", parameters=parameters, documents=CONFIG.drift.documents)
    for system in harness_systems(model):
        yield harness_path(model, system), dict(stage="harness")
    for mode in CONFIG.similarity.modes if CONFIG.similarity else []:
        yield similarity_path(model, mode), dict(stage="similarity")
    for system, seed in comparisons(model) if costs else []:
        yield judgement_path(model, system, f"seed{seed}"), costs | dict(calls=ASKED * count)


ASKED = 2 if CONFIG.judge and CONFIG.judge.both_orders else 1  # times that each pair is shown to the judge
PLANNED = ("rewrite", "pretrain", "tune", "generate", "rank", "drift", "harness", "similarity", "train_judge", "judge")
PLANNED += ("card",)


def planned_jobs():
    """The costly jobs, grouped by cost: what the cost depends on, and the jobs' outputs."""
    made = [*shared_jobs()]
    for model in CONFIG.run.models:
        made += [*tuning_jobs(model), *measuring_jobs(model)]
    jobs = {}
    for output, job in made:
        jobs.setdefault(json.dumps(job, sort_keys=True), job | {"outputs": []})["outputs"].append(output)
    return sorted(jobs.values(), key=lambda job: PLANNED.index(job["stage"]))


rule plan:
    """Print the plan. It has no output, so it always runs."""
    localrule: True
    threads: 1
    params:
        settings=settings(
            jobs=planned_jobs(),
            machine=MACHINE,
            gpu=CONFIG.plan.gpu,
            device=EXECUTION.device,
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
