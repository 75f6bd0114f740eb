"""Compare two files of responses by a judge, outside of an experiment: a preference for every instruction.

    python scripts/judge_outputs.py --judge results/laptop/judge/mine/model --responses ours.json \\
        --opponent theirs.json --output preferences.json

Both files have ``instruction`` and ``output``, as AlpacaEval writes them: .json, .jsonl, .csv or .parquet, also with
.gz. ``--judge`` is the directory of a reward model; another judge is given by ``--settings``, as in the section `judge`
of a config: '{"kind": "server", "server": {...}}'. A preference is from 1 (the opponent's response is better) to 2.
"""

import argparse
from pathlib import Path
from typing import Any

from implicit.measuring.texts import one_line
from judge_annotations import of_all_groups, sides_of
from pipeline.config.judges import JudgeSettings
from pipeline.files.local_files import read_rows
from pipeline.files.storage import write_json
from pipeline.jobs.command import OPTIONAL_PATH, InputError, arguments, checked_settings
from pipeline.jobs.job import Job
from pipeline.jobs.judging import judging_job, run_judging

Row = dict[str, Any]
OWN = {"name": "judge", "seed": 0, "bootstrap": 2, "metric": "length_controlled_minimal"}


def pairs_of(ours: Path, theirs: Path) -> list[Row]:
    """The responses of both files to the same instructions, in the order of the first.

    Instructions may be in another order in the second, unless one occurs twice. Raises InputError if they differ.
    """
    first, second = (
        [row for _, row in read_rows(str(path), {"instruction": "text", "output": "text"})] for path in (ours, theirs)
    )
    asked = [[row["instruction"] for row in rows] for rows in (first, second)]
    if not first:
        raise InputError(f"{ours} has no rows")
    if asked[0] != asked[1]:
        if sorted(asked[0]) != sorted(asked[1]):
            other = next(iter({*asked[0]} ^ {*asked[1]}), f"{len(first):,} and {len(second):,} rows")
            raise InputError(f"{ours} and {theirs} must have the same instructions, but they differ: {other[:100]!r}")
        if len(set(asked[0])) < len(asked[0]):
            raise InputError(f"{ours} and {theirs}: an instruction occurs twice, so their order must be the same")
        by_instruction = {row["instruction"]: row for row in second}
        second = [by_instruction[text] for text in asked[0]]
    return [
        {"id": str(number), "cluster": one_line(own["instruction"]), "instruction": own["instruction"]}
        | {"output_1": other["output"], "output_2": own["output"]}
        for number, (own, other) in enumerate(zip(first, second, strict=True))
    ]


def main() -> None:
    options = {"judge": OPTIONAL_PATH, "answers": OPTIONAL_PATH}
    args = arguments(__doc__, paths=["responses", "opponent", "output"], options=options, computes=True, asks=True)
    if args.judge is None and "kind" not in args.settings:
        raise InputError("give the directory of a reward model with --judge, or another judge with --settings")
    if args.judge is not None and not args.judge.is_dir():
        raise InputError(f"--judge: no such directory: {args.judge}")
    given = {"kind": "reward", "path": str(args.judge)} if args.judge else {}
    args.settings = checked_settings(JudgeSettings, OWN | given | args.settings)
    if args.settings.kind in ("oracle", "reference"):
        raise InputError(f"a judge of kind {args.settings.kind!r} needs more than instructions and responses")
    args.references, args.model = [], []
    record = args.output.with_suffix(".record.json")
    with judging_job("judge", args, record=record, responses=args.responses, opponent=args.opponent) as this:
        judge_outputs(args, this)


def judge_outputs(args: argparse.Namespace, this: Job) -> None:
    """Judge all pairs, and write their preferences."""
    from pipeline.jobs.comparing import judging, rounds

    rows = pairs_of(args.responses, args.opponent)
    kept = args.answers or args.output.with_suffix(".answers.jsonl")
    preferences: dict[str, float] = {}
    with judging(args, this, args.settings.panel(), sides=sides_of(rows), kept=kept) as judges:
        for group in rounds(rows):
            found = judges.compare(*sides_of(group))
            preferences |= dict(zip((row["id"] for row in group), found.together.preferences, strict=True))
        shown = ("instruction", "output_1", "output_2")
        written = [{key: row[key] for key in shown} | {"preference": preferences[row["id"]]} for row in rows]
        write_json(written, args.output)
        rate = 100 * sum(row["preference"] - 1 for row in written) / len(written)
        this.finish(
            f"{len(written):,} preferences in {args.output}; the responses win {rate:.1f} %",
            outputs={"preferences": args.output},
            **of_all_groups(found.summary),
            win_rate=rate,
        )


if __name__ == "__main__":
    run_judging(main, if_gpu_is_full="Lower --batch")
