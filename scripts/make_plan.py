"""Estimate the remaining cost of an experiment before it runs: jobs, tokens, GPU hours, judge calls, price.

    python scripts/make_plan.py --settings '{"jobs": [...], "machine": {...}, "ceilings": {...}, ...}'

``jobs`` lists the costly jobs with what their cost depends on and their ``outputs``. If a dataset has been prepared,
its texts are counted; otherwise ``plan.tokens`` of the config is used.
"""

import argparse
from functools import cache
from pathlib import Path
from typing import Any

from implicit.servers.chat_client import completion_limit, estimate_tokens
from pipeline.files.storage import read_table
from pipeline.jobs.command import read_settings, run_stage
from pipeline.jobs.costs import (
    CHARACTERS_PER_TOKEN,
    Machine,
    generation_hours,
    llama_parameters,
    scoring_hours,
    tuning_hours,
)
from pipeline.jobs.ledger import UNITS, spent, unpriced_calls

INSTRUCTION_TOKENS = 45  # AlpacaEval's mean, for sets that have not been prepared yet
DOCUMENT_TOKENS = 500  # of a held-out text: a guess
REWRITING_PROMPT = 100  # prompt tokens in addition to the text to be rewritten

COPIES = 100  # pairs of equal responses on a judge's card

UNSIZED = {
    "judge",
    "card",
    "train_judge",
    "similarity",
    "harness",
}  # stages whose models or requests are not described in the config

Job = dict[str, Any]


@cache
def dataset_tokens(path: str, examples: int | None, mean: int | None) -> int | None:
    """Tokens per epoch of a dataset: from its number of characters if it exists, otherwise from the config's mean."""
    if Path(path).is_file():
        rows = read_table("conversations", Path(path))
        return round(sum(len(m["content"]) for row in rows for m in row["messages"]) / CHARACTERS_PER_TOKEN)
    return examples * mean if examples and mean else None


def cost(job: Job, settings: dict[str, Any], machine: Machine) -> dict[str, float | None]:
    """The cost of one job: tokens (of the model), gpu_hours, calls, judge_tokens, price. None where unknown."""
    nothing = {"tokens": 0, "gpu_hours": 0.0, "calls": 0, "judge_tokens": 0, "price": 0.0}
    known = nothing | COSTS[job["stage"]](job, settings, machine)
    return known | {"gpu_hours": 0.0} if settings["device"] == "cpu" else known


def pretraining_cost(job: Job, settings: dict[str, Any], machine: Machine) -> dict[str, float | None]:
    """The cost of pre-training a small Llama."""
    parameters = llama_parameters(width=job["width"], layers=job["layers"], vocabulary=job["vocabulary"])
    hours = tuning_hours(machine, parameters=parameters, tokens=job["tokens"], checkpointing=False)
    return {"tokens": job["tokens"], "gpu_hours": hours}


def tuning_cost(job: Job, settings: dict[str, Any], machine: Machine) -> dict[str, float | None]:
    """The cost of tuning."""
    tokens, parameters = dataset_tokens(job["data"], job["examples"], job["mean_tokens"]), job["parameters"]
    if tokens is None or parameters is None:
        return {"tokens": None if tokens is None else tokens * job["epochs"], "gpu_hours": None}
    tokens *= job["epochs"]
    checkpointing = settings["checkpointing"]
    hours = tuning_hours(machine, parameters=parameters, tokens=tokens, checkpointing=checkpointing)
    return {"tokens": tokens, "gpu_hours": hours}


def generation_cost(job: Job, settings: dict[str, Any], machine: Machine) -> dict[str, float | None]:
    """The cost of generating a set of responses."""
    size = {"prompts": job["instructions"], "response_tokens": settings["response_tokens"], "batch": settings["batch"]}
    parameters = job["parameters"]
    hours = None if parameters is None else generation_hours(machine, parameters=parameters, **size)
    return {"tokens": job["instructions"] * settings["response_tokens"], "gpu_hours": hours}


def scoring_cost(job: Job, settings: dict[str, Any], machine: Machine) -> dict[str, float | None]:
    """The cost of a ranking, or of measuring drift, where the base model reads the documents, too."""
    if job["stage"] == "rank":
        tokens = job["instructions"] * job["responses"] * (INSTRUCTION_TOKENS + settings["response_tokens"])
    else:
        tokens = 2 * job["documents"] * DOCUMENT_TOKENS
    parameters = job["parameters"]
    hours = None if parameters is None else scoring_hours(machine, parameters=parameters, tokens=tokens)
    return {"tokens": tokens, "gpu_hours": hours}


def rewriting_cost(job: Job, settings: dict[str, Any], machine: Machine) -> dict[str, float | None]:
    """The cost of rewriting: every response is checked, and an assumed one in ten is rewritten."""
    if job["examples"] is None or job["mean_tokens"] is None:
        return dict.fromkeys(("calls", "judge_tokens", "price"), None)
    calls = round(1.1 * job["examples"])
    read = calls * (REWRITING_PROMPT + job["mean_tokens"])
    written = round(0.1 * job["examples"]) * job["mean_tokens"]
    return {"calls": calls, "judge_tokens": read + written, "price": priced(read, written, job["price"])}


def unknown_cost(job: Job, settings: dict[str, Any], machine: Machine) -> dict[str, float | None]:
    """Unknown cost: an encoder's size is not known before it is loaded, nor is the harness's number of requests."""
    return {"tokens": None, "gpu_hours": None}


def judge_cost(job: Job, settings: dict[str, Any], machine: Machine) -> dict[str, float | None]:
    """The cost of a comparison by all judges; the hours of a model on this machine are unknown, as its size is."""
    calls = job["calls"]
    if calls is None and any(judge["kind"] != "reward" for judge in job["judges"]):
        return dict.fromkeys(("calls", "judge_tokens", "price", "gpu_hours"), None)
    characters = (INSTRUCTION_TOKENS + 2 * settings["response_tokens"]) * CHARACTERS_PER_TOKEN
    each = round(estimate_tokens(characters, alpaca_eval_2=True))
    found: dict[str, float | None] = {"calls": 0, "judge_tokens": 0, "price": 0.0, "gpu_hours": 0.0}
    for judge in job["judges"]:
        price, answer_tokens = judge["price"], judge["answer_tokens"]
        if judge["kind"] in ("local", "reward"):
            found |= {"calls": found["calls"] + (calls if judge["kind"] == "local" else 0), "gpu_hours": None}
            continue
        if judge["kind"] == "evaluator":
            price, answer_tokens = evaluator_price(judge["evaluator"])
        found["calls"] += calls
        found["judge_tokens"] += calls * each
        own = priced(calls * each, calls * answer_tokens, price)
        found["price"] = None if own is None or found["price"] is None else found["price"] + own
    return found


def card_cost(job: Job, settings: dict[str, Any], machine: Machine) -> dict[str, float | None]:
    """The cost of a judge's card: of all pairs of a set, if it has been read or a sample is drawn, and some copies."""
    path = Path(job["annotations"])
    pairs = len(read_table("annotations", path)) if path.is_file() else job["sample"]
    calls = None if pairs is None else job["orders"] * (pairs + min(pairs, COPIES))
    return judge_cost(job | {"calls": calls}, settings, machine)


@cache
def evaluator_price(evaluator: str) -> tuple[dict[str, float] | None, float]:
    """The price of an evaluator's tokens per million, None if unknown; and the maximum tokens of an answer."""
    from implicit.judging.evaluators import load_evaluator  # which takes seconds to import

    loaded = load_evaluator(evaluator)
    price = loaded.price_per_token()
    return None if price is None else dict.fromkeys(("input", "output"), 1e6 * price), completion_limit(loaded.given)


def priced(read: float, written: float, price: dict[str, float] | None) -> float | None:
    """The price of the tokens that a server reads and writes; prices are per million, None if unknown."""
    return None if price is None else (read * price["input"] + written * price["output"]) / 1e6


COSTS = {
    "rewrite": rewriting_cost,
    "pretrain": pretraining_cost,
    "tune": tuning_cost,
    "generate": generation_cost,
    "rank": scoring_cost,
    "drift": scoring_cost,
    "harness": unknown_cost,
    "similarity": unknown_cost,
    "train_judge": unknown_cost,
    "judge": judge_cost,
    "card": card_cost,
}


def summed(jobs: list[Job], settings: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each stage: all jobs, the jobs to do, and what those will cost."""
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
            cells.append("unknown" if value is None else f"{value:,.1f}" if unit in UNITS else f"{value:,.0f}")
        table.append(tuple(cells))
    widths = [max(len(line[i]) for line in table) for i in range(len(heads))]
    padded = [[cell.rjust(width) for cell, width in zip(line, widths, strict=True)] for line in table]
    text = ["  ".join([line[0].ljust(widths[0]), *cells[1:]]) for line, cells in zip(table, padded, strict=True)]
    share = f"{100 * settings['machine']['utilisation']:.0f} %"
    if settings["device"] == "cpu":
        text.append("\nGPU hours: none, as execution.device is cpu.")
    else:
        text.append(f"\nGPU hours are for one {settings['gpu']} at {share} of its peak: a rough guess.")
    unknown = {row["stage"] for row in rows if row["gpu_hours"] is None}
    if unknown - UNSIZED:
        text.append("unknown hours: set `parameters` of the model and `plan.tokens` of the dataset.")
    if unknown & UNSIZED:
        text.append(
            f"unknown hours of {', '.join(sorted(unknown & UNSIZED))}: their size is only known once they are loaded."
        )
    return text + [against_ceiling(unit, rows, settings) for unit in UNITS]


def against_ceiling(unit: str, rows: list[dict[str, Any]], settings: dict[str, Any]) -> str:
    """Spent and planned amounts of a unit against its ceiling; an unknown amount never counts as within the ceiling."""
    name, ceiling = {"gpu_hours": "GPU hours", "price": "price"}[unit], settings["ceilings"][unit]
    already = spent(settings["ledger"])[unit]
    unpriced = unpriced_calls(settings["ledger"]) if unit == "price" else 0
    is_known = total(rows)[unit] is not None and not unpriced
    least = already + sum(row[unit] or 0.0 for row in rows)
    before = f"{name}: {already:,.1f} spent" + (f" and {unpriced:,} calls of unknown price" if unpriced else "")
    if ceiling is None:
        return f"{before}; no ceiling (ceilings.{unit})"
    sum_ = f"{'' if is_known else 'at least '}{least:,.1f} in total"
    if least > ceiling:
        return f"{before}, {sum_}: ABOVE the ceiling of {ceiling:g}"
    if is_known:
        return f"{before}, {sum_}: within the ceiling of {ceiling:g}"
    return f"{before}, {sum_}: UNKNOWN whether this stays within the ceiling of {ceiling:g}"


def total(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The sum over all stages; None where a part is unknown."""
    units = [key for key in rows[0] if key != "stage"]
    columns = {unit: [row[unit] for row in rows] for unit in units}
    return {"stage": "total"} | {unit: None if None in own else sum(own) for unit, own in columns.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", type=read_settings, required=True)
    settings = parser.parse_args().settings
    print("\n".join(lines(summed(settings["jobs"], settings), settings)))


if __name__ == "__main__":
    run_stage(main)
