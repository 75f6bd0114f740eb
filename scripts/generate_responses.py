"""Let a model respond greedily to the instructions of a set: Parquet of kind ``responses``, and AlpacaEval's JSON.

    python scripts/generate_responses.py --model base/model --model-record base/record.json --set test.parquet \\
        --output responses.parquet --json responses.json --record responses.record.json \\
        --settings '{"generator": "base", "rules": null, "max_new_tokens": 96, "precision": "float32",
                     "chat": {...}, "set": "test"}'

``rules`` contains the weights of the rule adapter (paper, section 6), and ``use`` the rules to apply; null for none.
"""

import argparse
from dataclasses import fields
from typing import Any, Literal

from implicit.format.render import Format, encode, encode_opening, render_prompt
from pipeline.config.schema import Rules
from pipeline.config.types import Count, Precision, Section
from pipeline.files.storage import read_table, write_json, write_table
from pipeline.jobs.command import InputError, arguments, run_stage, say
from pipeline.jobs.costs import generation_hours
from pipeline.jobs.job import Job, execution_of, job
from pipeline.models.directories import context_length, load_model, load_tokenizer, stored_parameters, vocabulary_size

EXPECTED_TOKENS = 300  # per response, for the estimate that is reserved in advance


class UsedRules(Rules):
    """The rules' weights, and which of the rules are used."""

    variants: dict[str, None] = {}
    use: list[Literal["eos", "uniform", "diversity"]]


class Settings(Section):
    """What a system responds to, how, and under which name."""

    generator: str
    set: str
    rules: UsedRules | None
    max_new_tokens: Count
    precision: Precision
    chat: Format


def fit_prompt(instruction: str, tokenizer: Any, chat: Format, *, room: int) -> tuple[list[int], int]:
    """The prompt's ids, with its instruction truncated to fit into ``room`` tokens, and the number of tokens removed.

    Both tags are kept. Raises InputError if they do not fit.
    """
    prompt = render_prompt(instruction, tokenizer, chat)
    empty = render_prompt("", tokenizer, chat)
    if room < len(empty) + 1:
        raise InputError(f"the model's context leaves {room} tokens for a prompt, which is less than its tags need")
    over = len(prompt) - room
    if over <= 0:
        return prompt, 0
    ids = encode(tokenizer, instruction.strip())
    shorter = tokenizer.decode(ids[: len(ids) - over])
    while len(fitted := render_prompt(shorter, tokenizer, chat)) > room:
        shorter = shorter[:-1]
    return fitted, len(prompt) - len(fitted)


def rule_settings(rules: UsedRules | None) -> Any:
    """The rules' weights, or None if no rules are applied."""
    from implicit.generation.rules import RuleSettings

    return RuleSettings(**{field.name: getattr(rules, field.name) for field in fields(RuleSettings)}) if rules else None


def respond(
    args: Any, this: Job, prompts: list[list[int]], adapter_prompts: list[list[int]], tokenizer: Any, *, context: int
) -> list:
    """Responses to prompts (token ids) from the requested backend."""
    from implicit.generation.generate import Limits, generate
    from implicit.generation.rules import RuleAdapter

    settings, weights, adapter_of = args.settings, rule_settings(args.settings.rules), None
    limits = Limits(tokenizer.eos_token_id, tokenizer.pad_token_id, settings.max_new_tokens, context)
    if weights:

        def adapter_of(logits: int) -> RuleAdapter:
            return RuleAdapter(weights, settings.rules.use, tokenizer, vocab_size=logits)

        adapter_of(len(tokenizer))  # raises UnresolvedToken before a model is loaded
    if args.backend == "vllm":
        from implicit.generation.vllm_backend import generate_with_vllm

        return generate_with_vllm(
            args.model,
            prompts,
            limits,
            precision=this.precision,
            adapter_of=adapter_of,
            adapter_prompts=adapter_prompts,
            log=say,
        )
    model = load_model(args.model, device=this.device, precision=this.precision)
    return generate(
        model,
        prompts,
        limits,
        batch_size=args.batch,
        adapter=adapter_of(vocabulary_size(model)) if adapter_of else None,
        adapter_prompts=adapter_prompts,
        log=say,
    )


def main() -> None:
    paths = ["model", "model-record", "set", "output", "json", "record"]
    backend = {"choices": ["transformers", "vllm"], "default": "transformers"}
    args = arguments(__doc__, paths=paths, settings=Settings, options={"backend": backend}, computes=True)
    execution, inputs = (
        execution_of(args, precision=args.settings.precision, backend=args.backend),
        {"model": args.model, "set": args.set},
    )
    if args.backend == "vllm":
        from implicit.generation.vllm_backend import check_vllm

        check_vllm()
    with job("generate", args, record=args.record, inputs=inputs, execution=execution) as this:
        generate_responses(args, this)


def generate_responses(args: argparse.Namespace, this: Job) -> None:
    """Respond to the instructions of a set, and write responses and their record."""
    from transformers import AutoConfig

    settings = args.settings
    tokenizer, chat = load_tokenizer(args.model), settings.chat
    rows = read_table("evaluation_set", args.set)
    context = context_length(AutoConfig.from_pretrained(args.model))
    room = context - min(settings.max_new_tokens, context // 2)  # for the prompt: responses have at least half
    fitted = [fit_prompt(row["instruction"], tokenizer, chat, room=room) for row in rows]
    prompts = [prompt for prompt, _ in fitted]
    this.reserve(
        generation_hours,
        parameters=stored_parameters(args.model) / 1e9,
        prompts=len(prompts),
        response_tokens=min(settings.max_new_tokens, EXPECTED_TOKENS),
        batch=args.batch,
    )
    # The wide diversity scope begins after the user tag, as in the authors' code.
    tag = len(encode_opening(tokenizer, chat))
    counted = [prompt[tag:] for prompt in prompts]
    responses = respond(args, this, prompts, counted, tokenizer, context=context)
    table = [
        {
            "id": row["id"],
            "index": row["index"],
            "instruction": row["instruction"],
            "output": tokenizer.decode(response.ids, skip_special_tokens=True),
            "stopped": response.stopped,
            "tokens": len(response.ids),
            "cut": cut,
            "generator": settings.generator,
        }
        for row, response, (_, cut) in zip(rows, responses, fitted, strict=True)
    ]
    write_table("responses", table, args.output)
    keys = ("instruction", "output", "generator", "index")
    write_json([{key: row[key] for key in keys} | {"dataset": settings.set} for row in table], args.json)
    stopped, tokens = sum(row["stopped"] for row in table), sum(row["tokens"] for row in table)
    shortened = sum(1 for row in table if row["cut"])
    this.finish(
        f"{len(table)} responses, {stopped} stopped by themselves, {tokens:,} tokens, {shortened} prompts shortened",
        outputs={"table": args.output, "json": args.json},
        responses=len(table),
        stopped=stopped,
        tokens=tokens,
        prompts_cut=shortened,
    )


if __name__ == "__main__":
    from implicit.generation.rules import UnresolvedToken
    from implicit.generation.vllm_backend import VllmUnavailable

    run_stage(main, UnresolvedToken, VllmUnavailable, if_gpu_is_full="Lower execution.generation_batch_size")
