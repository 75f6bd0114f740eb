"""Train a reward model on known judgements: a directory for a judge of kind `reward`, and a record.

    python scripts/train_judge.py --base base/model --annotations gpt4.parquet --held-out pandalm.parquet \\
        --model judge/model --record judge/record.json --checkpoints judge/checkpoints --checkpoint-steps 100 \\
        --settings '{"base": "gemma", "annotations": ["gpt4"], "held_out": {"models": 0.25}, "max_length": 512}'

Without ``--base``, the base model is downloaded from the hub. ``--held-out`` are tables of annotations or evaluation
sets, whose instructions are never trained on. A file in the directory names the instructions (as hashes) and the models
that were trained on or decided when to stop, so that a card can leave them out, wherever the directory is used.
"""

import argparse
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from implicit.format.render import Format, chat_template
from implicit.judging.rewards import separates_pairs
from pipeline.config.judges import SEEN, JudgeTraining
from pipeline.files.storage import read_table, write_json, written_whole
from pipeline.identity.sources import code_of
from pipeline.jobs.command import OPTIONAL_PATH, PATHS, InputError, arguments, plain, run_stage, say
from pipeline.jobs.costs import tuning_hours
from pipeline.jobs.job import Job, execution_of, job
from pipeline.jobs.record import commit, used
from pipeline.models.directories import load_model, loading

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from implicit.judging.rewards import Encoded, RewardModel
    from implicit.judging.training import Pair, Split
    from implicit.tuning.checkpoint import Checkpoints


class Settings(JudgeTraining):
    """The section `train` of a judge, and who the annotators of its sets are, under which licence."""

    annotators: dict[str, str] = {}


def start(path: Path | str, settings: Settings) -> "PreTrainedModel":
    """The base model with a new score head, drawn by the seed, in float32 on the CPU."""
    import torch

    torch.manual_seed(settings.seed)
    kind = "AutoModelForSequenceClassification"
    return load_model(path, device="cpu", revision=settings.revision, kind=kind, new_head=True, num_labels=1)


def tokenizer_of(path: Path | str, settings: Settings) -> "PreTrainedTokenizerBase":
    """The base model's tokenizer, which says how many tokens the judge reads.

    A language model without a chat template gets this project's, so that the response has a beginning and an end.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path, revision=settings.revision or "main", trust_remote_code=False)
    tokenizer.model_max_length = settings.max_length
    if tokenizer.chat_template is None and not separates_pairs(tokenizer):
        own = Format("<|user|>", "<|assistant|>", add_bos=tokenizer.bos_token is not None)
        tokenizer.chat_template = chat_template(tokenizer, own)
    return tokenizer


def loaded(path: Path | str, settings: Settings) -> tuple["PreTrainedTokenizerBase", "PreTrainedModel"]:
    """The base model and its tokenizer. Raises InputError with the reason if they cannot be loaded."""
    with loading("judge.train.base", path):
        tokenizer = tokenizer_of(path, settings)
        # Without its files, transformers makes a tokenizer that knows nothing but special tokens.
        if set(tokenizer("One two, three.", add_special_tokens=False).input_ids) <= {tokenizer.unk_token_id}:
            raise InputError("its tokenizer has no vocabulary: the tokenizer's files are missing")
        return tokenizer, start(path, settings)


def main() -> None:
    args = arguments(
        __doc__,
        paths=["model", "record"],
        settings=Settings,
        options=dict.fromkeys(("base", "checkpoints"), OPTIONAL_PATH)
        | dict.fromkeys(("annotations", "held-out"), PATHS)
        | {"checkpoint-steps": {"type": int, "default": 1000}},
        computes=True,
    )
    given = {"base": args.base}
    given |= {f"{kind} {path.stem}": path for kind in ("annotations", "held_out") for path in getattr(args, kind)}
    with job(
        "train_judge",
        args,
        record=args.record,
        inputs=given,
        execution=execution_of(args, precision=args.settings.precision),
        claims=[args.checkpoints or args.record],
    ) as this:
        train_judge(args, this)


def divided(args: argparse.Namespace) -> "Split":
    """The pairs to train and to validate on. Raises InputError if either are missing."""
    from implicit.judging.training import key_of, split

    own = args.settings
    rows = [row | {"set": path.stem} for path in args.annotations for row in read_table("annotations", path)]
    never = {
        key_of(text) for path in args.held_out for text in pq.read_table(path, columns=["instruction"])[0].to_pylist()
    }
    found = split(
        rows,
        models=own.held_out.models,
        instructions=own.held_out.instructions,
        never=never,
        validation=own.validation,
        seed=own.seed,
    )
    say(
        f"{len(rows):,} pairs: {len(found.training):,} to train on, {len(found.validation):,} for validation; the "
        "others have a model or an instruction that is held out, or of both parts"
    )
    if not found.training or not found.validation:
        raise InputError("judge.train: too few models or instructions are left to train and to validate on")
    return found


def encoded_pairs(rows: list[dict[str, Any]], reader: "RewardModel") -> tuple[list["Encoded"], list["Pair"]]:
    """The texts of all pairs, each once, and the pairs by their texts."""
    from implicit.judging.training import Pair

    sides = ("output_1", "output_2")
    texts = list(dict.fromkeys((row["instruction"], row[side]) for row in rows for side in sides))
    place = {text: number for number, text in enumerate(texts)}
    pairs = [Pair(*(place[row["instruction"], row[side]] for side in sides), row["annotation"] - 1) for row in rows]
    return [reader.encode(*text) for text in texts], pairs


def open_checkpoints(args: argparse.Namespace, this: Job) -> "Checkpoints | None":
    """The checkpoints in ``--checkpoints`` that have the same settings, inputs and code."""
    from implicit.tuning.checkpoint import Checkpoints
    from implicit.tuning.sharding import ALONE

    if not args.checkpoints:
        return None
    identity = {"settings": plain(args.settings), "inputs": this.hashes, "code": code_of("train_judge")}
    identity |= {"precision": this.precision}
    return Checkpoints(args.checkpoints, identity, every=args.checkpoint_steps, processes=ALONE, log=say)


def with_adapters(model: "PreTrainedModel", settings: Settings, precision: "torch.dtype") -> None:
    """Add adapters to a model, in place, and keep what is frozen in the precision of the arithmetic."""
    import torch

    from implicit.tuning.lora import Lora, add_adapters

    torch.manual_seed(settings.seed)
    add_adapters(model, Lora(**settings.lora.model_dump()), task="SEQ_CLS")
    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.to(precision)


def train_judge(args: argparse.Namespace, this: Job) -> None:
    """Train, and write model and record."""
    import torch

    from implicit.judging.degenerate import degenerate_pairs
    from implicit.judging.rewards import RewardModel
    from implicit.judging.training import Training, train

    settings = args.settings
    path = args.base or settings.base
    tokenizer, model = loaded(path, settings)
    parts = divided(args)
    further = round(settings.degenerate * len(parts.training))
    rows = [*parts.training, *degenerate_pairs(parts.training, count=further, seed=settings.seed)]
    texts, pairs = encoded_pairs([*rows, *parts.validation], RewardModel(model, tokenizer, str(path)))
    count = len(rows)
    tokens = settings.epochs * sum(len(texts[i].ids) for pair in pairs[:count] for i in pair[:2])
    this.reserve(tuning_hours, parameters=model.num_parameters() / 1e9, tokens=tokens, checkpointing=False)
    how = {"batch_tokens": args.batch, "device": this.device, "precision": getattr(torch, this.precision)}
    if settings.method == "lora":
        with_adapters(model, settings, how["precision"])
    given = settings.model_dump() | how
    own = Training(**{field.name: given[field.name] for field in fields(Training)})
    checkpoints = open_checkpoints(args, this)
    clusters = [row["instruction"] for row in rows]
    steps, found = train(model, texts, pairs[:count], clusters, pairs[count:], own, checkpoints=checkpoints, log=say)
    if checkpoints:
        this.earlier_hours = checkpoints.earlier_seconds / 3600 if this.on_gpu else 0.0
    best = min(found, key=lambda each: each["loss"])
    seen = {"instructions": parts.instructions, "models": parts.models}
    write_judge(finished(model, path, settings), tokenizer, args, card_of(settings, parts, count, found), seen)
    this.finish(
        f"validation: agreement {best['agreement']:.1f} % after {best['pairs']:,} pairs",
        outputs={"model": args.model},
        pairs=len(parts.training),
        degenerate_pairs=count - len(parts.training),
        validation_pairs=len(parts.validation),
        texts=len(texts),
        texts_cut=sum(each.cut for each in texts),
        tokens=steps[-1].tokens,
        losses=[step.loss for step in steps],
        evaluations=found,
        resumed_at=checkpoints.resumed_at if checkpoints else [],
        **used(),
    )
    if checkpoints:
        checkpoints.clear()


def finished(model: "PreTrainedModel", path: Path | str, settings: Settings) -> "PreTrainedModel":
    """The trained model, with adapters merged, in float32."""
    from implicit.tuning.lora import Lora, adapter_weights, merge

    if settings.method == "full":
        return model.to("cpu")
    weights = {name: tensor.detach().to("cpu") for name, tensor in adapter_weights(model).items()}
    return merge(start(path, settings), Lora(**settings.lora.model_dump()), weights, task="SEQ_CLS")


def card_of(settings: Settings, parts: "Split", count: int, evaluations: list[dict[str, float]]) -> dict[str, Any]:
    """What the model card says; ``count`` is the number of all pairs trained on."""
    best = min(evaluations, key=lambda each: each["loss"])
    return {
        "kind": "reward model: one score for an instruction and a response; the higher one is preferred",
        "base": settings.base,
        "trained on the judgements of": "; ".join(
            f"{name} ({settings.annotators.get(name, 'annotator and licence not stated')})"
            for name in settings.annotations
        ),
        "pairs": f"{len(parts.training):,} in {settings.epochs} epochs; the best weights after {best['pairs']:,}",
        "degenerate pairs": f"another {count - len(parts.training):,}, in which the worse response repeats the "
        "instruction or itself, or answers another instruction",
        "validation": f"agrees with the annotator in {best['agreement']:.1f} % of {len(parts.validation):,} pairs of "
        "other models and other instructions, which decided when to stop",
        "learning curve": "; ".join(f"{each['pairs']:,} pairs: {each['agreement']:.1f} %" for each in evaluations),
        "maximum length": f"{settings.max_length} tokens of instruction and response; longer ones are cut",
    }


def write_judge(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    args: argparse.Namespace,
    card: dict[str, Any],
    seen: dict[str, list[str]],
) -> None:
    """Save the model as a directory that works elsewhere, atomically, with what it has seen, for a judge's card."""
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    lines = [f"- {name}: {value}" for name, value in (card | {"commit": commit()}).items()]
    with written_whole(args.model) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        write_json(seen, temporary / SEEN)
        (temporary / "README.md").write_text("# Model card\n\n" + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    from implicit.judging.rewards import RewardError
    from implicit.tuning.checkpoint import Interrupted
    from implicit.tuning.optimise import NonFiniteLoss

    run_stage(main, Interrupted, NonFiniteLoss, RewardError, if_gpu_is_full="Lower judge.train.pairs")
