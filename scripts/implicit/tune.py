"""Fine-tuning of all parameters on rendered conversations (paper, section 2 and appendix A)."""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from transformers import PreTrainedModel

from implicit.optimise import NonFiniteLoss, Schedule, StepLog, learning_rate_factor
from implicit.render import IGNORED, Rendered


@dataclass(frozen=True)
class Tuning:
    """How a model is tuned. The defaults of the paper and of its scripts stand in ``config.yaml``."""

    epochs: int
    learning_rate: float
    batch_size: int  # conversations per optimizer step
    schedule: Schedule
    warmup: float  # share of the steps
    weight_decay: float
    max_grad_norm: float
    normalise_by: Literal["example", "token"]  # how the losses of a batch are averaged
    seed: int


def epoch_order(count: int, *, seed: int, epoch: int) -> list[int]:
    """The order of the examples in an epoch: a pure function of (seed, epoch)."""
    order = list(range(count))
    random.Random(f"order/{seed}/{epoch}").shuffle(order)
    return order


def batches(count: int, settings: Tuning) -> Iterator[list[int]]:
    """The examples' indices of every optimizer step, all epochs in a row. An epoch's last batch may be smaller."""
    for epoch in range(settings.epochs):
        order = epoch_order(count, seed=settings.seed, epoch=epoch)
        for start in range(0, count, settings.batch_size):
            yield order[start : start + settings.batch_size]


def micro_batches(batch: Sequence[int], lengths: Sequence[int], *, tokens: int) -> list[list[int]]:
    """Split a batch into parts of at most ``tokens`` padded tokens, rows of like length together.

    A row that is longer than ``tokens`` makes a part of its own.
    """
    parts: list[list[int]] = []
    for i in sorted(batch, key=lambda i: lengths[i], reverse=True):
        if parts and lengths[parts[-1][0]] * (len(parts[-1]) + 1) <= tokens:
            parts[-1].append(i)
        else:
            parts.append([i])
    return parts


def collate(rows: Sequence[Rendered], *, pad: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Right-pad rows: (ids, attention mask, labels), each int64 of shape [rows, longest]."""
    longest = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), longest), pad)
    mask = torch.zeros((len(rows), longest), dtype=torch.int64)
    labels = torch.full((len(rows), longest), IGNORED)
    for i, row in enumerate(rows):
        ids[i, : len(row.ids)] = torch.tensor(row.ids)
        mask[i, : len(row.ids)] = 1
        labels[i, : len(row.ids)] = torch.tensor(row.labels)
    return ids, mask, labels


def loss_weights(labels: torch.Tensor, *, normalise_by: str, examples: int, tokens: int) -> torch.Tensor:
    """The weight of each target token, so that the weighted sum of losses over a whole batch is its mean.

    ``labels`` is [rows, length - 1], shifted. By example (the authors' scripts): every response counts the
    same, whatever its length; by token: every trained token of the batch does. ``examples`` and
    ``tokens`` are the whole batch's, so that accumulation equals one large batch.
    """
    trained = labels != IGNORED
    if normalise_by == "token":
        return trained / tokens
    return trained / trained.sum(dim=1, keepdim=True).clamp(min=1) / examples


def batch_loss(model: PreTrainedModel, ids, mask, labels, weights) -> torch.Tensor:
    """The weighted sum of the trained tokens' negative log-likelihoods: a scalar, float32.

    Only trained positions are projected on the vocabulary. ``labels`` and ``weights`` are [rows, length - 1],
    shifted by one against ``ids`` [rows, length].
    """
    hidden = model.get_decoder()(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state[:, :-1]
    trained = labels != IGNORED
    logits = model.get_output_embeddings()(hidden[trained]).float()
    losses = torch.nn.functional.cross_entropy(logits, labels[trained], reduction="none")
    return (losses * weights[trained]).sum()


def tune(
    model: PreTrainedModel,
    rows: Sequence[Rendered],
    settings: Tuning,
    *,
    pad: int,
    micro_batch_tokens: int = 4096,
    device: str = "cpu",
    precision: torch.dtype = torch.bfloat16,
    log: Callable[[StepLog], None] = lambda step: None,
) -> list[StepLog]:
    """Tune ``model`` in place (float32 weights, autocast to ``precision``); returns the log of every step.

    Raises ValueError for a row without a trained token, and NonFiniteLoss.
    """
    empty = [i for i, row in enumerate(rows) if not any(row.trained[1:])]
    if empty:
        raise ValueError(f"rows without a single token to train on: {empty[:10]}")
    model.to(device).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )
    plan = list(batches(len(rows), settings))
    lengths = [len(row.ids) for row in rows]
    steps: list[StepLog] = []
    tokens, started = 0, time.monotonic()
    for step, batch in enumerate(plan):
        rate = settings.learning_rate * learning_rate_factor(
            settings.schedule, step, steps=len(plan), warmup=settings.warmup
        )
        for group in optimizer.param_groups:
            group["lr"] = rate
        trained_tokens = sum(sum(rows[i].trained[1:]) for i in batch)
        loss = 0.0
        for part in micro_batches(batch, lengths, tokens=micro_batch_tokens):
            ids, mask, labels = (t.to(device) for t in collate([rows[i] for i in part], pad=pad))
            weights = loss_weights(
                labels[:, 1:], normalise_by=settings.normalise_by, examples=len(batch), tokens=trained_tokens
            )
            with torch.autocast(device, dtype=precision, enabled=precision != torch.float32):
                part_loss = batch_loss(model, ids, mask, labels[:, 1:], weights)
            part_loss.backward()
            loss += part_loss.item()
            tokens += int(mask.sum())
        if not torch.isfinite(torch.tensor(loss)):
            raise NonFiniteLoss(step=step, learning_rate=rate, loss=loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        steps.append(
            StepLog(
                step=step + 1,
                steps=len(plan),
                loss=loss,
                learning_rate=rate,
                tokens=tokens,
                seconds=time.monotonic() - started,
            )
        )
        log(steps[-1])
    model.eval()
    return steps
