"""Write the responses of all systems to a few instructions, chosen by a rule: a CSV table and a page of Markdown.

    python scripts/make_examples.py --output results/tiny/tables/examples.csv --page results/tiny/tables/examples.md \\
        --settings '{"models": [...], "results": [...], "sets": {...}, "oracle": true, "reference": "...", "count": 10}'

The instructions are evenly spaced over the evaluation set: of n, the middles of ``count`` equal parts. Responses are
those of each model's first seed. The page shows at most ``SHOWN`` characters of each, the table all of them.
"""

from pathlib import Path
from typing import Any

from pipeline.files.storage import read_table, write_text
from pipeline.identity.systems import Experiment, Result
from pipeline.jobs.command import arguments, run_stage, say
from reporting.tables.forms import MARKDOWN, escaped, to_csv

SHOWN = 400


def spaced(n: int, count: int) -> list[int]:
    """The middles of ``count`` equal parts of n places; all places if there are no more than that."""
    return [(2 * i + 1) * n // (2 * count) for i in range(count)] if count < n else list(range(n))


def first_seeds(experiment: Experiment) -> list[Result]:
    """The responses of every system, for each model those with its first seed."""
    seeds = {r.model: r.seed for r in reversed(experiment.results) if r.stage == "tune"}
    return [r for r in experiment.results if r.stage == "generate" and r.seed in (None, seeds.get(r.model))]


def example_rows(experiment: Experiment, count: int) -> list[dict[str, Any]]:
    """A row for each model, chosen instruction and system."""
    rows = []
    for result in first_seeds(experiment):
        table = read_table("responses", Path(result.path))
        asked = read_table("evaluation_set", Path(experiment.sets[result.model]))
        outputs = {row["id"]: row for row in table}
        for place in spaced(len(asked), count):
            row = outputs[asked[place]["id"]]
            rows.append(
                {"model": result.model, "id": row["id"], "instruction": row["instruction"]}
                | {"system": result.system.label, "stopped": row["stopped"], "tokens": row["tokens"]}
                | {"response": row["output"]}
            )
    return sorted(rows, key=lambda row: (row["model"], int(row["id"].rpartition("-")[2])))


def on_a_line(text: str) -> str:
    """The beginning of a text as a cell of a Markdown table, with a sign for each line break."""
    shown = text if len(text) <= SHOWN else text[:SHOWN] + " …"
    return escaped(" ⏎ ".join(shown.strip().splitlines()), MARKDOWN)


def page_of(rows: list[dict[str, Any]]) -> str:
    """For each instruction a table of systems and responses; a response that did not stop ends in ▷."""
    parts, last = [], None
    for row in rows:
        if (row["model"], row["id"]) != last:
            parts += ["", f"**{on_a_line(row['instruction'])}**", "", "| system | response |", "| --- | --- |"]
            last = row["model"], row["id"]
        end = "" if row["stopped"] else " ▷"
        parts.append(f"| {escaped(row['system'], MARKDOWN)} | {on_a_line(row['response'])}{end} |")
    return "\n".join(parts).lstrip("\n") + "\n"


def main() -> None:
    args = arguments(__doc__, paths=["output", "page"])
    rows = example_rows(Experiment.read(args.settings), args.settings["count"])
    write_text(to_csv(rows), args.output)
    write_text(page_of(rows), args.page)
    say(f"{len({(row['model'], row['id']) for row in rows})} instructions, {len(rows)} responses")


if __name__ == "__main__":
    run_stage(main)
