"""Print an experiment's main tables, and where its time went: stage, jobs, seconds, share, memory.

python scripts/print_summary.py results/tiny
"""

import argparse
from pathlib import Path

from stage.command import run_stage, say
from stage.spent import spent_by_stage
from stage.storage import write_text

JUDGED = ("table1", "table2", "table3", "table4", "epochs", "conditions")  # what is shown of an experiment with a judge
UNJUDGED = ("table2", "tuning", "responses", "conditions")  # and of one without
HIDDEN = (
    "each seed",
    "judge",
    "metric",
    "date",
    "of reference",
    "position bias",
    "label share",
    "label share, minimum",
    "tokens",
)  # too wide


def narrow(path: Path) -> str:
    """A table of the results, without the columns that a terminal has no room for."""
    from make_conditions import TITLE
    from make_tables import TITLES
    from stage.table_forms import read_csv, to_markdown

    rows = [{k: v for k, v in row.items() if k not in HIDDEN} for row in read_csv(path)]
    return to_markdown(rows, title=(TITLES | {"conditions": TITLE})[path.stem], notes=[])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    results = parser.parse_args().results
    if not (results / "tables").is_dir():  # a part of the DAG was asked for
        return
    for name in JUDGED if (results / "tables" / "table1.csv").is_file() else UNJUDGED:
        path = results / "tables" / f"{name}.csv"
        if path.is_file():
            say(narrow(path))
    stages = spent_by_stage(results)
    total = sum(own.seconds for own in stages) or 1.0
    lines = [f"{'stage':<22}{'jobs':>5}{'seconds':>9}{'share':>8}{'at work':>9}{'peak MiB':>10}"]
    for own in stages:
        share = f"{100 * own.seconds / total:>7.0f}%"
        lines.append(f"{own.stage:<22}{own.jobs:>5}{own.seconds:>9.0f}{share}{own.work:>9.0f}{own.memory or '':>10}")
    jobs, work = sum(own.jobs for own in stages), sum(own.work for own in stages)
    lines.append(f"{'all, one by one':<22}{jobs:>5}{total:>9.0f}{'':>8}{work:>9.0f}")
    write_text("\n".join(lines) + "\n", results / "time.txt")
    say("\n".join(lines))
    say(f"\nReport: {results / 'report.html'}, in any browser")
    say(f"Tables: {results / 'tables'} (CSV, Markdown, LaTeX); figures: {results / 'figures'}")
    say(f"Logs: {results / 'logs'}; records lie beside what they tell of")


if __name__ == "__main__":
    run_stage(main)
