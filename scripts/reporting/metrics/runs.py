"""An experiment's metrics as runs for TensorBoard, Weights & Biases and trackio.

A run is a system with a seed, named like ``tiny/poem/seed1``; steps are tuning steps, so results of a tuned model are
at the step where its tuning ended, and those of other systems at 0. In a validation run, a step is an epoch count.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.files.storage import read_json

if TYPE_CHECKING:
    from pandas import DataFrame

# (metric, slice, part) -> its name in a run.
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
    """A run: the parts of its name, the record of its tuning (if any), and the metrics at each step."""

    parts: tuple[str, ...]  # model, system, and a seed or "validation"
    record: str = ""
    steps: dict[int, dict[str, float]] = field(default_factory=lambda: defaultdict(dict))

    @property
    def name(self) -> str:
        """The name of the run."""
        return "/".join(self.parts)

    @property
    def group(self) -> str:
        """The name of the run's group."""
        return "/".join(self.parts[:-1])

    @property
    def config(self) -> dict[str, Any]:
        """The settings that identify the run."""
        return read_json(Path(self.record))["settings"] if self.record else {}


def runs_of(metrics: "DataFrame") -> list[Run]:
    """The runs of an experiment, by name."""
    import pandas as pd

    runs: dict[tuple[str, ...], Run] = {}
    rows = metrics[metrics["metric"].isin({metric for metric, *_ in NAMES}) & (metrics["level"] == "seed")]
    # Metrics of a step come first: a run's other metrics belong to its last step.
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
