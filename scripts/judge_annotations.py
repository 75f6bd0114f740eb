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

from implicit.measuring.texts import one_line
from pipeline.config.judges import SEEN, Assessor, JudgeSettings
from pipeline.files.storage import read_json, read_table, write_table
from pipeline.jobs.command import NAMED, OPTIONAL_PATH, PATHS, InputError, arguments, directories, say
from pipeline.jobs.job import Job
from pipeline.jobs.judging import judging_job, run_judging

Row = dict[str, Any]
COPIES = 100


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
    from pipeline.jobs.comparing import references_in

    known = {name: references_in(path) for name, path in sets.items()}
    found = []
    for row in rows:
        own = {name: texts.get(one_line(row["instruction"])) for name, texts in known.items()}
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
    with judging_job("card", args, record=args.summary, annotations=args.annotations, set=args.set) as this:
        judge_annotations(args, this)


def judge_annotations(args: argparse.Namespace, this: Job) -> None:
    """Judge all pairs, and write the table and its record."""
    from implicit.judging.judge import BY_QUALITY
    from pipeline.jobs.comparing import judging, rounds

    panel = args.settings.trained(directories(args.model))
    rows, left = chosen(args, read_table("annotations", args.annotations), panel)
    groups = list(rounds(rows))
    if any(member.kind not in BY_QUALITY for member in panel.values()):
        groups.append(copies_of(rows))
    kept = args.answers or args.output.with_suffix(".answers.jsonl")
    every_side = [side for group in groups for side in sides_of(group)]
    table: list[Row] = []
    with judging(args, this, panel, sides=every_side, kept=kept) as judges:
        for number, group in enumerate(groups, start=1):
            found = judges.compare(*sides_of(group))
            table += compared(group, found.together)
            say(f"{len(table):,} pairs judged, in {number} of {len(groups)} groups")
        write_table("compared", table, args.output)
        this.finish(
            f"{len(table):,} pairs judged",
            outputs={"table": args.output},
            **of_all_groups(found.summary),
            pairs=len(rows),
            **left,
        )


def of_all_groups(summary: Row) -> Row:
    """The record's entries about the judge, without those that concern only the last group of pairs."""
    of_one = {"win_rate", "disagreement", "protected", "position_bias", "consistent", "first_shown"}
    of_one |= {"label_share", "label_share_minimum"}
    own = {key: value for key, value in summary.items() if key not in of_one}
    return own | ({"members": [of_all_groups(member) for member in own["members"]]} if "members" in own else {})


if __name__ == "__main__":
    run_judging(main, if_gpu_is_full="Lower execution.ranking_batch_tokens")
