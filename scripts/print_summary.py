"""Print an experiment's main tables, and where its time went: stage, jobs, seconds, share, memory.

python scripts/print_summary.py results/tiny
"""

import argparse
import csv
from pathlib import Path

from stage.command import run_stage, say
from stage.storage import write_text

JUDGED = ("table1", "table2", "table3", "table4", "epochs")  # what is shown of an experiment with a judge
UNJUDGED = ("table2", "tuning", "responses")  # and of one without
HIDDEN = ("each seed", "judge", "metric", "date", "error", "of reference", "position bias")  # too wide


def time_by_stage(benchmarks: Path) -> list[tuple[str, int, float, float]]:
    """(stage, jobs, seconds, peak memory in MiB) from Snakemake's benchmark files ``{stage}/....tsv``."""
    stages: dict[str, list[tuple[float, float]]] = {}
    for path in sorted(benchmarks.rglob("*.tsv")):
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file, delimiter="\t"):
                memory = 0.0 if row["max_rss"] in ("-", "NA") else float(row["max_rss"])
                stages.setdefault(path.relative_to(benchmarks).parts[0], []).append((float(row["s"]), memory))
    return [
        (stage, len(jobs), sum(seconds for seconds, _ in jobs), max(memory for _, memory in jobs))
        for stage, jobs in stages.items()
    ]


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
    stages = sorted(time_by_stage(results / "benchmarks"), key=lambda row: -row[2])
    total = sum(row[2] for row in stages) or 1.0
    lines = [f"{'stage':<22}{'jobs':>5}{'seconds':>9}{'share':>8}{'peak MiB':>10}"]
    lines += [f"{n:<22}{jobs:>5}{s:>9.0f}{100 * s / total:>7.0f}%{memory:>10.0f}" for n, jobs, s, memory in stages]
    lines.append(f"{'all, one by one':<22}{sum(row[1] for row in stages):>5}{total:>9.0f}")
    write_text("\n".join(lines) + "\n", results / "time.txt")
    say("\n".join(lines))
    say(f"\nTables: {results / 'tables'} (CSV, Markdown, LaTeX); figure: {results / 'figures'}")
    say(f"Logs: {results / 'logs'}; records lie beside what they tell of")


if __name__ == "__main__":
    run_stage(main)
