"""Collect every number of an experiment as a row of one table: results/tiny/metrics.parquet, and the same as CSV.

    python scripts/collect_metrics.py --output results/tiny/metrics.parquet --settings '{"results": [...], ...}'

Tables, figures, the report, TensorBoard's events and comparisons are made of it. Columns: `reporting.collect.COLUMNS`;
metrics: `reporting.registry`.
"""

from reporting.collect import collect
from stage.command import arguments, run_stage, say
from stage.storage import write_text, written_whole
from stage.systems import Experiment


def main() -> None:
    args = arguments(__doc__, paths=["output"])
    metrics = collect(Experiment.read(args.settings))
    with written_whole(args.output) as temporary:
        metrics.to_parquet(temporary, index=False)
    write_text(metrics.to_csv(index=False, lineterminator="\n"), args.output.with_suffix(".csv"))
    names = set(metrics["metric"])
    say(f"{len(metrics)} numbers, of {len(names)} metrics")


if __name__ == "__main__":
    run_stage(main)
