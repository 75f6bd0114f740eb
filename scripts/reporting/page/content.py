"""What a file of results holds, read when it is asked for, and a number that is taken from it."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from implicit.judging.oracle import Oracle
from pipeline.files.rows import rows_sha256
from pipeline.files.storage import read_json, read_table
from pipeline.identity.systems import Result

Row = dict[str, Any]

TABLES = {"judge": "judgements", "rank": "ranking", "generate": "responses", "similarity": "similarity"}
ORACLE = Oracle()


@dataclass(frozen=True)
class Number:
    """A number: of everything, or of a slice (a kind of request, ...) and a part of it, or of a step of tuning."""

    value: float | None  # None: not defined, and not kept
    n: int | None = None
    slice: str = "all"
    part: str = ""
    step: int | None = None
    low: float | None = None
    high: float | None = None


class Content:
    """A file of results. ``requests`` are what the oracle knows of the instructions, by id, where it judges."""

    def __init__(self, result: Result, requests: dict[str, str] | None = None) -> None:
        self.result, self.requests = result, requests

    @cached_property
    def json(self) -> Any:
        """The record or summary."""
        return read_json(Path(self.result.path))

    @property
    def summary(self) -> Row:
        """What a stage has summed up of its table."""
        return self.json["summary"]

    @cached_property
    def rows(self) -> list[Row]:
        """The rows of the table, which of a summary is beside it."""
        kind = TABLES.get(self.result.stage, self.result.kind)
        return read_table(kind, Path(self.result.path).with_suffix(".parquet"))

    @cached_property
    def about(self) -> dict[str, str]:
        """What is not a number, but belongs to all of the file's: the judge, or the origin and sha256 of data."""
        if self.result.stage == "judge":
            names = {"judge": "judge", "judge_metric": "metric", "date": "date"}
            return {column: self.json[name] or "" for column, name in names.items()}
        if self.result.stage == "data":
            texts = [
                {key: row[key] for key in ("instruction", "reference")} if "messages" not in row else row["messages"]
                for row in self.rows
            ]
            return {"origin": self.rows[0]["source"], "sha256": rows_sha256(texts)}
        return {}

    def negatives(self, draw: str) -> list[Row]:
        """The pairs of a ranking among one draw of negatives."""
        return [row for row in self.rows if row["negatives"] == draw]
