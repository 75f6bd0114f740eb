"""Batched greedy generation with a key-value cache and, optionally, the rule adapter."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from implicit.generation.cache import growing_cache
from implicit.generation.rules import RuleAdapter
from implicit.progress import Progress


@dataclass(frozen=True)
class Limits:
    """When responses end: at the id ``eos``, after ``max_new_tokens``, or at the end of the ``context`` (in tokens).

    Shorter prompts in a batch are padded with the id ``pad``.
    """

    eos: int
    pad: int
    max_new_tokens: int
    context: int


@dataclass(frozen=True)
class Response:
    """Generated ids, without EOS, and whether the model stopped by itself."""

    ids: list[int]
    stopped: bool


def generate(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    limits: Limits,
    *,
    batch_size: int,
    adapter: RuleAdapter | None = None,
    adapter_prompts: Sequence[Sequence[int]] | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> list[Response]:
    """Generate a response to every prompt (token ids), in the given order, on the model's device.

    Prompts of similar length are batched together. ``adapter_prompts`` are the parts of the prompts that count for the
    rule adapter's wide diversity scope (see RuleAdapter.start). In float32 the result does not depend on the batching.
    """
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    responses: dict[int, Response] = {}
    progress = Progress(len(prompts), "responses", log=log)
    for start in range(0, len(order), batch_size):
        chunk = order[start : start + batch_size]
        if adapter is not None:
            adapter.start([(adapter_prompts or prompts)[i] for i in chunk], model.device)
        batch = _generate_batch(model, [prompts[i] for i in chunk], limits, adapter)
        responses.update(zip(chunk, batch, strict=True))
        progress.advance(len(batch))
    return [responses[i] for i in range(len(prompts))]


@torch.inference_mode()
def _generate_batch(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], limits: Limits, adapter: RuleAdapter | None
) -> list[Response]:
    """Generate responses to one left-padded batch. Rows that have stopped or filled the context are removed from it.

    They are removed once they make up an eighth of it: before that, computing them costs less than copying the others.
    """
    device, longest = model.device, max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[limits.pad] * (longest - len(p)) + list(p) for p in prompts], device=device)
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    cache = growing_cache(model.config)
    rows = list(range(len(prompts)))  # which response each row of the batch belongs to
    alive = torch.ones(len(prompts), dtype=torch.bool, device=device)
    generated: list[list[int]] = [[] for _ in prompts]
    stopped = [False] * len(prompts)
    chosen: torch.Tensor | None = None
    for _ in range(limits.max_new_tokens):
        outputs = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits = outputs.logits[:, -1].float()
        if adapter is not None:
            logits = adapter.add_scores(logits, chosen)
        chosen = logits.argmax(dim=-1)
        for row, token, goes_on in zip(rows, chosen.tolist(), alive.tolist(), strict=True):
            if goes_on and token == limits.eos:
                stopped[row] = True
            elif goes_on:
                generated[row].append(token)
        alive &= (chosen != limits.eos) & (positions[:, -1] + 2 < limits.context)
        left = int(alive.sum())
        if not left:
            break
        positions = positions[:, -1:]
        if left <= 7 * len(rows) / 8:
            kept = alive.nonzero().flatten()
            rows = [rows[i] for i in kept.tolist()]
            chosen, mask, positions, alive = chosen[kept], mask[kept], positions[kept], alive[kept]
            cache.batch_select_indices(kept)
            if adapter is not None:
                adapter.keep(kept)
        ids = chosen[:, None]
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
        positions = positions + alive[:, None]  # unchanged for finished rows, so it stays within the context
    return [Response(tokens, stop) for tokens, stop in zip(generated, stopped, strict=True)]
