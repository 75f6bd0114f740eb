"""The checked config, paths, and everything else that the rules share. No rules here."""

import atexit
import json
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

from snakemake.exceptions import WorkflowError

sys.path.insert(0, str(Path(workflow.basedir) / "scripts"))

from pipeline.identity.bases import SHARED, base_name
from pipeline.run.snakemake_internals import check_max_version, config_files, mend_ancient
from pipeline.config.check import ConfigError, check_config
from pipeline.jobs.command import WITHOUT_BARS, print_in_any_encoding
from pipeline.config.schema import BASE_LABEL, gpus
from pipeline.files.hub import is_hub_id
from pipeline.files.local_files import is_url
from pipeline.identity.sources import code_of
from pipeline.identity.systems import System

check_max_version()
if not mend_ancient():

    def ancient(value):
        """An input like any other: more is rerun than needed, but nothing less."""
        return value


print_in_any_encoding()
os.environ |= WITHOUT_BARS  # for every job: logs are read by people and by the run's display

try:
    CONFIG = check_config(config, files=config_files(workflow))
except ConfigError as error:
    raise WorkflowError(f"errors in the config:\n{error}")

RESULTS = f"results/{CONFIG.experiment}"
BASES = f"results/{SHARED}"  # base models, pre-trained once for all experiments
LOGS = f"{RESULTS}/logs"
BENCHMARKS = f"{RESULTS}/benchmarks"

EXECUTION = CONFIG.execution
REFERENCE = CONFIG.judge.reference_mode if CONFIG.judge else None
RULE_VARIANTS = CONFIG.rules.used() if CONFIG.rules else {}
REWRITTEN = [name for name, dataset in CONFIG.datasets.items() if dataset.origin == "rewrite"]
ALTERED = [name for name, dataset in CONFIG.datasets.items() if dataset.origin == "alter"]

# How, not what: shell commands can use global names that are not parameters, so changing them reruns nothing.
MACHINE = gpus()[CONFIG.plan.gpu] | {"utilisation": CONFIG.plan.utilisation}
BUDGET = json.dumps({"folder": f"{RESULTS}/ledger", "ceilings": CONFIG.ceilings.model_dump(), "machine": MACHINE})
WARM = "python scripts/pipeline/jobs/warm.py"  # instead of `python`: skips imports if keep_warm runs a server
TUNING_OPTIONS = f"--checkpoint-steps {EXECUTION.checkpoint_steps}"
TUNING_OPTIONS += " --gradient-checkpointing" if EXECUTION.gradient_checkpointing else ""
TUNING_OPTIONS += " --compile" if EXECUTION.compile else ""
REQUESTS = f"--requests {EXECUTION.requests} --timeout {EXECUTION.timeout} --attempts {EXECUTION.attempts}"


def keep_warm():
    """Let jobs of this run be forked from a process that has imported torch; an empty WARM_FOLDER disables this."""
    os.environ |= {"SNAKEMAKE_PID": str(os.getpid())}
    if (
        "WARM_FOLDER" not in os.environ and sys.platform == "linux"
    ):  # on other systems, forking after such imports is not safe
        folder = tempfile.mkdtemp(prefix="warm-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        os.environ |= {"WARM_FOLDER": folder}


def settings(**content):
    """A rule's part of the config, as the JSON that its script takes: changing it reruns the rule.

    Snakemake treats {name} in a parameter as a wildcard, so braces in texts are written as JSON escapes.
    """
    return re.sub(r'\{(?![}"])', r"\\u007b", json.dumps(content, sort_keys=True, ensure_ascii=False))


def plain(section):
    """A section of the config as plain values."""
    return section.model_dump() if section is not None else None


def of_world(dataset):
    """Whether a dataset is drawn from the model's world, or made from one that is."""
    return CONFIG.of_world(dataset)


def origin(of_world, model):
    """The folder of a dataset or an evaluation set: that of the model's world, or that of all other sources."""
    return f"world{CONFIG.models[model].world_seed}" if of_world else "files"


def dataset_path(name, model):
    return f"{RESULTS}/data/{origin(of_world(name), model)}/{name}.parquet"


def set_path(name, model):
    return f"{RESULTS}/data/{origin(CONFIG.evaluation_sets[name].origin == 'world_part', model)}/sets/{name}.parquet"


def used_datasets():
    """The names of all datasets that are used for tuning or comparison."""
    names = [CONFIG.modes[mode].dataset for mode in CONFIG.run.modes]
    return list(dict.fromkeys([*names, *([CONFIG.similarity.baseline] if CONFIG.similarity else [])]))


def used_sets():
    """The names of all evaluation sets in use."""
    names = [CONFIG.generation.evaluation_set]
    names += [CONFIG.ranking.evaluation_set] if CONFIG.ranking else []
    names += [CONFIG.selection.evaluation_set] if CONFIG.selects() else []
    names += [*CONFIG.checks, *CONFIG.judge_sets()]
    return list(dict.fromkeys(names))


def all_datasets(model):
    """The paths of all datasets that are used for tuning a model or for comparison."""
    return [dataset_path(name, model) for name in used_datasets()]


def all_sets(model):
    """The paths of all evaluation sets for a model."""
    return [set_path(name, model) for name in used_sets()]


# Data not drawn from a world, which must be valid before hours of pre-training.
OWN_DATASETS = [path for path in all_datasets(CONFIG.run.models[0]) if path.startswith(f"{RESULTS}/data/files/")]
OWN_SETS = [path for path in all_sets(CONFIG.run.models[0]) if path.startswith(f"{RESULTS}/data/files/")]
# The base model that each model uses. Snakemake reruns a job if its inputs are other files than before, so a base
# model whose pre-training depends on an experiment's own files is not shared with other experiments.
TAKEN = {
    model: base_name(
        world=CONFIG.models[model].world_seed,
        pretrain=plain(CONFIG.models[model].pretrain),
        experiment=CONFIG.experiment if OWN_DATASETS + OWN_SETS else None,
    )
    for model in CONFIG.run.models
    if CONFIG.models[model].pretrain
}
PRETRAINED = {base: CONFIG.models[model] for model, base in TAKEN.items()}


wildcard_constraints:
    base="|".join(PRETRAINED) or "none",
    model="|".join(CONFIG.run.models),
    mode="|".join(CONFIG.run.modes),
    source=r"files|world-?\d+",
    dataset="|".join(CONFIG.datasets),
    set="|".join(CONFIG.evaluation_sets),
    annotations="|".join(CONFIG.annotations) or "none",
    epochs=r"\d+",
    seed=r"-?\d+",
    variant="|".join(RULE_VARIANTS) or "none",
    # A system is something that responds: the base model, the base model with rules, or a tuned model.
    system=r"base|rules/[^/]+|[^/]+/epochs\d+/seed-?\d+|[^/]+/chosen/seed-?\d+",


def on_hub():
    """Everything that comes from the hub, to check access to it."""
    own = {f"datasets.{name}": CONFIG.datasets[name] for used in used_datasets() for name in CONFIG.ancestry(used)}
    own |= {f"evaluation_sets.{name}": CONFIG.evaluation_sets[name] for name in used_sets()}
    own |= {f"annotations.{name}": CONFIG.annotations[name] for name in CONFIG.annotations_used()}
    found = [
        {"name": name, "type": "dataset", "id": s.hub.id, "revision": s.hub.revision, "gated": s.hub.gated}
        for name, s in own.items()
        if s.origin == "hub"
    ]
    models = {f"models.{name}.path": CONFIG.models[name] for name in CONFIG.run.models}
    found += [
        {"name": name, "type": "model", "id": m.path, "revision": m.revision, "gated": m.gated}
        for name, m in models.items()
        if m.path and is_hub_id(m.path)
    ]
    others = (
        [("similarity.encoder", CONFIG.similarity.encoder, CONFIG.similarity.revision)] if CONFIG.similarity else []
    )
    for member in CONFIG.judge.panel().values() if CONFIG.judge else []:
        others += [("judge.path", member.path, member.revision)] if member.path else []
        others += [("judge.train.base", member.train.base, member.train.revision)] if own_base(member.train) else []
    found += [
        {"name": name, "type": "model", "id": path, "revision": revision, "gated": False}
        for name, path, revision in others
        if is_hub_id(path)
    ]
    return found


def own_base(training):
    """Whether a judge is trained from a model that is not one of the experiment's."""
    return training is not None and training.base not in CONFIG.models


def chat(model):
    """The chat format of a model, as plain values."""
    return CONFIG.model_chat(model).model_dump()


def memory(model, attempt, copies=1):
    """MiB of main memory for a job that loads a model ``copies`` times in float32; more with each attempt."""
    return attempt * (2000 + round(4.2 * 1024 * copies * (CONFIG.models[model].parameters or 0)))


def gpus(count=1):
    """GPUs of a job, on clusters and with --resources gpu=N."""
    return 0 if EXECUTION.device == "cpu" else count


def resolved_rules(model):
    """What must exist before a model is tuned: the tokens of its rules, if it has any."""
    return ancient(f"{RESULTS}/{model}/rules/tokens.json") if rule_variants(model) else []


def rule_variants(model):
    """The sets of rules to apply to a model."""
    return RULE_VARIANTS if CONFIG.models[model].rules else {}


BASE = System("base", BASE_LABEL, paper="base")


def rules_system(variant):
    """The base model with a set of rules."""
    own = RULE_VARIANTS[variant]
    return System("rules", own.label, variant, rules=tuple(sorted(own.use)))


def tuned(mode, seed, epochs=None):
    """A tuned model; without ``epochs``, with the chosen epoch count."""
    shape = CONFIG.modes[mode]
    seed = None if seed is None else int(seed)
    return System("tuned", shape.label, mode, epochs, seed, turn=shape.user_turn, paper=shape.published or "")


RULES_SYSTEMS = {system.path: system for system in map(rules_system, RULE_VARIANTS)}


def chosen(mode, model):
    """The tuned models of a mode whose results are reported."""
    return [tuned(mode, seed) for seed in CONFIG.test_seeds(model)]


def comparisons(model):
    """The comparisons on the test set, as (system, seed of the opponent)."""
    tested = [mode for mode in CONFIG.run.modes if mode != REFERENCE]
    under_rules = [rules_system(variant) for variant in rule_variants(model)]
    return [
        (system, seed)
        for seed in (CONFIG.test_seeds(model) if CONFIG.judge else [])
        for system in [BASE, *(tuned(mode, seed) for mode in tested), *under_rules]
    ]


def responses_path(model, system, name=None):
    return f"{RESULTS}/{model}/{system.path}/{name or CONFIG.generation.evaluation_set}.parquet"


def judgement_path(model, system, opponent, name=None):
    name = name or CONFIG.generation.evaluation_set
    return f"{RESULTS}/{model}/{system.path}/{name}.against-{opponent}.json"


def tested_systems(model):
    """Every system that responds to the test set."""
    under_rules = [rules_system(variant) for variant in rule_variants(model)]
    return [BASE, *under_rules, *(system for mode in CONFIG.run.modes for system in chosen(mode, model))]


def ranked_systems(model):
    """Every system that ranks responses."""
    if not CONFIG.ranking:
        return []
    return [BASE, *(system for mode in CONFIG.ranked_modes() for system in chosen(mode, model))]
