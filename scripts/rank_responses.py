"""Rank true responses against others (paper, equation 3): Parquet of kind ``ranking``, and a summary as JSON.

    python scripts/rank_responses.py --model base/model --model-record base/record.json --set test.parquet \\
        --output ranking.parquet --summary ranking.json \\
        --settings '{"instructions": 9, "others": 5, "seed": 0, "bootstrap": 1000, "precision": "float32",
                     "chat": {...}}'
"""

import argparse

from implicit.rank import draw_others, ranking_capability, score_responses
from implicit.render import Format, encode_response, render_prompt
from stage.budget import CeilingReached, Ledger
from stage.claim import claimed
from stage.command import InputError, arguments, execution_of, run_stage, say
from stage.costs import scoring_hours
from stage.models import context_length, load_model, load_tokenizer, pick_device
from stage.record import Record, check_record
from stage.storage import read_table, write_table


def main() -> None:
    args = arguments(__doc__, paths=["model", "model-record", "set", "output", "summary"], computes=True)
    with claimed(args.output, log=say):
        rank_responses(args)


def rank_responses(args: argparse.Namespace) -> None:
    """Score the true responses and the others, and write the scores and their summary."""
    import torch

    settings = args.settings
    ledger = Ledger(args.budget, str(args.output))
    check_record(args.model_record, args.model)
    inputs, execution = {"model": args.model, "set": args.set}, execution_of(args, pick_device(args.device))
    record = Record("rank", settings=settings, inputs=inputs, execution=execution)
    torch.set_num_threads(args.threads)
    rows = read_table("evaluation_set", args.set)
    if len(rows) < settings["instructions"]:
        raise InputError(f"ranking.instructions: {settings['instructions']}, but the set holds {len(rows)}")
    rows = rows[: settings["instructions"]]
    without = [row["id"] for row in rows if row["reference"] is None]
    if without:
        raise InputError(f"ranking.evaluation_set: rows without a reference response: {without[:5]}; map 'reference'")
    tokenizer, chat = load_tokenizer(args.model), Format(**settings["chat"])
    model = load_model(args.model, device=execution["device"], precision=settings["precision"])
    prompts = [render_prompt(row["instruction"], tokenizer, chat) for row in rows]
    responses = [encode_response(tokenizer, row["reference"].strip()) + [tokenizer.eos_token_id] for row in rows]
    context = context_length(model.config)
    others = draw_others(len(rows), others=settings["others"], seed=settings["seed"])
    pairs = [(i, j) for i, row in enumerate(others) for j in [i, *row]]
    too_long = sorted({rows[j]["id"] for i, j in pairs if len(prompts[i]) + len(responses[j]) > context})
    if too_long:
        raise InputError(
            f"responses that are longer than the context of {context} tokens: {too_long[:5]}; leave them out"
        )
    if ledger.machine:
        tokens = sum(len(prompts[i]) + len(responses[j]) for i, j in pairs)
        hours = scoring_hours(ledger.machine, parameters=model.num_parameters() / 1e9, tokens=tokens)
        ledger.reserve(gpu_hours=hours)
    scores = score_responses(
        model,
        [(prompts[i], responses[j]) for i, j in pairs],
        pad=tokenizer.pad_token_id,
        batch_tokens=args.batch,
        device=str(model.device),
    )
    score = dict(zip(pairs, scores, strict=True))
    table = [
        {
            "id": rows[i]["id"],
            "other_id": rows[j]["id"],
            "true_logprob": score[i, i].logprob,
            "true_tokens": score[i, i].tokens,
            "other_logprob": score[i, j].logprob,
            "other_tokens": score[i, j].tokens,
        }
        for i, j in pairs
        if i != j
    ]
    write_table("ranking", table, args.output)
    summary = ranking_capability(table, bootstrap=settings["bootstrap"], seed=settings["seed"])
    say(f"capability {summary['sequence']['capability']:.3f}, per token {summary['token']['capability']:.3f}")
    ledger.settle(gpu_hours=record.hours() if model.device.type == "cuda" else 0.0)
    record.write(args.summary, outputs={"table": args.output}, summary=summary)


if __name__ == "__main__":
    run_stage(main, CeilingReached)
