"""Run lm-evaluation-harness on a model: write its own results file unchanged, and a record with the scores.

    python scripts/run_harness.py --model poem/model --model-record poem/record.json --output harness.json \\
        --summary harness.record.json --settings '{"command": "lm_eval", "tasks": ["arc_easy"], "options": [],
                                                   "precision": "float32"}'

The harness is a separate program in any environment: ``command`` is its name on the PATH, or its path. Its output goes
to the log, with progress bars as lines.
"""

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import IO, Any

from implicit.progress import Progress
from pipeline.config.schema import Harness
from pipeline.config.types import Precision
from pipeline.files.storage import read_json, write_json
from pipeline.jobs.command import WITHOUT_BARS, InputError, arguments, run_stage, say
from pipeline.jobs.costs import scoring_hours
from pipeline.jobs.job import execution_of, job
from pipeline.models.directories import stored_parameters

# For the estimate that is reserved beforehand, as the tasks' sizes are not known here.
TASK_REQUESTS = 10_000  # answer choices over all questions of a task
REQUEST_TOKENS = 200
BAR = re.compile(r"(?:(?P<name>[^%|]*): +)?\d+%\|.*\| *(?P<done>\d+)/(?P<total>\d+) \[")


class Settings(Harness):
    """The section `drift.harness`, and the precision of `drift`."""

    precision: Precision


def harness_command(settings: Settings, *, model: Path, output: Path, device: str, batch: int) -> list[str]:
    """The command's arguments: the model's directory with the harness's own backend, all tasks in one run."""
    return [
        settings.command, "--model", "hf", "--model_args", f"pretrained={model},dtype={settings.precision}",
        "--tasks", ",".join(settings.tasks), "--device", device, "--batch_size", str(batch),
        "--output_path", str(output), *settings.options,
    ]  # fmt: skip


def figures(results: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Task -> metric -> value from the harness's results; its standard errors (over questions) are left in its file."""
    scores = {
        task: {
            metric: value
            for metric, value in found.items()
            if "," in metric and "_stderr," not in metric and isinstance(value, int | float)
        }
        for task, found in results["results"].items()
    }
    return {task: metrics for task, metrics in scores.items() if metrics}


def run_harness(command: list[str], folder: Path) -> dict[str, Any]:
    """Run the command, which writes to ``folder``, and return its results. Raises InputError if it fails."""
    if shutil.which(command[0]) is None:
        raise InputError(
            f"drift.harness.command: {command[0]!r} is not found: install lm-evaluation-harness (pip install lm-eval), "
            "or give the path of its lm_eval"
        )
    say(" ".join(command))
    # Its progress bars are the only sign of progress, so they are parsed, not disabled.
    environment = {name: value for name, value in os.environ.items() if name not in WITHOUT_BARS}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment) as process:
        try:
            log_output(process.stdout)
        except BaseException:
            process.terminate()
            raise
    status = process.returncode
    found = sorted(folder.rglob("results_*.json"))
    if status != 0 or len(found) != 1:
        raise InputError(
            f"drift.harness: {command[0]} exited with status {status} and wrote {len(found)} results files; see its "
            "output above"
        )
    return read_json(found[0])


def log_output(stream: IO[bytes]) -> None:
    """Log a program's output line by line, and the state of its progress bars from time to time."""
    bars: dict[str, Progress] = {}
    rest = b""
    while chunk := stream.read1():
        *lines, rest = re.split(rb"[\r\n]+", rest + chunk)
        for line in lines:
            log_line(line.decode(errors="replace").rstrip(), bars)
    log_line(rest.decode(errors="replace").rstrip(), bars)


def log_line(line: str, bars: dict[str, Progress]) -> None:
    """Log a line; if it is the state of one of the progress ``bars``, by name, update that instead."""
    bar = BAR.match(line)
    if bar:
        name = bar["name"] or ""
        progress = bars.get(name)
        if progress is None or progress.total != int(bar["total"]):
            prefix = f"{name}: " if name else ""
            progress = bars[name] = Progress(int(bar["total"]), "items", log=lambda text: say(prefix + text))
        if int(bar["done"]) > progress.done:
            progress.advance(int(bar["done"]) - progress.done)
    elif line:
        say(line)


def main() -> None:
    args = arguments(__doc__, settings=Settings, paths=["model", "model-record", "output", "summary"], computes=True)
    inputs, execution = {"model": args.model}, execution_of(args, precision=args.settings.precision)
    with job("harness", args, record=args.summary, inputs=inputs, execution=execution) as this:
        tokens = len(args.settings.tasks) * TASK_REQUESTS * REQUEST_TOKENS
        this.reserve(scoring_hours, parameters=stored_parameters(args.model) / 1e9, tokens=tokens)
        with tempfile.TemporaryDirectory() as folder:
            resolved = args.settings.model_copy(update={"precision": this.precision})
            command = harness_command(
                resolved, model=args.model, output=Path(folder), device=this.device, batch=args.batch
            )
            results = run_harness(command, Path(folder))
        summary = figures(results)
        if not summary:
            raise InputError(f"drift.harness.tasks: {args.settings.tasks} gave no scores")
        write_json(results, args.output)
        this.finish(
            "; ".join(f"{task}: {values(metrics)}" for task, metrics in summary.items()),
            outputs={"results": args.output},
            summary=summary,
        )


def values(metrics: dict[str, float]) -> str:
    """A task's metrics as text, such as ``acc 0.312, acc_norm 0.35``; the harness's names end with a filter's name."""
    return ", ".join(f"{metric.removesuffix(',none')} {value:.3g}" for metric, value in metrics.items())


if __name__ == "__main__":
    run_stage(main, if_gpu_is_full="Lower execution.generation_batch_size")
