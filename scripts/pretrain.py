"""Train a tokenizer on a corpus and pre-train a small Llama on it: a directory for ``from_pretrained``, and a record.

    python scripts/pretrain.py --corpus corpus.parquet --model base/model --snapshots base/snapshots \\
        --record base/record.json --settings "$(python -c 'import json, yaml; print(json.dumps({"pretrain": ...}))')"

``settings``: ``pretrain``, as in the config. Of its ``snapshots``, the first is ``base/snapshots/1``.
``--conversations`` are datasets that the model is to be tuned on: with ``too_long: error``, they are checked with the
new tokenizer before the hours of training, not after. The chat template is not given here, but by whoever takes the
model.
"""

import argparse
from pathlib import Path

import torch

from implicit.optimise import NonFiniteLoss, StepLog
from implicit.pretrain import Architecture, Pretraining, build_model, pack, pretrain
from implicit.tokenizer import train_tokenizer
from stage.claim import claimed
from stage.command import InputError, arguments, run_stage, say
from stage.fit import check_datasets
from stage.models import pick_device, save_model
from stage.record import Record
from stage.storage import read_table, written_whole


def main() -> None:
    args = arguments(__doc__, paths=["corpus", "model", "snapshots", "record"], lists=["conversations"], computes=True)
    with claimed(args.model, log=say):
        pretrain_model(args)


def pretrain_model(args: argparse.Namespace) -> None:
    """Train a tokenizer and a model, and write both, the snapshots, and the record."""
    settings = args.settings["pretrain"]
    device = pick_device(args.device)
    record = Record("pretrain", settings=args.settings, inputs={"corpus": args.corpus}, execution={"device": device})
    torch.set_num_threads(1)  # of one part of a batch; their number changes the last bits of a result
    documents = [row["text"] for row in read_table("corpus", args.corpus)]
    architecture = Architecture(**settings["architecture"])
    tokenizer = train_tokenizer(documents, vocab_size=settings["vocab_size"], context=architecture.context)
    check_datasets(args.conversations, tokenizer, context=architecture.context, too_long=args.settings["too_long"])
    plan = Pretraining(**{key: settings[key] for key in Pretraining.__dataclass_fields__})
    try:
        rows = pack(documents, tokenizer, length=plan.sequence_length, tokens=plan.tokens, seed=plan.seed)
    except ValueError as error:
        raise InputError(f"pretrain.documents: {error}") from None
    model = build_model(architecture, tokenizer, seed=plan.seed)
    say(f"{sum(p.numel() for p in model.parameters()):,} parameters, {rows.numel():,} tokens, on {device}")
    last: list[StepLog] = []

    def log(step: StepLog) -> None:
        say(step)
        last.append(step)

    def save(path: Path) -> None:
        card = {"base": "none", "data": args.corpus, "mode": "pre-training", "seed": plan.seed}
        save_model(model, tokenizer, path, card=card | {"tokens": last[-1].tokens}, chat=None)

    with written_whole(args.snapshots) as folder:
        folder.mkdir()
        pretrain(model, rows, plan, device=device, threads=args.threads, log=log, keep=lambda i: save(folder / str(i)))
    save(args.model)
    snapshots = {str(i): args.snapshots / str(i) for i in range(1, plan.snapshots + 1)}
    record.write(
        args.record,
        outputs={"model": args.model} | snapshots,
        tokens=rows.numel(),
        loss=last[-1].loss,
    )


if __name__ == "__main__":
    run_stage(main, NonFiniteLoss, if_gpu_is_full="Lower pretrain.batch_size of the model")
