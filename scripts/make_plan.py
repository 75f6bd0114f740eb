"""Say what an experiment will still cost, before it runs: jobs, tokens, GPU hours, calls of the judge, price.

    python scripts/make_plan.py --settings '{"jobs": [...], "machine": {...}, "ceilings": {...}, ...}'

``jobs`` lists the costly jobs by what their cost depends on, with their ``outputs``. Where a dataset has been prepared,
its texts are counted; else ``plan.tokens`` of the config is taken.
"""

import argparse
from functools import cache
from pathlib import Path
from typing import Any

from implicit.chat_client import estimate_tokens
from stage.budget import UNITS, spent
from stage.command import read_settings, run_stage
from stage.costs import CHARACTERS_PER_TOKEN, Machine, generation_hours, scoring_hours, tuning_hours
from stage.storage import read_table

INSTRUCTION_TOKENS = 45  # mean of AlpacaEval's, for sets that have not been prepared yet
DOCUMENT_TOKENS = 500  # of a held-out text: a guess
REWRITING_PROMPT = 100  # tokens around what is to be rewritten

Job = dict[str, Any]


@cache
def dataset_tokens(path: str, examples: int | None, mean: int | None) -> int | None:
    """Tokens of one epoch over a dataset: counted by characters where it lies on disk, else by the config's mean."""
    if Path(path).is_file():
        rows = read_table("conversations", Path(path))
        return round(sum(len(m["content"]) for row in rows for m in row["messages"]) / CHARACTERS_PER_TOKEN)
    return examples * mean if examples and mean else None


def cost(job: Job, settings: dict[str, Any], machine: Machine) -> dict[str, float | None]:
    """What one job costs: tokens (of the model), gpu_hours, calls, judge_tokens, price. None where it is not known."""
    nothing = {"tokens": 0, "gpu_hours": 0.0, "calls": 0, "judge_tokens": 0, "price": 0.0}
    stage, parameters, response = job["stage"], job.get("parameters"), settings["response_tokens"]
    if stage == "tune":
        tokens = dataset_tokens(job["data"], job["examples"], job["mean_tokens"])
        tokens = None if tokens is None else tokens * job["epochs"]
        known = tokens is not None and parameters is not None
        hours = (
            tuning_hours(machine, parameters=parameters, tokens=tokens, checkpointing=settings["checkpointing"])
            if known
            else None
        )
        return nothing | {"tokens": tokens, "gpu_hours": hours}
    if stage == "generate":
        hours = (
            generation_hours(
                machine,
                parameters=parameters,
                prompts=job["instructions"],
                response_tokens=response,
                batch=settings["batch"],
            )
            if parameters is not None
            else None
        )
        return nothing | {"tokens": job["instructions"] * response, "gpu_hours": hours}
    if stage == "rank":
        tokens = job["instructions"] * job["responses"] * (INSTRUCTION_TOKENS + response)
        hours = scoring_hours(machine, parameters=parameters, tokens=tokens) if parameters is not None else None
        return nothing | {"tokens": tokens, "gpu_hours": hours}
    if stage == "drift":  # by the base model and by the tuned one
        tokens = 2 * job["documents"] * DOCUMENT_TOKENS
        hours = scoring_hours(machine, parameters=parameters, tokens=tokens) if parameters is not None else None
        return nothing | {"tokens": tokens, "gpu_hours": hours}
    if stage == "rewrite":  # every response is looked at, and one out of ten is written anew
        if job["examples"] is None or job["mean_tokens"] is None:
            return dict.fromkeys(nothing, None)
        calls = round(1.1 * job["examples"])
        read = calls * (REWRITING_PROMPT + job["mean_tokens"])
        written = round(0.1 * job["examples"]) * job["mean_tokens"]
        return nothing | {"calls": calls, "judge_tokens": read + written, "price": priced(read, written, job["price"])}
    calls = job["calls"]
    characters = (INSTRUCTION_TOKENS + 2 * response) * CHARACTERS_PER_TOKEN
    each = round(estimate_tokens(characters, alpaca_eval_2=True))
    price = priced(calls * each, calls * job["answer_tokens"], job["price"])
    return nothing | {"calls": calls, "judge_tokens": calls * each, "price": price}


def priced(read: int, written: int, price: dict[str, float]) -> float:
    """The price of tokens that a server reads and writes; prices are of a million."""
    return (read * price["input"] + written * price["output"]) / 1e6


def summed(jobs: list[Job], settings: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each stage: jobs in all, jobs to do, and what those cost."""
    machine = Machine(**settings["machine"])
    rows = []
    for stage in dict.fromkeys(job["stage"] for job in jobs):
        of_stage = [job for job in jobs if job["stage"] == stage]
        missing = [sum(not Path(output).exists() for output in job["outputs"]) for job in of_stage]
        costs = [
            cost(job, settings, machine) for job, count in zip(of_stage, missing, strict=True) for _ in range(count)
        ]
        row = {"stage": stage, "jobs": sum(len(job["outputs"]) for job in of_stage), "to do": sum(missing)}
        for unit in ("tokens", "gpu_hours", "calls", "judge_tokens", "price"):
            values = [entry[unit] for entry in costs]
            row[unit] = None if None in values else sum(values)
        rows.append(row)
    return rows


def lines(rows: list[dict[str, Any]], settings: dict[str, Any]) -> list[str]:
    """The plan as text, with the ceilings."""
    heads = ("stage", "jobs", "to do", "tokens", "GPU hours", "judge calls", "judge tokens", "price")
    table = [heads]
    for row in [*rows, total(rows)]:
        cells = [row["stage"], str(row["jobs"]), str(row["to do"])]
        for unit in ("tokens", "gpu_hours", "calls", "judge_tokens", "price"):
            value = row[unit]
            cells.append("?" if value is None else f"{value:,.1f}" if unit in UNITS else f"{value:,.0f}")
        table.append(tuple(cells))
    widths = [max(len(line[i]) for line in table) for i in range(len(heads))]
    padded = [[cell.rjust(width) for cell, width in zip(line, widths, strict=True)] for line in table]
    text = ["  ".join([line[0].ljust(widths[0]), *cells[1:]]) for line, cells in zip(table, padded, strict=True)]
    share = f"{100 * settings['machine']['utilisation']:.0f} %"
    text.append(f"\nGPU hours are of one {settings['gpu']} at {share} of its peak: a rough guess.")
    if any(row["gpu_hours"] is None for row in rows):
        text.append("?: not known yet; give `parameters` of the model, and `plan.tokens` of the dataset.")
    already, ahead = spent(settings["ledger"]), total(rows)
    for unit, name in (("gpu_hours", "GPU hours"), ("price", "price")):
        ceiling = settings["ceilings"][unit]
        if ceiling is None:
            text.append(f"{name}: {already[unit]:,.1f} spent; no ceiling (ceilings.{unit})")
        else:
            sum_ = already[unit] + (ahead[unit] or 0.0)
            fits = "within" if sum_ <= ceiling else "BEYOND"
            text.append(f"{name}: {already[unit]:,.1f} spent, {sum_:,.1f} in all: {fits} the ceiling of {ceiling:g}")
    return text


def total(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The sum of all stages; what is not known counts as nothing."""
    units = [key for key in rows[0] if key != "stage"]
    return {"stage": "in all"} | {unit: sum(row[unit] or 0 for row in rows) for unit in units}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", type=read_settings, required=True)
    settings = parser.parse_args().settings
    print("\n".join(lines(summed(settings["jobs"], settings), settings)))


if __name__ == "__main__":
    run_stage(main)
