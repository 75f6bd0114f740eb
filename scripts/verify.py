"""Check an experiment's results: do files match their records, and do tables and figures match the files?

    snakemake verify --cores 1        (it knows which file belongs to which system)

Every record's fingerprints are compared with the files. Metrics are collected again, and recomputed from judgements,
scores and responses by independent code (`reporting.metrics.recounts`). Tables and figures are made again from the
metrics and compared as text. Nothing is changed, and all discrepancies are listed.
"""

import csv
import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.files.storage import read_json, read_table
from pipeline.identity.bases import shared_bases
from pipeline.identity.systems import Experiment
from pipeline.jobs.command import OPTIONAL_PATH, SWITCH, InputError, arguments, run_stage, say
from pipeline.jobs.record import fingerprint
from reporting.charts.figures import csv_of, rows_of
from reporting.metrics.collect import collect, read_metrics
from reporting.metrics.recounts import Recount
from reporting.metrics.view import View
from reporting.tables.tables import TABLES, make_table

if TYPE_CHECKING:
    from pandas import DataFrame

Row = dict[str, Any]
KEY = ("source", "metric", "slice", "part", "step", "level")  # identifies a number


def check_records(results: Path, *, kept: bool) -> list[str]:
    """Discrepancies between files and records: a line for each file, with the records that disagree.

    Without ``kept``, models of epoch counts that were not chosen may be missing.
    """
    recorded: dict[str, list[tuple[Path, str]]] = {}
    shared = [base / "record.json" for base in shared_bases(results)]
    for path in [*sorted(results.rglob("*.json")), *shared]:
        record = read_json(path)
        if isinstance(record, dict) and "inputs" in record and "outputs" in record:
            for entry in [*record["inputs"].values(), *record["outputs"].values()]:
                recorded.setdefault(entry["path"], []).append((path, entry["sha256"]))
    faults = []
    for file, records in recorded.items():
        found = fingerprint(Path(file)) if Path(file).exists() else None
        if found is None and not kept and "/epochs" in file:
            continue
        wrong = [f"{path} (sha256 {sha256[:12]})" for path, sha256 in records if sha256 != found]
        if wrong:
            is_now = "does not exist" if found is None else f"has sha256 {found[:12]}"
            faults.append(f"{file} {is_now}, which differs from these records: {', '.join(wrong)}")
    records = {path for known in recorded.values() for path, _ in known}
    say(f"{len(recorded)} files, by the fingerprints in {len(records)} records")
    return faults


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal up to rounding."""
    import pandas as pd

    if pd.isna(one) or pd.isna(other):
        return pd.isna(one) and pd.isna(other)
    return abs(one - other) < 1e-6 if isinstance(one, float) else one == other


def by_key(metrics: "DataFrame") -> dict[tuple, Row]:
    """The numbers of a metrics table, by KEY."""
    return {tuple(str(row[name]) for name in KEY): row for row in metrics.fillna({"step": 0}).to_dict("records")}


def named(key: tuple) -> str:
    """A readable name for a number."""
    source, metric, *where = key
    return f"{source}: {' '.join([metric, *(each for each in where if each not in ('', '0', 'seed', 'all'))])}"


def check_collected(metrics: dict[tuple, Row], again: dict[tuple, Row]) -> list[str]:
    """Check metrics against the files."""
    faults = [f"{named(key)} is not in the metrics" for key in again if key not in metrics]
    for key, row in metrics.items():
        wanted = again.get(key)
        if wanted is None:
            faults.append(f"{named(key)} is in the metrics, but not in the files")
        else:
            differ = [name for name in row if not same(row[name], wanted[name])]
            faults += [f"{named(key)}, {name} is {row[name]}, but the file gives {wanted[name]}" for name in differ]
    return faults


def check_recounted(metrics: dict[tuple, Row], recount: Recount) -> list[str]:
    """Check metrics against the independent recomputation."""
    faults, counted = [], set()
    for own in recount():
        key = (own.source, own.metric, own.slice, own.part, "0", own.level)
        row = metrics.get(key, {"value": None, "n": None, "low": None, "high": None})
        counted.add(key)
        wanted: Row = {"value": own.value} | ({"n": own.n} if own.n is not None and own.value is not None else {})
        wanted |= dict(zip(("low", "high"), own.ends, strict=True)) if own.ends else {}
        differ = [name for name in wanted if not same(row[name], wanted[name])]
        faults += [f"{named(key)}, {name} is {row[name]}, but recomputed {wanted[name]}" for name in differ]
    alone = sorted({row["metric"] for key, row in metrics.items() if key not in counted})
    say(f"{len(counted)} of {len(metrics)} metrics recomputed; from records only: {', '.join(alone)}")
    if recount.uncontrolled:
        say("not checked: length_controlled_v1, as its table is missing (judge.df_gamed)")
    return faults


def views(settings: Row, metrics: "DataFrame", results: Path) -> Iterator[tuple[Path, str]]:
    """Every file that is made from the metrics, with its expected contents."""
    view = View(metrics, note=settings["note"], axis=settings["axis"])
    for name in settings["tables"]:
        made = make_table(name, view)
        for ending in TABLES[name].forms:
            yield results / "tables" / f"{name}.{ending}", made.form(ending)
    for name in settings["drawn"]:
        yield results / "figures" / f"{name}.csv", csv_of(name, rows_of(name, view))
    yield results / "metrics.csv", metrics.to_csv(index=False, lineterminator="\n")


def check_text(path: Path, wanted: str) -> list[str]:
    """Check that a file contains this text; report differing cells for CSV, otherwise the first differing line."""
    text = path.read_text(encoding="utf-8")
    if text == wanted:
        return []
    if path.suffix != ".csv":
        lines = enumerate(zip(text.splitlines(), wanted.splitlines(), strict=False), start=1)
        line, (ours, right) = next((each for each in lines if each[1][0] != each[1][1]), (0, (text, wanted)))
        return [f"{path}, line {line}: found {ours[:200]!r}, expected {right[:200]!r}"]
    found, rows = (list(csv.DictReader(io.StringIO(each, newline=""))) for each in (text, wanted))
    if len(found) != len(rows) or list(found[0]) != list(rows[0]):
        return [f"{path} has {len(found)} rows of {list(found[0])}, but there are {len(rows)} of {list(rows[0])}"]
    return [
        f"{path}, row {number}, {key!r}: found {own[key]!r}, expected {right[key]!r}"
        for number, (own, right) in enumerate(zip(found, rows, strict=True), start=1)
        for key in own
        if own[key] != right[key]
    ]


def check_exports(experiment: Experiment) -> list[str]:
    """Check that the files in AlpacaEval's format contain the responses that the metrics are based on."""
    faults = []
    for result in experiment.results:
        if result.stage == "generate":
            path = Path(result.path).with_suffix(".alpaca_eval.json")
            outputs = [row["output"] for row in read_table("responses", Path(result.path))]
            if [row["output"] for row in read_json(path)] != outputs:
                faults.append(f"{path} contains other responses than {result.path}")
    return faults


def check_choices(experiment: Experiment) -> list[str]:
    """Check that the tuned models have the chosen epoch counts."""
    models = [(r.model, r.system.name, r.path) for r in experiment.results if r.stage == "tune"]
    faults = []
    for choice in [result for result in experiment.results if result.stage == "select"]:
        chosen = read_json(choice.path)["epochs"]
        for path in [path for *system, path in models if system == [choice.model, choice.system.name]]:
            epochs = read_json(path)["settings"]["epochs"]
            if epochs != chosen:
                faults.append(f"{path} has {epochs} epochs, but {choice.path} chose {chosen}")
    return faults


def check_data(metrics: "DataFrame", experiment: Experiment) -> list[str]:
    """Check the sha256 of each dataset against its texts."""
    faults, recorded = [], metrics.set_index("source")["sha256"]
    for result in [result for result in experiment.results if result.stage == "data"]:
        digest = hashlib.sha256()
        for row in read_table(result.kind, Path(result.path)):
            text = row.get("messages", {"instruction": row.get("instruction"), "reference": row.get("reference")})
            digest.update(json.dumps(text, sort_keys=True, separators=(",", ":")).encode() + b"\n")
        if recorded[result.path] != digest.hexdigest():
            faults.append(f"{result.path}: sha256 is {recorded[result.path]}, but recomputed {digest.hexdigest()}")
    return faults


def main() -> None:
    args = arguments(__doc__, paths=["results"], options={"gamed": OPTIONAL_PATH, "candidates-kept": SWITCH})
    settings, experiment, path = args.settings, Experiment.read(args.settings), args.results / "metrics.parquet"
    shown = [args.results / "tables" / f"{name}.{form}" for name in settings["tables"] for form in TABLES[name].forms]
    shown += [
        args.results / "figures" / f"{name}.{form}" for name in settings["drawn"] for form in ("csv", "pdf", "png")
    ]
    needed = [*(Path(result.path) for result in experiment.results), path, path.with_suffix(".csv"), *shown]
    missing = [each for each in needed if not each.exists()]
    if missing:
        raise InputError(
            f"{len(missing)} files are missing, such as {missing[0]}: run the experiment, or snakemake {missing[0]}"
        )
    faults = check_records(args.results, kept=args.candidates_kept)
    metrics = read_metrics(path)
    known = by_key(metrics)
    try:
        faults += check_collected(known, by_key(collect(experiment)))
        faults += check_recounted(known, Recount(experiment, args.gamed))
    except (ArithmeticError, LookupError, ValueError) as error:
        if not faults:
            raise
        faults.append(f"the metrics cannot be collected because files were changed: {type(error).__name__}: {error}")
    for file, wanted in views(settings, metrics, args.results):
        faults += check_text(file, wanted)
    faults += check_exports(experiment) + check_choices(experiment) + check_data(metrics, experiment)
    say(f"{len(metrics)} metrics, {len(settings['tables'])} tables and {len(settings['drawn'])} figures")
    if faults:
        raise InputError("\n  ".join([f"{len(faults)} discrepancies:", *dict.fromkeys(faults)]))
    say("no discrepancies")


if __name__ == "__main__":
    run_stage(main)
