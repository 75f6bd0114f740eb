"""The cost of an experiment by stage, from Snakemake's benchmarks and the records."""

import csv
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.files.storage import read_json
from pipeline.identity.bases import shared_bases


@dataclass
class Spent:
    """A stage: its jobs, their seconds (``work``: within the scripts), MiB, tokens, server calls, and price."""

    stage: str
    jobs: int = 0
    seconds: float = 0.0
    work: float = 0.0
    memory: int = 0
    tokens: int = 0
    calls: int = 0
    price: float = 0.0
    unpriced: int = 0  # calls of unknown price

    def price_text(self) -> str:
        """The price, including calls of unknown price."""
        known = f"{self.price:,.4g}" if self.price or not self.unpriced else ""
        unknown = f"{self.unpriced:,} calls of unknown price" if self.unpriced else ""
        return " and ".join(part for part in (known, unknown) if part)


def all_records(results: Path) -> dict[str, dict[str, Any]]:
    """Every record of an experiment by path, including those of shared pre-training."""
    shared = [base / "record.json" for base in shared_bases(results)]
    found = ((str(path), read_json(path)) for path in [*sorted(results.rglob("*.json")), *shared])
    return {
        path: record for path, record in found if isinstance(record, dict) and {"inputs", "outputs"} <= record.keys()
    }


def tokens(record: dict[str, Any]) -> int:
    """Tokens that a job has trained on, generated, or sent to and received from a server."""
    if "prompt_tokens" in record:
        return (record["prompt_tokens"] or 0) + (record["completion_tokens"] or 0)
    return record.get("trained_tokens") or record.get("tokens") or 0


def spent_by_stage(results: Path) -> list[Spent]:
    """The cost of each stage, the longest first.

    Work is the time from the start to the end of a record, without the start of Python and its imports. Jobs that may
    be forked from the warm process have no benchmark, since Snakemake would measure only the requesting process: their
    seconds are those of the work. The jobs of stages without records are short: all of their time counts as startup.
    Server calls include those of all runs. Pre-training that is shared with other experiments counts in each of them.
    """
    stages: dict[str, Spent] = defaultdict(lambda: Spent(""))
    benchmarks = sorted((results / "benchmarks").rglob("*.tsv"))
    timed = [(path.relative_to(results / "benchmarks").parts[0], path) for path in benchmarks]
    timed += [(path.stem, path) for base in shared_bases(results) for path in sorted(base.glob("*.tsv"))]
    for stage, path in timed:
        with path.open(encoding="utf-8", newline="") as file:
            seconds = [float(row["s"]) for row in csv.DictReader(file, delimiter="\t")]
        own = stages[stage]
        own.jobs, own.seconds = own.jobs + len(seconds), own.seconds + sum(seconds)
    counted = Counter[str]()
    for record in all_records(results).values():
        own = stages[record["stage"]]
        counted[record["stage"]] += 1
        own.work += record["seconds"]
        own.memory = max(own.memory, record["peak_memory_mib"])
        own.tokens += tokens(record)
        own.calls += (record.get("calls") or 0) + (record.get("cached") or 0)
        own.price += record.get("price") or 0.0
        own.unpriced += record.get("unpriced_calls") or 0
    for stage, own in stages.items():
        if counted[stage]:
            own.jobs, own.seconds = counted[stage], own.work
        own.stage = stage
    return sorted(stages.values(), key=lambda own: -own.seconds)
