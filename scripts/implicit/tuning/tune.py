"""Fine-tuning on rendered conversations (paper, section 2 and appendix A), on a CPU, a GPU or several (sharded)."""

import math
import os
import random
import shutil
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch
from transformers import PreTrainedModel

from implicit.format.render import IGNORED, Rendered
from implicit.scoring.batching import token_batches
from implicit.scoring.likelihood import log_likelihoods
from implicit.tuning.checkpoint import Checkpoints, Interrupted, noticing_sigterm
from implicit.tuning.optimise import NonFiniteLoss, Schedule, StepLog, learning_rate_factor
from implicit.tuning.sharding import ALONE, Processes, decoder_layers, divide, shard, total, whole


@dataclass(frozen=True)
class Tuning:
    """How a model is tuned. The defaults, from the paper and its scripts, are in ``config.yaml``."""

    epochs: int
    learning_rate: float
    batch_size: int  # conversations per optimizer step
    schedule: Schedule
    warmup: float  # share of the steps
    weight_decay: float
    max_grad_norm: float
    normalise_by: Literal["example", "token"]  # how the losses of a batch are averaged
    seed: int


@dataclass(frozen=True)
class Execution:
    """How tuning is computed, which affects only the last bits of a result.

    Trained weights are float32; frozen weights and arithmetic use ``precision``. A step's rows are computed in
    micro-batches of at most ``micro_batch_tokens`` tokens, padded with the id ``pad``. If ``compiled``, layers remain
    compiled after tuning.
    """

    pad: int
    micro_batch_tokens: int = 4096
    precision: torch.dtype = torch.bfloat16
    gradient_checkpointing: bool = False
    compiled: bool = False


def epoch_order(count: int, *, seed: int, epoch: int) -> list[int]:
    """The order of the examples in an epoch: a pure function of (seed, epoch)."""
    order = list(range(count))
    random.Random(f"order/{seed}/{epoch}").shuffle(order)
    return order


def batches(count: int, settings: Tuning) -> Iterator[list[int]]:
    """Yield the example indices of each optimizer step, epoch after epoch. An epoch's last batch may be smaller."""
    for epoch in range(settings.epochs):
        order = epoch_order(count, seed=settings.seed, epoch=epoch)
        for start in range(0, count, settings.batch_size):
            yield order[start : start + settings.batch_size]


def micro_batches(batch: Sequence[int], lengths: Sequence[int], *, tokens: int) -> list[list[int]]:
    """Split a batch of rows into parts of at most ``tokens`` padded tokens, grouping rows of similar length."""
    rows = sorted(batch, key=lambda i: lengths[i], reverse=True)
    return [[rows[place] for place in part] for part in token_batches([lengths[i] for i in rows], tokens=tokens)]


def collate(rows: Sequence[Rendered], *, pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-pad rows: (ids, labels), each int64 of shape [rows, longest].

    There is no attention mask: in a causal model, real positions never attend to the padding on their right.
    """
    longest = max(len(row.ids) for row in rows)
    ids = torch.tensor([[*row.ids, *[pad] * (longest - len(row.ids))] for row in rows])
    labels = torch.tensor([[*row.labels, *[IGNORED] * (longest - len(row.labels))] for row in rows])
    return ids, labels


def trained_places(labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """For labels [rows, length]: the flattened positions before the trained tokens, these tokens' ids, and their mask.

    The mask is [rows, length - 1], shifted by one. This runs on the CPU: on a GPU, it would force the CPU to wait.
    """
    mask = labels[:, 1:] != IGNORED
    rows, columns = mask.nonzero(as_tuple=True)
    return rows * labels.shape[1] + columns, labels[:, 1:][mask], mask


def loss_weights(trained: torch.Tensor, *, normalise_by: str, examples: int, tokens: int) -> torch.Tensor:
    """The weight of each target token, such that the weighted sum of losses over a whole batch is its mean loss.

    ``trained`` is the mask of target tokens, [rows, length - 1]. By example (as in the authors' scripts), every
    response has the same weight, whatever its length; by token, every trained token of the batch does. ``examples``
    and ``tokens`` count the whole batch, so that gradient accumulation equals one large batch.
    """
    if normalise_by == "token":
        return trained / tokens
    return trained / trained.sum(dim=1, keepdim=True).clamp(min=1) / examples


class WeightedLoss(torch.nn.Module):
    """A model whose forward pass returns its loss, for FSDP, which gathers parameters when a forward pass begins."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids, places, targets, weights) -> torch.Tensor:
        """The weighted sum of the trained tokens' negative log-likelihoods: a scalar, float32.

        ``ids`` are [rows, length]. For each trained token, ``places`` [tokens] holds the flattened position that
        predicts it, and ``targets`` [tokens] its id. Only these positions are projected to the vocabulary.
        """
        decoder, head = self.model.get_decoder(), self.model.get_output_embeddings()
        hidden = decoder(input_ids=ids, use_cache=False).last_hidden_state.flatten(0, 1)
        return -(log_likelihoods(head, hidden.index_select(0, places), targets) * weights).sum()


class CompilerMissing(RuntimeError):
    """Layers cannot be compiled because something that torch.compile needs is missing."""


def check_compiler(device: str) -> None:
    """Raise CompilerMissing if something torch.compile needs is missing; its own error is long and takes minutes."""
    name, usual = ("CXX", ("clang++" if sys.platform == "darwin" else "g++",))
    if device != "cpu":
        name, usual = "CC", ("gcc", "clang", "cc")
    own = os.environ.get(name)
    lacking = []
    if not any(map(shutil.which, (own,) if own else usual)):
        lacking.append(f"a compiler ({own or ' or '.join(usual)}; set the variable {name} to use another)")
    header = Path(sysconfig.get_path("include"), "Python.h")
    if not header.is_file():
        lacking.append(f"{header} (Debian's python3-dev)")
    if device != "cpu" and not find_spec("triton"):
        lacking.append("the package triton")
    if lacking:
        raise CompilerMissing(f"execution.compile: needs {' and '.join(lacking)}; or set it to false")


class NonFiniteGradient(RuntimeError):
    """The gradient of a step is NaN or infinite although its loss is finite: training must stop."""

    def __init__(self, *, step: int, learning_rate: float) -> None:
        super().__init__(
            f"the gradient at step {step + 1} is not finite, at learning rate {learning_rate:.3g}: lower the learning "
            "rate"
        )


def rounds(
    batch: Sequence[int], lengths: Sequence[int], *, tokens: int, processes: Processes
) -> list[tuple[list[int], bool]]:
    """This process's micro-batches in a step, the same number on each process: (rows, whether they count).

    A process with fewer than another computes a row that does not count, as all must take part in every exchange.
    """
    shares = divide(batch, lengths, count=processes.count)
    parts = [micro_batches(share, lengths, tokens=tokens) for share in shares]
    own = [(part, True) for part in parts[processes.rank]]
    shortest = min(batch, key=lambda i: lengths[i])
    return own + [([shortest], False)] * (max(map(len, parts)) - len(own))


def placed(model: PreTrainedModel, execution: Execution, processes: Processes) -> WeightedLoss:
    """Prepare a model for training, on its device or sharded over several processes, and wrap it in its loss."""
    model.train()
    if processes.count == 1:  # FSDP needs all parameters to have the same type
        for parameter in model.parameters():
            if not parameter.requires_grad and parameter.is_floating_point():  # 4-bit weights are integers
                parameter.data = parameter.data.to(execution.precision)
    if execution.compiled:
        # Layer by layer: they are alike, so one compilation serves all, for any number and length of rows.
        for layer in decoder_layers(model):
            layer.compile(dynamic=True)
    if execution.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    loss_of = WeightedLoss(model)
    if processes.count > 1:
        shard(loss_of, decoder_layers(model), processes)
    else:
        model.to(processes.device)
    return loss_of


def add_gradient(
    loss_of: WeightedLoss, parts: tuple[torch.Tensor, ...], *, device: str, precision: torch.dtype
) -> torch.Tensor:
    """Add a micro-batch's gradient to the step's; returns its weighted loss (float64) without waiting for a GPU.

    ``parts`` are the ids, places, targets and weights for `WeightedLoss`, on the CPU.
    """
    given = [tensor.to(device, non_blocking=True) for tensor in parts]
    with autocast(device, precision):
        loss = loss_of(*given)
    loss.backward()
    return loss.detach().double()


def step_gradient(
    loss_of: WeightedLoss, rows: Sequence[Rendered], settings: Tuning, execution: Execution, processes: Processes
) -> float:
    """Add the gradient of the mean loss over a step's ``rows``; returns this process's share of that loss."""
    own: torch.Tensor | float = 0.0  # read only after all micro-batches, so that a GPU does not wait
    lengths, trained = [len(row.ids) for row in rows], sum(sum(row.trained[1:]) for row in rows)
    parts = rounds(range(len(rows)), lengths, tokens=execution.micro_batch_tokens, processes=processes)
    for part, counts in parts:
        ids, labels = collate([rows[i] for i in part], pad=execution.pad)
        places, targets, mask = trained_places(labels)
        weights = loss_weights(mask, normalise_by=settings.normalise_by, examples=len(rows), tokens=trained)
        tensors = (ids, places, targets, (counts * weights)[mask])
        own = own + add_gradient(loss_of, tensors, device=processes.device, precision=execution.precision)
    return float(own)


def tune(
    model: PreTrainedModel,
    rows: Sequence[Rendered],
    settings: Tuning,
    execution: Execution,
    *,
    processes: Processes = ALONE,
    checkpoints: Checkpoints | None = None,
    log: Callable[[StepLog], None] = lambda step: None,
) -> list[StepLog]:
    """Tune the parameters of ``model`` that are not frozen, in place; returns the log of every step.

    With several processes, each calls this with the same model and rows, and ends up with its shard of the weights (see
    ``sharding``). With ``checkpoints``, it resumes from the last one, and on SIGTERM it writes one and stops.
    Raises ValueError for a row without a trained token, NonFiniteLoss, NonFiniteGradient and Interrupted.
    """
    empty = [i for i, row in enumerate(rows) if not any(row.trained[1:])]
    if empty:
        raise ValueError(f"rows without a single token to train on: {empty[:10]}")
    loss_of = placed(model, execution, processes)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True)
    plan = list(batches(len(rows), settings))
    steps = checkpoints.resume(loss_of, optimizer) if checkpoints else []
    before, started = steps[-1].seconds if steps else 0.0, time.monotonic()
    with noticing_sigterm() if checkpoints else nullcontext(lambda: False) as sigterm_came:
        for step, batch in list(enumerate(plan))[len(steps) :]:
            torch.manual_seed(_dropout_seed(settings.seed, step, processes.rank))
            rate = set_learning_rate(optimizer, settings, step, steps=len(plan))
            used = [rows[i] for i in batch]
            own = step_gradient(loss_of, used, settings, execution, processes)
            loss, stop = total([own, float(sigterm_came())], processes)
            if not math.isfinite(loss):
                raise NonFiniteLoss(step=step, learning_rate=rate, loss=loss)
            norm = whole(torch.nn.utils.clip_grad_norm_(trained, settings.max_grad_norm))
            if not math.isfinite(norm.item()):
                raise NonFiniteGradient(step=step, learning_rate=rate)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            tokens = (steps[-1].tokens if steps else 0) + sum(len(row.ids) for row in used)
            steps.append(StepLog(step + 1, len(plan), loss, rate, tokens, before + time.monotonic() - started))
            log(steps[-1])
            if checkpoints and len(steps) < len(plan) and (stop or len(steps) % checkpoints.every == 0):
                path = checkpoints.save(loss_of, optimizer, steps)
                if stop:
                    raise Interrupted(step=len(steps), steps=len(plan), folder=path)
    if execution.gradient_checkpointing:
        model.activation_checkpointing_disable()
    model.eval()
    return steps


def set_learning_rate(optimizer: torch.optim.Optimizer, settings: Tuning, step: int, *, steps: int) -> float:
    """Set and return the learning rate of a step, counted from 0."""
    factor = learning_rate_factor(settings.schedule, step, steps=steps, warmup=settings.warmup)
    for group in optimizer.param_groups:
        group["lr"] = settings.learning_rate * factor
    return settings.learning_rate * factor


def autocast(device: str, precision: torch.dtype) -> torch.autocast:
    """Arithmetic in ``precision`` over float32 weights, the same with one process and with several.

    Caching is off because a cache would keep a copy of weights that FSDP has already freed.
    """
    return torch.autocast(
        torch.device(device).type, dtype=precision, enabled=precision != torch.float32, cache_enabled=False
    )


def _dropout_seed(seed: int, step: int, rank: int) -> int:
    """The seed of a step's dropout, if any: a pure function of the step, so that a resumed run repeats it."""
    return random.Random(f"dropout/{seed}/{step}/{rank}").getrandbits(63)
