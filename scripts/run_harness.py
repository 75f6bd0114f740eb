"""Run lm-evaluation-harness on a model: its own file of results as it is, and a record with the figures.

    python scripts/run_harness.py --model poem/model --model-record poem/record.json --output harness.json \\
        --summary harness.record.json --settings '{"command": "lm_eval", "tasks": ["arc_easy"], "options": [],
                                                   "precision": "float32"}'

The harness is a program of its own, in whatever environment: ``command`` is its name on the PATH, or its path. What
it prints goes to the log.
"""

import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from stage.budget import CeilingReached, Ledger
from stage.command import InputError, arguments, execution_of, run_stage, say
from stage.models import pick_device
from stage.record import Record, check_record
from stage.storage import read_json, write_json


def harness_command(settings: dict[str, Any], *, model: Path, output: Path, device: str, batch: int) -> list[str]:
    """The words of the command: the model's directory in the harness's own backend, all tasks in one run."""
    return [
        settings["command"], "--model", "hf", "--model_args", f"pretrained={model},dtype={settings['precision']}",
        "--tasks", ",".join(settings["tasks"]), "--device", device, "--batch_size", str(batch),
        "--output_path", str(output), *settings["options"],
    ]  # fmt: skip


def figures(results: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Task -> metric -> value, of the harness's results: its standard errors are of questions, and left to its file."""
    told = {
        task: {
            metric: value
            for metric, value in found.items()
            if "," in metric and "_stderr," not in metric and isinstance(value, int | float)
        }
        for task, found in results["results"].items()
    }
    return {task: metrics for task, metrics in told.items() if metrics}


def run_harness(command: list[str], folder: Path) -> dict[str, Any]:
    """Run the command, which writes into ``folder``; returns its results. Raises InputError where it fails."""
    if shutil.which(command[0]) is None:
        raise InputError(
            f"drift.harness.command: {command[0]!r} is not found: install lm-evaluation-harness (pip install lm-eval), "
            "or give the path of its lm_eval"
        )
    say(" ".join(command))
    status = subprocess.run(command, check=False).returncode
    found = sorted(folder.rglob("results_*.json"))
    if status != 0 or len(found) != 1:
        raise InputError(
            f"drift.harness: {command[0]} ended with status {status} and wrote {len(found)} files of results; what it "
            "says stands above"
        )
    return read_json(found[0])


def main() -> None:
    args = arguments(__doc__, paths=["model", "model-record", "output", "summary"], computes=True)
    ledger = Ledger(args.budget, str(args.output))
    check_record(args.model_record, args.model)
    device = pick_device(args.device)
    execution = execution_of(args, device)
    record = Record("harness", settings=args.settings, inputs={"model": args.model}, execution=execution)
    with tempfile.TemporaryDirectory() as folder:
        command = harness_command(args.settings, model=args.model, output=Path(folder), device=device, batch=args.batch)
        results = run_harness(command, Path(folder))
    summary = figures(results)
    if not summary:
        raise InputError(f"drift.harness.tasks: {args.settings['tasks']} gave no figure")
    write_json(results, args.output)
    say(json.dumps(summary))
    ledger.settle(gpu_hours=record.hours() if device == "cuda" else 0.0)
    record.write(args.summary, outputs={"results": args.output}, summary=summary)


if __name__ == "__main__":
    run_stage(main, CeilingReached)
