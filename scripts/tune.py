"""Tune a model in one mode (paper, section 2, appendix A): a directory for ``from_pretrained``, and a record.

    python scripts/tune.py --base base/model --base-record base/record.json --data data/poem.parquet \\
        --model poem/model --record poem/record.json --epochs 3 \\
        --settings '{"mode": "poem", "show_instruction": true, "seed": 1, "tuning": {...}, "chat": {...}}'

The record holds the loss of every step, and how many rows were cut at the maximum length.
"""

from typing import Any

from implicit.render import Format, Rendered, hide_instructions, render
from stage.command import InputError, arguments, run_stage, say
from stage.fit import check_responses
from stage.models import load_model, load_tokenizer, pick_device, save_model
from stage.record import Record, check_record, fingerprint
from stage.storage import read_table


def render_rows(
    rows: list[dict[str, Any]], tokenizer: Any, settings: dict[str, Any], *, context: int
) -> list[Rendered]:
    """Render the conversations of a mode. Raises InputError for a row that cannot be trained on."""
    chat, max_length = Format(**settings["chat"]), settings["tuning"]["max_length"]
    if max_length > context:
        raise InputError(f"tuning.max_length: {max_length} tokens, but the context of the model is {context}")
    check_responses(rows, tokenizer, context=context)
    rendered = []
    for row in rows:
        messages = row["messages"] if settings["show_instruction"] else hide_instructions(row["messages"])
        cut = render(messages, tokenizer, chat, max_length=max_length)
        if not any(cut.trained):
            raise InputError(
                f"row {row['id']} ({row['source']}): nothing of the response is left within tuning.max_length = "
                f"{max_length} tokens, of which the instruction takes all: raise it or leave out the row"
            )
        rendered.append(cut)
    return rendered


def main() -> None:
    import torch

    from implicit.tune import Tuning, tune

    paths = ["base", "base-record", "data", "model", "record"]
    args = arguments(__doc__, paths=paths, numbers=["epochs"], computes=True)
    settings = args.settings
    check_record(args.base_record, args.base)
    record = Record("tune", settings=settings | {"epochs": args.epochs}, inputs={"base": args.base, "data": args.data})
    torch.set_num_threads(args.threads)
    torch.manual_seed(settings["seed"])
    tokenizer = load_tokenizer(args.base)
    model = load_model(args.base, device=pick_device(args.device))
    rows = render_rows(
        read_table("conversations", args.data), tokenizer, settings, context=model.config.max_position_embeddings
    )
    cut = [row for row in rows if row.cut]
    trained = sum(sum(row.trained) for row in rows)
    say(f"{len(rows):,} rows, {trained:,} trained tokens, {len(cut)} rows cut by {sum(r.cut for r in cut):,} tokens")
    tuning = settings["tuning"] | {"epochs": args.epochs, "seed": settings["seed"]}
    steps = tune(
        model,
        rows,
        Tuning(**{key: tuning[key] for key in Tuning.__dataclass_fields__}),
        pad=tokenizer.pad_token_id,
        micro_batch_tokens=args.batch,
        device=str(model.device),
        precision=getattr(torch, tuning["precision"]),
        log=say,
    )
    card = {key: settings[key] for key in ("mode", "seed")}
    card |= {"base": args.base, "data": args.data, "epochs": args.epochs}
    save_model(model, tokenizer, args.model, card=card)
    record.write(
        args.record,
        model_sha256=fingerprint(args.model),
        device=str(model.device),
        rows=len(rows),
        rows_cut=len(cut),
        tokens_cut=sum(row.cut for row in rows),
        trained_tokens=trained,
        tokens=steps[-1].tokens,
        losses=[step.loss for step in steps],
    )


if __name__ == "__main__":
    from implicit.optimise import NonFiniteLoss

    run_stage(main, NonFiniteLoss)
