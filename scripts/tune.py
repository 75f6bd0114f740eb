"""Tune a model in one mode (paper, section 2, appendix A): a directory for ``from_pretrained``, and a record.

    python scripts/tune.py --base base/model --base-record base/record.json --data data/poem.parquet \\
        --model poem/model --record poem/record.json --epochs 3 --processes 1 \\
        --checkpoints poem/checkpoints --checkpoint-steps 100 \\
        --settings '{"mode": "poem", "user_turn": "shown", "seed": 1, "tuning": {...}, "chat": {...}}'

With ``--processes 2`` it restarts itself with ``accelerate launch``, and shards the model over two GPUs, or over two
processes on a CPU.
With ``--checkpoints``, an interrupted run resumes from its last checkpoint; no other model may use the folder.
The record contains the loss of every step, the number of rows cut at the maximum length, and of turns dropped.
"""

import argparse
import os
import sys
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Literal

from implicit.format.render import USER_TURNS, Format, Rendered, chat_template, render
from implicit.format.turns import unanswered
from pipeline.config.models import Tuning
from pipeline.config.types import Count, Section, Seed
from pipeline.files.storage import read_table
from pipeline.identity.sources import code_of
from pipeline.jobs.command import OPTIONAL_PATH, SWITCH, InputError, arguments, plain, run_stage, say
from pipeline.jobs.costs import tuning_hours
from pipeline.jobs.job import Job, execution_of, job
from pipeline.jobs.record import used, used_by_all
from pipeline.models.directories import context_length, load_model, load_tokenizer, save_model
from pipeline.models.fit import check_responses

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PreTrainedModel

    from implicit.tuning.checkpoint import Checkpoints
    from implicit.tuning.sharding import Processes


class Settings(Section):
    """What identifies a tuned model."""

    mode: str
    user_turn: Literal["shown", "empty", "removed"]
    seed: Seed
    tuning: Tuning
    chat: Format
    epochs: Count | None = None  # a separate option, as it may be the result of another job


def start_processes(count: int) -> None:
    """Replace this process by ``accelerate launch`` with ``count`` processes, unless that has started this one."""
    from implicit.tuning.sharding import started_together

    if count == 1 or started_together() > 1:
        return
    options = {"num_processes": count, "num_machines": 1, "mixed_precision": "no", "dynamo_backend": "no"}
    options |= {"gpu_ids": "all", "main_process_port": 0}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    # After SIGTERM, the remaining processes may take some time to write their checkpoint.
    environment = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "120"} | os.environ
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", *words, *sys.argv]
    sys.stdout.flush()
    os.execve(sys.executable, command, environment)


def join(device: str) -> "Processes":
    """Join the processes that were started together. Raises InputError if there are fewer GPUs than processes."""
    import torch

    from implicit.tuning.sharding import join_processes, started_together

    if device == "cuda" and started_together() > torch.cuda.device_count():
        raise InputError(
            f"execution.processes: {started_together()} processes need a GPU each, but torch sees "
            f"{torch.cuda.device_count()}: use fewer processes, or request more GPUs"
        )
    return join_processes(device)


def render_rows(rows: list[dict[str, Any]], tokenizer: Any, settings: Settings, *, context: int) -> list[Rendered]:
    """Render the conversations of a mode. Raises InputError for a row that cannot be used for training."""
    max_length = settings.tuning.max_length
    if max_length > context:
        raise InputError(f"tuning.max_length: {max_length} tokens, but the context of the model is {context}")
    check_responses(rows, tokenizer, context=context if settings.tuning.too_long == "error" else None)
    rendered = []
    for row in rows:
        cut = render(
            USER_TURNS[settings.user_turn](row["messages"]),
            tokenizer,
            settings.chat,
            max_length=max_length,
            train_eos=settings.tuning.train_eos,
            train_turn_newline=settings.tuning.train_turn_newline,
        )
        if not any(cut.trained):
            raise InputError(
                f"row {row['id']} ({row['source']}): nothing of the response is left within tuning.max_length = "
                f"{max_length} tokens, because the instruction is that long: increase it, or remove the row"
            )
        rendered.append(cut)
    return rendered


def prepare(args: argparse.Namespace, processes: "Processes") -> "PreTrainedModel":
    """The model to tune, unsharded. Adapters are initialised on the CPU, so that they are the same anywhere."""
    from implicit.tuning.lora import Lora, add_adapters, load_quantized

    tuning = args.settings.tuning
    if tuning.method == "qlora":
        model = load_quantized(args.base, device=processes.device)
    else:
        model = load_model(args.base, device="cpu")  # it is moved, or sharded, later
    if tuning.method != "full":
        add_adapters(model, Lora(**tuning.lora.model_dump()))
    return model


def finish(model: "PreTrainedModel", args: argparse.Namespace, processes: "Processes") -> "PreTrainedModel | None":
    """The tuned model, unsharded, with adapters merged, in its saved precision; None on all but the first process."""
    import torch

    from implicit.tuning.lora import Lora, adapter_weights, merge
    from implicit.tuning.sharding import gather, gather_model

    tuning = args.settings.tuning
    if tuning.method == "full":
        tuned = gather_model(model, processes)
    else:
        weights = gather(adapter_weights(model), processes)
        lora = Lora(**tuning.lora.model_dump())
        tuned = merge(load_model(args.base, device="cpu"), lora, weights) if processes.first else None
    return tuned.to(getattr(torch, tuning.saved_precision)) if tuned else None


def main() -> None:
    from implicit.tuning.lora import check_method
    from implicit.tuning.sharding import started_together

    paths = ["base", "base-record", "data", "model", "record"]
    options = {"epochs": {"type": int, "required": True}, "checkpoints": OPTIONAL_PATH}
    options |= {"processes": {"type": int, "default": 1}, "checkpoint-steps": {"type": int, "default": 1000}}
    options |= {"gradient-checkpointing": SWITCH, "compile": SWITCH}
    args = arguments(__doc__, paths=paths, settings=Settings, options=options, computes=True)
    how = {"gradient_checkpointing": args.gradient_checkpointing, "compile": args.compile}
    execution = execution_of(args, precision=args.settings.tuning.precision, **how)
    device = execution["device"]
    if args.compile:
        from implicit.tuning.tune import check_compiler

        check_compiler(device)
    start_processes(args.processes)
    check_method(args.settings.tuning.method, device=device, processes=started_together())
    processes = join(device)
    args.settings = args.settings.model_copy(update={"epochs": args.epochs})
    with job(
        "tune",
        args,
        record=args.record,
        inputs={"base": args.base, "data": args.data},
        execution=execution | {"device": processes.device, "processes": processes.count},
        claims=[args.checkpoints or args.record],  # a folder that only one run may write
        processes=processes,
    ) as this:
        tune_model(args, this, processes)


def open_checkpoints(
    args: argparse.Namespace, this: Job, processes: "Processes", log: "Callable[[object], None]"
) -> "Checkpoints | None":
    """The checkpoints in ``--checkpoints`` that have the same settings, inputs and code."""
    from implicit.tuning.checkpoint import Checkpoints
    from implicit.tuning.sharding import from_all

    if not args.checkpoints:
        return None
    inputs, *_ = from_all(this.hashes, processes)  # only the first process has them
    identity = {"settings": plain(args.settings), "inputs": inputs, "code": code_of("tune")}
    identity |= {"precision": this.precision}
    return Checkpoints(args.checkpoints, identity, every=args.checkpoint_steps, processes=processes, log=log)


def tune_model(args: argparse.Namespace, this: Job, processes: "Processes") -> None:
    """Tune, and write the model and its record, from the first process."""
    import torch

    from implicit.tuning.sharding import from_all
    from implicit.tuning.tune import Execution, tune
    from implicit.tuning.tune import Tuning as TuningRun

    settings = args.settings
    log = say if processes.first else (lambda line: None)
    torch.manual_seed(settings.seed)
    tokenizer = load_tokenizer(args.base)
    model = prepare(args, processes)
    conversations = read_table("conversations", args.data)
    rows = render_rows(conversations, tokenizer, settings, context=context_length(model.config))
    found = counts(conversations, rows)
    log(
        f"{found['rows']:,} rows, {found['trained_tokens']:,} trained tokens, "
        f"{found['rows_cut']} rows cut by {found['tokens_cut']:,} tokens"
    )
    size = {"parameters": model.num_parameters() / 1e9, "tokens": args.epochs * sum(len(row.ids) for row in rows)}
    this.reserve(tuning_hours, checkpointing=args.gradient_checkpointing, **size)
    checkpoints = open_checkpoints(args, this, processes, log)
    execution = Execution(
        pad=tokenizer.pad_token_id,
        micro_batch_tokens=args.batch,
        precision=getattr(torch, this.precision),
        gradient_checkpointing=args.gradient_checkpointing,
        compiled=args.compile,
    )
    given = settings.tuning.model_dump() | {"epochs": args.epochs, "seed": settings.seed}
    own = TuningRun(**{field.name: given[field.name] for field in fields(TuningRun)})
    steps = tune(model, rows, own, execution, processes=processes, checkpoints=checkpoints, log=log)
    if checkpoints:
        this.earlier_hours = checkpoints.earlier_seconds / 3600 * processes.count if this.on_gpu else 0.0
    resources = used_by_all(from_all(used(), processes))
    tuned = finish(model, args, processes)
    if tuned is None:
        return
    write_model(tuned, tokenizer, args)
    this.finish(
        f"loss {steps[-1].loss:.4f} after {steps[-1].step} steps",
        outputs={"model": args.model},
        **found,
        tokens=steps[-1].tokens,
        losses=[step.loss for step in steps],
        resumed_at=checkpoints.resumed_at if checkpoints else [],
        gpu_seconds=round(this.gpu_seconds() + 3600 * this.earlier_hours, 2),
        **resources,
    )
    if checkpoints:
        checkpoints.clear()


def counts(conversations: list[dict[str, Any]], rows: list[Rendered]) -> dict[str, int]:
    """The numbers of rows, turns and tokens, and how many of them are not used for training."""
    return {
        "rows": len(rows),
        "rows_cut": sum(bool(row.cut) for row in rows),
        "tokens_cut": sum(row.cut for row in rows),
        "turns": sum(len(row["messages"]) for row in conversations),
        "turns_dropped": sum(unanswered(row["messages"]) for row in conversations),
        "trained_tokens": sum(sum(row.trained) for row in rows),
    }


def write_model(tuned: "PreTrainedModel", tokenizer: Any, args: argparse.Namespace) -> None:
    """Write the tuned model, its tokenizer with the chat template, and its card."""
    chat = args.settings.chat
    tokenizer.chat_template = chat_template(tokenizer, chat)
    card = {"mode": args.settings.mode, "seed": args.settings.seed}
    card |= {"base": args.base, "data": args.data, "epochs": args.epochs}
    save_model(tuned, tokenizer, args.model, card=card, chat=chat)


if __name__ == "__main__":
    from implicit.tuning.checkpoint import Interrupted
    from implicit.tuning.lora import MethodUnavailable
    from implicit.tuning.optimise import NonFiniteLoss
    from implicit.tuning.tune import CompilerMissing, NonFiniteGradient

    errors = (NonFiniteLoss, NonFiniteGradient, Interrupted, MethodUnavailable, CompilerMissing)
    run_stage(
        main,
        *errors,
        if_gpu_is_full="Lower execution.micro_batch_tokens, raise execution.processes, or set "
        "execution.gradient_checkpointing",
    )
