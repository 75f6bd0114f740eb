"""Check an experiment's results: are the files those that its records tell of, and do the tables say what they hold?

    snakemake verify --cores 1        (it knows which file belongs to which row)

Every record's fingerprints are compared with the files. Every figure of the tables is computed anew from judgements,
scores and responses, by other code than that which made them (`stage.recounts`); the paper's own figures, which stand
beside them, are not computed by anybody. Nothing is changed, and everything that is wrong is named.
"""

import csv
import re
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from implicit import recount
from stage.bases import shared_bases
from stage.command import InputError, arguments, run_stage, say
from stage.control_recounts import RECOUNTS, condition_values, conditions, conditions_by_world
from stage.record import fingerprint
from stage.recounts import data, epochs, judged, low_shares, ranking, responses, similarity, tuning, win_rates
from stage.storage import read_json, read_table
from stage.table_forms import fixed

Row = dict[str, Any]
PAPER = "paper, "  # how the columns of published figures begin


def check_records(results: Path, *, kept: bool) -> list[str]:
    """What is wrong with the files that records tell of: a line for each file, with the records that disagree.

    Without ``kept``, models of epoch counts that were only tried may be gone.
    """
    told: dict[str, list[tuple[Path, str]]] = {}
    shared = [base / "record.json" for base in shared_bases(results)]
    for path in [*sorted(results.rglob("*.json")), *shared]:
        record = read_json(path)
        if isinstance(record, dict) and "inputs" in record and "outputs" in record:
            for entry in [*record["inputs"].values(), *record["outputs"].values()]:
                told.setdefault(entry["path"], []).append((path, entry["sha256"]))
    faults = []
    for file, records in told.items():
        found = fingerprint(Path(file)) if Path(file).exists() else None
        if found is None and not kept and "/epochs" in file:
            continue
        wrong = [f"{path} (sha256 {sha256[:12]})" for path, sha256 in records if sha256 != found]
        if wrong:
            is_now = "is not there" if found is None else f"has sha256 {found[:12]}"
            faults.append(f"{file} {is_now}, and is not what these tell of: {', '.join(wrong)}")
    records = {path for known in told.values() for path, _ in known}
    say(f"{len(told)} files, by the fingerprints of {len(records)} records")
    return faults


def files_of(settings: Row, folder: Path) -> list[Path]:
    """Everything that tables are made of, and the tables."""
    entries = [
        e
        for key in ("figures", "rankings", "similarities", "drifts", "harnessed", "selections", "tunings", "responses")
        for e in settings[key]
    ]
    tables = [*settings["tables"], *(["conditions"] if settings["conditions"] else [])]
    made = [folder / f"{name}.{form}" for name in tables for form in ("csv", "md", "tex")]
    if settings["conditions"]:
        made += [folder / "conditions_by_world.csv", folder.parent / "figures" / "conditions.csv"]
    return [*(Path(entry["path"]) for entry in entries), *(Path(entry["path"]) for entry in settings["data"]), *made]


def check_conditions_figure(values: list[Row], folder: Path) -> list[str]:
    """Whether the figure of conditions shows the means of the worlds, and their intervals."""
    path = folder.parent / "figures" / "conditions.csv"
    wanted = set()
    drawn = {"ranking", "ranking, same kind", "ranking, same format", "quality", "win rate", "KL"}
    for key in dict.fromkeys((row["condition"], row["tuning"]) for row in values):
        own = [row for row in values if (row["condition"], row["tuning"]) == key]
        for name in drawn & own[0].keys():
            found = [row[name] for row in own]
            if None not in found:
                ends = tuple(fixed(end, 4) for end in recount.interval(found)) or ("", "")
                wanted.add((*key, name, fixed(statistics.fmean(found), 4), *ends, str(len(found))))
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    keys = ("condition", "tuning", "measure", "mean", "low", "high", "worlds")
    return (
        []
        if {tuple(row[key] for key in keys) for row in rows} == wanted
        else [f"{path} does not say what the worlds say"]
    )


def check_table(name: str, rows: list[Row], folder: Path, *, forms: bool = True) -> list[str]:
    """Compare a table's CSV with rows computed anew, and its Markdown and LaTeX with the CSV, cell by cell."""
    path = folder / f"{name}.csv"
    with path.open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    faults = []
    if len(found) != len(rows):
        return [f"{path} has {len(found)} rows, but there are {len(rows)}"]
    for number, (row, wanted) in enumerate(zip(found, rows, strict=True), start=1):
        ours = {key: value for key, value in row.items() if not key.startswith(PAPER)}
        if list(ours) != list(wanted):
            return [f"{path} has the columns {list(ours)}, but {list(wanted)} are known"]
        differ = [key for key in ours if ours[key] != str(wanted[key])]
        faults += [
            f"{path}, row {number}, {key!r}: {ours[key]!r} stands there, {str(wanted[key])!r} is right"
            for key in differ
        ]
    if not forms:
        return faults
    cells = [[" ".join(cell.split()) for cell in line] for line in [list(found[0]), *(row.values() for row in found)]]
    for form, read in (("md", markdown_cells), ("tex", latex_cells)):
        if read((folder / f"{name}.{form}").read_text(encoding="utf-8")) != cells:
            faults.append(f"{folder / f'{name}.{form}'} does not say what {path} says")
    return faults


def markdown_cells(text: str) -> list[list[str]]:
    """The cells of the table in a Markdown file, header first."""
    lines = [line[2:-2] for line in text.splitlines() if line.startswith("| ")]
    return [[re.sub(r"\\([^\w\s])", r"\1", cell.strip()) for cell in line.split(" | ")] for line in lines]


def latex_cells(text: str) -> list[list[str]]:
    """The cells of the table in a LaTeX file, header first."""
    named = {"backslash": "\\", "asciitilde": "~", "asciicircum": "^", "less": "<", "greater": ">"}

    def plain(cell: str) -> str:
        mark = re.compile(r"\\text(\w+)\{\}|\\([&%_#${}])|\$\\pm\$")
        return mark.sub(lambda found: named[found[1]] if found[1] else found[2] or "±", cell)

    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    lines = [line[: -len(r" \\")] for line in body.splitlines() if line.endswith(r" \\")]
    return [[plain(cell.strip()) for cell in line.split(" & ")] for line in lines]


def footnotes(name: str, settings: Row) -> set[str]:
    """What tables 1 to 4 must say of what was cut, as ``kind: system count of all``."""
    figures = [entry for entry in settings["figures"] if name in entry["tables"]]
    ranked = settings["rankings"] if name == "table2" else []
    asked = {given["path"] for entry in figures for given in read_json(entry["path"])["inputs"].values()}
    answered = [entry for entry in settings["responses"] if entry["path"] in asked]
    systems = {(entry["model"], entry["system"].split("/chosen")[0]) for entry in [*answered, *ranked]}
    counts: dict[tuple[str, str, str], list[int]] = {}

    def add(kind: str, model: str, system: str, count: int, of: int) -> None:
        sums = counts.setdefault((kind, model, system.split("/chosen")[0]), [0, 0])
        sums[0], sums[1] = sums[0] + count, sums[1] + of

    tuned = {(entry["model"], entry["mode"]): read_json(entry["path"]) for entry in settings["tunings"]}
    for (model, mode), record in tuned.items():
        if (model, mode) in systems:
            add("Rows cut", model, mode, record["rows_cut"], record["rows"])
            add("Turns dropped", model, mode, record["turns_dropped"], record["turns"])
    for entry in answered:
        table = read_table("responses", Path(entry["path"]))
        add("Prompts cut", entry["model"], entry["system"], len([row for row in table if row["cut"]]), len(table))
        unstopped = len([row for row in table if not row["stopped"]])
        add("Responses not stopped", entry["model"], entry["system"], unstopped, len(table))
    for entry in figures:
        summary = read_json(entry["path"])
        add("Texts shown", entry["model"], entry["system"], summary["protected"], 3 * summary["n"])
    several = len(settings["models"]) > 1
    return {
        f"{kind}: {f'{model} ' if several else ''}{system} {count:,} of {of:,}"
        for (kind, model, system), (count, of) in counts.items()
        if count
    }


def check_footnotes(name: str, settings: Row, folder: Path) -> list[str]:
    """Compare the counts in a table's footnotes with those of the files."""
    text = (folder / f"{name}.md").read_text(encoding="utf-8")
    told = set()
    for kind, listed in re.findall(
        r"^(Rows cut|Turns dropped|Prompts cut|Responses not stopped|Texts shown)[^:]*: (.*)\.$", text, re.M
    ):
        told |= {f"{kind}: {each}" for each in re.findall(r"[^ ,][^,]*? [\d,]+ of [\d,]*\d", listed)}
    wanted = footnotes(name, settings)
    told |= {f"Labels: {low}" for low in re.findall(r"^Labels with little [^:]*: (.*)\.$", text, re.M)}
    wanted |= {f"Labels: {low}" for low in [low_shares(name, settings)] if low}
    return [f"{folder / name}.md, footnote: {line!r} stands there, but is not so" for line in sorted(told - wanted)] + [
        f"{folder / name}.md, footnote: {line!r} is missing" for line in sorted(wanted - told)
    ]


def check_exports(settings: Row) -> list[str]:
    """Whether AlpacaEval's own files hold the responses that the tables were made of."""
    faults = []
    for entry in settings["responses"]:
        path = Path(entry["path"]).with_suffix(".alpaca_eval.json")
        exported = [row["output"] for row in read_json(path)]
        if exported != [row["output"] for row in read_table("responses", Path(entry["path"]))]:
            faults.append(f"{path} holds other responses than {entry['path']}")
    return faults


def check_choices(settings: Row) -> list[str]:
    """Whether the epoch counts that were chosen are those that the tuned models have."""
    faults = []
    for entry in settings["selections"]:
        told = read_json(entry["path"])["epochs"]
        for tuned in settings["tunings"]:
            if (tuned["model"], tuned["mode"]) == (entry["model"], entry["mode"]):
                epochs = read_json(tuned["path"])["settings"]["epochs"]
                if epochs != told:
                    faults.append(f"{tuned['path']} tells of {epochs} epochs, but {entry['path']} has chosen {told}")
    return faults


def check_figure(folder: Path) -> list[str]:
    """Whether what the figure was drawn from is what the tables say."""
    path = folder.parent / "figures" / "win_rates.csv"
    if not path.is_file():
        return []
    stated = set()
    for table in ("table1", "table3", "table4"):
        if (folder / f"{table}.csv").is_file():
            with (folder / f"{table}.csv").open(encoding="utf-8", newline="") as file:
                stated |= {(row["model"], row["tuning"], row["win rate"]) for row in csv.DictReader(file)}
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    drawn = {(row["model"], row["tuning"], float(row["win_rate"]), float(row["std"])) for row in rows}
    known = {(*key, float(rate.split(" ± ")[0]), float((rate.split(" ± ") + ["0"])[1])) for *key, rate in stated}
    return [] if drawn == known else [f"{path} does not say what the tables say"]


def main() -> None:
    args = arguments(__doc__, paths=["results"], optional=["gamed"], flags=["candidates-kept"])
    settings, folder = args.settings, args.results / "tables"
    made: dict[str, Callable[[], list[Row]]] = {
        **{name: partial(win_rates, name, settings, args.gamed) for name in ("table1", "table3", "table4")},
        "table2": lambda: ranking(settings),
        "similarity": lambda: similarity(settings),
        **{name: partial(count, settings) for name, count in RECOUNTS.items()},
        "data": lambda: data(settings),
        "epochs": lambda: epochs(settings, args.gamed),
        "tuning": lambda: tuning(settings),
        "responses": lambda: responses(settings),
    }
    missing = [path for path in files_of(settings, folder) if not path.exists()]
    if missing:
        raise InputError(
            f"{len(missing)} files are not there, such as {missing[0]}: run the experiment, or snakemake {missing[0]}"
        )
    faults = check_records(args.results, kept=args.candidates_kept)
    for name in settings["tables"]:
        faults += check_table(name, made[name](), folder)
        faults += check_footnotes(name, settings, folder) if name in ("table1", "table2", "table3", "table4") else []
    compared = [entry["path"] for entry in settings["figures"]]
    compared += [path for entry in settings["selections"] for path in entry["validations"]]
    summaries = [judged(path, args.gamed) for path in compared]
    faults += [fault for summary in summaries for fault in summary["faults"]]
    if settings["conditions"]:
        values = condition_values(settings, args.gamed)
        faults += check_table("conditions_by_world", conditions_by_world(values), folder, forms=False)
        faults += check_table("conditions", conditions(values), folder) + check_conditions_figure(values, folder)
    faults += check_exports(settings) + check_choices(settings) + check_figure(folder)
    say(f"{len(settings['tables'])} tables, from {len(compared)} comparisons and {len(settings['rankings'])} rankings")
    if any("lc_win_rate" not in summary["counted"] for summary in summaries):
        say("not checked: length_controlled_v1, whose table is not here (judge.gamed_table)")
    if faults:
        raise InputError("\n  ".join([f"{len(faults)} things are not as they were made:", *faults]))
    say("all is as it was made")


if __name__ == "__main__":
    run_stage(main)
