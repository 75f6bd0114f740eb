"""Print an experiment's main tables and where the time was spent: stage, jobs, seconds, share, memory.

python scripts/print_summary.py results/tiny
"""

import argparse
from pathlib import Path

from pipeline.files.storage import write_text
from pipeline.jobs.command import run_stage, say
from reporting.metrics.collect import read_metrics
from reporting.metrics.spent import spent_by_stage
from reporting.metrics.view import View
from reporting.tables.forms import to_markdown
from reporting.tables.tables import make_table

JUDGED = ("table1", "table2", "table3", "table4", "judge_card", "epochs", "conditions")  # tables shown with a judge
UNJUDGED = ("table2", "tuning", "responses", "conditions")  # and without
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


def narrow(name: str, view: View) -> str:
    """A results table without the columns that are too wide for a terminal."""
    made = make_table(name, view)
    rows = [{head: cell for head, cell in line.cells.items() if head not in HIDDEN} for line in made.lines]
    return to_markdown(rows, title=made.title.rstrip(": "), notes=[])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    results = parser.parse_args().results
    if not (results / "tables").is_dir() or not (results / "metrics.parquet").is_file():  # only a part was requested
        for card in (results / "judge").glob("card/tables/*.md"):
            say(card.read_text(encoding="utf-8"))
        return
    made = {path.stem for path in (results / "tables").glob("*.csv")}
    view = View(read_metrics(results / "metrics.parquet"))
    for name in JUDGED if "table1" in made else UNJUDGED:
        if name in made:
            say(narrow(name, view))
    stages = spent_by_stage(results)
    total = sum(own.seconds for own in stages) or 1.0
    lines = [f"{'stage':<22}{'jobs':>5}{'seconds':>9}{'share':>8}{'at work':>9}{'peak MiB':>10}"]
    for own in stages:
        share = f"{100 * own.seconds / total:>7.0f}%"
        lines.append(f"{own.stage:<22}{own.jobs:>5}{own.seconds:>9.0f}{share}{own.work:>9.0f}{own.memory or '':>10}")
    jobs, work = sum(own.jobs for own in stages), sum(own.work for own in stages)
    lines.append(f"{'total, one by one':<22}{jobs:>5}{total:>9.0f}{'':>8}{work:>9.0f}")
    write_text("\n".join(lines) + "\n", results / "time.txt")
    say("\n".join(lines))
    say(f"\nReport: {results / 'report.html'}, for any browser")
    say(f"Tables: {results / 'tables'} (CSV, Markdown, LaTeX); figures: {results / 'figures'}")
    say(f"All numbers, by seed and world, for pandas or R: {results / 'metrics.csv'} and metrics.parquet")
    say(f"Logs: {results / 'logs'}; records are beside the files that they describe")


if __name__ == "__main__":
    run_stage(main)
