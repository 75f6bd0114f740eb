"""The tables of the controls say what their files hold, and are counted anew by other code to the last digit."""

import json
import random

import pytest

from implicit.oracle import Oracle, describe, prefer
from stage.control_recounts import RECOUNTS
from stage.control_tables import CONTROLS
from stage.storage import read_json, read_table, write_json, write_table

PREFERENCES = {"output_1": 1.0, "tie": 1.5, "output_2": 2.0}
SYSTEMS = {"base": "base", "it/chosen/seed1": "it", "it/chosen/seed2": "it", "poem/chosen/seed1": "poem", "poem/chosen/seed2": "poem"}  # fmt: skip


@pytest.fixture
def settings(world, tmp_path):
    """Files of two models as the stages leave them, with responses of every quality; the settings of the tables."""
    told = {"models": ["a", "b"], "oracle": True, "set": {}, "responses": [], "figures": [], "rankings": [], "drifts": [], "harnessed": []}  # fmt: skip
    draw, oracle, items = random.Random(3), Oracle(), world.evaluation("test", 40)
    asked = [
        {"id": f"t{i}", "index": i, "instruction": item.instruction, "reference": item.response}
        | {"request": describe(item, world.seed), "source": "world 7"}
        for i, item in enumerate(items)
    ]
    for model in told["models"]:
        told["set"][model] = str(tmp_path / "set.parquet")
        given = {}
        for system, label in SYSTEMS.items():
            rows = []
            for i, item in enumerate(items):
                other = items[draw.randrange(40)].response
                output = draw.choice([item.response, other, f"{item.response}\n{other}", "No idea.", ""])
                rows.append({"id": f"t{i}", "index": i, "instruction": item.instruction, "output": output, "cut": 0,
                             "stopped": draw.random() < 0.7, "tokens": 5, "generator": f"{model}/{system}"})  # fmt: skip
            given[system] = rows
            path = tmp_path / model / system / "test.parquet"
            write_table("responses", rows, path)
            told["responses"].append({"model": model, "system": system, "label": label, "path": str(path)})
            write_numbers(told, model, system, label, path.parent, draw)
        for system, seed in (("base", 1), ("base", 2), ("poem/chosen/seed1", 1), ("poem/chosen/seed2", 2)):
            path = tmp_path / model / system / f"test.against-seed{seed}.json"
            rows = []
            for row, one, two in zip(asked, given[f"it/chosen/seed{seed}"], given[system], strict=True):
                quality = [oracle.quality(row["request"], r["output"], stopped=r["stopped"]) for r in (one, two)]
                rows.append({"id": row["id"], "index": row["index"], "cluster": row["id"], "instruction": row["instruction"],
                             "output_1": one["output"], "output_2": two["output"], "generator_1": one["generator"],
                             "generator_2": two["generator"], "quality_1": quality[0], "quality_2": quality[1],
                             "preference": PREFERENCES[prefer(*quality)]})  # fmt: skip
            write_table("judgements", rows, path.with_suffix(".parquet"))
            entry = {"model": model, "system": system.removesuffix(f"/seed{seed}"), "label": SYSTEMS[system]}
            told["figures"].append(entry | {"path": str(path)})
    write_table("evaluation_set", asked, tmp_path / "set.parquet")
    return told


def write_numbers(told, model, system, label, folder, draw):
    """What a model scored: drift and recall (none for model b, which has no world), and the harness's figures."""
    from implicit.drift import summarise

    entry = {"model": model, "system": system.split("/seed")[0], "label": label}
    documents = [
        {"id": str(i), "tokens": 9 + i, "cut": i, "base_logprob": -20.0, "tuned_logprob": -25 * draw.random(), "kl": draw.random()}
        for i in range(5)
    ]  # fmt: skip
    facts = [
        {"fact": "colour", "form": form, "key": str(i), "right": "red", "rivals": 10, "base": "red", "tuned": draw.choice(["red", "blue"])}
        for form in ("statements", "questions") for i in range(8) if model == "a"
    ]  # fmt: skip
    if system != "base":
        write_table("drift", documents, folder / "drift.parquet")
        write_table("recall", facts, folder / "recall.parquet")
        write_json({"summary": summarise(documents, facts)}, folder / "drift.json")
        told["drifts"].append(entry | {"path": str(folder / "drift.json")})
    found = {"arc_easy": {"acc,none": draw.random(), "acc_norm,none": draw.random()}}
    own = {"arc_easy": found["arc_easy"] | {"alias": "arc", "acc_stderr,none": 0.1}, "group": {"alias": "group"}}
    write_json({"results": own}, folder / "harness.json")
    write_json({"summary": found}, folder / "harness.record.json")
    told["harnessed"].append(entry | {"path": str(folder / "harness.record.json")})


@pytest.mark.parametrize("name", ["kinds", "judging", "drift", "harness"])
def test_a_table_is_recounted_to_the_last_digit(settings, name):
    made, again = CONTROLS[name](settings), RECOUNTS[name](settings)
    assert [{key: str(value) for key, value in row.items()} for row in made] == [
        {key: str(value) for key, value in row.items()} for row in again
    ]
    assert len(made) == {"kinds": 6, "judging": 4, "drift": 4, "harness": 12}[name]
    figures = {value for row in made for value in map(str, row.values()) if "." in value}
    assert len(figures) > 10  # and not all the same


def test_kinds_are_the_oracles_of_every_system_and_the_opponent(settings):
    rows = {(row["model"], row["tuning"]): row for row in CONTROLS["kinds"](settings)}
    assert rows["a", "it"]["seeds"] == 2 and rows["a", "base"]["seeds"] == 1 and rows["a", "base"]["n"] == 40
    (base,) = (e for e in settings["responses"] if (e["model"], e["system"]) == ("a", "base"))
    oracle, requests = Oracle(), {r["id"]: r["request"] for r in read_table("evaluation_set", settings["set"]["a"])}
    sums = [
        oracle.quality(requests[row["id"]], row["output"], stopped=row["stopped"])
        for row in read_table("responses", base["path"])
        if json.loads(requests[row["id"]])["kind"] == "sum"
    ]
    assert len(sums) == 4 and rows["a", "base"]["sum"] == f"{sum(sums) / 4:.2f}"


def test_without_the_oracle_there_are_no_such_tables(settings):
    assert CONTROLS["kinds"](settings | {"oracle": False}) == CONTROLS["judging"](settings | {"oracle": False}) == []


def test_a_model_without_a_world_has_no_recall(settings):
    rows = CONTROLS["drift"](settings)
    assert [row["recall, statements"] != "" for row in rows] == [True, True, False, False]
    assert read_json(settings["drifts"][-1]["path"])["summary"]["recall"] == {}
