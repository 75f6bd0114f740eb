"""The checked config, where things lie, and what the rules share. No rules here."""

import json
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

sys.path.insert(0, str(Path(workflow.basedir) / "scripts"))

from stage.config import ConfigError, check_config
from stage.sources import sources

try:
    CONFIG = check_config(config)
except ConfigError as error:
    raise WorkflowError(f"the config is wrong:\n{error}")

RESULTS = f"results/{CONFIG.experiment}"
LOGS = f"{RESULTS}/logs"
BENCHMARKS = f"{RESULTS}/benchmarks"

CHAT = CONFIG.chat.model_dump()
EXECUTION = CONFIG.execution
REFERENCE = CONFIG.judge.reference_mode if CONFIG.judge else None
RULE_VARIANTS = {name: used for name, used in CONFIG.rules.variants.items() if used is not None} if CONFIG.rules else {}


wildcard_constraints:
    model="|".join(CONFIG.run.models),
    mode="|".join(CONFIG.run.modes),
    source=r"files|world\d+",
    dataset="|".join(CONFIG.datasets),
    set="|".join(CONFIG.evaluation_sets),
    epochs=r"\d+",
    seed=r"-?\d+",
    variant="|".join(RULE_VARIANTS) or "none",
    # A system is what responds: the base model, the base model with rules, or a tuned model.
    system=r"base|rules/[^/]+|[^/]+/epochs\d+/seed-?\d+|[^/]+/chosen/seed-?\d+",


def settings(**content):
    """A rule's slice of the config, as the JSON that its script takes: a change of it reruns the rule."""
    return json.dumps(content, sort_keys=True, ensure_ascii=False)


def plain(section):
    """A section of the config as plain values."""
    return section.model_dump() if section is not None else None


def origin(source, model):
    """Where a dataset or an evaluation set lies: with the model's world, or with what comes from files."""
    return "files" if source.file else f"world{CONFIG.models[model].world}"


def dataset_path(name, model):
    return f"{RESULTS}/data/{origin(CONFIG.datasets[name], model)}/{name}.parquet"


def set_path(name, model):
    return f"{RESULTS}/data/{origin(CONFIG.evaluation_sets[name], model)}/sets/{name}.parquet"


def all_datasets(model):
    """Every dataset that a model is tuned on."""
    return list(dict.fromkeys(dataset_path(CONFIG.modes[mode].dataset, model) for mode in CONFIG.run.modes))


def all_sets(model):
    """Every evaluation set that a model is asked."""
    names = [CONFIG.generation.evaluation_set]
    names += [CONFIG.ranking.evaluation_set] if CONFIG.ranking else []
    names += [CONFIG.selection.evaluation_set] if len(CONFIG.selection.epochs) > 1 else []
    return list(dict.fromkeys(set_path(name, model) for name in names))


def chosen(mode, model):
    """The tuned models of a mode whose results are reported, as systems."""
    return [f"{mode}/chosen/seed{seed}" for seed in CONFIG.test_seeds(model)]


def comparisons(model):
    """What is judged on the test set: (system, seed of the opponent, label, published row, rules, tables)."""
    tested = []
    for seed in CONFIG.test_seeds(model) if CONFIG.judge else []:
        tables = ["table1", "table3", "table4"] if RULE_VARIANTS else ["table1", "table3"]
        tested.append(("base", seed, "base", "base", None, tables))
        for mode in CONFIG.run.modes:
            if mode != REFERENCE:
                shape = CONFIG.modes[mode]
                table = "table3" if shape.show_instruction else "table1"
                tested.append((f"{mode}/chosen/seed{seed}", seed, shape.label, shape.published, None, [table]))
        for variant, used in RULE_VARIANTS.items():
            left_out = [rule for rule in ("eos", "uniform", "diversity") if rule not in used]
            label = "base + rules" + (f" without {' and '.join(left_out)}" if left_out else "")
            tested.append((f"rules/{variant}", seed, label, None, used, ["table4"]))
    return tested


def responses_path(model, system, name=None):
    return f"{RESULTS}/{model}/{system}/{name or CONFIG.generation.evaluation_set}.parquet"


def judgement_path(model, system, opponent, name=None):
    name = name or CONFIG.generation.evaluation_set
    return f"{RESULTS}/{model}/{system}/{name}.against-{opponent}.json"


def tested_systems(model):
    """Every system that responds to the test set."""
    tuned = [system for mode in CONFIG.run.modes for system in chosen(mode, model)]
    return ["base", *(f"rules/{variant}" for variant in RULE_VARIANTS), *tuned]


def ranked_systems(model):
    """Every system that ranks responses, with its label: (system, label, published row)."""
    if not CONFIG.ranking:
        return []
    ranked = [("base", "base", "base")]
    for mode in CONFIG.ranked_modes():
        shape = CONFIG.modes[mode]
        ranked += [(system, shape.label, shape.published) for system in chosen(mode, model)]
    return ranked
