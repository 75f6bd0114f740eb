"""Print an experiment's main tables, and where its time went: stage, jobs, seconds, share, memory.

python scripts/print_summary.py results/tiny
"""

import argparse
import csv
from collections import Counter
from pathlib import Path

from stage.command import run_stage, say
from stage.storage import read_json, write_text

JUDGED = ("table1", "table2", "table3", "table4", "epochs")  # what is shown of an experiment with a judge
UNJUDGED = ("table2", "tuning", "responses")  # and of one without
HIDDEN = ("each seed", "judge", "metric", "date", "error", "of reference", "position bias")  # too wide


def time_by_stage(results: Path) -> list[tuple[str, int, float, float, int]]:
    """(stage, jobs, seconds, of which at work, peak memory in MiB), from Snakemake's benchmarks and the records.

    Work is what lies between a record's beginning and end: not the start of Python and its imports. A stage without
    records is as light as its jobs are short: all of its time counts as start.
    """
    stages: dict[str, list[float]] = {}
    for path in sorted((results / "benchmarks").rglob("*.tsv")):
        with path.open(encoding="utf-8", newline="") as file:
            own = stages.setdefault(path.relative_to(results / "benchmarks").parts[0], [])
            own += [float(row["s"]) for row in csv.DictReader(file, delimiter="\t")]
    work, memory = Counter[str](), Counter[str]()
    for path in results.rglob("*.json"):
        record = read_json(path)
        if isinstance(record, dict) and "outputs" in record:
            work[record["stage"]] += record["seconds"]
            memory[record["stage"]] = max(memory[record["stage"]], record["peak_memory_mib"])
    return [(stage, len(jobs), sum(jobs), work[stage], memory[stage]) for stage, jobs in stages.items()]


def narrow(path: Path) -> str:
    """A table of the results, without the columns that a terminal has no room for."""
    from make_tables import TITLES
    from stage.table_forms import to_markdown

    with path.open(encoding="utf-8", newline="") as file:
        rows = [{k: v for k, v in row.items() if k not in HIDDEN} for row in csv.DictReader(file)]
    return to_markdown(rows, title=TITLES[path.stem], notes=[])


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
    stages = sorted(time_by_stage(results), key=lambda row: -row[2])
    total = sum(row[2] for row in stages) or 1.0
    lines = [f"{'stage':<22}{'jobs':>5}{'seconds':>9}{'share':>8}{'at work':>9}{'peak MiB':>10}"]
    for name, jobs, seconds, work, memory in stages:
        lines.append(f"{name:<22}{jobs:>5}{seconds:>9.0f}{100 * seconds / total:>7.0f}%{work:>9.0f}{memory or '':>10}")
    jobs, work = sum(row[1] for row in stages), sum(row[3] for row in stages)
    lines.append(f"{'all, one by one':<22}{jobs:>5}{total:>9.0f}{'':>8}{work:>9.0f}")
    write_text("\n".join(lines) + "\n", results / "time.txt")
    say("\n".join(lines))
    say(f"\nTables: {results / 'tables'} (CSV, Markdown, LaTeX); figure: {results / 'figures'}")
    say(f"Logs: {results / 'logs'}; records lie beside what they tell of")


if __name__ == "__main__":
    run_stage(main)
