"""The check of a config: once, before any job starts, with every fault named by key and value."""

import shutil
from collections import Counter
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from implicit.chat_client import unknown_price
from implicit.judge_template import JudgeError, check_template, read_template
from stage.bases import SHARED
from stage.config import GPUS, Config, Model, Source, merged
from stage.hub import is_hub_id
from stage.local_files import is_url

FOLDERS = (  # of the results
    *("data", "tables", "figures", "events", "tracked"),
    *("logs", "benchmarks", "answers", "checkpoints", "ledger"),
)


class ConfigError(ValueError):
    """One or more faults of a config, a line each."""


def check_config(raw: dict[str, Any]) -> Config:
    """Check a config as Snakemake read it. Raises ConfigError that lists every fault by key and value."""
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(fault) for fault in error.errors())) from None
    config = _with_conditions(config)
    faults = [*_unknown_names(config), *_bad_values(config), *_missing_files(config), *_unfit_judge(config)]
    if faults:
        raise ConfigError("\n".join(faults))
    return config


def _with_conditions(config: Config) -> Config:
    """The config with the models that its conditions make of one, as those that are run. Raises ConfigError."""
    varied = config.conditions
    if varied is None:
        return config
    faults = []
    if varied.model not in config.models:
        faults.append(f"conditions.model: {varied.model!r} is not defined; defined are {', '.join(config.models)}")
    elif config.models[varied.model].pretrain is None:
        faults.append(f"conditions.model: {varied.model!r} is not pre-trained here, so that no world can be given it")
    if len(set(varied.worlds)) != len(varied.worlds):
        faults.append(f"conditions.worlds: {varied.worlds} holds a value twice")
    if not varied.models():
        faults.append("conditions.values: all are null, which leaves none")
    for condition, changes in varied.values.items():
        pretrain = (changes or {}).get("pretrain")
        for key, section in (("world", changes), ("pretrain.seed", pretrain)):
            if isinstance(section, dict) and key.split(".")[-1] in section:
                faults.append(f"conditions.values.{condition}.{key}: each world of conditions.worlds is given its own")
    faults += [
        f"models: {name!r} is the name of a model of `conditions`" for name in varied.models() if name in config.models
    ]
    if faults:
        raise ConfigError("\n".join(faults))
    made = {}
    for name, (condition, world) in varied.models().items():
        own = {"world": world, "pretrain": {"seed": world}}
        layers = (config.models[varied.model].model_dump(), varied.values[condition] or {}, own)
        try:
            made[name] = Model.model_validate(merged(*layers))
        except ValidationError as error:
            for fault in error.errors():
                told = _explain(fault, Model)
                faults.append(
                    f"conditions.values.{condition}{f'.{told}' if fault['loc'] else told.removeprefix('config')}"
                )
    if faults:
        raise ConfigError("\n".join(dict.fromkeys(faults)))  # each once, not for every world
    run = config.run.model_copy(update={"models": list(made)})
    return config.model_copy(update={"models": config.models | made, "run": run})


def _explain(fault: Any, shape: type[BaseModel] = Config) -> str:
    """A fault that pydantic found in something of a shape, as a line."""
    key = ".".join(str(part) for part in fault["loc"]) or "config"
    if fault["type"] == "extra_forbidden":
        known = _keys_at(fault["loc"][:-1], shape)
        return f"{key}: unknown key" + (f"; known keys here are {', '.join(known)}" if known else "")
    if fault["type"] == "missing":
        return f"{key}: missing"
    message = fault["msg"].removeprefix("Value error, ")
    return f"{key}: {message}" + ("" if fault["type"] == "value_error" else f", but it is {fault['input']!r}")


def _keys_at(location: tuple, shape: type[BaseModel]) -> list[str]:
    """The keys that the section at a location knows, as far as it can be followed."""
    section: Any = shape
    for part in location:
        fields = getattr(section, "model_fields", None)
        annotation = fields[part].annotation if fields and part in fields else section
        sections = [a for a in _types_in(annotation) if isinstance(a, type) and issubclass(a, BaseModel)]
        if not sections:
            return []
        section = sections[0]
    return list(section.model_fields)


def _types_in(annotation: Any) -> list[Any]:
    inner = getattr(annotation, "__args__", ())
    return [annotation, *(t for arg in inner for t in _types_in(arg))]


def _unknown_names(config: Config) -> list[str]:
    """References from one section to a name that another does not define."""
    datasets, sets, modes = list(config.datasets), list(config.evaluation_sets), list(config.modes)
    references = [("run.models", name, list(config.models)) for name in config.run.models]
    references += [("run.modes", name, modes) for name in config.run.modes]
    references += [(f"modes.{name}.dataset", mode.dataset, datasets) for name, mode in config.modes.items()]
    references += [
        (f"datasets.{name}.{key}", made_of, datasets)
        for name, source in config.datasets.items()
        for key in ("rewrite", "alter", "responses_of")
        if (made_of := getattr(source, key)) is not None
    ]
    references += [
        (f"models.{name}.epochs", mode, modes) for name, model in config.models.items() for mode in model.epochs
    ]
    references += [("generation.evaluation_set", config.generation.evaluation_set, sets)]
    if config.selects():
        references += [("selection.evaluation_set", config.selection.evaluation_set, sets)]
    if config.ranking:
        references += [("ranking.evaluation_set", config.ranking.evaluation_set, sets)]
        references += [("ranking.modes", name, modes) for name in config.ranking.modes]
    if config.similarity:
        references += [("similarity.modes", name, config.run.modes) for name in config.similarity.modes]
        references += [("similarity.baseline", config.similarity.baseline, datasets)]
    if config.judge:
        references += [("judge.reference_mode", config.judge.reference_mode, config.run.modes)]
    return [
        f"{key}: {name!r} is not defined; defined are {', '.join(known)}"
        for key, name, known in references
        if name not in known
    ]


def _bad_values(config: Config) -> list[str]:
    """Values that are right by themselves and wrong together."""
    faults: list[str] = []
    layers = [(f"modes.{name}", mode.tuning, {}) for name, mode in config.modes.items()]
    layers += [(f"models.{name}", model.tuning, model.chat) for name, model in config.models.items()]
    for key, tuning, chat in layers:
        for section, common, own in (("tuning", config.tuning, tuning), ("chat", config.chat, chat)):
            try:
                type(common).model_validate(merged(common.model_dump(), own))
            except ValidationError as error:
                faults += [f"{key}.{section}.{_explain(fault, type(common))}" for fault in error.errors()]
    if not config.rewriting and any(source.origin == "rewrite" for source in _used_sources(config).values()):
        faults.append("rewriting: missing, but a dataset in use is to be rewritten by it")
    circle = [
        name
        for name, source in config.datasets.items()
        if any(name in config.ancestry(made_of) for made_of in source.made_of)
    ]
    if circle:
        faults.append(f"datasets: {', '.join(circle)}: made of itself, by 'alter', 'responses_of' or 'rewrite'")
    if config.similarity and config.similarity.seed not in config.run.test_seeds:
        faults.append(f"similarity.seed: {config.similarity.seed} is none of run.test_seeds, {config.run.test_seeds}")
    if config.plan.gpu not in GPUS:
        faults.append(f"plan.gpu: {config.plan.gpu!r} is not known; known are {', '.join(GPUS)}")
    for key, values in (("run.test_seeds", config.run.test_seeds), ("selection.epochs", config.selection.epochs)):
        if len(set(values)) != len(values):
            faults.append(f"{key}: {values} holds a value twice")
    ranking = config.ranking
    held = config.evaluation_sets.get(ranking.evaluation_set) if ranking else None
    if ranking and held and held.instructions is not None and held.instructions < ranking.instructions:
        faults.append(
            f"ranking.instructions: {ranking.instructions}, but evaluation_sets.{ranking.evaluation_set} has "
            f"{held.instructions}"
        )
    if ranking and held and held.origin != "world" and ranking.negatives != ["any"]:
        faults.append(
            f"ranking.negatives: {ranking.negatives}, but of evaluation_sets.{ranking.evaluation_set}, which is not of "
            "the tiny world, nobody knows the kinds of request: give [any]"
        )
    faults += _unmeasured_drift(config)
    faults += _names_taken(config)
    faults += _not_installed(config)
    if not config.judge and config.selects():
        faults.append(f"selection.epochs: {config.selection.epochs} cannot be chosen from without a judge; give one")
    for name in config.run.models:
        model = config.models.get(name)
        if model and model.pretrain:
            context = model.pretrain.architecture.context
            for key, length in (
                ("tuning.max_length", config.tuning.max_length),
                (f"models.{name}.pretrain.sequence_length", model.pretrain.sequence_length),
            ):
                if length > context:
                    faults.append(f"{key}: {length} tokens, but the context of model {name!r} is {context}")
        if model and model.world is None and any(used.origin == "world" for used in _used_sources(config).values()):
            faults.append(f"models.{name}.world: missing, but a set in use is drawn from the model's world")
    return faults


def _unmeasured_drift(config: Config) -> list[str]:
    """What a measurement of drift lacks: text of each model, and the harness itself."""
    if not config.drift:
        return []
    faults = []
    if config.drift.file is None:
        faults += [
            f"drift.file: missing, but model {name!r} has no world to draw texts from"
            for name in config.run.models
            if name in config.models and config.models[name].world is None
        ]
    harness = config.drift.harness
    if harness and shutil.which(harness.command) is None:
        faults.append(
            f"drift.harness.command: {harness.command!r} is not found: install lm-evaluation-harness (pip install "
            "lm-eval), or give the path of its lm_eval"
        )
    return faults


def _not_installed(config: Config) -> list[str]:
    """Packages that this run asks for, are no part of the environment, and are not there."""
    tracking = config.execution.tracking
    try:
        if tracking:
            version(tracking)  # not `find_spec`: it takes wandb's own folder of former runs, `wandb`, for the package
    except PackageNotFoundError:
        return [f"execution.tracking: {tracking} is not installed: pip install {tracking}, with the environment active"]
    return []


def _names_taken(config: Config) -> list[str]:
    """Names that would meet another's folder, or another's row in a table."""
    faults = [f"models: {name!r} is the name of a folder of results" for name in config.run.models if name in FOLDERS]
    if config.experiment == SHARED:
        faults.append(f"experiment: {SHARED!r} is the name of the folder of shared base models")
    faults += [f"modes: {name!r} is the name of a system" for name in config.run.modes if name in ("base", "rules")]
    labels = {name: config.modes[name].label for name in config.run.modes if name in config.modes}
    twice = [label for label, count in Counter(labels.values()).items() if count > 1]
    for label in twice:
        names = [name for name, own in labels.items() if own == label]
        faults.append(f"modes: {', '.join(names)} have the same label, {label!r}: tables could not tell them apart")
    return faults


def _used_sources(config: Config) -> dict[str, Source]:
    """The datasets and evaluation sets that this run reads, by their place in the config."""
    datasets = {config.modes[mode].dataset for mode in config.run.modes if mode in config.modes}
    datasets |= {config.similarity.baseline} if config.similarity else set()
    datasets = {made_of for name in datasets for made_of in config.ancestry(name)}
    sets = {config.generation.evaluation_set}
    sets |= {config.ranking.evaluation_set} if config.ranking else set()
    sets |= {config.selection.evaluation_set} if config.selects() else set()
    used: dict[str, Source] = {f"datasets.{name}": config.datasets[name] for name in sorted(datasets)}
    return used | {
        f"evaluation_sets.{name}": config.evaluation_sets[name]
        for name in sorted(sets)
        if name in config.evaluation_sets
    }


def _unfit_judge(config: Config) -> list[str]:
    """A template or an evaluator that cannot be used, and what has no known price where there is a ceiling."""
    judge, faults = config.judge, []
    servers = {"judge.server.price": judge and judge.server}
    if any(source.origin == "rewrite" for source in _used_sources(config).values()):
        servers["rewriting.server.price"] = config.rewriting and config.rewriting.server
    without = [key for key, server in servers.items() if server and server.price is None]
    try:
        if judge and judge.template and Path(judge.template).is_file():
            check_template(read_template(judge.template))
        if judge and judge.evaluator:
            from implicit.evaluators import load_evaluator  # which takes seconds to import

            without += ["judge.evaluator"] if load_evaluator(judge.evaluator).price_per_token() is None else []
    except JudgeError as error:
        faults.append(str(error))
    return faults + ([unknown_price(key) for key in without] if config.ceilings.price is not None else [])


def _missing_files(config: Config) -> list[str]:
    """Local files and model directories that are not there, or not what they should be."""
    faults: list[str] = []
    files = [(key, file) for key, source in _used_sources(config).items() for file in (source.file, source.templates)]
    if config.judge:
        files += [("judge.template", config.judge.template), ("judge.gamed_table", config.judge.gamed_table)]
    if config.drift:
        files.append(("drift.file", config.drift.file))
    for key, file in files:
        if file and not is_url(file) and not Path(file).is_file():
            faults.append(f"{key}: file {file}: not found from {Path.cwd()}")
    for name in config.run.models:
        path = config.models[name].path if name in config.models else None
        if path is None or is_hub_id(path):
            continue
        for needed in (["config.json"], ["tokenizer.json", "tokenizer.model", "vocab.json"]):
            if not any((Path(path) / file).is_file() for file in needed):
                faults.append(f"models.{name}.path: the directory {path} holds no {' or '.join(needed)}")
    return faults
