"""An experiment's metrics as runs: what TensorBoard, Weights & Biases and trackio draw.

A run is a system of a seed, by its name (``tiny/poem/seed1``); a step is one of tuning, so that what is found of a
tuned model stands where its tuning ended, and of others at 0. In a run of validation, a step is a count of epochs.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.files.storage import read_json

if TYPE_CHECKING:
    from pandas import DataFrame

# (metric, slice, part) -> its name in a run, and whether it is one of validation.
NAMES = {
    ("loss", "all", ""): "tuning/loss",
    ("learning_rate", "all", ""): "tuning/learning_rate",
    ("tokens_read", "all", ""): "tuning/tokens",
    ("tokens_per_step", "all", ""): "tuning/tokens_per_step",
    ("win_rate", "all", ""): "test/win_rate",
    ("win_rate_error", "all", ""): "test/win_rate_error",
    ("lc_win_rate", "all", ""): "test/length_controlled_win_rate",
    ("ties", "all", ""): "test/ties",
    ("quality", "all", ""): "test/quality",
    ("capability", "any", "sequence"): "ranking/capability",
    ("capability", "any", "token"): "ranking/capability_per_token",
}
VALIDATION = {"win_rate": "validation/win_rate", "win_rate_error": "validation/win_rate_error"}


@dataclass
class Run:
    """A run: what names it, the record of its tuning (if any), and by step the metrics that are known there."""

    parts: tuple[str, ...]  # model, system, and a seed or "validation"
    record: str = ""
    steps: dict[int, dict[str, float]] = field(default_factory=lambda: defaultdict(dict))

    @property
    def name(self) -> str:
        """Its name."""
        return "/".join(self.parts)

    @property
    def group(self) -> str:
        """The name of what it is one run of."""
        return "/".join(self.parts[:-1])

    @property
    def config(self) -> dict[str, Any]:
        """The settings that identify it."""
        return read_json(Path(self.record))["settings"] if self.record else {}


def runs_of(metrics: "DataFrame") -> list[Run]:
    """The runs of an experiment, by name."""
    import pandas as pd

    runs: dict[tuple[str, ...], Run] = {}
    rows = metrics[metrics["metric"].isin({metric for metric, *_ in NAMES}) & (metrics["level"] == "seed")]
    # What belongs to a step first: of a run's other metrics, the last step is theirs.
    for row in rows.sort_values("step", kind="stable", na_position="last").to_dict("records"):
        if row["opponent"] == "references":
            if row["metric"] in VALIDATION:
                parts = (row["model"], row["name"], "validation")
                runs.setdefault(parts, Run(parts)).steps[int(row["epochs"])][VALIDATION[row["metric"]]] = row["value"]
            continue
        key = (row["metric"], row["slice"], row["part"])
        if key in NAMES:
            parts = (row["model"], row["name"], *([f"seed{row['seed']}"] if pd.notna(row["seed"]) else []))
            run = runs.setdefault(parts, Run(parts))
            run.record = row["source"] if row["metric"] == "loss" else run.record
            step = int(row["step"]) if pd.notna(row["step"]) else max(run.steps, default=0)
            run.steps[step][NAMES[key]] = row["value"]
    return sorted(runs.values(), key=lambda run: run.name)
