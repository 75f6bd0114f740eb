"""The tables of the controls, counted anew for `verify`, by other code and, where there are any, from other files.

Quality by kind comes from what judgements keep of it, where the table asks the oracle of every response; the harness's
figures from its own files.
"""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from implicit import recount
from implicit.world.kinds import Request
from implicit.world.sets import World
from stage.recounts import groups, interval, judged, mean
from stage.storage import read_json, read_table
from stage.table_forms import fixed

Row = dict[str, Any]


def asked(settings: Row, model: str) -> dict[str, Row]:
    """What was requested by each instruction of a model's set."""
    rows = read_table("evaluation_set", Path(settings["set"][model]))
    return {row["id"]: json.loads(row["request"]) for row in rows}


def kinds(settings: Row) -> list[Row]:
    """Quality by kind of request, from the judgements: of the judged systems' side, and of the opponent's."""
    told: dict[tuple[str, str], dict[str, float]] = {}  # by generator and id
    for entry in settings["figures"]:
        for row in read_table("judgements", Path(entry["path"]).with_suffix(".parquet")):
            for side in ("1", "2"):
                told.setdefault((row[f"generator_{side}"], row["id"]), row[f"quality_{side}"])
    rows = []
    for own in groups(settings["responses"], settings["models"]):
        requests = asked(settings, own[0]["model"])
        names = sorted({request["kind"] for request in requests.values()})
        seeds = [{id_: told.get((f"{entry['model']}/{entry['system']}", id_)) for id_ in requests} for entry in own]
        row = {"model": own[0]["model"], "tuning": own[0]["label"]}
        row["all"] = mean([mean_of(list(seed.values())) for seed in seeds], 2, spread=True)
        for name in names:
            ids = [id_ for id_, request in requests.items() if request["kind"] == name]
            row[name] = mean([mean_of([seed[id_] for id_ in ids]) for seed in seeds], 2)
        rows.append(row | {"seeds": len(own), "n": len(requests)})
    return rows


def mean_of(values: Sequence[float | None]) -> float | None:
    """The mean; None where a value is missing."""
    return None if None in values else sum(v for v in values if v is not None) / len(values)


def judging(settings: Row) -> list[Row]:
    """The same pairs under other judges, by the checkers of the world themselves."""
    worlds: dict[int, World] = {}
    rows = []
    for own in groups(settings["figures"], settings["models"]):
        requests = asked(settings, own[0]["model"])
        found = []
        for entry in own:
            table = read_table("judgements", Path(entry["path"]).with_suffix(".parquet"))
            for row in table:
                said = requests[row["id"]]
                world = worlds.setdefault(said["world"], World(said["world"]))
                request = Request(said["kind"], tuple(said["key"]), tuple(said["detail"]))
                for side in ("1", "2"):
                    row[f"checked_{side}"] = world.kinds[said["kind"]].check(request, row[f"output_{side}"])
            found.append(recount.artefacts(table))
        row = {"model": own[0]["model"], "tuning": own[0]["label"]}
        for name in found[0]:
            row[name] = mean([each[name]["win_rate"] for each in found], 1, spread=True)
            row[f"{name}, ties"] = mean([each[name]["ties"] for each in found], 1)
        row["similar length, n"] = sum(each["similar length"]["n"] for each in found)
        rows.append(row | {"seeds": len(own), "n": found[0]["judged"]["n"]})
    return rows


def ranking_controls(settings: Row) -> list[Row]:
    """Rankings among each draw of negatives, with EOS and without."""
    rows = []
    for own in groups(settings["rankings"], settings["models"]):
        tables = [read_table("ranking", Path(entry["path"]).with_suffix(".parquet")) for entry in own]
        said = read_json(own[0]["path"])["settings"]
        for draw in said["negatives"]:
            chosen = [[row for row in table if row["negatives"] == draw] for table in tables]
            counts: dict[str, int] = {}
            for row in chosen[0]:
                counts[row["id"]] = counts.get(row["id"], 0) + 1
            for score in ("sequence", "token"):
                for eos in (True, False):
                    found = [recount.ranking(part, eos=eos) for part in chosen]
                    percent = {key: [100 * each[score][key] for each in found] for key in ("capability", "ties")}
                    clusters = [[(100 * won, pairs) for won, pairs in each[score]["clusters"]] for each in found]
                    row = {"model": own[0]["model"], "tuning": own[0]["label"], "negatives": draw.replace("_", " ")}
                    row |= {"score": score, "EOS": "with" if eos else "without"}
                    row["capability"] = mean(percent["capability"], 1, spread=True)
                    row["95 %"] = interval(clusters, said)
                    row["ties"] = mean(percent["ties"], 1)
                    row |= {"seeds": len(own), "instructions": len(counts), "pairs": len(chosen[0])}
                    row["left out"] = said["instructions"] - len(counts)
                    rows.append(row | {"fewer": len([c for c in counts.values() if c < said["others"]])})
    return rows


def drifted(entry: Row) -> Row:
    """What tuning has cost one model, from its tables of documents and facts."""
    folder = Path(entry["path"]).parent
    return recount.drift(read_table("drift", folder / "drift.parquet"), read_table("recall", folder / "recall.parquet"))


def drift(settings: Row) -> list[Row]:
    """Perplexity, KL and recall, from the tables of documents and facts."""
    found = []
    for own in groups(settings["drifts"], settings["models"]):
        found.append((own, [drifted(entry) for entry in own]))
    forms = list(dict.fromkeys(form for _, seeds in found for form in seeds[0]["recall"]))
    rows = []
    for own, seeds in found:
        row = {"model": own[0]["model"], "tuning": own[0]["label"]}
        row["perplexity"] = mean([each["tuned_perplexity"] for each in seeds], 3, spread=True)
        row["of base"] = mean([each["base_perplexity"] for each in seeds], 3)
        row["KL, nats"] = mean([each["kl"] for each in seeds], 4, spread=True)
        for form in forms:
            shares = [each["recall"].get(form) for each in seeds]
            known = None not in shares
            row[f"recall, {form}"] = mean([s["tuned"] for s in shares], 1, spread=True) if known else ""
            row[f"recall, {form}, of base"] = mean([s["base"] for s in shares], 1) if known else ""
            row[f"recall, {form}, by chance"] = mean([s["chance"] for s in shares], 1) if known else ""
        rows.append(row | {"seeds": len(own)} | {key: seeds[0][key] for key in ("documents", "tokens", "cut")})
    return rows


def harness(settings: Row) -> list[Row]:
    """lm-evaluation-harness's figures, from its own files."""
    rows = []
    for own in groups(settings["harnessed"], settings["models"]):
        results = [read_json(Path(entry["path"]).with_name("harness.json"))["results"] for entry in own]
        for task, metrics in results[0].items():
            for metric, value in metrics.items():
                if metric.find(",") > 0 and "_stderr," not in metric and not isinstance(value, str):
                    values = [each[task][metric] for each in results]
                    told = {"model": own[0]["model"], "tuning": own[0]["label"], "task": task, "metric": metric}
                    rows.append(told | {"value": mean(values, 4, spread=True), "seeds": len(own)})
    return rows


def condition_values(settings: Row, gamed: Path | None) -> list[Row]:
    """What each system of each condition and world can do: numbers, or None where there is none."""
    rows = []
    for model in settings["models"]:
        condition, world = settings["conditions"]["models"][model]
        own = {
            key: [entry for entry in settings[key] if entry["model"] == model]
            for key in ("responses", "figures", "rankings", "drifts")
        }
        for label in dict.fromkeys(entry["label"] for entry in own["responses"]):
            mine = {key: [entry for entry in own[key] if entry["label"] == label] for key in own}
            tables = [read_table("responses", Path(entry["path"])) for entry in mine["responses"]]
            is_reference = mine["responses"][0]["system"].split("/")[0] == settings["reference"]
            # The opponent's quality is told by those who were compared with it.
            compared = [e for e in own["figures"] if e["label"] == "base"] if is_reference else mine["figures"]
            told = [judged(entry["path"], gamed) for entry in compared]
            by_draw: dict[str, list[Row]] = {"any": [], "same_kind": [], "same_format": []}
            for entry in mine["rankings"]:
                scores = read_table("ranking", Path(entry["path"]).with_suffix(".parquet"))
                for draw in {row["negatives"] for row in scores}:
                    by_draw[draw].append(recount.ranking([row for row in scores if row["negatives"] == draw]))
            ranked = by_draw.pop("any")
            values = {
                "ranking": [100 * each["sequence"]["capability"] for each in ranked],
                "per token": [100 * each["token"]["capability"] for each in ranked],
                "quality": [each["quality_1" if is_reference else "quality_2"] for each in told],
                "win rate": [] if is_reference else [each["win_rate"] for each in told],
                "ties": [] if is_reference else [100 * each["ties"] / each["n"] for each in told],
                "stopped": [100 * row["stopped"] for table in tables for row in table],
                "tokens": [row["tokens"] for table in tables for row in table],
                "ranking, same kind": [100 * each["sequence"]["capability"] for each in by_draw["same_kind"]],
                "ranking, same format": [100 * each["sequence"]["capability"] for each in by_draw["same_format"]],
                "KL": [drifted(entry)["kl"] for entry in mine["drifts"]],
            }
            means = {
                name: None if not found or None in found else statistics.fmean(found) for name, found in values.items()
            }
            counts = {"seeds": len(tables), "n": len(tables[0]), "pairs": ranked[0]["pairs"] if ranked else ""}
            rows.append({"condition": condition, "world": world, "tuning": label} | means | counts)
    optional = ("ranking, same kind", "ranking, same format", "KL")
    empty = {name for name in optional if {row[name] for row in rows} == {None}}
    return [{name: value for name, value in row.items() if name not in empty} for row in rows]


def conditions_by_world(values: list[Row]) -> list[Row]:
    """Each figure as text."""
    return [
        {k: fixed(v, 4) if isinstance(v, float) else "" if v is None else v for k, v in row.items()} for row in values
    ]


def conditions(values: list[Row]) -> list[Row]:
    """Means and standard deviations over worlds."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in values:
        groups.setdefault((row["condition"], row["tuning"]), []).append(row)
    rows = []
    for (condition, label), own in groups.items():
        told = {"condition": condition, "tuning": label}
        for name in [key for key in own[0] if key not in ("condition", "world", "tuning", "seeds", "n", "pairs")]:
            digits = {"quality": 2, "KL": 3}.get(name, 1)
            told[name] = mean([row[name] for row in own], digits, spread=True)
        rows.append(told | {"worlds": len(own), "n": own[0]["n"], "pairs": own[0]["pairs"]})
    return rows


RECOUNTS = {
    "kinds": kinds,
    "judging": judging,
    "ranking_controls": ranking_controls,
    "drift": drift,
    "harness": harness,
}
