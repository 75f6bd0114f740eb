"""Judge pairs of responses on which judgements are known: Parquet of kind ``compared``, for the judge's card.

    python scripts/judge_annotations.py --annotations pandalm.parquet --set test.parquet \\
        --output card.parquet --summary card.json --settings '{"name": "chrf", "kind": "reference", "measure": "chrf"}'

For a judge of kind `reference`, the references are those of ``--references`` or of ``--set`` for the same instruction.
Left out, and counted in the log and the record: pairs without a reference, or with one among the two responses; and
pairs whose instruction, or one of whose models, a judge that was trained here has seen, as its directory says.
A judge that reads both responses at once also compares COPIES responses with themselves.
"""

import argparse
from pathlib import Path
from typing import Any

from pipeline.config.judges import SEEN, Assessor, JudgeSettings
from pipeline.files.storage import read_json, read_table, write_table
from pipeline.jobs.command import (
    NAMED,
    OPTIONAL_PATH,
    PATHS,
    InputError,
    arguments,
    directories,
    hide_progress_bars,
    run_stage,
    say,
)
from pipeline.jobs.job import Job, execution_of, job

Row = dict[str, Any]
COPIES = 100


def normal(instruction: str) -> str:
    """An instruction as sets are compared by it."""
    return " ".join(instruction.split())


def unseen(rows: list[Row], seen: Row) -> list[Row]:
    """The pairs of which a trained judge has seen neither the instruction nor one of the models.

    A model with which all others are compared does not count: without it, there would be no pair.
    """
    from implicit.judging.card import baseline
    from implicit.judging.training import key_of

    instructions, models = set(seen["instructions"]), set(seen["models"])
    common = {row[f"model_{side}"] for row in rows[:1]} if (side := baseline(rows)) else set()
    return [
        row
        for row in rows
        if key_of(row["instruction"]) not in instructions and not ({row["model_1"], row["model_2"]} - common) & models
    ]


def with_references(rows: list[Row], sets: dict[str, Path]) -> list[Row]:
    """The pairs whose instruction has a reference in all of the sets, and neither of whose responses is one."""
    known = {
        name: {normal(row["instruction"]): row["reference"] for row in read_table("evaluation_set", path)}
        for name, path in sets.items()
    }
    found = []
    for row in rows:
        own = {name: texts.get(normal(row["instruction"])) for name, texts in known.items()}
        if None not in own.values() and not {row["output_1"], row["output_2"]} & set(own.values()):
            found.append(row | {"references": own})
    return found


def reference_sets(args: argparse.Namespace, panel: dict[str, Assessor]) -> dict[str, Path]:
    """The evaluation sets whose references the judges need, by name."""
    from pipeline.jobs.comparing import OWN

    by_reference = [member for member in panel.values() if member.kind == "reference"]
    given = {path.stem: path for path in args.references}
    own = {OWN: args.set} if any(not member.references for member in by_reference) else {}
    return {name: given[name] for member in by_reference for name in member.references} | own


def chosen(args: argparse.Namespace, rows: list[Row], panel: dict[str, Assessor]) -> tuple[list[Row], dict[str, int]]:
    """The pairs that can be judged, and how many are left out for which reason."""
    count, left = len(rows), {}
    for member in panel.values():
        seen = Path(member.path or "", SEEN)
        rows = unseen(rows, read_json(seen)) if member.path and seen.is_file() else rows
    left["seen"] = count - len(rows)
    sets = reference_sets(args, panel)
    rows = with_references(rows, sets) if sets else rows
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
    about = [
        {"id": row["id"], "instruction": row["instruction"], "references": row.get("references", {})} for row in rows
    ]
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
        paths=["annotations", "output", "summary"],
        settings=JudgeSettings,
        options=dict.fromkeys(("answers", "set"), OPTIONAL_PATH) | {"references": PATHS, "model": NAMED},
        computes=True,
        asks=True,
    )
    given = {"annotations": args.annotations, "set": args.set}
    given |= {f"references {path.stem}": path for path in args.references}
    given |= {f"model {name}": path for name, path in directories(args.model).items()}
    with job(
        "card",
        args,
        record=args.summary,
        inputs=given,
        execution=execution_of(args, precision=args.settings.own_precision()) if args.settings.computes() else None,
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
    panel = settings.trained(directories(args.model))
    rows, left = chosen(args, read_table("annotations", args.annotations), panel)
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
            **described(judges, found, settings),
            pairs=len(rows),
            **left,
        )


def described(judges: list[Any], found: list[Any], settings: JudgeSettings) -> Row:
    """Which judge it was, its members and its requests: not what concerns only the last group of pairs."""
    from pipeline.jobs.comparing import summaries

    whole = summaries(judges, found, settings)
    of_a_group = {"win_rate", "disagreement", "protected", "position_bias", "consistent", "first_shown"}
    of_a_group |= {"label_share", "label_share_minimum"}
    members = [{k: v for k, v in one.items() if k not in of_a_group} for one in whole.get("members", [])]
    own = {key: value for key, value in whole.items() if key not in of_a_group}
    return own | ({"members": members} if members else {})


if __name__ == "__main__":
    hide_progress_bars()  # before alpaca_eval is imported

    from implicit.judging.judge import IncompleteJudging, JudgeError
    from implicit.judging.local_judge import LocalJudgeError
    from implicit.judging.rewards import RewardError
    from implicit.servers.answers import AnswersError
    from implicit.servers.chat_client import ServerError

    errors = (AnswersError, IncompleteJudging, JudgeError, LocalJudgeError, RewardError, ServerError)
    run_stage(main, *errors, if_gpu_is_full="Lower execution.ranking_batch_tokens")
