"""Make all tables of an experiment from its metrics, as CSV, Markdown and LaTeX.

    python scripts/make_tables.py --metrics results/tiny/metrics.parquet --output results/tiny/tables \\
        --settings '{"tables": ["table1", ...], "note": null, "axis": ""}'

They are declared in `reporting.tables.tables`.
"""

from pipeline.files.storage import write_text
from pipeline.jobs.command import arguments, run_stage, say
from reporting.metrics.collect import read_metrics
from reporting.metrics.view import View
from reporting.tables.tables import TABLES, make_table


def main() -> None:
    args = arguments(__doc__, paths=["metrics", "output"])
    view = View(read_metrics(args.metrics), note=args.settings["note"], axis=args.settings["axis"])
    for name in args.settings["tables"]:
        made = make_table(name, view)
        for ending in TABLES[name].forms:
            write_text(made.form(ending), args.output / f"{name}.{ending}")
    say(f"{len(args.settings['tables'])} tables in {args.output}")


if __name__ == "__main__":
    run_stage(main)
