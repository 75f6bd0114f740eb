"""The examples of a report: every instruction with the responses of all systems, who won, and why."""

import base64
import gzip
import json
from pathlib import Path
from typing import Any

from implicit.oracle import Oracle
from implicit.world.kinds import Parts
from stage.storage import read_table

Row = dict[str, Any]

LONGEST = (None, 20_000, 8_000, 4_000, 2_000, 1_000, 500, 250)  # characters of a response: the first that leaves room
ROOM = 10_000_000  # bytes of the examples, packed


def explained(parts: Parts) -> str:
    """The parts of a quality in words."""
    told = f"quality {parts.quality:.2f}: right {parts.right:.2f}, form {parts.form:.2f}"
    told += f", brevity × {parts.concision:.2f}"
    return told if parts.stopping == 1 else f"{told}, not stopped × {parts.stopping:.2f}"


def examples(settings: Row) -> Row:
    """All instructions with the responses of every system, of each model's first seed, and how they were judged.

    A response is [output, stopped, tokens, characters left out, preference or None, why or None].
    """
    oracle = Oracle()
    told: Row = {"models": [], "instructions": {}}
    for model in settings["models"]:
        path = settings["set"][model]
        asked = read_table("evaluation_set", Path(path))
        requests = {row["id"]: row["request"] for row in asked}
        seeds = [entry["seed"] for entry in settings["tunings"] if entry["model"] == model]
        seed = seeds[0] if seeds else None
        systems, order = [], {}
        for entry in settings["responses"]:
            if entry["model"] == model and ("/seed" not in entry["system"] or entry["system"].endswith(f"/seed{seed}")):
                table = read_table("responses", Path(entry["path"]))
                order = order or {row["id"]: i for i, row in enumerate(table)}
                verdicts = judged(settings, entry, seed)
                rows = [
                    [row["output"], row["stopped"], row["tokens"], 0, *verdicts.get(row["id"], (None, None))]
                    for row in table
                ]
                for row, answer in zip(rows, table, strict=True):
                    request = requests[answer["id"]]
                    if request is not None:
                        row[5] = explained(oracle.parts(request, row[0], stopped=row[1]))
                opponent = entry["system"].split("/")[0] == settings["reference"]
                about = {"label": entry["label"], "path": entry["path"], "opponent": opponent}
                systems.append(about | {"judged": bool(verdicts), "rows": rows})
        opponent = next((system["label"] for system in systems if system["opponent"]), None)
        told["models"].append({"name": model, "set": path, "seed": seed, "opponent": opponent, "systems": systems})
        told["instructions"][path] = [
            {
                "id": row["id"],
                "instruction": row["instruction"],
                "reference": row["reference"],
                "kind": kind_of(row, oracle),
            }
            for row in sorted(asked, key=lambda row: order[row["id"]])
        ]
    return told


def kind_of(row: Row, oracle: Oracle) -> str:
    """What an instruction is filtered by: the world's kind of request, or the source of the set."""
    return oracle.kind(row["request"]) if row["request"] else row["source"]


def judged(settings: Row, entry: Row, seed: int | None) -> dict[str, tuple[float, str | None]]:
    """The preference of each response, by id, and the judge's probabilities in words; of an oracle, None."""
    for figure in settings["figures"]:
        summary = Path(figure["path"])
        if figure["seed"] == seed and summary.parent == Path(entry["path"]).parent:
            rows = read_table("judgements", summary.with_suffix(".parquet"))
            return {row["id"]: (row["preference"], None if row["quality_2"] is not None else odds(row)) for row in rows}
    return {}


def odds(row: Row) -> str:
    """What the judge thinks: the probability that the response is the better one, and in either order where known."""
    told = f"judge: better with probability {row['preference'] - 1:.2f}"
    both = (row["preference_output_1_first"], row["preference_output_2_first"])
    return told if None in both else f"{told} (shown second {both[0] - 1:.2f}, shown first {both[1] - 1:.2f})"


def packed(told: Row) -> tuple[str, str]:
    """The examples in gzip and base64, and a note of what had to be cut so that they fit."""
    for longest in LONGEST:
        cut = shortened(told, longest) if longest else 0
        text = json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode()
        whole = base64.b64encode(gzip.compress(text, mtime=0)).decode()
        if len(whole) <= ROOM:
            break
    note = f"{cut} responses are shown up to {longest:,} characters, for this file's size." if cut else ""
    return whole, note


def shortened(told: Row, longest: int) -> int:
    """Cut responses at ``longest`` characters, note in each how many are left out, and return how many were cut."""
    cut = 0
    for row in (row for model in told["models"] for system in model["systems"] for row in system["rows"]):
        row[3] += max(0, len(row[0]) - longest)
        row[0] = row[0][:longest]
        cut += row[3] > 0
    return cut
