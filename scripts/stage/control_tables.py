"""The tables of the controls: quality by kind of request, the judge's tastes, harder rankings, and what tuning costs.

Each takes the settings of `make_tables`: what of the other stages' files belongs to which row.
"""

import statistics
from pathlib import Path
from typing import Any

from implicit.artefacts import Outcome, judged_otherwise
from implicit.oracle import Oracle
from implicit.rank import capability_interval
from stage.storage import read_json, read_table
from stage.table_forms import fixed, mean_and_deviation, plus_minus

Row = dict[str, Any]


def of_systems(entries: list[Row], models: list[str]) -> list[list[Row]]:
    """Entries by model and system, the seeds of one together: in the order of ``models``, then of the entries."""
    grouped: dict[tuple[str, str], list[Row]] = {}
    for model in models:
        for entry in entries:
            if entry["model"] == model:
                grouped.setdefault((model, entry["system"].split("/seed")[0]), []).append(entry)
    return list(grouped.values())


def spread(values: list[float | None], digits: int = 1) -> str:
    """Mean and deviation as text; empty where a seed has no value."""
    known = [value for value in values if value is not None]
    return plus_minus(mean_and_deviation(known), digits=digits) if known and len(known) == len(values) else ""


def requests_of(settings: Row, model: str) -> dict[str, str]:
    """What the oracle needs to know of a model's instructions, by id."""
    return {row["id"]: row["request"] for row in read_table("evaluation_set", Path(settings["set"][model]))}


def kinds_table(settings: Row) -> list[Row]:
    """The mean quality of every system's responses, the opponent's included, by kind of request."""
    if not settings["oracle"]:
        return []
    oracle, rows = Oracle(), []
    for entries in of_systems(settings["responses"], settings["models"]):
        requests = requests_of(settings, entries[0]["model"])
        kinds = sorted({oracle.kind(request) for request in requests.values()})
        means = []
        for entry in entries:
            found: dict[str, list[float]] = {kind: [] for kind in kinds}
            for row in read_table("responses", Path(entry["path"])):
                request = requests[row["id"]]
                quality = oracle.quality(request, row["output"], stopped=row["stopped"])
                found[oracle.kind(request)].append(quality)
            every = [quality for own in found.values() for quality in own]
            means.append({"all": statistics.fmean(every)} | {kind: statistics.fmean(found[kind]) for kind in kinds})
        row = {"model": entries[0]["model"], "tuning": entries[0]["label"]}
        row["all"] = spread([seed["all"] for seed in means], 2)
        row |= {kind: fixed(statistics.fmean(seed[kind] for seed in means), 2) for kind in kinds}
        rows.append(row | {"seeds": len(entries), "n": len(requests)})
    return rows


def judging_table(settings: Row) -> list[Row]:
    """Win rates against the opponent as the oracle gave them, and as it would have if it asked for less."""
    if not settings["oracle"]:
        return []
    oracle, rows = Oracle(), []
    for entries in of_systems(settings["figures"], settings["models"]):
        requests = requests_of(settings, entries[0]["model"])
        found = [
            judged_otherwise(read_table("judgements", Path(entry["path"]).with_suffix(".parquet")), requests, oracle)
            for entry in entries
        ]
        row = {"model": entries[0]["model"], "tuning": entries[0]["label"]}
        for view in found[0]:
            row |= columns_of(view.replace("_", " "), [seed[view] for seed in found])
        row["similar length, n"] = sum(seed["similar_length"].n for seed in found)
        rows.append(row | {"seeds": len(entries), "n": found[0]["judged"].n})
    return rows


def columns_of(name: str, outcomes: list[Outcome]) -> Row:
    """The two columns of a way to judge; empty where a seed has no pair."""
    rates, ties = [outcome.win_rate for outcome in outcomes], [outcome.ties for outcome in outcomes]
    return {name: spread(rates), f"{name}, ties": fixed(statistics.fmean(ties), 1) if None not in ties else ""}


def ranking_interval(
    entries: list[Row], score: str, *, negatives: str = "any", eos: bool = True
) -> tuple[float, float]:
    """The 95 % interval in percent of the mean over seeds of a system's capability, over seeds and instructions."""
    tables = [
        [
            row
            for row in read_table("ranking", Path(entry["path"]).with_suffix(".parquet"))
            if row["negatives"] == negatives
        ]
        for entry in entries
    ]
    own = read_json(entries[0]["path"])["settings"]
    low, high = capability_interval(tables, score, bootstrap=own["bootstrap"], seed=own["seed"], eos=eos)
    return 100 * low, 100 * high


def interval_text(ends: tuple[float, float]) -> str:
    """An interval in percent as text."""
    return " to ".join(fixed(end, 1) for end in ends)


def ranking_controls_table(settings: Row) -> list[Row]:
    """Response ranking among each draw of negatives, by whole sequence and per token, with EOS and without."""
    rows = []
    for entries in of_systems(settings["rankings"], settings["models"]):
        summaries = [read_json(entry["path"])["summary"]["controls"] for entry in entries]
        for draws in zip(*summaries, strict=True):
            for score in ("sequence", "token"):
                for eos in ("with", "without"):
                    found = [draw[f"{eos}_eos"] for draw in draws]
                    own = [each[score] for each in found]
                    ends = ranking_interval(entries, score, negatives=draws[0]["negatives"], eos=eos == "with")
                    row = {"model": entries[0]["model"], "tuning": entries[0]["label"]}
                    row |= {"negatives": draws[0]["negatives"].replace("_", " "), "score": score, "EOS": eos}
                    row["capability"] = spread([100 * each["capability"] for each in own])
                    row["95 %"] = interval_text(ends)
                    row["ties"] = fixed(100 * statistics.fmean(each["ties"] for each in own), 1)
                    row |= {"seeds": len(own), "instructions": found[0]["instructions"], "pairs": found[0]["pairs"]}
                    rows.append(row | {"left out": draws[0]["left_out"], "fewer": draws[0]["fewer"]})
    return rows


def drift_table(settings: Row) -> list[Row]:
    """What tuning costs: perplexity, KL and recall of facts, beside the base model's."""
    groups = of_systems(settings["drifts"], settings["models"])
    forms = list(dict.fromkeys(form for group in groups for form in read_json(group[0]["path"])["summary"]["recall"]))
    rows = []
    for entries in groups:
        found = [read_json(entry["path"])["summary"] for entry in entries]
        row = {"model": entries[0]["model"], "tuning": entries[0]["label"]}
        row["perplexity"] = spread([each["tuned_perplexity"] for each in found], 3)
        row["of base"] = fixed(found[0]["base_perplexity"], 3)
        row["KL, nats"] = spread([each["kl"] for each in found], 4)
        for form in forms:
            recall = [each["recall"].get(form) for each in found]
            row[f"recall, {form}"] = spread([told and 100 * told["tuned"] for told in recall])
            for name, key in (("of base", "base"), ("by chance", "chance")):
                row[f"recall, {form}, {name}"] = fixed(100 * recall[0][key], 1) if recall[0] else ""
        row |= {"seeds": len(found)} | {key: found[0][key] for key in ("documents", "tokens", "cut")}
        rows.append(row)
    return rows


def harness_table(settings: Row) -> list[Row]:
    """lm-evaluation-harness's figures, a row for each metric of each task."""
    rows = []
    for entries in of_systems(settings["harnessed"], settings["models"]):
        found = [read_json(entry["path"])["summary"] for entry in entries]
        for task, metrics in found[0].items():
            for metric in metrics:
                value = spread([each[task][metric] for each in found], 4)
                row = {"model": entries[0]["model"], "tuning": entries[0]["label"], "task": task, "metric": metric}
                rows.append(row | {"value": value, "seeds": len(found)})
    return rows


CONTROLS = {
    "kinds": kinds_table,
    "judging": judging_table,
    "ranking_controls": ranking_controls_table,
    "drift": drift_table,
    "harness": harness_table,
}
TITLES = {
    "kinds": "Quality of responses by kind of request, mean",
    "judging": "Win rate against instruction tuning under other judges of the same pairs, percent",
    "ranking_controls": "Response ranking among other negatives, with and without EOS, percent of pairs",
    "drift": "What tuning costs, on text that nobody was tuned on",
    "harness": "lm-evaluation-harness",
}
NOTES = {
    "kinds": "Quality is the oracle's, in [0, 1].",
    "judging": "Content: without what the oracle takes off for length and for not stopping. Right: being right alone. "
    "Similar length: pairs of which neither output is more than 1.25 times as long as the other, in characters; their "
    "n is of all seeds.",
    "ranking_controls": "Negatives of the same kind, and of another kind with the same format, are wrong responses by "
    "the oracle. Left out: instructions without any; fewer: those with fewer than were asked for.",
    "drift": "KL(base || tuned) per token, over the whole vocabulary. Recall: facts of which the right value is the "
    "most likely of all, percent.",
}
