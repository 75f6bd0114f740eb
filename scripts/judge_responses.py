"""Judge a model's responses against an opponent's: Parquet of kind ``judgements``, and win rates as JSON.

    python scripts/judge_responses.py --set test.parquet --responses poem/test.parquet --opponent it/test.parquet \\
        --output judgements.parquet --summary judgements.json --answers judgements.answers.jsonl \\
        --settings '{"name": "oracle", "kind": "oracle", "seed": 0, "bootstrap": 200, "both_orders": false,
                     "metric": "length_controlled_minimal", "min_label_probability": 0.5}'

Without ``--opponent`` the opponent is the set's own references. Every answer of a judge that is a model is saved
to ``--answers`` as it arrives, so a run that was stopped only asks for the rest; the file must not be an output of a
rule. ``--batch`` is in tokens including padding, for a local judge.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from implicit.judging.oracle import Oracle
from pipeline.config.judges import Judge as JudgeSection
from pipeline.config.types import Flag
from pipeline.files.storage import read_table, write_table
from pipeline.jobs.command import OPTIONAL_PATH, InputError, arguments, hide_progress_bars, run_stage, say
from pipeline.jobs.costs import CHARACTERS_PER_TOKEN, scoring_hours
from pipeline.jobs.job import Job, execution_of, job
from pipeline.jobs.ledger import Ledger
from pipeline.jobs.record import fingerprint
from pipeline.models.directories import load_model

if TYPE_CHECKING:
    from implicit.judging.judge import Judge, Judgements
    from implicit.servers.answers import Answers

TEMPLATE_TOKENS = 400  # of AlpacaEval 2's prompt, without the texts: for the estimate that is reserved in advance

Side = dict[str, tuple[str, bool]]  # by id: the output, and whether it ends with EOS


class Settings(JudgeSection):
    """The section `judge`; ``metric`` is that of the evaluation set."""

    reference_mode: str | None = None
    both_orders: Flag = False


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


def add_similarity(side: list[dict[str, Any]], rows: list[dict[str, Any]], measure: str) -> None:
    """Add the similarity of its output to the set's reference to each row of a side."""
    from implicit.judging.references import similarity

    without = [row["id"] for row in rows if row["reference"] is None]
    if without:
        raise InputError(f"judge.kind: the evaluation set has no reference in rows {without[:5]}")
    for judged, row in zip(side, rows, strict=True):
        judged["quality"] = similarity(judged["output"], row["reference"], measure)


def add_quality(side: list[dict[str, Any]], rows: list[dict[str, Any]], outputs: Side) -> None:
    """Add the oracle's quality of its output to each row of a side."""
    unknown = [row["id"] for row in rows if row["request"] is None]
    if unknown:
        raise InputError(f"judge.kind: the oracle only supports instructions of the tiny world, not {unknown[:3]}")
    oracle = Oracle()
    for judged, row in zip(side, rows, strict=True):
        text, stopped = outputs[row["id"]]
        judged["quality"] = oracle.quality(row["request"], text, stopped=stopped)


def make_judge(
    sides: list[list[dict[str, Any]]], answers: "Answers", budget: Ledger | None, this: Job, args: argparse.Namespace
) -> "Judge":
    """The judge that the settings describe; paid requests count against the budget."""
    from implicit.judging.evaluators import evaluator_judge
    from implicit.judging.judge import BY_QUALITY
    from implicit.judging.kinds import local_judge, quality_judge, server_judge
    from implicit.judging.local_judge import LocalModel
    from implicit.judging.template import read_template
    from implicit.servers.chat_client import ChatServer

    settings, name = args.settings, args.settings.name
    asking = {"requests": args.requests, "timeout": args.timeout, "attempts": args.attempts}
    if settings.kind in BY_QUALITY:
        return quality_judge(*sides, name=name, kind=settings.kind)
    keeping = {"answers": answers, "floor": settings.min_label_probability}
    template = None if settings.template is None else read_template(settings.template)
    if settings.kind == "evaluator":
        return evaluator_judge(name=name, evaluator=settings.evaluator, budget=budget, **keeping, **asking)
    if settings.kind == "server":
        server = ChatServer.from_settings(settings.server.model_dump(), **asking)
        return server_judge(
            name=name, server=server, template=template, answer=settings.answer, budget=budget, **keeping
        )
    model, tokenizer, identity = load_local(settings, this.precision)
    shown = 2 if settings.both_orders else 1
    characters = sum(len(row["instruction"]) + len(row["output"]) for side in sides for row in side)
    tokens = shown * (characters / CHARACTERS_PER_TOKEN + TEMPLATE_TOKENS * len(sides[0]))
    this.reserve(scoring_hours, parameters=model.num_parameters() / 1e9, tokens=tokens)
    local = LocalModel(model.to(this.device), tokenizer, identity, batch_tokens=args.batch)
    return local_judge(local, name=name, template=template, **keeping)


def load_local(settings: Settings, precision: str) -> tuple[Any, Any, str]:
    """A local judge's model, its tokenizer, and their identity: path and sha256 of a directory, or commit of a hub."""
    from transformers import AutoTokenizer

    path, revision = settings.path, settings.revision
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision or "main", trust_remote_code=False)
        model = load_model(path, device="cpu", precision=precision, revision=revision)
    except Exception as error:  # invalid tokenizers and weights raise errors of any kind
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise InputError(f"judge.path: {path} cannot be loaded: {reason}") from None
    version = fingerprint(path)[:12] if Path(path).is_dir() else model.config._commit_hash
    return model, tokenizer, f"{path}@{version}"


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


def mean_qualities(table: list[dict[str, Any]]) -> dict[str, float | None]:
    """The mean quality of either side's outputs; None if the judge does not use them."""
    sides = {side: [row[side] for row in table] for side in ("quality_1", "quality_2")}
    return {side: None if None in of_rows else sum(of_rows) / len(of_rows) for side, of_rows in sides.items()}


def main() -> None:
    args = arguments(
        __doc__,
        paths=["set", "responses", "output", "summary"],
        settings=Settings,
        options=dict.fromkeys(("opponent", "answers", "gamed"), OPTIONAL_PATH),
        computes=True,
        asks=True,
    )
    with job(
        "judge",
        args,
        record=args.summary,
        inputs={name: getattr(args, name) for name in ("set", "responses", "opponent")},
        execution=execution_of(args, precision=args.settings.precision) if args.settings.kind == "local" else None,
        claims=(),  # the file of answers is locked
    ) as this:
        judge_responses(args, this)


def judgement_rows(
    rows: list[dict[str, Any]], sides: list[list[dict[str, Any]]], judged: "Judgements", *, names: tuple[str, str]
) -> list[dict[str, Any]]:
    """The table of judgements: a row for each instruction, with both outputs and the judge's preference."""
    orders = [judged.opponent_first or [None] * len(rows), judged.model_first or [None] * len(rows)]
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
            "quality_1": first.get("quality"),
            "quality_2": second.get("quality"),
            "preference": preference,
            "preference_output_1_first": one_first,
            "preference_output_2_first": two_first,
            "label_share": share,
        }
        for row, first, second, preference, one_first, two_first, share in zip(
            rows, *sides, judged.preferences, *orders, judged.label_shares, strict=True
        )
    ]


def judge_responses(args: argparse.Namespace, this: Job) -> None:
    """Judge the responses of both sides, and write judgements and win rates."""
    settings = args.settings
    rows = read_table("evaluation_set", args.set)
    name_1, outputs_1 = read_side(args.opponent, rows)
    name_2, outputs_2 = read_side(args.responses, rows)

    from implicit.judging.judge import BY_QUALITY, check_pairs, judge_pairs
    from implicit.judging.win_rates import win_rates
    from implicit.servers.answers import Answers

    sides = [
        [{"id": row["id"], "instruction": row["instruction"], "output": outputs[row["id"]][0]} for row in rows]
        for outputs in (outputs_1, outputs_2)
    ]
    check_pairs(*sides, names=(name_1, name_2))
    gamed, gamed_sha256 = find_table(args, rows)
    for side, outputs in zip(sides, (outputs_1, outputs_2), strict=True):
        if settings.kind == "oracle":
            add_quality(side, rows, outputs)
        elif settings.kind == "reference":
            add_similarity(side, rows, settings.measure)
    kept = None if settings.kind in BY_QUALITY else args.answers or args.output.with_suffix(".answers.jsonl")
    # Held until everything is written, so that only one process judges at a time.
    with Answers(kept, log=say) as answers, this.paying(answers) as budget:
        judge = make_judge(sides, answers, budget, this, args)
        judged = judge_pairs(*sides, judge, seed=settings.seed, both_orders=settings.both_orders)
        this.paid_now, this.unpriced_now = judge.asked.spent, judge.asked.unpriced
        table = judgement_rows(rows, sides, judged, names=(name_1, name_2))
        rates = win_rates(table, bootstrap=settings.bootstrap, seed=settings.seed, metric=settings.metric, gamed=gamed)
        write_table("judgements", table, args.output)
        this.finish(
            f"win rate {rates['win_rate']:.1f} ± {rates['win_rate_error']:.1f} of {rates['n']}",
            outputs={"table": args.output},
            **judge.summary(),
            **rates,
            **mean_qualities(table),
            gamed_sha256=gamed_sha256,
            **judged.summary(),
        )


if __name__ == "__main__":
    hide_progress_bars()  # before alpaca_eval is imported

    from implicit.judging.judge import IncompleteJudging, JudgeError
    from implicit.judging.local_judge import LocalJudgeError
    from implicit.judging.win_rates import MetricError
    from implicit.servers.answers import AnswersError
    from implicit.servers.chat_client import ServerError

    errors = (AnswersError, IncompleteJudging, JudgeError, LocalJudgeError, MetricError, ServerError)
    run_stage(main, *errors, if_gpu_is_full="Lower execution.ranking_batch_tokens")
