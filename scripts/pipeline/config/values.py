"""Values of a config that are valid individually but not together, as they apply to each model and mode."""

import shutil
from importlib.metadata import PackageNotFoundError, version

from pipeline.config.datasets import Source
from pipeline.config.schema import Config, gpus

Lengths = dict[tuple[str, int, int], list[str]]  # (key, tokens, context) -> models


def bad_values(config: Config) -> list[str]:
    """Inconsistencies in a config whose names are all defined and whose overrides are valid."""
    faults = [*_datasets(config), *_evaluation_sets(config), *_lengths(config), *_worlds(config)]
    if config.similarity:
        for name in config.run.models:
            if config.similarity.seed not in (seeds := config.test_seeds(name)):
                faults.append(
                    f"similarity.seed: {config.similarity.seed} is not a test seed of model {name!r}: {seeds}"
                )
    if config.plan.gpu not in gpus():
        faults.append(f"plan.gpu: {config.plan.gpu!r} is unknown; known GPUs are {', '.join(gpus())}")
    members = config.judge.panel() if config.judge else {}
    if config.selects() and any(member.kind == "reference" and not member.references for member in members.values()):
        faults.append(
            f"selection.epochs: {config.selection.epochs}: a judge of kind 'reference' cannot choose among them, since "
            "validation compares with the references themselves; give a single count"
        )
    if not config.judge and config.selects():
        faults.append(f"selection.epochs: {config.selection.epochs} cannot be chosen from without a judge; add a judge")
    return [*faults, *_not_installed(config)]


def mixed_worlds(config: Config) -> list[str]:
    """A note if models are evaluated on another world than that of their tuning data, which is not an error."""
    asked = config.evaluation_sets[config.generation.evaluation_set]
    own = [mode for mode in config.run.modes if not config.of_world(config.modes[mode].dataset)]
    drawn = [mode for mode in config.run.modes if mode not in own]
    if asked.origin == "world_part" and own:
        return [
            f"note: {', '.join(own)}: tuned on data of your own, but asked the tiny world's questions, which these "
            "data say nothing about. To ask others, set generation.evaluation_set, and a judge that knows them."
        ]
    if asked.origin != "world_part" and drawn:
        return [
            f"note: {', '.join(drawn)}: tuned on the tiny world's data, but asked questions from elsewhere "
            f"(evaluation_sets.{config.generation.evaluation_set})."
        ]
    return []


def used_sources(config: Config) -> dict[str, Source]:
    """The datasets and evaluation sets that this run reads, by their key in the config."""
    datasets = {config.modes[mode].dataset for mode in config.run.modes}
    datasets |= {config.similarity.baseline} if config.similarity else set()
    datasets = {made_of for name in datasets for made_of in config.ancestry(name)}
    sets = {config.generation.evaluation_set}
    sets |= {config.ranking.evaluation_set} if config.ranking else set()
    sets |= {config.selection.evaluation_set} if config.selects() else set()
    sets |= {*config.checks, *config.judge_sets()}
    used: dict[str, Source] = {f"datasets.{name}": config.datasets[name] for name in sorted(datasets)}
    used |= {f"annotations.{name}": config.annotations[name] for name in sorted(config.annotations_used())}
    return used | {f"evaluation_sets.{name}": config.evaluation_sets[name] for name in sorted(sets)}


def _datasets(config: Config) -> list[str]:
    """Datasets made from others that are not available."""
    faults = []
    if not config.rewriting and any(source.origin == "rewrite" for source in used_sources(config).values()):
        faults.append("rewriting: missing, but a dataset in use needs it")
    circle = [
        name
        for name, source in config.datasets.items()
        if any(name in config.ancestry(made_of) for made_of in source.made_of)
    ]
    if circle:
        faults.append(f"datasets: {', '.join(circle)}: made from itself, through 'alter', 'responses_of' or 'rewrite'")
    return faults


def _evaluation_sets(config: Config) -> list[str]:
    """Evaluation sets that lack something that is needed: references, kinds of request, enough instructions."""
    faults = []
    ranking, judge = config.ranking, config.judge
    needed = [("ranking.evaluation_set", ranking.evaluation_set)] if ranking else []
    needed += [("selection.evaluation_set", config.selection.evaluation_set)] if config.selects() else []
    members = judge.panel().values() if judge else []
    own = any(member.kind == "reference" and not member.references for member in members)
    needed += [("generation.evaluation_set", config.generation.evaluation_set)] if own else []
    needed += [("judge.references", name) for member in members for name in member.references]
    for key, name in needed:
        own = config.evaluation_sets[name]
        if own.origin != "world_part" and own.recipe is None and own.reference is None:
            faults.append(f"{key}: evaluation_sets.{name} has no 'reference', which is needed here: add a template")
    if any(member.kind == "oracle" for member in members):
        judged = [("generation.evaluation_set", config.generation.evaluation_set)]
        judged += [("selection.evaluation_set", config.selection.evaluation_set)] if config.selects() else []
        faults += [
            f"judge.kind: the oracle knows only the tiny world's instructions, but {key} is {name!r}"
            for key, name in judged
            if config.evaluation_sets[name].origin != "world_part"
        ]
    for member in members:
        base = member.train.base if member.train else None
        if base in config.models and base not in config.run.models:
            faults.append(f"judge.train.base: {base!r} is not among run.models, {config.run.models}, so it is not made")
    if judge and judge.card and any(member.kind == "oracle" for member in members):
        faults.append(f"judge.card: {judge.card}: the oracle knows only the tiny world's instructions")
    for name, checker in config.checks.items():
        own = config.evaluation_sets[name]
        if checker in ("ifeval", "mbpp") and own.recipe != checker:
            faults.append(f"checks.{name}: the checker {checker!r} needs evaluation_sets.{name}.recipe: {checker}")
        elif checker == "gsm8k" and own.origin != "world_part" and own.reference is None:
            faults.append(
                f"checks.{name}: evaluation_sets.{name} has no 'reference', which is needed here: add a template"
            )
    held = config.evaluation_sets[ranking.evaluation_set] if ranking else None
    if ranking and held and held.instructions is not None and held.instructions < ranking.instructions:
        faults.append(
            f"ranking.instructions: {ranking.instructions}, but evaluation_sets.{ranking.evaluation_set} has "
            f"{held.instructions}"
        )
    if ranking and held and held.origin != "world_part" and ranking.negatives != ["any"]:
        faults.append(
            f"ranking.negatives: {ranking.negatives} requires a world evaluation set, which "
            f"{ranking.evaluation_set!r} is not; use [any]"
        )
    return faults


def _lengths(config: Config) -> list[str]:
    """Lengths beyond the context of a model that is pre-trained here; other models are checked when they are loaded."""
    found: Lengths = {}
    for name in config.run.models:
        model = config.models[name]
        if model.pretrain is None:
            continue
        asked = {f"models.{name}.pretrain.sequence_length": model.pretrain.sequence_length}
        for mode in config.run.modes:
            layers = ((f"modes.{mode}.", config.modes[mode].tuning), (f"models.{name}.", model.tuning), ("", None))
            layer = next(layer for layer, own in layers if own is None or "max_length" in own)
            asked[f"{layer}tuning.max_length"] = config.mode_tuning(name, mode).max_length
        for key, length in asked.items():
            if length > model.pretrain.architecture.context:
                found.setdefault((key, length, model.pretrain.architecture.context), []).append(repr(name))
    return [
        f"{key}: {length} tokens, but the context of model {', '.join(names)} is {context}"
        for (key, length, context), names in found.items()
    ]


def _worlds(config: Config) -> list[str]:
    """Models without a world, although sets or texts must be drawn from it."""
    without = [name for name in config.run.models if config.models[name].world_seed is None]
    faults = []
    if any(used.origin == "world_part" for used in used_sources(config).values()):
        faults += [
            f"models.{name}.world_seed: missing, but a set in use is drawn from the model's world" for name in without
        ]
    if config.drift and config.drift.file is None:
        faults += [f"drift.file: missing, but model {name!r} has no world to draw texts from" for name in without]
    return faults


def _not_installed(config: Config) -> list[str]:
    """Optional programs and packages that this run needs and that are not installed."""
    faults = []
    harness = config.drift.harness if config.drift else None
    if harness and shutil.which(harness.command) is None:
        faults.append(
            f"drift.harness.command: {harness.command!r} is not found: install lm-evaluation-harness (pip install "
            "lm-eval), or give the path to lm_eval"
        )
    tracking = config.execution.tracking
    try:
        if tracking:
            version(tracking)  # not `find_spec`, which mistakes wandb's folder of past runs, `wandb`, for the package
    except PackageNotFoundError:
        faults.append(
            f"execution.tracking: {tracking} is not installed: pip install {tracking}, with the environment active"
        )
    return faults
