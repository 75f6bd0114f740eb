"""Judge pairs of responses on which judgements are known: Parquet of kind ``compared``, for the judge's card.

    python scripts/judge_annotations.py --annotations pandalm.parquet --set test.parquet \\
        --output card.parquet --summary card.json --settings '{"name": "chrf", "kind": "reference", "measure": "chrf"}'

For a judge of kind `reference`, the references are those of ``--references``, or else of ``--set``, for the same
instructions. Left out, and counted in the log and the record: pairs without a reference, or with one among the two
responses; and pairs whose instruction, or one of whose models, a trained judge has seen (``--training``, its record).
A judge that reads both responses at once also compares COPIES responses with themselves.
"""

import argparse
from pathlib import Path
from typing import Any

from pipeline.config.judges import JudgeSettings
from pipeline.files.storage import read_json, read_table, write_table
from pipeline.jobs.command import OPTIONAL_PATH, PATHS, InputError, arguments, hide_progress_bars, run_stage, say
from pipeline.jobs.job import Job, execution_of, job

Row = dict[str, Any]
COPIES = 100


def normal(instruction: str) -> str:
    """An instruction as sets are compared by it."""
    return " ".join(instruction.split())


def unseen(rows: list[Row], record: Row) -> list[Row]:
    """The pairs of which a trained judge has seen neither the instruction nor one of the models.

    A model with which all others are compared does not count: without it, there would be no pair.
    """
    from implicit.judging.training import key_of

    seen, models = set(record["instructions_seen"]), set(record["models_seen"])
    common = {row["model_1"] for row in rows}
    common = common if len(common) == 1 else set()
    return [
        row
        for row in rows
        if key_of(row["instruction"]) not in seen and not ({row["model_1"], row["model_2"]} - common) & models
    ]


def with_references(rows: list[Row], paths: list[Path]) -> list[Row]:
    """The pairs whose instruction has a reference in all of the sets, and neither of whose responses is one."""
    sets = [{normal(row["instruction"]): row["reference"] for row in read_table("evaluation_set", p)} for p in paths]
    found = [row | {"references": [own.get(normal(row["instruction"])) for own in sets]} for row in rows]
    return [
        row
        for row in found
        if None not in row["references"] and not {row["output_1"], row["output_2"]} & set(row["references"])
    ]


def chosen(args: argparse.Namespace, rows: list[Row]) -> tuple[list[Row], dict[str, int]]:
    """The pairs that can be judged, and how many are left out for which reason."""
    count, left = len(rows), {}
    for path in args.training:
        rows = unseen(rows, read_json(path))
    left["seen"] = count - len(rows)
    if any(member.kind == "reference" for member in args.settings.panel().values()):
        rows = with_references(rows, args.references or [args.set])
    left["without_reference"] = count - left["seen"] - len(rows)
    say(
        f"{len(rows):,} of {count:,} pairs; left out: {left['seen']:,} with an instruction or a model that the judge "
        f"was trained on, {left['without_reference']:,} without a reference, or with the reference itself"
    )
    if not rows:
        raise InputError(f"judge.card: no pair of {args.annotations} can be judged")
    return rows, left


def sides_of(rows: list[Row]) -> list[list[Row]]:
    """Both sides of a group of pairs, as judges take them."""
    about = [{"id": row["id"], "instruction": row["instruction"], "references": row.get("references")} for row in rows]
    return [[own | {"output": row[f"output_{side}"]} for own, row in zip(about, rows, strict=True)] for side in (1, 2)]


def copies_of(rows: list[Row]) -> list[Row]:
    """Pairs of a response with itself. A blank at the end keeps them from being taken for a tie, and not shown."""
    from pipeline.jobs.comparing import rounds

    return [
        row | {"output_1": row["output_2"], "output_2": row["output_2"] + " ", "copy": True}
        for row in next(rounds(rows))[:COPIES]
    ]


def compared(rows: list[Row], judged: Any) -> list[Row]:
    """The rows of the table, for one group of pairs."""
    kept = ("id", "cluster", "model_1", "model_2", "annotators", "annotation")
    orders = [judged.opponent_first or [None] * len(rows), judged.model_first or [None] * len(rows)]
    return [
        {key: row[key] for key in kept}
        | {"length_1": len(row["output_1"]), "length_2": len(row["output_2"]), "copy": row.get("copy", False)}
        | {"preference": preference, "preference_output_1_first": one, "preference_output_2_first": two}
        for row, preference, one, two in zip(rows, judged.preferences, *orders, strict=True)
    ]


def main() -> None:
    args = arguments(
        __doc__,
        paths=["annotations", "set", "output", "summary"],
        settings=JudgeSettings,
        options=dict.fromkeys(("answers", "model"), OPTIONAL_PATH) | dict.fromkeys(("references", "training"), PATHS),
        computes=True,
        asks=True,
    )
    given = {"annotations": args.annotations, "set": args.set, "model": args.model}
    given |= {f"references {i}": path for i, path in enumerate(args.references)}
    with job(
        "card",
        args,
        record=args.summary,
        inputs=given,
        execution=execution_of(args, precision=args.settings.precision) if args.settings.computes() else None,
        claims=(),  # the file of answers is locked
    ) as this:
        judge_annotations(args, this)


def judge_annotations(args: argparse.Namespace, this: Job) -> None:
    """Judge all pairs, and write the table and its record."""
    from implicit.judging.judge import BY_QUALITY
    from implicit.judging.panel import mean_judgements
    from implicit.servers.answers import Answers
    from pipeline.jobs.comparing import comparers, reserve, rounds

    settings = args.settings
    rows, left = chosen(args, read_table("annotations", args.annotations))
    panel = settings.trained(args.model)
    asks = any(member.kind not in BY_QUALITY for member in panel.values())
    groups = [*rounds(rows), *([copies_of(rows)] if asks else [])]
    kept = (args.answers or args.output.with_suffix(".answers.jsonl")) if asks else None
    table: list[Row] = []
    with Answers(kept, log=say) as answers, this.paying(answers) as budget:
        judges = comparers(panel, args, this=this, answers=answers, budget=budget)
        orders = 2 if settings.both_orders else 1
        reserve(this, judges, [side for group in groups for side in sides_of(group)], orders=orders)
        for number, group in enumerate(groups, start=1):
            sides = sides_of(group)
            found = [judge.compare(*sides, seed=settings.seed, both_orders=settings.both_orders) for judge in judges]
            this.paid_now = sum(judge.judge.asked.spent for judge in judges if judge.judge)
            this.unpriced_now = sum(judge.judge.asked.unpriced for judge in judges if judge.judge)
            members = [judged for _, judged in found]
            table += compared(group, mean_judgements(members) if len(members) > 1 else members[0])
            say(f"{len(table):,} pairs judged, in {number} of {len(groups)} groups")
        write_table("compared", table, args.output)
        this.finish(
            f"{len(table):,} pairs judged",
            outputs={"table": args.output},
            judge=settings.name,
            pairs=len(rows),
            **left,
            cut=sum(judge.reward.cut for judge in judges if judge.reward),
        )


if __name__ == "__main__":
    hide_progress_bars()  # before alpaca_eval is imported

    from implicit.judging.judge import IncompleteJudging, JudgeError
    from implicit.judging.local_judge import LocalJudgeError
    from implicit.judging.rewards import RewardError
    from implicit.servers.answers import AnswersError
    from implicit.servers.chat_client import ServerError

    errors = (AnswersError, IncompleteJudging, JudgeError, LocalJudgeError, RewardError, ServerError)
    run_stage(main, *errors, if_gpu_is_full="Lower execution.ranking_batch_tokens")
