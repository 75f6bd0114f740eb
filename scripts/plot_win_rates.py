"""Draw the win rate of every system against the instruction-tuned model, with error bars over seeds: PDF and PNG.

    python scripts/plot_win_rates.py --table1 table1.csv --table3 table3.csv --table4 table4.csv \\
        --pdf win_rates.pdf --png win_rates.png --data win_rates.csv

Drawn from the tables, so that the figure says what they say; ``--data`` gets what was drawn.
"""

import argparse
import csv
from pathlib import Path

from stage.command import run_stage
from stage.storage import write_text, written_whole


def read_figures(paths: list[Path]) -> list[dict[str, str]]:
    """The rows of the tables, each system of each model once."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for path in paths:
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                rows.setdefault((row["model"], row["tuning"]), row)
    return list(rows.values())


def split(figure: str) -> tuple[float, float]:
    """``mean ± deviation`` as two numbers; no deviation is 0."""
    mean, _, deviation = figure.partition(" ± ")
    return float(mean), float(deviation or 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="+", type=Path)
    for name in ("pdf", "png", "data"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    args = parser.parse_args()

    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    rows = read_figures(args.tables)
    drawn = [(row["model"], row["tuning"], *split(row["win rate"]), row["seeds"], row["n"]) for row in rows]
    models = list(dict.fromkeys(row[0] for row in drawn))
    labels = list(dict.fromkeys(row[1] for row in drawn))
    figure, axes = plt.subplots(figsize=(7, 0.8 + 0.34 * len(labels)), layout="constrained")
    height = 0.8 / len(models)
    for i, model in enumerate(models):
        own = {row[1]: row for row in drawn if row[0] == model}
        shown = [label for label in labels if label in own]
        places = [labels.index(label) + (i - (len(models) - 1) / 2) * height for label in shown]
        means, deviations = [own[label][2] for label in shown], [own[label][3] for label in shown]
        axes.barh(places, means, height=height * 0.9, xerr=deviations, capsize=2, label=model)
    axes.axvline(50, color="black", linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set_xlim(0, 60)
    axes.set_xlabel(
        f"win rate against instruction tuning, percent\n(n = {drawn[0][5]}, bars: std over {drawn[0][4]} seeds)"
    )
    if len(models) > 1:
        axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    for path in (args.pdf, args.png):
        with written_whole(path) as temporary:
            # A date in the file would make every drawing differ from the last.
            metadata = {"CreationDate": None} if path.suffix == ".pdf" else None
            figure.savefig(temporary, dpi=200, metadata=metadata)
    lines = ["model,tuning,win_rate,std,seeds,n", *(",".join(map(str, row)) for row in drawn)]
    write_text("\n".join(lines) + "\n", args.data)


if __name__ == "__main__":
    run_stage(main)
