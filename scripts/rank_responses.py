"""Rank true responses against others (paper, equation 3): Parquet of kind ``ranking`` and a summary as JSON.

    python scripts/rank_responses.py --model base/model --model-record base/record.json --set test.parquet \\
        --output ranking.parquet --summary ranking.json \\
        --settings '{"instructions": 9, "others": 5, "negatives": ["any"], "seed": 0, "bootstrap": 1000,
                     "precision": "float32", "chat": {...}}'

``negatives`` lists the pools that the others are drawn from, each of which is scored: responses to ``any`` instruction;
to requests of the ``same_kind``; to requests of another kind but the ``same_format``. The last two need the oracle,
which also excludes right responses.
"""

import argparse
from collections import Counter
from typing import Any

from implicit.format.render import Format, encode_response, render_prompt
from implicit.judging.oracle import Oracle
from implicit.scoring.rank import Score, draw_among, draw_others, ranking_capability, score_responses
from implicit.world.kinds import FORMATS
from pipeline.config.schema import Ranking
from pipeline.files.storage import read_table, write_table
from pipeline.jobs.command import InputError, arguments, run_stage, say
from pipeline.jobs.costs import scoring_hours
from pipeline.jobs.job import Job, execution_of, job
from pipeline.models.directories import context_length, load_model, load_tokenizer, stored_parameters
from pipeline.models.fit import encode_row


def main() -> None:
    paths = ["model", "model-record", "set", "output", "summary"]
    args = arguments(__doc__, paths=paths, settings=Settings, computes=True)
    inputs, execution = {"model": args.model, "set": args.set}, execution_of(args, precision=args.settings.precision)
    with job("rank", args, record=args.summary, inputs=inputs, execution=execution) as this:
        rank_responses(args, this)


def pools(rows: list[dict[str, Any]], negatives: str, oracle: Oracle) -> list[list[int]]:
    """For each row, the places of rows of its kind or format whose references are wrong responses to it."""
    unknown = [row["id"] for row in rows if row["request"] is None]
    if unknown:
        raise InputError(f"ranking.negatives: {negatives} needs requests of the tiny world, but not: {unknown[:3]}")
    kinds = [oracle.kind(row["request"]) for row in rows]

    def fits(i: int, j: int) -> bool:
        if negatives == "same_kind":
            return kinds[i] == kinds[j]
        return kinds[i] != kinds[j] and FORMATS[kinds[i]] == FORMATS[kinds[j]]

    def wrong(i: int, j: int) -> bool:
        return oracle.parts(rows[i]["request"], rows[j]["reference"], stopped=True).right < 1

    places = range(len(rows))
    return [[j for j in places if j != i and fits(i, j) and wrong(i, j)] for i in places]


class Settings(Ranking):
    """The section `ranking`, and the chat format of the model."""

    evaluation_set: None = None  # these two are the rules' alone
    modes: list[str] = []
    chat: Format


def draws(rows: list[dict[str, Any]], settings: Settings) -> dict[str, list[list[int]]]:
    """For each draw, by name, the others of each row: empty if the world has none of that kind."""
    drawn, oracle = {}, Oracle()
    for name in settings.negatives:
        common = {"others": settings.others, "seed": settings.seed}
        drawn[name] = (
            draw_others(len(rows), **common)
            if name == "any"
            else draw_among(pools(rows, name, oracle), name=name, **common)
        )
    return drawn


def summarise(table: list[dict[str, Any]], settings: Settings) -> dict[str, Any]:
    """The capability for ``any`` with EOS, which is the paper's; then, for each draw, with and without EOS.

    ``left_out`` counts the instructions without any negative, ``fewer`` those with fewer than requested.
    """
    common = {"bootstrap": settings.bootstrap, "seed": settings.seed}
    controls = []
    for name in settings.negatives:
        rows = [row for row in table if row["negatives"] == name]
        if not rows:
            raise InputError(f"ranking.negatives: no instruction has a wrong response of the {name.replace('_', ' ')}")
        counts = Counter(row["id"] for row in rows)
        controls.append(
            {
                "negatives": name,
                "left_out": settings.instructions - len(counts),
                "fewer": sum(count < settings.others for count in counts.values()),
                "with_eos": ranking_capability(rows, **common),
                "without_eos": ranking_capability(rows, **common, eos=False),
            }
        )
    paper = next(entry["with_eos"] for entry in controls if entry["negatives"] == "any")
    return paper | {"controls": controls}


def score_columns(side: str, score: Score) -> dict[str, float]:
    """The table columns of one side."""
    return {f"{side}_logprob": score.logprob, f"{side}_eos_logprob": score.eos, f"{side}_tokens": score.tokens}


def rank_responses(args: argparse.Namespace, this: Job) -> None:
    """Score the true responses and the others, and write the scores and their summary."""
    from transformers import AutoConfig

    settings = args.settings
    rows = read_table("evaluation_set", args.set)
    if len(rows) < settings.instructions:
        raise InputError(f"ranking.instructions: {settings.instructions}, but the set only has {len(rows)}")
    rows = rows[: settings.instructions]
    without = [row["id"] for row in rows if row["reference"] is None]
    if without:
        raise InputError(f"ranking.evaluation_set: rows without a reference response: {without[:5]}; map 'reference'")
    tokenizer, chat = load_tokenizer(args.model), settings.chat
    prompts = [render_prompt(row["instruction"], tokenizer, chat) for row in rows]
    for row in rows:
        encode_row(row, row["reference"], tokenizer)  # raises for text that cannot be encoded separately
    responses = [encode_response(tokenizer, row["reference"].strip()) + [tokenizer.eos_token_id] for row in rows]
    context = context_length(AutoConfig.from_pretrained(args.model))
    drawn = draws(rows, settings)
    pairs = list(dict.fromkeys((i, j) for others in drawn.values() for i, row in enumerate(others) for j in [i, *row]))
    too_long = sorted({rows[j]["id"] for i, j in pairs if len(prompts[i]) + len(responses[j]) > context})
    if too_long:
        raise InputError(f"responses that exceed the context of {context} tokens: {too_long[:5]}; remove them")
    tokens = sum(len(prompts[i]) + len(responses[j]) for i, j in pairs)
    this.reserve(scoring_hours, parameters=stored_parameters(args.model) / 1e9, tokens=tokens)
    model = load_model(args.model, device=this.device, precision=this.precision)
    scores = score_responses(
        model,
        [(prompts[i], responses[j]) for i, j in pairs],
        pad=tokenizer.pad_token_id,
        batch_tokens=args.batch,
        device=str(model.device),
        log=say,
    )
    score = dict(zip(pairs, scores, strict=True))
    table = [
        {"id": rows[i]["id"], "other_id": rows[j]["id"], "cluster": rows[i]["cluster"], "negatives": name}
        | score_columns("true", score[i, i])
        | score_columns("other", score[i, j])
        for name, others in drawn.items()
        for i, row in enumerate(others)
        for j in row
    ]
    write_table("ranking", table, args.output)
    summary = summarise(table, settings)
    this.finish(
        f"capability {summary['sequence']['capability']:.3f}, per token {summary['token']['capability']:.3f}",
        outputs={"table": args.output},
        summary=summary,
    )


if __name__ == "__main__":
    run_stage(main, if_gpu_is_full="Lower execution.ranking_batch_tokens")
