"""The names in a config: each is defined, and none is ambiguous in a path or in a table."""

from implicit.measuring.published import RANKING, WIN_RATES
from pipeline.config.judges import Judge
from pipeline.config.messages import meant
from pipeline.config.schema import BASE_LABEL, Config
from pipeline.config.types import same_text
from pipeline.identity.bases import SHARED

# Names that the paths in the rules already use where a name of the section goes: two rules would produce the same file,
# or write into the same folder. tests/test_config_names.py reads them from the rules and compares.
RESERVED = {
    "experiment": (SHARED,),  # results/NAME
    "models": (  # results/EXPERIMENT/NAME
        *("answers", "benchmarks", "checkpoints", "data", "events"),
        *("figures", "judge", "ledger", "logs", "tables", "tracked"),
    ),
    "modes": ("base", "rules"),  # results/EXPERIMENT/MODEL/NAME
    # results/EXPERIMENT/MODEL/SYSTEM/NAME.parquet, or NAME.record.json
    "evaluation_sets": ("drift", "harness", "ranking", "recall", "similarity"),
}


def unknown_names(config: Config) -> list[str]:
    """References to a name that the other section does not define."""
    datasets, sets, modes = list(config.datasets), list(config.evaluation_sets), list(config.modes)
    published = sorted({*WIN_RATES, *RANKING})
    references = [("run.models", name, list(config.models)) for name in config.run.models]
    references += [("run.modes", name, modes) for name in config.run.modes]
    references += [(f"modes.{name}.dataset", mode.dataset, datasets) for name, mode in config.modes.items()]
    references += [
        (f"modes.{name}.published", mode.published, published)
        for name, mode in config.modes.items()
        if mode.published is not None
    ]
    references += [
        (f"datasets.{name}.{key}", made_of, datasets)
        for name, source in config.datasets.items()
        for key in ("rewrite", "alter", "responses_of")
        if (made_of := getattr(source, key)) is not None
    ]
    references += [
        (f"models.{name}.epochs", mode, modes) for name, model in config.models.items() for mode in model.epochs
    ]
    references += [("plan.tokens", name, datasets) for name in config.plan.tokens]
    references += [("generation.evaluation_set", config.generation.evaluation_set, sets)]
    if config.selects():
        references += [("selection.evaluation_set", config.selection.evaluation_set, sets)]
    references += [("checks", name, sets) for name in config.checks]
    if config.ranking:
        references += [("ranking.evaluation_set", config.ranking.evaluation_set, sets)]
        references += [("ranking.modes", name, modes) for name in config.ranking.modes]
    if config.similarity:
        references += [("similarity.modes", name, config.run.modes) for name in config.similarity.modes]
        references += [("similarity.baseline", config.similarity.baseline, datasets)]
    if config.judge:
        references += [("judge.reference_mode", config.judge.reference_mode, config.run.modes)]
        references += _of_judge(config.judge, list(config.annotations), sets)
    return [
        f"{key}: {name!r} is not defined; defined are {', '.join(known) or 'none'}{meant(name, known)}"
        for key, name, known in references
        if name not in known
    ]


def _of_judge(judge: Judge, annotations: list[str], sets: list[str]) -> list[tuple[str, str, list[str]]]:
    """The references of a judge's section to names of other sections: key, name, and the names that are defined."""
    found = [("judge.card", name, annotations) for name in judge.card]
    for name, member in judge.panel().items():
        key = f"judge.members.{name}" if judge.kind == "panel" else "judge"
        found += [(f"{key}.references", each, sets) for each in member.references]
        if member.train:
            found += [(f"{key}.train.annotations", each, annotations) for each in member.train.annotations]
            found += [(f"{key}.train.held_out.sets", each, annotations + sets) for each in member.train.held_out.sets]
    return found


def names_taken(config: Config) -> list[str]:
    """Names that would collide with another path, and labels that would collide with another row of a table."""
    defined = {"models": config.models, "modes": config.modes, "evaluation_sets": config.evaluation_sets}
    names = [("experiment", config.experiment)] + [(key, name) for key, own in defined.items() for name in own]
    faults = [
        f"{key}: {name!r} is a reserved name; choose another. Reserved here: {', '.join(RESERVED[key])}"
        for key, name in names
        if name in RESERVED[key]
    ]
    labels = {"the base model's own": BASE_LABEL}
    labels |= {
        f"rules.variants.{name}": used.label for name, used in (config.rules.used() if config.rules else {}).items()
    }
    labels |= {f"modes.{name}.label": config.modes[name].label for name in config.run.modes if name in config.modes}
    same: dict[str, list[str]] = {}
    for place, label in labels.items():
        same.setdefault(same_text(label), []).append(f"{place} ({label!r})")
    faults += [
        f"{' and '.join(reversed(places))}: these labels look the same in tables; make them different"
        for places in same.values()
        if len(places) > 1
    ]
    return faults
