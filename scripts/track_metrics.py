"""Send an experiment's metrics to Weights & Biases or trackio, with a run for each of `reporting.metrics.runs`.

    python scripts/track_metrics.py --metrics results/tiny/metrics.parquet --output results/tiny/tracked/wandb.json \\
        --settings '{"module": "wandb", "project": "tiny"}'

Both modules have the same three functions: ``init``, ``log`` and ``finish``. They read destination and key from their
own environment variables: WANDB_API_KEY, WANDB_MODE=offline, TRACKIO_SPACE_ID. ``output`` says what was sent; sending
again, after a change of results, makes new runs beside the old ones.
"""

import importlib
from importlib.metadata import version
from types import ModuleType

from pipeline.files.storage import write_json
from pipeline.jobs.command import InputError, arguments, run_stage, say
from reporting.metrics.collect import read_metrics
from reporting.metrics.runs import Run, runs_of


def send(run: Run, module: ModuleType, *, project: str) -> None:
    """Send one run, grouped by system. Raises InputError with the module's message if the run cannot be started."""
    try:
        module.init(project=project, name=run.name, group=run.group, config=run.config)
    except Exception as error:
        raise InputError(f"execution.tracking: {module.__name__} cannot start the run {run.name}: {error}") from error
    for step, metrics in sorted(run.steps.items()):
        module.log(metrics, step=step)
    module.finish()


def main() -> None:
    args = arguments(__doc__, paths=["metrics", "output"])
    name, project = args.settings["module"], args.settings["project"]
    module = importlib.import_module(name)
    runs = runs_of(read_metrics(args.metrics))
    for run in runs:
        send(run, module, project=project)
    sent = {run.name: len(run.steps) for run in runs}
    write_json({"module": name, "version": version(name), "project": project, "steps": sent}, args.output)
    say(f"{len(runs)} runs sent to {name}, project {project}")


if __name__ == "__main__":
    run_stage(main)
