"""Make the report of an experiment: one HTML file with tables, figures, examples, where it comes from and its cost.

    python scripts/make_report.py --results results/tiny --config results/tiny/config.json \\
        --output results/tiny/report.html --settings '{"experiment": "tiny", "figures": [...], ...}'

The file holds everything that it needs, and its Content-Security-Policy forbids every request. Texts of models and
datasets reach the page as text: escaped by the template, or as JSON that the page's script puts into text nodes.
"""

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from stage.charts import CONFIG, PANELS, VEGA_LITE
from stage.command import arguments, run_stage, say
from stage.examples import examples, packed
from stage.spent import Spent, all_records, spent_by_stage
from stage.storage import read_json, write_text
from stage.table_forms import read_csv

Row = dict[str, Any]

PARTS = Path(__file__).parent / "report"
SHOWN = 60  # rows of a figure that are also written out; of longer ones, only the CSV can be copied


def as_json(value: Any) -> Markup:
    """JSON for a script element: no text in it can end the element, or begin a comment."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


def policy(scripts: list[str]) -> str:
    """A Content-Security-Policy under which only these scripts run, and nothing is ever asked for anywhere."""
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{each}'" for each in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )


def unescaped(text: str) -> str:
    """A line of the Markdown tables as plain text."""
    return re.sub(r"\\([\\`*\[\]<>|])", r"\1", text)


def table_of(name: str, folder: Path, sources: dict[str, list[int]]) -> Row:
    """A table with its title, notes and forms. ``sources`` are the records of its rows, by `row_key`."""
    forms = {ending: (folder / f"{name}.{ending}").read_text(encoding="utf-8") for ending in ("csv", "md", "tex")}
    lines = forms["md"].splitlines()
    rows = read_csv(folder / f"{name}.csv")
    columns = columns_shown(rows)
    cells = [[row[column] for column in columns] for row in rows]
    return {
        "name": name,
        "title": unescaped(lines[0].strip("*")),
        "columns": columns,
        "rows": [
            {"cells": own, "sources": sources.get(row_key(name, row), [])} for own, row in zip(cells, rows, strict=True)
        ],
        "notes": [unescaped(line) for line in lines[1:] if line and not line.startswith("|")],
        "forms": forms,
    }


def columns_shown(rows: list[Row]) -> list[str]:
    """The columns that say anything, the paper's right behind the figure that they stand beside."""
    columns = [name for name in rows[0] if any(row[name] for row in rows)]
    paper = [name for name in columns if name.startswith("paper, ")]
    ours = [name for name in columns if name not in paper]
    behind = 3 if paper else len(ours)  # model, tuning, and the figure
    return [*ours[:behind], *paper, *ours[behind:]]


def row_key(table: str, row: Row) -> str:
    """What tells a row of a table from the others."""
    names = {
        "conditions": ("condition", "tuning"),
        "epochs": ("mode", "epochs"),
        "tuning": ("mode", "seed"),
        "responses": ("system",),
        "data": ("name",),
    }
    kind = "table" if table in ("table1", "table3", "table4") else table
    return "/".join([kind, row.get("model", ""), *(str(row[name]) for name in names.get(table, ("tuning",)))])


def row_sources(settings: Row, number: dict[str, int]) -> dict[str, list[int]]:
    """The records that each row of the tables comes from, as numbers of ``number``, by `row_key`."""
    found: dict[str, list[int]] = {}

    def add(table: str, row: Row, path: str) -> None:
        if path in number:
            found.setdefault(row_key(table, row), []).append(number[path])

    for table, kind in (
        ("table1", "figures"),
        ("judging", "figures"),
        ("table2", "rankings"),
        ("ranking_controls", "rankings"),
        ("similarity", "similarities"),
        ("drift", "drifts"),
        ("harness", "harnessed"),
    ):
        for entry in settings[kind]:
            add(table, {"model": entry["model"], "tuning": entry["label"]}, entry["path"])
    for entry in settings["responses"]:
        add("kinds", {"model": entry["model"], "tuning": entry["label"]}, entry["record"])
    for entry in settings["selections"]:
        for count, path in zip(entry["epochs"], entry["validations"], strict=False):  # none where there was no choice
            add("epochs", entry | {"epochs": count}, path)
    for entry in settings["tunings"]:
        add("tuning", entry, entry["path"])
    for entry in settings["responses"]:
        add("responses", entry, entry["record"])
    for model, (condition, _) in (settings["conditions"] or {"models": {}})["models"].items():
        for kind in ("figures", "rankings", "drifts", "responses"):
            for entry in settings[kind]:
                if entry["model"] == model:
                    path = entry["record"] if kind == "responses" else entry["path"]
                    add("conditions", {"condition": condition, "tuning": entry["label"]}, path)
    return found


def figures(settings: Row, folder: Path) -> tuple[list[Row], list[Row], dict[str, Row]]:
    """Panels for the template, specs for the script, and the texts that can be copied."""
    panels, specs, texts = [], [], {}
    for name in settings["drawn"]:
        path = folder / f"{name}.csv"
        rows = read_csv(path)
        texts[f"figure-{name}"] = {"csv": path.read_text(encoding="utf-8")}
        for i, panel in enumerate(PANELS[name](rows)):
            told = {"figure": name, "id": f"{name}-{i}", "title": panel.title, "note": panel.note}
            shown = rows if i == 0 and len(rows) <= SHOWN else []
            panels.append(told | {"spoken": panel.spoken, "rows": shown})
            specs.append({"id": f"{name}-{i}", "spec": panel.spec})
    return panels, specs, texts


def sentences(rows: list[Row]) -> list[str]:
    """What came out, a sentence or two for each model, from the rows of the main figure."""
    told = []
    for model in dict.fromkeys(row["model"] for row in rows):
        own = {row["tuning"]: row for row in rows if row["model"] == model}
        base = own.pop("base", None)
        ordered = sorted(own.values(), key=lambda row: -float(row["win_rate"]))
        first = (ordered or [base])[0]
        seeds = f"mean of {first['seeds']} seeds" if first["seeds"] != "1" else "one seed"
        parts = ", ".join(f"{row['tuning']} {shown(row)}" for row in ordered)
        told.append(
            f"{model}: asked {first['n']} instructions, "
            + (
                f"the base model wins {shown(base)} against its instruction-tuned self (50 % is parity). "
                if base
                else ""
            )
            + (f"Against the same, without instruction tuning: {parts}; " if parts else "")
            + f"{seeds}."
        )
    return told


def shown(row: Row) -> str:
    """A win rate with its deviation, and the paper's first value."""
    spread = f" ± {row['std']}" if int(row["seeds"]) > 1 else ""
    paper = next((value for name, value in row.items() if name.startswith("paper, ") and value), None)
    return f"{row['win_rate']}{spread} %" + (f" (paper {paper.split(' ± ')[0]})" if paper else "")


def unjudged(settings: Row) -> list[str]:
    """What is said first where no judge was named."""
    count = len(settings["tunings"])
    return [
        f"{count} models were tuned and {len(settings['responses'])} sets of responses generated; nothing was judged."
    ]


def provenance(records: dict[str, Row]) -> Row:
    """The records, their versions once for all that share them."""
    versions: list[Row] = []
    told = []
    for path, record in records.items():
        if record["versions"] not in versions:
            versions.append(record["versions"])
        own = {
            key: record[key] for key in ("stage", "settings", "execution", "commit", "command", "machine", "seconds")
        }
        files = {key: list(record[key].values()) for key in ("inputs", "outputs")}
        told.append(own | files | {"path": path, "versions": versions.index(record["versions"])})
    return {"records": told, "versions": versions}


def costs(results: Path) -> list[Row]:
    """What each stage has cost, and all together."""
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
    total = {"stage": "all, one by one", "jobs": f"{sum(own.jobs for own in stages):,}"}
    total |= {"seconds": f"{sum(own.seconds for own in stages):,.0f}", "at work": f"{sum(s.work for s in stages):,.0f}"}
    total |= {"tokens": f"{sum(s.tokens for s in stages):,}", "judge calls": f"{sum(s.calls for s in stages):,}"}
    every = Spent("all", price=sum(own.price for own in stages), unpriced=sum(own.unpriced for own in stages))
    return [*rows, total | {"price": every.price_text(), "peak MiB": ""}]


def facts(settings: Row, config: Row, records: dict[str, Row]) -> str:
    """What was run, in a line."""
    judge = config.get("judge")
    dates = sorted({record["date"] for record in records.values() if record.get("date")})
    commits = sorted({(record["commit"] or "unknown")[:12] for record in records.values()})
    seeds = sorted({entry["seed"] for entry in settings["tunings"]})
    modes = list(dict.fromkeys(entry["mode"] for entry in settings["tunings"]))
    told = [
        f"models: {', '.join(settings['models'])}",
        f"modes: {', '.join(modes)}",
        f"seeds: {', '.join(map(str, seeds))}",
        f"judge: {judge['name']}{f', {dates[0]} to {dates[-1]}' if dates else ''}" if judge else "no judge",
        f"commit: {', '.join(commits)}",
    ]
    return "; ".join(told)


def main() -> None:
    import vl_convert

    args = arguments(__doc__, paths=["results", "config", "output"])
    settings, results = args.settings, args.results
    records = all_records(results)
    sources = row_sources(settings, {path: i for i, path in enumerate(records)})
    tables = [table_of(name, results / "tables", sources) for name in settings["tables"]]
    panels, specs, texts = figures(settings, results / "figures")
    texts |= {table["name"]: table["forms"] for table in tables}
    whole, cut = packed(examples(settings))
    traced = provenance(records)
    scripts = [
        vl_convert.javascript_bundle(vl_version=VEGA_LITE).replace("</script", "<\\/script"),
        (PARTS / "page.js").read_text(encoding="utf-8"),
    ]
    environment = Environment(loader=FileSystemLoader(PARTS), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    drawn = results / "figures" / "win_rates.csv"
    text = environment.get_template("page.html").render(
        experiment=settings["experiment"],
        policy=policy(scripts),
        style=Markup((PARTS / "style.css").read_text(encoding="utf-8")),
        facts=facts(settings, read_json(args.config), records),
        sentences=sentences(read_csv(drawn)) if "win_rates" in settings["drawn"] else unjudged(settings),
        note=settings["note"],
        tables=tables,
        panels=panels,
        figure=lambda panel: Markup(environment.get_template("figure.html").render(panel=panel)),
        examples_note=f"Responses of each model's first seed, with their judgements. {cut}",
        provenance_note="Every row of a table names its records: follow them to files, commit, config and versions.",
        records=traced["records"],
        costs=costs(results),
        costs_note="Seconds of jobs, one by one; at work: without the start of Python, of stages that keep records. "
        "Tokens trained on once an epoch set, generated, or read and written by a server. Calls include answers that "
        "an earlier run had paid for.",
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
