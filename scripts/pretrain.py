"""Train a tokenizer on a corpus and pre-train a small Llama on it: a directory for ``from_pretrained``, and a record.

    python scripts/pretrain.py --corpus corpus.parquet --model base/model --snapshots base/snapshots \\
        --record base/record.json --settings "$(python -c 'import json, yaml; print(json.dumps({"pretrain": ...}))')"

``settings``: ``pretrain``, as in the config. The first of its ``snapshots`` is ``base/snapshots/1``.
``--conversations`` are datasets whose responses must fit in the model's context: they are checked with the new
tokenizer before the hours of training, not after. The chat template is added later, by the job that takes the model.
"""

import argparse
from dataclasses import fields
from pathlib import Path

from implicit.format.tokenizer import train_tokenizer
from implicit.tuning.optimise import NonFiniteLoss, StepLog
from implicit.tuning.pretrain import Architecture, Pretraining, build_model, pack, pretrain
from pipeline.config.models import Pretrain
from pipeline.config.types import Section
from pipeline.files.storage import read_table, written_whole
from pipeline.jobs.command import PATHS, InputError, arguments, run_stage, say
from pipeline.jobs.costs import tuning_hours
from pipeline.jobs.job import Job, execution_of, job
from pipeline.models.directories import save_model
from pipeline.models.fit import check_datasets


class Settings(Section):
    """The section `pretrain` of a model."""

    pretrain: Pretrain


def main() -> None:
    checked = {"conversations": PATHS, "cuttable": PATHS}
    paths = ["corpus", "model", "snapshots", "record"]
    args = arguments(__doc__, paths=paths, settings=Settings, options=checked, computes=True)
    # One thread for each part of a batch, as the number of threads changes the last bits of a result.
    execution = {"device": execution_of(args)["device"], "threads": 1}
    inputs = {"corpus": args.corpus}
    with job("pretrain", args, record=args.record, inputs=inputs, execution=execution) as this:
        pretrain_model(args, this)


def pretrain_model(args: argparse.Namespace, this: Job) -> None:
    """Train a tokenizer and a model, and write both, the snapshots, and the record."""
    settings, device = args.settings.pretrain, this.device
    documents = [row["text"] for row in read_table("corpus", args.corpus)]
    architecture = Architecture(**settings.architecture.model_dump())
    tokenizer = train_tokenizer(documents, vocab_size=settings.vocab_size, context=architecture.context)
    check_datasets(args.conversations, tokenizer, context=architecture.context)
    check_datasets(args.cuttable, tokenizer, context=None)
    plan = Pretraining(**{field.name: getattr(settings, field.name) for field in fields(Pretraining)})
    try:
        rows = pack(documents, tokenizer, length=plan.sequence_length, tokens=plan.tokens, seed=plan.seed)
    except ValueError as error:
        raise InputError(f"pretrain.documents: {error}") from None
    model = build_model(architecture, tokenizer, seed=plan.seed)
    parameters = sum(p.numel() for p in model.parameters())
    this.reserve(tuning_hours, parameters=parameters / 1e9, tokens=rows.numel(), checkpointing=False)
    say(f"{parameters:,} parameters, {rows.numel():,} tokens, on {device}")
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
    this.finish(
        f"loss {last[-1].loss:.4f} after {last[-1].step} steps",
        outputs={"model": args.model} | snapshots,
        tokens=rows.numel(),
        loss=last[-1].loss,
    )


if __name__ == "__main__":
    run_stage(main, NonFiniteLoss, if_gpu_is_full="Lower pretrain.batch_size of the model")
