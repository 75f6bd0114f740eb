"""Choose a mode's epoch count by validation win rate: write the choice and all figures as JSON.

    python scripts/select_epochs.py --output selected.json --settings '{"epochs": [2, 4]}' two.json four.json

The raw win rate decides, as length control is not defined for so few rows; if tied, the fewest epochs. A single epoch
count is chosen without judging.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from pipeline.files.storage import read_json, write_json
from pipeline.jobs.command import run_stage, say


def choose(epochs: list[int], win_rates: list[float | None]) -> int:
    """The epoch count with the highest win rate; the smallest if tied."""
    if len(epochs) == 1:
        return epochs[0]
    return max(zip(epochs, win_rates, strict=True), key=lambda pair: (pair[1], -pair[0]))[0]


def counted(epochs: int) -> str:
    """An epoch count in words."""
    return f"{epochs} epoch{'' if epochs == 1 else 's'}"


def announced(chosen: int, grid: list[dict[str, Any]]) -> str:
    """What was chosen from what, in one line."""
    if len(grid) == 1:
        return f"{counted(chosen)}, the only count"
    return f"{counted(chosen)}: win rates " + ", ".join(f"{row['win_rate']:.1f} % ({row['epochs']})" for row in grid)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("summaries", nargs="*", type=Path, help="summaries of `judge`, in the order of settings.epochs")
    parser.add_argument("--settings", type=json.loads, required=True)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    epochs = args.settings["epochs"]
    figures = [read_json(path) for path in args.summaries] or [{}] * len(epochs)
    keys = ("win_rate", "win_rate_error", "n", "judge", "date")
    grid = [{"epochs": e} | {key: figure.get(key) for key in keys} for e, figure in zip(epochs, figures, strict=True)]
    chosen = choose(epochs, [row["win_rate"] for row in grid])
    write_json({"epochs": chosen, "grid": grid}, args.output)
    say(announced(chosen, grid))


if __name__ == "__main__":
    run_stage(main)
