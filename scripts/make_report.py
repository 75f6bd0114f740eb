"""Make the report of an experiment: one HTML file with tables, figures, examples, provenance and costs.

    python scripts/make_report.py --results results/tiny --config results/tiny/config.json \\
        --output results/tiny/report.html --settings '{"experiment": "tiny", "results": [...], ...}'

The file is self-contained, and its Content-Security-Policy forbids all requests. Texts of models and datasets are
inserted as plain text: escaped by the template, or as JSON that the page's script puts into text nodes.
"""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from pipeline.files.storage import read_json, write_text
from pipeline.identity.systems import Experiment
from pipeline.jobs.command import arguments, run_stage, say
from reporting.charts.charts import CONFIG, VEGA_LITE
from reporting.charts.figures import FIGURES, as_text, csv_of, rows_of
from reporting.metrics.collect import read_metrics
from reporting.metrics.spent import Spent, all_records, spent_by_stage
from reporting.metrics.view import View
from reporting.page.examples import examples, packed
from reporting.tables.tables import TABLES, make_table

Row = dict[str, Any]

PARTS = Path(__file__).parent / "reporting" / "page"
SHOWN = 60  # figures with at most this many rows also show them as text; for others, only the CSV can be copied


def as_json(value: Any) -> Markup:
    """JSON for a script element, in which no text can end the element or begin a comment."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


def policy(scripts: list[str]) -> str:
    """A Content-Security-Policy that allows only these scripts and no requests."""
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{each}'" for each in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )


def table_of(name: str, view: View, records: dict[str, int]) -> Row:
    """A table with its title, notes and formats, and the numbers of the records that each row comes from."""
    made = make_table(name, view)
    rows = [{column: str(value) for column, value in line.cells.items()} for line in made.lines]
    columns = columns_shown(rows)
    sources = [list(dict.fromkeys(records[path] for path in line.sources if path in records)) for line in made.lines]
    return {
        "name": name,
        "title": made.title,
        "columns": columns,
        "rows": [
            {"cells": [row[column] for column in columns], "sources": own}
            for row, own in zip(rows, sources, strict=True)
        ],
        "notes": made.notes,
        "forms": {ending: made.form(ending) for ending in TABLES[name].forms},
    }


def columns_shown(rows: list[Row]) -> list[str]:
    """The non-empty columns, with the paper's directly after the figure that they are compared with."""
    columns = [name for name in rows[0] if any(row[name] for row in rows)]
    paper = [name for name in columns if name.startswith("paper, ")]
    ours = [name for name in columns if name not in paper]
    before = 3 if paper else len(ours)  # model, tuning, and the figure
    return [*ours[:before], *paper, *ours[before:]]


def numbered(records: dict[str, Row]) -> dict[str, int]:
    """The number of the record for each file: for outputs of a record, and for records (summaries) themselves."""
    found: dict[str, int] = {}
    for number, (path, record) in enumerate(records.items()):
        found |= {file["path"]: number for file in record["outputs"].values()} | {path: number}
    return found


def figures(names: list[str], view: View) -> tuple[list[Row], list[Row], dict[str, Row]]:
    """Panels for the template, specs for the script, and texts that can be copied."""
    panels, specs, texts = [], [], {}
    for name in names:
        rows = rows_of(name, view)
        texts[f"figure-{name}"] = {"csv": csv_of(name, rows)}
        for i, panel in enumerate(FIGURES[name].panels(rows)):
            head = {"figure": name, "id": f"{name}-{i}", "title": panel.title, "note": panel.note}
            shown = as_text(name, rows) if i == 0 and len(rows) <= SHOWN else []
            panels.append(head | {"spoken": panel.spoken, "rows": shown})
            specs.append({"id": f"{name}-{i}", "spec": panel.spec})
    return panels, specs, texts


def sentences(rows: list[Row]) -> list[str]:
    """The main result, in a sentence or two for each model, from the rows of the main figure."""
    found = []
    for model in dict.fromkeys(row["model"] for row in rows):
        own = {row["tuning"]: row for row in rows if row["model"] == model}
        base = own.pop("base", None)
        ordered = sorted(own.values(), key=lambda row: -row["win_rate"])
        first = (ordered or [base])[0]
        seeds = f"mean of {first['seeds']} seeds" if first["seeds"] > 1 else "one seed"
        against = (
            f"the base model wins {shown(base)} against its instruction-tuned version (50 % is parity). "
            if base
            else ""
        )
        parts = ", ".join(f"{row['tuning']} {shown(row)}" for row in ordered)
        parts = f"Against the same opponent, without instruction tuning: {parts}; " if parts else ""
        found.append(f"{model}: on {first['n']} instructions, {against}{parts}{seeds}.")
    return found


def shown(row: Row) -> str:
    """A win rate with its standard deviation, and the paper's first value."""
    spread = f" ± {row['std']}" if row["seeds"] > 1 else ""
    paper = next((value for name, value in row.items() if name.startswith("paper, ") and value), None)
    return f"{row['win_rate']}{spread} %" + (f" (paper {paper[0]})" if paper else "")


def unjudged(experiment: Experiment) -> list[str]:
    """The opening sentence if there is no judge."""
    tuned, generated = (len([r for r in experiment.results if r.stage == stage]) for stage in ("tune", "generate"))
    return [f"{tuned} models were tuned and {generated} sets of responses generated; nothing was judged."]


def provenance(records: dict[str, Row]) -> Row:
    """The records, with package versions stored once for all records that share them."""
    versions: list[Row] = []
    found = []
    for path, record in records.items():
        if record["versions"] not in versions:
            versions.append(record["versions"])
        own = {
            key: record[key] for key in ("stage", "settings", "execution", "commit", "command", "machine", "seconds")
        }
        files = {key: list(record[key].values()) for key in ("inputs", "outputs")}
        found.append(own | files | {"path": path, "versions": versions.index(record["versions"])})
    return {"records": found, "versions": versions}


def costs(results: Path) -> list[Row]:
    """The cost of each stage, and the total."""
    stages = spent_by_stage(results)
    rows = [
        {
            "stage": own.stage,
            "jobs": f"{own.jobs:,}",
            "seconds": f"{own.seconds:,.0f}",
            "at work": f"{own.work:,.0f}",
            "tokens": f"{own.tokens:,}" if own.tokens else "",
            "judge calls": f"{own.calls:,}" if own.calls else "",
            "price": own.price_text(),
            "peak MiB": f"{own.memory:,}" if own.memory else "",
        }
        for own in stages
    ]
    total = {"stage": "total, one by one", "jobs": f"{sum(own.jobs for own in stages):,}"}
    total |= {"seconds": f"{sum(own.seconds for own in stages):,.0f}", "at work": f"{sum(s.work for s in stages):,.0f}"}
    total |= {"tokens": f"{sum(s.tokens for s in stages):,}", "judge calls": f"{sum(s.calls for s in stages):,}"}
    every = Spent("all", price=sum(own.price for own in stages), unpriced=sum(own.unpriced for own in stages))
    return [*rows, total | {"price": every.price_text(), "peak MiB": ""}]


def facts(experiment: Experiment, config: Row, records: dict[str, Row]) -> str:
    """What was run, in one line."""
    judge = config.get("judge")
    dates = sorted({record["date"] for record in records.values() if record.get("date")})
    commits = sorted({(record["commit"] or "unknown")[:12] for record in records.values()})
    tuned = [result for result in experiment.results if result.stage == "tune"]
    seeds = sorted({result.seed for result in tuned})
    modes = dict.fromkeys(result.system.name for result in tuned)
    found = [
        f"models: {', '.join(name for name, *_ in experiment.models)}",
        f"modes: {', '.join(modes)}",
        f"seeds: {', '.join(map(str, seeds))}",
        f"judge: {judge['name']}{f', {dates[0]} to {dates[-1]}' if dates else ''}" if judge else "no judge",
        f"commit: {', '.join(commits)}",
    ]
    return "; ".join(found)


def main() -> None:
    import vl_convert

    args = arguments(__doc__, paths=["results", "config", "output"])
    settings, results = args.settings, args.results
    experiment, records = Experiment.read(settings), all_records(results)
    view = View(read_metrics(results / "metrics.parquet"), note=settings["note"], axis=settings["axis"])
    own = numbered(records)
    tables = [table_of(name, view, own) for name in settings["tables"] if "md" in TABLES[name].forms]
    panels, specs, texts = figures(settings["drawn"], view)
    texts |= {table["name"]: table["forms"] for table in tables}
    judged = "win_rates" in settings["drawn"]
    whole, cut = packed(examples(experiment))
    traced = provenance(records)
    scripts = [
        vl_convert.javascript_bundle(vl_version=VEGA_LITE).replace("</script", "<\\/script"),
        (PARTS / "page.js").read_text(encoding="utf-8"),
    ]
    environment = Environment(loader=FileSystemLoader(PARTS), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    text = environment.get_template("page.html").render(
        experiment=settings["experiment"],
        policy=policy(scripts),
        style=Markup((PARTS / "style.css").read_text(encoding="utf-8")),
        facts=facts(experiment, read_json(args.config), records),
        sentences=sentences(rows_of("win_rates", view)) if judged else unjudged(experiment),
        note=settings["note"],
        tables=tables,
        panels=panels,
        figure=lambda panel: Markup(environment.get_template("figure.html").render(panel=panel)),
        examples_note=f"Responses of each model's first seed, with their judgements. {cut}",
        provenance_note="Every table row names its records: follow them to files, commit, config and versions.",
        records=traced["records"],
        costs=costs(results),
        costs_note="Seconds are summed over jobs; at work: without the start of Python, for stages that keep records. "
        "Tokens are those trained on, once per epoch count, generated, or read and written by a server. Calls include "
        "answers that an earlier run had paid for.",
        data={
            "texts": as_json(texts),
            "charts": as_json({"config": CONFIG, "panels": specs}),
            "examples": whole,
            "provenance": as_json(traced),
        },
        scripts=[Markup(script) for script in scripts],
    )
    write_text(text, args.output)
    say(f"{args.output}: {len(text.encode()) / 1e6:.1f} MB{f'; {cut}' if cut else ''}")


if __name__ == "__main__":
    run_stage(main)
