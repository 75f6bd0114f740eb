"""The paper's experiment as a config, and the jobs that it has by the paper's account."""

import yaml
from snakemake.utils import update_config
from workflow import ROOT

from pipeline.config.check import check_config

PAPER = "experiments/paper.yaml"
OVERLAYS = ["paper-scripts", "paper-published-epochs", "paper-tags", "paper-no-rephrase"]


def config_of(*names):
    raw = yaml.safe_load((ROOT / "config.yaml").read_text())
    for name in names:
        update_config(raw, yaml.safe_load((ROOT / "experiments" / f"{name}.yaml").read_text()))
    return check_config(raw)


def expected_jobs(config):
    """Jobs per rule, derived from the config by counting as the paper describes its experiment."""
    models, modes, seeds = config.run.models, config.run.modes, len(config.run.test_seeds)
    searched = [(m, o) for m in models for o in modes if len(config.epoch_grid(m, o)) > 1]
    candidates = sum(len(config.epoch_grid(m, o)) for m, o in searched)
    variants = len(config.rules.variants) * sum(config.models[m].rules for m in models) if config.rules else 0
    tuned = len(models) * len(modes) * seeds
    counts = {
        "check_access": 1,
        "make_dataset": len(
            {config.datasets[config.modes[o].dataset].rewrite or config.modes[o].dataset for o in modes}
        ),
        "rewrite_dataset": len(
            {config.modes[o].dataset for o in modes if config.datasets[config.modes[o].dataset].rewrite}
        ),
        "make_evaluation_set": 1 + bool(searched) + bool(config.ranking),
        "list_data": len(models),
        "import_model": len(models),
        "tune_candidate": candidates,
        "tune_chosen": tuned,
        "select_epochs": len(models) * len(modes),
        "resolve_rules": sum(config.models[m].rules for m in models) if config.rules else 0,
        "generate_responses": candidates + tuned + len(models) + variants,
        # All modes except the opponent against it, by seed; the base model and each set of rules against all seeds.
        "judge_responses": candidates + seeds * (len(models) * (len(modes) - 1) + len(models) + variants),
        "rank_responses": len(models) * (1 + len(config.ranking.modes) * seeds) if config.ranking else 0,
        "measure_drift": tuned if config.drift else 0,
        "measure_similarity": len(models) * len(config.similarity.modes) if config.similarity else 0,
        "collect_metrics": 1,
        "make_tables": 1,
        "make_figures": 1,
        "make_examples": 1,
        "make_events": 1,
        "make_report": 1,
        "record_config": 1,
    }
    return {rule: count for rule, count in counts.items() if count}
