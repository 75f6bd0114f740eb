"""Collect all numbers of an experiment in one table: results/tiny/metrics.parquet, also as CSV.

    python scripts/collect_metrics.py --output results/tiny/metrics.parquet --settings '{"results": [...], ...}'

Tables, figures, the report, TensorBoard events and comparisons are made from it. Columns are listed in
`reporting.metrics.collect.COLUMNS`, metrics in `reporting.metrics.registry`.
"""

from pipeline.files.storage import write_text, written_whole
from pipeline.identity.systems import Experiment
from pipeline.jobs.command import arguments, run_stage, say
from reporting.metrics.collect import collect


def main() -> None:
    args = arguments(__doc__, paths=["output"])
    metrics = collect(Experiment.read(args.settings))
    with written_whole(args.output) as temporary:
        metrics.to_parquet(temporary, index=False)
    write_text(metrics.to_csv(index=False, lineterminator="\n"), args.output.with_suffix(".csv"))
    names = set(metrics["metric"])
    say(f"{len(metrics)} numbers for {len(names)} metrics")


if __name__ == "__main__":
    run_stage(main)
