"""Draw the figures of an experiment from its metrics: for each, a CSV of the data, a PDF and a PNG.

    python scripts/make_figures.py --metrics results/tiny/metrics.parquet --output results/tiny/figures \\
        --settings '{"drawn": ["win_rates", ...], "axis": ""}'

The report draws the same data with the same specs. Figures are declared in `reporting.charts.figures`.
"""

from pipeline.jobs.command import arguments, run_stage, say
from reporting.charts.drawing import draw
from reporting.charts.figures import rows_of
from reporting.metrics.collect import read_metrics
from reporting.metrics.view import View


def main() -> None:
    args = arguments(__doc__, paths=["metrics", "output"])
    view = View(read_metrics(args.metrics), axis=args.settings["axis"])
    for name in args.settings["drawn"]:
        draw(rows_of(name, view), name, args.output)
    say(f"{len(args.settings['drawn'])} figures in {args.output}")


if __name__ == "__main__":
    run_stage(main)
