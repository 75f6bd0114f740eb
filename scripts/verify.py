"""Check an experiment's results: are the files those that its records tell of, and do the tables say what they hold?

    snakemake verify --cores 1        (it knows which file belongs to which row)

Every record's fingerprints are compared with the files. Every figure of the tables is computed anew from judgements,
scores and responses, by other code than that which made them (`implicit.recount`); the paper's own figures, which stand
beside them, are not computed by anybody. Nothing is changed, and everything that is wrong is named.
"""

import csv
import hashlib
import json
import re
import statistics
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from implicit import recount
from stage.bases import shared_bases
from stage.command import InputError, arguments, run_stage, say
from stage.control_recounts import RECOUNTS
from stage.record import fingerprint
from stage.storage import read_json, read_table

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


def stopped_and_tokens(found: list[Row]) -> Row:
    """The columns of what was generated, from the responses that were judged."""
    tables = [read_table("responses", Path(each["inputs"]["responses"]["path"])) for each in found]
    shares = [100 * len([row for row in table if row["stopped"]]) / len(table) for table in tables]
    lengths = [sum(row["tokens"] for row in table) / len(table) for table in tables]
    return {"stopped": mean(shares, ".1f"), "tokens": mean(lengths, ".1f")}


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


def mean(values: Sequence[float | None], form: str, *, spread: bool = False) -> str:
    """The mean of values as text, with ``spread`` and their standard deviation; nothing where a value is missing."""
    if not values or None in values:
        return ""
    text = format(statistics.fmean(values), form)
    return f"{text} ± {statistics.stdev(values):{form}}" if spread and len(values) > 1 else text


@cache
def judged(path: str, gamed: Path | None) -> Row:
    """A comparison, counted anew from its judgements; ``faults`` are figures of its summary that differ."""
    summary, rows = read_json(path), read_table("judgements", Path(path).with_suffix(".parquet"))
    settings = summary["settings"]
    full = settings["metric"] == "length_controlled_v1"
    told = recount.win_rate(rows)
    told["win_rate_error"] = recount.win_rate_error(rows, draws=settings["bootstrap"], seed=settings["seed"])
    told["position_bias"] = recount.position_bias(rows)
    if not full or gamed:
        told["lc_win_rate"] = recount.controlled_win_rate(rows, gamed=gamed if full else None)
    faults = [
        f"{path}: {key} is {summary[key]}, but the judgements give {told[key]}"
        for key in told
        if not same(summary[key], told[key])
    ]
    return summary | told | {"faults": faults, "counted": sorted(told)}


def same(one: float | None, other: float | None) -> bool:
    """Whether two figures are the same but for rounding."""
    return one == other if one is None or other is None else abs(one - other) < 1e-6


def grouped(entries: list[Row]) -> list[list[Row]]:
    """Entries of the same model and system, in the order of the first of each."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for entry in entries:
        groups.setdefault((entry["model"], entry["system"]), []).append(entry)
    return list(groups.values())


def in_order(entries: list[Row], models: list[str]) -> list[Row]:
    """Entries, model by model."""
    return [entry for model in models for entry in entries if entry["model"] == model]


def win_rates(name: str, settings: Row, gamed: Path | None) -> list[Row]:
    """Tables 1, 3 and 4."""
    rows = []
    for seeds in grouped([e for e in in_order(settings["figures"], settings["models"]) if name in e["tables"]]):
        found = [judged(entry["path"], gamed) for entry in seeds]
        biases = [each["position_bias"] for each in found if each["position_bias"] is not None]
        rows.append(
            {
                "model": seeds[0]["model"],
                "tuning": seeds[0]["label"],
                "win rate": mean([each["win_rate"] for each in found], ".1f", spread=True),
                "length-controlled": mean([each["lc_win_rate"] for each in found], ".1f", spread=True),
                "each seed": " ".join(f"{each['win_rate']:.1f}" for each in found),
                "error": mean([each["win_rate_error"] for each in found], ".1f"),
                "ties": mean([100 * each["ties"] / each["n"] for each in found], ".1f"),
                "quality": mean([each["quality_2"] for each in found], ".2f"),
                "of reference": mean([each["quality_1"] for each in found], ".2f"),
                **stopped_and_tokens(found),
                "position bias": mean(biases, "+.1f"),
                "seeds": len(found),
                "n": found[0]["n"],
                "judge": found[0]["judge"],
                "metric": found[0]["metric"],
                "date": max(each["date"] or "" for each in found),
            }
        )
    return rows


def ranking(settings: Row) -> list[Row]:
    """Table 2."""
    rows = []
    for seeds in grouped(in_order(settings["rankings"], settings["models"])):
        found = []
        for entry in seeds:
            own = read_json(entry["path"])["settings"]
            scores = read_table("ranking", Path(entry["path"]).with_suffix(".parquet"))
            scores = [row for row in scores if row["negatives"] == "any"]
            found.append(recount.ranking(scores, draws=own["bootstrap"], seed=own["seed"]))
        row: Row = {"model": seeds[0]["model"], "tuning": seeds[0]["label"]}
        for name, score in (("capability", "sequence"), ("per token", "token")):
            percent = {key: [100 * each[score][key] for each in found] for key in ("capability", "low", "high", "ties")}
            row[name] = mean(percent["capability"], ".1f", spread=True)
            row[f"{name}, 95 %"] = f"{mean(percent['low'], '.1f')} to {mean(percent['high'], '.1f')}"
            row[f"{name}, ties"] = mean(percent["ties"], ".1f")
        rows.append(row | {"seeds": len(found), "instructions": found[0]["instructions"], "pairs": found[0]["pairs"]})
    return rows


def similarity(settings: Row) -> list[Row]:
    """Section 5.2."""
    rows = []
    for entry in settings["similarities"]:
        table = read_table("similarity", Path(entry["path"]).with_suffix(".parquet"))
        styles = [name for name in table[0] if name not in ("id", "index", "x", "y")]
        found = recount.similarity(table, styles)
        for style in styles:
            row = {"model": entry["model"], "tuning": entry["label"], "style": style}
            row |= {name: f"{share:.1f}" for name, share in found[style].items()}
            correlation = "" if found["spearman"] is None else f"{found['spearman']:.2f}"
            rows.append(row | {"n of a quartile": found["n"], "similarity, rank correlation": correlation})
    return rows


def data(settings: Row) -> list[Row]:
    """What was read."""
    rows = []
    for entry in settings["data"]:
        table = read_table(entry["kind"], Path(entry["path"]))
        digest = hashlib.sha256()
        for row in table:
            is_set = entry["kind"] == "evaluation_set"
            text = {"instruction": row["instruction"], "reference": row["reference"]} if is_set else row["messages"]
            digest.update(json.dumps(text, sort_keys=True, separators=(",", ":")).encode() + b"\n")
        told = {"name": entry["name"], "kind": entry["kind"].replace("_", " "), "rows": len(table)}
        rows.append(told | {"source": table[0]["source"], "sha256": digest.hexdigest()})
    return rows


def epochs(settings: Row, gamed: Path | None) -> list[Row]:
    """What was validated, and chosen: the highest win rate, of equals the fewest epochs."""
    rows = []
    for entry in settings["selections"]:
        counts = entry["epochs"]
        found = [judged(path, gamed) for path in entry["validations"]]
        rates = [each["win_rate"] for each in found] or [0.0]
        chosen = counts[rates.index(max(rates))]
        for i, count in enumerate(counts):
            told = found[i] if found else None
            rows.append(
                {
                    "model": entry["model"],
                    "mode": entry["mode"],
                    "epochs": count,
                    "validation win rate": f"{told['win_rate']:.1f}" if told else "",
                    "error": f"{told['win_rate_error']:.1f}" if told else "",
                    "n": told["n"] if told else "",
                    "judge": told["judge"] if told else "",
                    "date": (told["date"] or "") if told else "",
                    "chosen": "yes" if count == chosen else "",
                }
            )
    return rows


def tuning(settings: Row) -> list[Row]:
    """What was tuned on. Losses are kept in the records alone."""
    rows = []
    for entry in settings["tunings"]:
        record = read_json(entry["path"])
        told = {key: entry[key] for key in ("model", "mode", "seed")} | {"rows": record["rows"]}
        told |= {"rows cut": record["rows_cut"], "tokens cut": record["tokens_cut"]}
        told |= {"trained tokens": record["trained_tokens"]}
        losses = record["losses"]
        rows.append(told | {"first loss": f"{losses[0]:.3f}", "last loss": f"{losses[-1]:.3f}"})
    return rows


def responses(settings: Row) -> list[Row]:
    """What was generated."""
    rows = []
    for entry in settings["responses"]:
        table = read_table("responses", Path(entry["path"]))
        told = {"model": entry["model"], "system": entry["system"], "n": len(table)}
        told["stopped"] = mean([100.0 * row["stopped"] for row in table], ".1f")
        told["tokens"] = mean([row["tokens"] for row in table], ".1f")
        told["characters"] = mean([len(row["output"]) for row in table], ".1f")
        told["empty"] = len([row for row in table if row["output"].strip() == ""])
        rows.append(told | {"prompts cut": len([row for row in table if row["cut"]])})
    return rows


def condition_values(settings: Row, gamed: Path | None) -> list[Row]:
    """What each system of each condition and world can do: numbers, or None where there is none."""
    rows = []
    for model, (condition, world) in settings["conditions"]["models"].items():
        own = {
            key: [entry for entry in settings[key] if entry["model"] == model]
            for key in ("responses", "figures", "rankings")
        }
        for label in dict.fromkeys(entry["label"] for entry in own["responses"]):
            mine = {key: [entry for entry in own[key] if entry["label"] == label] for key in own}
            tables = [read_table("responses", Path(entry["path"])) for entry in mine["responses"]]
            is_reference = mine["responses"][0]["system"].split("/")[0] == settings["reference"]
            # The opponent's quality is told by those who were compared with it.
            compared = [e for e in own["figures"] if e["label"] == "base"] if is_reference else mine["figures"]
            told = [judged(entry["path"], gamed) for entry in compared]
            ranked = []
            for entry in mine["rankings"]:
                scores = read_table("ranking", Path(entry["path"]).with_suffix(".parquet"))
                ranked.append(recount.ranking(scores, draws=2, seed=0))
            values = {
                "ranking": [100 * each["sequence"]["capability"] for each in ranked],
                "per token": [100 * each["token"]["capability"] for each in ranked],
                "quality": [each["quality_1" if is_reference else "quality_2"] for each in told],
                "win rate": [] if is_reference else [each["win_rate"] for each in told],
                "ties": [] if is_reference else [100 * each["ties"] / each["n"] for each in told],
                "stopped": [100 * row["stopped"] for table in tables for row in table],
                "tokens": [row["tokens"] for table in tables for row in table],
            }
            means = {
                name: None if not found or None in found else statistics.fmean(found) for name, found in values.items()
            }
            counts = {"seeds": len(tables), "n": len(tables[0]), "pairs": ranked[0]["pairs"] if ranked else ""}
            rows.append({"condition": condition, "world": world, "tuning": label} | means | counts)
    return rows


def conditions_by_world(values: list[Row]) -> list[Row]:
    """Each figure as text."""
    return [
        {k: f"{v:.4f}" if isinstance(v, float) else "" if v is None else v for k, v in row.items()} for row in values
    ]


def conditions(values: list[Row]) -> list[Row]:
    """Means and standard deviations over worlds."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in values:
        groups.setdefault((row["condition"], row["tuning"]), []).append(row)
    rows = []
    for (condition, label), own in groups.items():
        told = {"condition": condition, "tuning": label}
        for name in ("ranking", "per token", "quality", "win rate", "ties", "stopped", "tokens"):
            form = ".2f" if name == "quality" else ".1f"
            told[name] = mean([row[name] for row in own], form, spread=True)
        rows.append(told | {"worlds": len(own), "n": own[0]["n"], "pairs": own[0]["pairs"]})
    return rows


def check_conditions_figure(values: list[Row], folder: Path) -> list[str]:
    """Whether the figure of conditions shows the means of the worlds, and their intervals."""
    path = folder.parent / "figures" / "conditions.csv"
    wanted = set()
    names = {"ranking": "ranking", "quality": "quality", "win rate": "win_rate"}
    for key in dict.fromkeys((row["condition"], row["tuning"]) for row in values):
        own = [row for row in values if (row["condition"], row["tuning"]) == key]
        for name, measure in names.items():
            found = [row[name] for row in own]
            if None not in found:
                ends = tuple(f"{end:.4f}" for end in recount.interval(found)) or ("", "")
                wanted.add((*key, measure, f"{statistics.fmean(found):.4f}", *ends, str(len(found))))
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
        r"^(Rows cut|Prompts cut|Responses not stopped|Texts shown)[^:]*: (.*)\.$", text, re.M
    ):
        told |= {f"{kind}: {each}" for each in re.findall(r"[^ ,][^,]*? [\d,]+ of [\d,]*\d", listed)}
    wanted = footnotes(name, settings)
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
        **{name: partial(count, settings, mean) for name, count in RECOUNTS.items()},
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
