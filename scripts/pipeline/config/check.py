"""Check a config once, before any job starts, and name every error by key and value."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from implicit.judging.template import JudgeError, check_template, read_template
from implicit.servers.chat_client import unknown_price
from pipeline.config.files import read_layers, without_sizes_of_worlds
from pipeline.config.judges import Assessor
from pipeline.config.messages import explain, meant
from pipeline.config.models import Model
from pipeline.config.names import names_taken, unknown_names
from pipeline.config.schema import Config, merged
from pipeline.config.values import bad_values, used_sources
from pipeline.files.hub import is_hub_id
from pipeline.files.local_files import is_url, similar_path
from pipeline.jobs.command import InputError
from pipeline.models.gguf_files import gguf_in


class ConfigError(ValueError):
    """One or more errors in a config, one per line."""


def check_config(raw: dict[str, Any], files: Sequence[str | Path] = ()) -> Config:
    """Check a config as Snakemake read it from ``files``. Raises ConfigError listing errors by key and value.

    Later checks rely on earlier ones, so they are skipped if those find errors.
    """
    layers, faults = read_layers(files)
    _refuse(faults)
    try:
        config = Config.model_validate(without_sizes_of_worlds(raw, layers))
    except ValidationError as error:
        raise ConfigError("\n".join(explain(fault, Config) for fault in error.errors())) from None
    config = _with_conditions(config)
    _refuse([*unknown_names(config), *names_taken(config), *_bad_overlays(config)])
    _refuse([*bad_values(config), *_missing_files(config)])
    _refuse(_unfit_judge(config))
    return config


def _refuse(faults: list[str]) -> None:
    """Raise ConfigError with the distinct faults, if there are any."""
    if faults:
        raise ConfigError("\n".join(dict.fromkeys(faults)))


def _with_conditions(config: Config) -> Config:
    """The config with the models that its conditions define, set to be run. Raises ConfigError."""
    varied = config.conditions
    if varied is None:
        return config
    faults = []
    if varied.model not in config.models:
        known = f"{', '.join(config.models)}{meant(varied.model, config.models)}"
        faults.append(f"conditions.model: {varied.model!r} is not defined; defined are {known}")
    elif config.models[varied.model].pretrain is None:
        faults.append(f"conditions.model: {varied.model!r} is not pre-trained here, so its world cannot be varied")
    if not varied.models():
        faults.append("conditions.values: all are null, so no condition is left")
    for condition, changes in varied.values.items():
        pretrain = (changes or {}).get("pretrain")
        for key, section in (("world_seed", changes), ("pretrain.seed", pretrain)):
            if isinstance(section, dict) and key.split(".")[-1] in section:
                faults.append(f"conditions.values.{condition}.{key}: set by conditions.worlds; remove it here")
    faults += [
        f"models: {name!r} is the name of a model that `conditions` defines"
        for name in varied.models()
        if name in config.models
    ]
    _refuse(faults)
    made: dict[str, Model] = {}
    for name, (condition, world) in varied.models().items():
        own = {"world_seed": world, "pretrain": {"seed": world}}
        layers = (config.models[varied.model].model_dump(), varied.values[condition] or {}, own)
        try:
            made[name] = Model.model_validate(merged(*layers))
        except ValidationError as error:
            for fault in error.errors():
                message = explain(fault, Model)
                faults.append(
                    f"conditions.values.{condition}{f'.{message}' if fault['loc'] else message.removeprefix('config')}"
                )
    _refuse(faults)
    first = {condition: made[name] for name, (condition, world) in varied.models().items() if world == varied.worlds[0]}
    for model in first.values():
        same = [condition for condition, other in first.items() if other == model]
        if len(same) > 1:
            faults.append(f"conditions.values: {', '.join(same)} give the same model; remove all but one")
    _refuse(faults)
    run = config.run.model_copy(update={"models": list(made)})
    return config.model_copy(update={"models": config.models | made, "run": run})


def _bad_overlays(config: Config) -> list[str]:
    """Errors in the ``tuning`` and ``chat`` overrides of models and modes."""
    faults: list[str] = []
    layers = [(f"modes.{name}", mode.tuning, {}) for name, mode in config.modes.items()]
    layers += [(f"models.{name}", model.tuning, model.chat) for name, model in config.models.items()]
    for key, tuning, chat in layers:
        for section, common, own in (("tuning", config.tuning, tuning), ("chat", config.chat, chat)):
            try:
                type(common).model_validate(merged(common.model_dump(), own))
            except ValidationError as error:
                faults += [f"{key}.{section}.{explain(fault, type(common))}" for fault in error.errors()]
    return faults


def _unfit_judge(config: Config) -> list[str]:
    """Templates and evaluators that cannot be used, and anything without a known price if there is a price ceiling."""
    faults: list[str] = []
    members = _members(config)
    servers = {f"{key}.server.price": member.server for key, member in members.items()}
    if any(source.origin == "rewrite" for source in used_sources(config).values()):
        servers["rewriting.server.price"] = config.rewriting and config.rewriting.server
    without = [key for key, server in servers.items() if server and server.price is None]
    for key, member in members.items():
        try:
            if member.template and Path(member.template).is_file():
                check_template(read_template(member.template))
            if member.evaluator:
                from implicit.judging.evaluators import load_evaluator  # takes seconds to import

                if load_evaluator(member.evaluator).price_per_token() is None:
                    without.append(f"{key}.evaluator")
        except JudgeError as error:
            faults.append(str(error))
    return faults + ([unknown_price(key) for key in without] if config.ceilings.price is not None else [])


def _missing_files(config: Config) -> list[str]:
    """Local files and model directories that are missing or incomplete."""
    files = [(key, file) for key, source in used_sources(config).items() for file in (source.file, source.templates)]
    models = [(f"models.{name}.path", config.models[name].path) for name in config.run.models]
    members = _members(config)
    for key, member in members.items():
        files.append((f"{key}.template", member.template))
        models.append((f"{key}.path", member.path))
        if member.train and member.train.base not in config.models:
            models.append((f"{key}.train.base", member.train.base))
    unread = [(key, path) for key, path in models if key.startswith("judge.") and path and is_gguf(path)]
    if config.judge:
        files.append(("judge.df_gamed", config.judge.df_gamed))
    if config.drift:
        files.append(("drift.file", config.drift.file))
    if config.similarity:
        models.append(("similarity.encoder", config.similarity.encoder))
    faults = [
        f"{key}: {path}: a GGUF file cannot be read here; define it in `models`, and name that" for key, path in unread
    ]
    faults += [
        f"{key}: file {file}: not found (working directory: {Path.cwd()}){similar_path(file)}"
        for key, file in files
        if file and not is_url(file) and not Path(file).is_file()
    ]
    for key, path in models:
        if path and not is_hub_id(path):
            faults += _missing_in_directory(key, path)
    for key, member in members.items():
        shipped = _shipped_evaluators() if member.evaluator and not Path(member.evaluator).exists() else None
        if shipped is not None and member.evaluator not in shipped:
            faults.append(
                f"{key}.evaluator: {member.evaluator!r} is neither a file or folder here nor an evaluator that "
                f"ships with alpaca-eval{meant(member.evaluator, shipped)}"
            )
    return faults


def _members(config: Config) -> dict[str, Assessor]:
    """The judges, by their key in the config."""
    judge = config.judge
    if judge is None:
        return {}
    return {f"judge.members.{name}" if judge.kind == "panel" else "judge": own for name, own in judge.panel().items()}


def is_gguf(path: str) -> bool:
    """Whether a path is a GGUF file, or a directory with one."""
    try:
        return gguf_in(path) is not None
    except InputError:
        return False


def _missing_in_directory(key: str, path: str) -> list[str]:
    """What is missing from the directory of a model; nothing is from a GGUF file or a directory with one."""
    try:
        file = gguf_in(path)
    except InputError as error:
        return [f"{key}: {str(error).removeprefix('models: ')}"]
    if file:
        return [] if file.is_file() else [f"{key}: file {path}: not found from {Path.cwd()}"]
    if not Path(path).is_dir():
        where = f"{path} (working directory: {Path.cwd()}); a hub id is ORGANISATION/NAME{similar_path(path)}"
        return [f"{key}: no such directory: {where}"]
    return [
        f"{key}: the directory {path} contains no {' or '.join(needed)}"
        for needed in (["config.json"], ["tokenizer.json", "tokenizer.model", "vocab.json"])
        if not any((Path(path) / file).is_file() for file in needed)
    ]


def _shipped_evaluators() -> list[str]:
    """The names of the evaluators that ship with alpaca-eval. It is not imported, since that takes seconds."""
    found = find_spec("alpaca_eval")
    folders = found.submodule_search_locations or [] if found else []
    return sorted(
        path.parent.name for folder in folders for path in Path(folder).glob("evaluators_configs/*/configs.yaml")
    )
