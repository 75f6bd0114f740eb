"""Check the responses to an evaluation set, without a judge: Parquet of kind ``checks``, and shares as JSON.

    python scripts/check_responses.py --set ifeval.parquet --responses responses.parquet \\
        --output checks.parquet --summary checks.json --settings '{"checker": "ifeval"}'

`implicit.measuring.checks` has the checkers.
"""

import argparse
from typing import Any, Literal

from implicit.measuring.checks import CHECKERS, PREPARE, CheckError
from pipeline.config.types import Section
from pipeline.files.storage import read_table, write_table
from pipeline.jobs.command import InputError, arguments, run_stage
from pipeline.jobs.job import Job, job


class Settings(Section):
    """The checker."""

    checker: Literal["ifeval", "gsm8k", "mbpp"]


def main() -> None:
    args = arguments(__doc__, paths=["set", "responses", "output", "summary"], settings=Settings)
    inputs = {"set": args.set, "responses": args.responses}
    with job("checks", args, record=args.summary, inputs=inputs) as this:
        check_responses(args, this)


def check_responses(args: argparse.Namespace, this: Job) -> None:
    """Check every response, and write the checks and the share of them that passes."""
    checker = args.settings.checker
    PREPARE.get(checker, lambda: None)()
    rows = read_table("evaluation_set", args.set)
    outputs = {row["id"]: row["output"] for row in read_table("responses", args.responses)}
    if set(outputs) != {row["id"] for row in rows}:
        raise InputError(f"{args.responses} must have exactly one response to each instruction of {args.set}")
    needed = "reference" if checker == "gsm8k" else "request"
    without = [row["id"] for row in rows if not row[needed]]
    if without:
        raise InputError(f"checks: the checker {checker!r} needs a {needed}, which rows {without[:5]} lack")
    table: list[dict[str, Any]] = [
        {"id": row["id"], "cluster": row["cluster"], **check._asdict()}
        for row in rows
        for check in CHECKERS[checker](row, outputs[row["id"]])
    ]
    write_table("checks", table, args.output)
    passed = sum(row["passed"] for row in table)
    this.finish(f"{passed:,} of {len(table):,} checks of {len(rows):,} responses pass", outputs={"table": args.output})


if __name__ == "__main__":
    run_stage(main, CheckError)
