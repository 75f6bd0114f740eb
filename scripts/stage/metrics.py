"""An experiment's figures as metrics of runs: what TensorBoard, Weights & Biases and trackio draw.

Everything is read from the records of a finished experiment, so that tuning depends on none of these tools. A run is a
system of a seed, by its name (``tiny/poem/seed1``); a step is one of tuning, so that what is found of a tuned model
stands where its tuning ended, and of what was not tuned at 0. In a run of validation, a step is a count of epochs.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from implicit.optimise import learning_rate_factor
from stage.storage import read_json

Row = dict[str, Any]


@dataclass
class Run:
    """A run: its name, the settings that identify it, and by step the metrics that are known there."""

    name: str
    config: Row = field(default_factory=dict)
    steps: dict[int, dict[str, float]] = field(default_factory=lambda: defaultdict(dict))

    def add(self, step: int, metrics: dict[str, float | None]) -> None:
        """Add metrics at a step, but for those that are not defined."""
        self.steps[step] |= {name: value for name, value in metrics.items() if value is not None}

    def end(self, metrics: dict[str, float | None]) -> None:
        """Add metrics of what has come out: at the last step of tuning, or 0."""
        self.add(max(self.steps, default=0), metrics)


def runs_of(settings: Row) -> list[Run]:
    """The runs of an experiment, by name. ``settings`` lists the stages' summaries, as for `make_tables`.

    Win rates, capabilities and ties are in percent, losses in nats per token, tokens without padding.
    """
    runs: dict[str, Run] = {}

    def run(*parts: str) -> Run:
        name = "/".join(parts).replace("/chosen", "")
        return runs.setdefault(name, Run(name))

    for entry in settings["tunings"]:
        add_tuning(run(entry["model"], entry["mode"], f"seed{entry['seed']}"), read_json(entry["path"]))
    for entry in settings["figures"]:
        add_win_rate(run(entry["model"], entry["system"], f"seed{entry['seed']}"), read_json(entry["path"]))
    for entry in settings["rankings"]:
        folder = Path(entry["path"]).parent.name  # the base model's has no seed
        seed = [folder] if folder.startswith("seed") else []
        add_ranking(run(entry["model"], entry["system"], *seed), read_json(entry["path"])["summary"])
    for entry in settings["selections"]:
        for row in read_json(entry["path"])["grid"]:
            if row["win_rate"] is not None:  # with a single epoch count nothing is validated
                found = {"validation/win_rate": row["win_rate"], "validation/win_rate_error": row["win_rate_error"]}
                run(entry["model"], entry["mode"], "validation").add(row["epochs"], found)
    return [runs[name] for name in sorted(runs)]


def add_tuning(run: Run, record: Row) -> None:
    """The loss and learning rate of each step of a tuning, and at its end the tokens that went into it."""
    tuning, losses = record["settings"]["tuning"], record["losses"]
    run.config = record["settings"]
    for i, loss in enumerate(losses):
        factor = learning_rate_factor(tuning["schedule"], i, steps=len(losses), warmup=tuning["warmup"])
        run.add(i + 1, {"tuning/loss": loss, "tuning/learning_rate": tuning["learning_rate"] * factor})
    run.end({"tuning/tokens": record["tokens"], "tuning/tokens_per_step": record["tokens"] / len(losses)})


def add_win_rate(run: Run, summary: Row) -> None:
    """What a judge said of a system's responses against the opponent of the same seed."""
    run.end(
        {
            "test/win_rate": summary["win_rate"],
            "test/win_rate_error": summary["win_rate_error"],
            "test/length_controlled_win_rate": summary["lc_win_rate"],
            "test/ties": 100 * summary["ties"] / summary["n"],
            "test/quality": summary["quality_2"],
        }
    )


def add_ranking(run: Run, summary: Row) -> None:
    """How often a system ranks the true response first, by both scores."""
    for score, name in (("sequence", "ranking/capability"), ("token", "ranking/capability_per_token")):
        run.end({name: 100 * summary[score]["capability"]})
