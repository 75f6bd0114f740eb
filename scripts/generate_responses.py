"""Let a model respond greedily to the instructions of a set: Parquet of kind ``responses``, and AlpacaEval's JSON.

    python scripts/generate_responses.py --model base/model --model-record base/record.json --set test.parquet \\
        --output responses.parquet --json responses.json --record responses.record.json \\
        --settings '{"generator": "base", "rules": null, "max_new_tokens": 96, "chat": {...}, "set": "test"}'

``rules`` names the rules of the adapter to apply (paper, section 6), with their weights; null for none.
"""

from typing import Any

from implicit.render import Format, encode, render_prompt
from stage.command import InputError, arguments, run_stage, say
from stage.models import load_model, load_tokenizer, pick_device
from stage.record import Record, check_record
from stage.storage import read_table, write_json, write_table


def fit_prompt(instruction: str, tokenizer: Any, chat: Format, *, room: int) -> tuple[list[int], int]:
    """The prompt's ids, its instruction cut at the end where the prompt has more than ``room`` tokens; and how many.

    Both tags stay whole. Raises InputError when there is no room for them.
    """
    prompt = render_prompt(instruction, tokenizer, chat)
    empty = render_prompt("", tokenizer, chat)
    if room < len(empty) + 1:
        raise InputError(f"generation.max_new_tokens leaves room for {room} tokens of prompt: lower it")
    over = len(prompt) - room
    if over <= 0:
        return prompt, 0
    ids = encode(tokenizer, instruction.strip())
    shorter = tokenizer.decode(ids[: len(ids) - over])
    while len(fitted := render_prompt(shorter, tokenizer, chat)) > room:
        shorter = shorter[:-1]
    return fitted, len(prompt) - len(fitted)


def make_adapter(settings: dict[str, Any], tokenizer: Any, vocab_size: int) -> Any:
    """The rule adapter of the settings, or None."""
    if settings["rules"] is None:
        return None
    from implicit.rules import RuleAdapter, RuleSettings

    weights = {key: settings["rules"][key] for key in RuleSettings.__dataclass_fields__}
    return RuleAdapter(RuleSettings(**weights), settings["rules"]["use"], tokenizer, vocab_size=vocab_size)


def main() -> None:
    import torch

    from implicit.generate import generate

    args = arguments(__doc__, paths=["model", "model-record", "set", "output", "json", "record"], computes=True)
    settings = args.settings
    check_record(args.model_record, args.model)
    record = Record("generate", settings=settings, inputs={"model": args.model, "set": args.set})
    torch.set_num_threads(args.threads)
    tokenizer, chat = load_tokenizer(args.model), Format(**settings["chat"])
    model = load_model(args.model, device=pick_device(args.device))
    adapter = make_adapter(settings, tokenizer, model.config.vocab_size)
    rows = read_table("evaluation_set", args.set)
    room = model.config.max_position_embeddings - settings["max_new_tokens"]
    fitted = [fit_prompt(row["instruction"], tokenizer, chat, room=room) for row in rows]
    prompts = [prompt for prompt, _ in fitted]
    # The wide diversity scope begins behind the user tag, as in the authors' code.
    tag = len(encode(tokenizer, f"{chat.user_tag}\n")) + chat.add_bos
    responses = generate(
        model,
        prompts,
        eos=tokenizer.eos_token_id,
        pad=tokenizer.pad_token_id,
        max_new_tokens=settings["max_new_tokens"],
        batch_size=args.batch,
        adapter=adapter,
        adapter_prompts=[prompt[tag:] for prompt in prompts],
        device=str(model.device),
        log=say,
    )
    table = [
        {
            "id": row["id"],
            "index": row["index"],
            "instruction": row["instruction"],
            "output": tokenizer.decode(response.ids, skip_special_tokens=True),
            "stopped": response.stopped,
            "tokens": len(response.ids),
            "cut": cut,
            "generator": settings["generator"],
        }
        for row, response, (_, cut) in zip(rows, responses, fitted, strict=True)
    ]
    write_table("responses", table, args.output)
    keys = ("instruction", "output", "generator", "index")
    write_json([{key: row[key] for key in keys} | {"dataset": settings["set"]} for row in table], args.json)
    stopped, tokens = sum(row["stopped"] for row in table), sum(row["tokens"] for row in table)
    shortened = sum(1 for row in table if row["cut"])
    say(f"{len(table)} responses, {stopped} stopped by themselves, {tokens:,} tokens, {shortened} prompts shortened")
    record.write(
        args.record,
        device=str(model.device),
        responses=len(table),
        stopped=stopped,
        tokens=tokens,
        prompts_cut=shortened,
    )


if __name__ == "__main__":
    from implicit.rules import UnresolvedToken

    run_stage(main, UnresolvedToken)
