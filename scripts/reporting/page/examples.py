"""The examples of a report: every instruction with the responses of all systems, who won, and why."""

import base64
import gzip
import json
from pathlib import Path
from typing import Any

from implicit.world.kinds import Parts
from pipeline.files.storage import read_table
from pipeline.identity.systems import Experiment, Result
from reporting.page.content import ORACLE, Content

Row = dict[str, Any]
Verdicts = dict[str, tuple[float, str | None]]  # by the id of the instruction

LONGEST = (None, 20_000, 8_000, 4_000, 2_000, 1_000, 500, 250)  # characters per response: the first that fits is used
ROOM = 10_000_000  # bytes of the compressed examples


def explained(parts: Parts) -> str:
    """The parts of a quality in words."""
    text = f"quality {parts.quality:.2f}: right {parts.right:.2f}, form {parts.form:.2f}"
    text += f", brevity × {parts.concision:.2f}"
    return text if parts.stopping == 1 else f"{text}, not stopped × {parts.stopping:.2f}"


def examples(experiment: Experiment) -> Row:
    """All instructions with every system's responses, for each model's first seed, and their judgements.

    A response is [output, stopped, tokens, characters omitted, preference or None, explanation or None].
    """
    found: Row = {"models": [], "instructions": {}}
    for model, *_ in experiment.models:
        path = experiment.sets[model]
        asked = {row["id"]: row for row in read_table("evaluation_set", Path(path))}
        own = [result for result in experiment.results if result.model == model]
        seed = next((result.seed for result in own if result.stage == "tune"), None)
        systems, order = [], {}
        for result in own:
            if result.stage == "generate" and result.seed in (None, seed):
                table = read_table("responses", Path(result.path))
                order = order or {row["id"]: i for i, row in enumerate(table)}
                verdicts = judged(own, result, seed)
                rows = [
                    [row["output"], row["stopped"], row["tokens"], 0, *verdict_on(row, asked[row["id"]], verdicts)]
                    for row in table
                ]
                opponent = result.system.name == experiment.reference
                about = {"label": result.system.label, "path": result.path, "opponent": opponent}
                systems.append(about | {"judged": bool(verdicts), "rows": rows})
        opponent = next((system["label"] for system in systems if system["opponent"]), None)
        found["models"].append({"name": model, "set": path, "seed": seed, "opponent": opponent, "systems": systems})
        found["instructions"][path] = [
            {key: row[key] for key in ("id", "instruction", "reference")} | {"kind": kind_of(row)}
            for row in sorted(asked.values(), key=lambda row: order[row["id"]])
        ]
    return found


def verdict_on(response: Row, asked: Row, verdicts: Verdicts) -> tuple[float | None, str | None]:
    """The preference for a response, and its explanation: the judge's probabilities, or the oracle's quality parts."""
    preference, why = verdicts.get(response["id"], (None, None))
    if asked["request"] is not None:
        why = explained(ORACLE.parts(asked["request"], response["output"], stopped=response["stopped"]))
    return preference, why


def kind_of(row: Row) -> str:
    """The category of an instruction for filtering: the world's kind of request, or the source of the set."""
    return ORACLE.kind(row["request"]) if row["request"] else row["source"]


def judged(results: list[Result], response: Result, seed: int | None) -> Verdicts:
    """The preference for each response, by id, and the judge's probabilities in words; None for an oracle."""
    for result in results:
        of_test = result.stage == "judge" and result.opponent != "references" and result.seed == seed
        if of_test and result.system.path == response.system.path:
            rows = Content(result).rows
            return {row["id"]: (row["preference"], None if row["quality_2"] is not None else odds(row)) for row in rows}
    return {}


def odds(row: Row) -> str:
    """The judge's probability that the response is the better one, also for each order if known."""
    text = f"judge: better with probability {row['preference'] - 1:.2f}"
    both = (row["preference_output_1_first"], row["preference_output_2_first"])
    return text if None in both else f"{text} (shown second {both[0] - 1:.2f}, shown first {both[1] - 1:.2f})"


def packed(found: Row) -> tuple[str, str]:
    """The examples in gzip and base64, and a note on what had to be truncated to fit."""
    for longest in LONGEST:
        cut = shortened(found, longest) if longest else 0
        text = json.dumps(found, ensure_ascii=False, separators=(",", ":")).encode()
        whole = base64.b64encode(gzip.compress(text, mtime=0)).decode()
        if len(whole) <= ROOM:
            break
    note = f"{cut} responses are truncated to {longest:,} characters to limit the size of this file." if cut else ""
    return whole, note


def shortened(found: Row, longest: int) -> int:
    """Truncate responses to ``longest`` characters, record the omitted number in each, and return how many were cut."""
    cut = 0
    for row in (row for model in found["models"] for system in model["systems"] for row in system["rows"]):
        row[3] += max(0, len(row[0]) - longest)
        row[0] = row[0][:longest]
        cut += row[3] > 0
    return cut
