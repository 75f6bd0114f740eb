"""Judge a model's responses against an opponent's: Parquet of kind ``judgements``, and win rates as JSON.

    python scripts/judge_responses.py --set test.parquet --responses poem/test.parquet --opponent it/test.parquet \\
        --output judgements.parquet --summary judgements.json --answers judgements.answers.jsonl \\
        --settings '{"name": "oracle", "kind": "oracle", "seed": 0, "bootstrap": 200, "both_orders": false,
                     "metric": "length_controlled_minimal", "min_label_probability": 0.5}'

Without ``--opponent`` the opponent is the set's own references. ``--model NAME=PATH`` are reward models that the
workflow has trained, ``--references`` are evaluation sets for a judge of kind `reference`. Every answer of a judge that
is asked is saved to ``--answers`` as it arrives, so a run that was stopped only asks for the rest; the file must not be
an output of a rule. ``--batch`` is in tokens including padding, for a model on this machine.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from implicit.measuring.texts import one_line
from pipeline.config.judges import JudgeSettings
from pipeline.files.storage import read_table, write_table
from pipeline.jobs.command import (
    NAMED,
    OPTIONAL_PATH,
    PATHS,
    InputError,
    arguments,
    directories,
    say,
)
from pipeline.jobs.job import Job
from pipeline.jobs.judging import judging_job, run_judging

if TYPE_CHECKING:
    from implicit.judging.judge import Judgements

Side = dict[str, tuple[str, bool]]  # by id: the output, and whether it ends with EOS


def read_side(path: Path | None, rows: list[dict[str, Any]]) -> tuple[str, Side]:
    """The generator's name and its outputs; from the references of ``rows`` if no path is given."""
    if path is None:
        without = [row["id"] for row in rows if row["reference"] is None]
        if without:
            raise InputError(f"the evaluation set has no reference to judge against in rows {without[:5]}")
        return "reference", {row["id"]: (row["reference"], True) for row in rows}
    table = read_table("responses", path)
    ids = [row["id"] for row in table]
    if len(set(ids)) != len(ids):
        raise InputError(f"{path} has two responses to {sorted({id_ for id_ in ids if ids.count(id_) > 1})[:5]}")
    if set(ids) != {row["id"] for row in rows}:
        raise InputError(f"{path} must have exactly one response to each instruction of the evaluation set")
    names = sorted({row["generator"] for row in table})
    if len(names) != 1:
        raise InputError(f"{path} contains responses from {names}, but only one generator can be judged at a time")
    return names[0], {row["id"]: (row["output"], row["stopped"]) for row in table}


def all_references(rows: list[dict[str, Any]], paths: list[Path]) -> list[dict[str, str | None]]:
    """The references of each row: its own, and those of the same instruction in other sets, by the set's name."""
    from pipeline.jobs.comparing import OWN, references_in

    found: list[dict[str, str | None]] = [{OWN: row["reference"]} for row in rows]
    for path in paths:
        own = references_in(path)
        for row, references in zip(rows, found, strict=True):
            references[path.stem] = own.get(one_line(row["instruction"]))
            if references[path.stem] is None:
                raise InputError(f"judge.references: {path} has no reference for the instruction of row {row['id']}")
    return found


def side_of(rows: list[dict[str, Any]], outputs: Side, references: list[dict[str, str | None]]) -> list[dict[str, Any]]:
    """One side's responses, with what judges may need to know about their instructions."""
    kept = ("id", "instruction", "request")
    side = []
    for row, texts in zip(rows, references, strict=True):
        output, stopped = outputs[row["id"]]
        side.append({key: row[key] for key in kept} | {"output": output, "stopped": stopped, "references": texts})
    return side


def find_table(args: argparse.Namespace, rows: list[dict[str, Any]]) -> tuple[Path | None, str | None]:
    """The table of `length_controlled_v1` and its sha256, after checking that the metric is defined for the set."""
    from implicit.judging.win_rates import VERSION_1, check_alpaca_eval, find_df_gamed
    from pipeline.files.hub import explained

    if args.settings.metric != VERSION_1:
        return None, None
    check_alpaca_eval([row["instruction"] for row in rows], [row["index"] for row in rows])
    given = args.gamed or args.settings.df_gamed
    if given is not None:
        return find_df_gamed(Path(given), log=say)
    with explained("dataset", "tatsu-lab/alpaca_eval", None):
        return find_df_gamed(None, log=say)


def mean_qualities(table: list[dict[str, Any]], kind: str) -> dict[str, float | None]:
    """The mean quality of either side's outputs; None for a judge without one, from 0 to 1."""
    sides = {side: [row[side] for row in table] for side in ("quality_1", "quality_2")}
    unknown = kind not in ("oracle", "reference")
    return {side: None if unknown else sum(of_rows) / len(of_rows) for side, of_rows in sides.items()}


def main() -> None:
    args = arguments(
        __doc__,
        paths=["set", "responses", "output", "summary"],
        settings=JudgeSettings,
        options=dict.fromkeys(("opponent", "answers", "gamed"), OPTIONAL_PATH) | {"references": PATHS, "model": NAMED},
        computes=True,
        asks=True,
    )
    inputs = {name: getattr(args, name) for name in ("set", "responses", "opponent")}
    with judging_job("judge", args, record=args.summary, **inputs) as this:
        judge_responses(args, this)


def judgement_rows(
    rows: list[dict[str, Any]],
    sides: list[list[dict[str, Any]]],
    judged: "Judgements",
    *,
    names: tuple[str, str],
    members: list["Judgements"],
) -> list[dict[str, Any]]:
    """The table of judgements: a row for each instruction, with both outputs and the judge's preference."""
    orders = [judged.opponent_first or [None] * len(rows), judged.model_first or [None] * len(rows)]
    alone = len(members) == 1
    by_member = [None] * len(rows) if alone else list(zip(*(member.preferences for member in members), strict=True))
    return [
        {
            "id": row["id"],
            "index": row["index"],
            "cluster": row["cluster"],
            "instruction": row["instruction"],
            "output_1": first["output"],
            "output_2": second["output"],
            "generator_1": names[0],
            "generator_2": names[1],
            "quality_1": first.get("quality") if alone else None,
            "quality_2": second.get("quality") if alone else None,
            "preference": preference,
            "preference_output_1_first": one_first,
            "preference_output_2_first": two_first,
            "label_share": share,
            "members": own,
        }
        for row, first, second, preference, one_first, two_first, share, own in zip(
            rows, *sides, judged.preferences, *orders, judged.label_shares, by_member, strict=True
        )
    ]


def judge_responses(args: argparse.Namespace, this: Job) -> None:
    """Judge the responses of both sides, and write judgements and win rates."""
    settings = args.settings
    rows = read_table("evaluation_set", args.set)
    name_1, outputs_1 = read_side(args.opponent, rows)
    name_2, outputs_2 = read_side(args.responses, rows)
    references = all_references(rows, args.references)

    from implicit.judging.judge import check_pairs
    from implicit.judging.win_rates import win_rates
    from pipeline.jobs.comparing import judging

    sides = [side_of(rows, outputs, references) for outputs in (outputs_1, outputs_2)]
    check_pairs(*sides, names=(name_1, name_2))
    gamed, gamed_sha256 = find_table(args, rows)
    panel = settings.trained(directories(args.model))
    kept = args.answers or args.output.with_suffix(".answers.jsonl")
    # Open until everything is written, so that only one process judges at a time.
    with judging(args, this, panel, sides=sides, kept=kept) as judges:
        found = judges.compare(*sides)
        table = judgement_rows(rows, sides, found.together, names=(name_1, name_2), members=found.members)
        rates = win_rates(table, bootstrap=settings.bootstrap, seed=settings.seed, metric=settings.metric, gamed=gamed)
        write_table("judgements", table, args.output)
        this.finish(
            f"win rate {rates['win_rate']:.1f} ± {rates['win_rate_error']:.1f} of {rates['n']}",
            outputs={"table": args.output},
            **found.together.summary() | found.summary,
            **rates,
            **mean_qualities(table, settings.kind),
            gamed_sha256=gamed_sha256,
        )


if __name__ == "__main__":
    run_judging(main, if_gpu_is_full="Lower execution.ranking_batch_tokens")
