"""The tables counted anew for `verify`, from judgements, scores and responses, by other code than what made them."""

import hashlib
import json
import statistics
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from implicit import recount
from stage.storage import read_json, read_table
from stage.table_forms import fixed

Row = dict[str, Any]


def mean(values: Sequence[float | None], digits: int, *, spread: bool = False, sign: str = "") -> str:
    """The mean of values as text, with ``spread`` and their standard deviation; nothing where a value is missing."""
    if not values or None in values:
        return ""
    text = fixed(statistics.fmean(values), digits, sign=sign)
    return f"{text} ± {fixed(statistics.stdev(values), digits)}" if spread and len(values) > 1 else text


def groups(entries: list[Row], models: list[str]) -> list[list[Row]]:
    """Entries of the same model and label, model by model."""
    found: dict[tuple[str, str], list[Row]] = {
        (model, entry["label"]): [] for model in models for entry in entries if entry["model"] == model
    }
    for entry in entries:
        found[entry["model"], entry["label"]].append(entry)
    return list(found.values())


@cache
def judged(path: str, gamed: Path | None) -> Row:
    """A comparison, counted anew from its judgements; ``faults`` are figures of its summary that differ."""
    summary, rows = read_json(path), read_table("judgements", Path(path).with_suffix(".parquet"))
    settings = summary["settings"]
    full = settings["metric"] == "length_controlled_v1"
    told = recount.win_rate(rows)
    told["win_rate_error"] = recount.win_rate_error(rows, draws=settings["bootstrap"], seed=settings["seed"])
    told["position_bias"] = recount.position_bias(rows)
    told["label_share"], told["label_share_minimum"] = recount.label_shares(rows)
    if not full or gamed:
        told["lc_win_rate"] = recount.controlled_win_rate(rows, gamed=gamed if full else None)
    faults = [
        f"{path}: {key} is {summary.get(key)}, but the judgements give {told[key]}"
        for key in told
        if not same(summary.get(key), told[key])
    ]
    return summary | told | {"faults": faults, "counted": sorted(told), "rows": rows}


def interval(seeds: list[list[tuple[float, int]]], settings: Row) -> str:
    """The 95 % interval of a mean over seeds as text, from (sum, count) by cluster of each."""
    ends = recount.mean_over_seeds(seeds, draws=settings["bootstrap"], seed=settings["seed"])
    return " to ".join(fixed(end, 1) for end in ends)


def same(one: float | None, other: float | None) -> bool:
    """Whether two figures are the same but for rounding."""
    return one == other if one is None or other is None else abs(one - other) < 1e-6


def stopped_and_tokens(found: list[Row]) -> Row:
    """The columns of what was generated, from the responses that were judged."""
    tables = [read_table("responses", Path(each["inputs"]["responses"]["path"])) for each in found]
    shares = [100 * len([row for row in table if row["stopped"]]) / len(table) for table in tables]
    lengths = [sum(row["tokens"] for row in table) / len(table) for table in tables]
    return {"stopped": mean(shares, 1), "tokens": mean(lengths, 1)}


def win_rates(name: str, settings: Row, gamed: Path | None) -> list[Row]:
    """Tables 1, 3 and 4."""
    rows = []
    for seeds in groups([e for e in settings["figures"] if name in e["tables"]], settings["models"]):
        found = [judged(entry["path"], gamed) for entry in seeds]
        biases = [each["position_bias"] for each in found if each["position_bias"] is not None]
        rows.append(
            {
                "model": seeds[0]["model"],
                "tuning": seeds[0]["label"],
                "win rate": mean([each["win_rate"] for each in found], 1, spread=True),
                "length-controlled": mean([each["lc_win_rate"] for each in found], 1, spread=True),
                "each seed": " ".join(fixed(each["win_rate"], 1) for each in found),
                "95 %": interval(
                    [recount.by_cluster(each["rows"], lambda row: 100 * (row["preference"] - 1)) for each in found],
                    found[0]["settings"],
                ),
                "ties": mean([100 * each["ties"] / each["n"] for each in found], 1),
                "quality": mean([each["quality_2"] for each in found], 2),
                "of reference": mean([each["quality_1"] for each in found], 2),
                **stopped_and_tokens(found),
                "position bias": mean(biases, 1, sign="+"),
                **shares(found),
                "seeds": len(found),
                "n": found[0]["n"],
                "judge": found[0]["judge"],
                "metric": found[0]["metric"],
                "date": max(each["date"] or "" for each in found),
            }
        )
    asked = any(row["label share"] for row in rows)
    return [{k: v for k, v in row.items() if asked or not k.startswith("label share")} for row in rows]


def shares(found: list[Row]) -> Row:
    """The columns of the labels' share of the judge's probability."""
    known = [each for each in found if each["label_share"] is not None]
    lowest = min([each["label_share_minimum"] for each in known], default=None)
    return {
        "label share": mean([each["label_share"] for each in known], 3),
        "label share, minimum": "" if lowest is None else fixed(lowest, 3),
    }


def low_shares(name: str, settings: Row) -> str:
    """What a table's footnote must say of labels with little of the probability; nothing where there are none."""
    told, several = [], len(settings["models"]) > 1
    figures = [entry for entry in settings["figures"] if name in entry["tables"]]
    for model, system in dict.fromkeys((e["model"], e["system"].split("/chosen")[0]) for e in figures):
        own = [e for e in figures if (e["model"], e["system"].split("/chosen")[0]) == (model, system)]
        pairs = [recount.label_shares(read_table("judgements", Path(e["path"]).with_suffix(".parquet"))) for e in own]
        known = [pair for pair in pairs if pair[0] is not None]
        average = statistics.fmean(pair[0] for pair in known) if known else 1.0
        lowest = min([pair[1] for pair in known], default=1.0)
        if average < 0.9 or lowest < 0.5:
            told.append(f"{f'{model} ' if several else ''}{system} {fixed(average, 3)}, minimum {fixed(lowest, 3)}")
    return "; ".join(told)


def ranking(settings: Row) -> list[Row]:
    """Table 2."""
    rows = []
    for seeds in groups(settings["rankings"], settings["models"]):
        found = []
        for entry in seeds:
            own = read_json(entry["path"])["settings"]
            scores = read_table("ranking", Path(entry["path"]).with_suffix(".parquet"))
            scores = [row for row in scores if row["negatives"] == "any"]
            found.append(recount.ranking(scores))
        row: Row = {"model": seeds[0]["model"], "tuning": seeds[0]["label"]}
        for name, score in (("capability", "sequence"), ("per token", "token")):
            percent = {key: [100 * each[score][key] for each in found] for key in ("capability", "ties")}
            clusters = [[(100 * won, pairs) for won, pairs in each[score]["clusters"]] for each in found]
            row[name] = mean(percent["capability"], 1, spread=True)
            row[f"{name}, 95 %"] = interval(clusters, own)
            row[f"{name}, ties"] = mean(percent["ties"], 1)
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
            row |= {name: fixed(share, 1) for name, share in found[style].items()}
            correlation = "" if found["spearman"] is None else fixed(found["spearman"], 2)
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
                    "validation win rate": fixed(told["win_rate"], 1) if told else "",
                    "error": fixed(told["win_rate_error"], 1) if told else "",
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
        told |= {"turns dropped": record["turns_dropped"]}
        told |= {"trained tokens": record["trained_tokens"]}
        losses = record["losses"]
        rows.append(told | {"first loss": fixed(losses[0], 3), "last loss": fixed(losses[-1], 3)})
    return rows


def responses(settings: Row) -> list[Row]:
    """What was generated."""
    rows = []
    for entry in settings["responses"]:
        table = read_table("responses", Path(entry["path"]))
        told = {"model": entry["model"], "system": entry["system"], "n": len(table)}
        told["stopped"] = mean([100.0 * row["stopped"] for row in table], 1)
        told["tokens"] = mean([row["tokens"] for row in table], 1)
        told["characters"] = mean([len(row["output"]) for row in table], 1)
        told["empty"] = len([row for row in table if row["output"].strip() == ""])
        rows.append(told | {"prompts cut": len([row for row in table if row["cut"]])})
    return rows
