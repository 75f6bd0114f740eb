"""Fill in the figures of experiments in a page of docs/, from their tables.

    python scripts/make_findings.py --template experiments/controls/findings.md --results results \\
        --output docs/findings.md

A template is Markdown with five kinds of mark: a number, by table, values in its row, and column; columns of a table;
one of an experiment's figures; its examples of responses; and a link to one of its files:

    {{pairs/conditions: condition=0 | tuning=response tuning | quality}}
    {{table pairs/conditions: condition | tuning | quality}}
    {{figure pairs/conditions}}
    {{examples laptop}}
    {{file laptop/report.html}}

Rows that differ only in their model are from different worlds: their mean and standard deviation are used. All files
used are copied to a folder beside the output, such as docs/findings/, so that the page can be made from there alone.
"""

import csv
import re
import shutil
import statistics
from pathlib import Path

from pipeline.files.storage import write_text
from pipeline.jobs.command import InputError, arguments, run_stage, say
from reporting.tables.forms import escaped, plus_minus

Row = dict[str, str]

MARK = re.compile(r"\{\{(?P<kind>table |figure |examples |file |)(?P<name>[\w/.-]+)(?:: (?P<rest>[^}]+))?\}\}")
NUMBER = re.compile(r"[+-]?\d+(\.\d+)?( ± \d+(\.\d+)?)?")


def files_of(template: str) -> dict[str, str]:
    """The results files that a template uses: path below ``results`` -> name in the folder of copies."""
    found = {}
    for mark in MARK.finditer(template):
        experiment, _, table = mark["name"].partition("/")
        if mark["kind"] == "figure ":
            found[f"{experiment}/figures/{table}.png"] = f"{experiment}-{table}.png"
        elif mark["kind"] == "examples ":
            found[f"{experiment}/tables/examples.md"] = f"{experiment}-examples.md"
        elif mark["kind"] == "file ":
            found[mark["name"]] = f"{experiment}-{table}"
        else:
            found[f"{experiment}/tables/{table}.csv"] = f"{experiment}-{table}.csv"
    return found


def read_csv(path: Path) -> list[Row]:
    """Read the rows of a table. Text is parsed only here, as the page is made from the copies kept beside it."""
    with Path(path).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def over_models(rows: list[Row], column: str) -> str:
    """A column over rows, one per model: the common value, or mean and deviation of numbers; empty if one is empty."""
    values = [row[column] for row in rows]
    if "" in values:
        return ""
    if len(set(values)) == 1:
        return values[0]
    if not all(NUMBER.fullmatch(value) for value in values):
        raise InputError(f"{column!r} is {', '.join(map(repr, sorted(set(values))))}: neither numbers nor all the same")
    digits = max(len(value.split(" ± ")[0].partition(".")[2]) for value in values)
    means = [float(value.partition(" ± ")[0]) for value in values]
    return plus_minus((statistics.fmean(means), statistics.stdev(means)), digits=digits)


def figure(rows: list[Row], selection: str) -> str:
    """The number selected by ``name=value | ... | column``. Raises InputError if it does not select exactly one."""
    *values, column = selection.split(" | ")
    wanted = dict(value.split("=", maxsplit=1) for value in values)
    criteria = " and ".join(values)
    unknown = {column, *wanted} - rows[0].keys()
    if unknown:
        raise InputError(f"no column {', '.join(map(repr, sorted(unknown)))}; there are {', '.join(rows[0])}")
    found = [row for row in rows if all(row[name] == value for name, value in wanted.items())]
    if len(found) > 1 and len({row.get("model") for row in found}) < len(found):
        raise InputError(f"{len(found)} rows have {criteria}: add values to select a single one")
    if not found:
        raise InputError(f"no row has {criteria}")
    return over_models(found, column)


def table(rows: list[Row], selection: str) -> str:
    """Columns of a table as Markdown; rows that differ only in their model and in numbers are merged."""
    columns = selection.split(" | ")
    unknown = set(columns) - rows[0].keys()
    if unknown:
        raise InputError(f"no column {', '.join(map(repr, sorted(unknown)))}; there are {', '.join(rows[0])}")
    named = [name for name in rows[0] if name in columns and not any(NUMBER.fullmatch(row[name]) for row in rows)]
    named += [name for name in ("condition",) if name in columns and name not in named]
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in named), []).append(row)
    lines = [columns, ["---"] * len(columns)]
    lines += [[escaped(over_models(own, name), {"|": r"\|"}) for name in columns] for own in groups.values()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def fill(template: str, folder: Path) -> str:
    """Fill a template's marks from the copies in a folder. Raises InputError naming an invalid mark."""

    def filled(mark: re.Match) -> str:
        experiment, _, name = mark["name"].partition("/")
        if mark["kind"] == "figure ":
            shown = f"{experiment}, {name}".replace("_", " ")
            return f"![{shown}; all values are in {folder.name}/]({folder.name}/{experiment}-{name}.png)"
        if mark["kind"] == "examples ":
            return (folder / f"{experiment}-examples.md").read_text(encoding="utf-8").strip()
        if mark["kind"] == "file ":
            return f"[{name}]({folder.name}/{experiment}-{name})"
        try:
            rows = read_csv(folder / f"{experiment}-{name}.csv")
            return (table if mark["kind"] else figure)(rows, mark["rest"] or "")
        except InputError as error:
            raise InputError(f"{mark[0]}: {error}") from None

    return MARK.sub(filled, template)


def main() -> None:
    args = arguments(__doc__, paths=["template", "results", "output"])
    template, folder = args.template.read_text(encoding="utf-8"), args.output.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    copies = files_of(template)
    for source, copy in copies.items():
        shutil.copyfile(args.results / source, folder / copy)
    write_text(fill(template, folder), args.output)
    say(f"{args.output}, from {len(copies)} tables and charts")


if __name__ == "__main__":
    run_stage(main)
