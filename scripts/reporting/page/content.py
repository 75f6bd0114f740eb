"""The contents of a results file, loaded lazily, and a number taken from it."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from implicit.judging.oracle import Oracle
from pipeline.files.rows import rows_sha256
from pipeline.files.storage import read_json, read_table
from pipeline.identity.systems import Result

Row = dict[str, Any]

TABLES = {
    "judge": "judgements",
    "rank": "ranking",
    "generate": "responses",
    "card": "compared",
}  # others have their stage's name
ORACLE = Oracle()


@dataclass(frozen=True)
class Number:
    """A number: overall, or for a slice (a kind of request, ...) and a part of it, or for a tuning step."""

    value: float | None  # None: undefined, and not kept
    n: int | None = None
    slice: str = "all"
    part: str = ""
    step: int | None = None
    low: float | None = None
    high: float | None = None


class Content:
    """A results file. ``requests`` is what the oracle knows about the instructions, by id, if it is the judge."""

    def __init__(self, result: Result, requests: dict[str, str] | None = None) -> None:
        self.result, self.requests = result, requests

    @cached_property
    def json(self) -> Any:
        """The record or summary."""
        return read_json(Path(self.result.path))

    @property
    def summary(self) -> Row:
        """The stage's summary of its table."""
        return self.json["summary"]

    @cached_property
    def rows(self) -> list[Row]:
        """The rows of the table, which is next to the summary if there is one."""
        kind = self.result.kind or TABLES.get(self.result.stage, self.result.stage)
        return read_table(kind, Path(self.result.path).with_suffix(".parquet"))

    @cached_property
    def about(self) -> dict[str, str]:
        """Non-numeric values for all numbers in the file: the judge, or the origin and sha256 of data."""
        if self.result.stage == "judge":
            names = {"judge": "judge", "judge_metric": "metric", "date": "date"}
            return {column: self.json[name] or "" for column, name in names.items()}
        if self.result.stage == "card":
            return {"judge": self.json["judge"]}
        if self.result.stage == "data":
            texts = [
                {key: row[key] for key in ("instruction", "reference")} if "messages" not in row else row["messages"]
                for row in self.rows
            ]
            return {"origin": self.rows[0]["source"], "sha256": rows_sha256(texts)}
        return {}

    def negatives(self, draw: str) -> list[Row]:
        """The pairs of a ranking with one kind of negatives."""
        return [row for row in self.rows if row["negatives"] == draw]
