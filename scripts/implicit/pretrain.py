"""Pre-training of a small Llama from nothing, on packed documents."""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from implicit.optimise import NonFiniteLoss, StepLog, learning_rate_factor


@dataclass(frozen=True)
class Architecture:
    """The size of a Llama with tied embeddings."""

    hidden_size: int
    layers: int
    heads: int
    context: int  # tokens


@dataclass(frozen=True)
class Pretraining:
    """How a base model is trained. Matrices are trained by Muon, all else by AdamW."""

    tokens: int  # to train on, in all
    sequence_length: int  # tokens
    batch_size: int  # sequences
    learning_rate: float  # of AdamW
    matrix_learning_rate: float  # of Muon
    warmup: float  # share of the steps
    seed: int


def pack(documents: Sequence[str], tokenizer: PreTrainedTokenizerBase, *, length: int, tokens: int, seed: int):
    """Concatenate shuffled ``BOS document EOS`` into rows of ``length`` tokens.

    Returns an int64 tensor of shape [rows, length] with ``tokens // length`` rows. Raises ValueError when
    the documents hold fewer tokens: nothing is read twice without being asked for.
    """
    order = list(documents)
    random.Random(seed).shuffle(order)
    ids: list[int] = []
    for start in range(0, len(order), 1000):
        for encoded in tokenizer(order[start : start + 1000], add_special_tokens=False)["input_ids"]:
            ids += [tokenizer.bos_token_id, *encoded, tokenizer.eos_token_id]
        if len(ids) >= tokens:
            break
    if len(ids) < tokens:
        raise ValueError(f"the corpus holds {len(ids):,} tokens, but pre-training asks for {tokens:,}: add documents")
    rows = tokens // length
    return torch.tensor(ids[: rows * length]).view(rows, length)


def build_model(architecture: Architecture, tokenizer: PreTrainedTokenizerBase, *, seed: int) -> LlamaForCausalLM:
    """A Llama with random weights, drawn from ``seed``, in float32."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=architecture.hidden_size,
        intermediate_size=round(architecture.hidden_size * 8 / 3 / 64) * 64,
        num_hidden_layers=architecture.layers,
        num_attention_heads=architecture.heads,
        max_position_embeddings=architecture.context,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def pretrain(
    model: LlamaForCausalLM,
    rows: torch.Tensor,
    settings: Pretraining,
    *,
    device: str = "cpu",
    log: Callable[[StepLog], None] = lambda step: None,
) -> LlamaForCausalLM:
    """Train ``model`` in place on ``rows`` ([rows, length], int64), once through, in bfloat16 autocast.

    Each token is predicted from those before it in its row, documents of the same row included, as is
    usual in pre-training. Raises NonFiniteLoss.
    """
    model.to(device).train()
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    optimizers = [
        torch.optim.Muon(matrices, lr=settings.matrix_learning_rate, weight_decay=0.0),
        torch.optim.AdamW(others, lr=settings.learning_rate, weight_decay=0.0, betas=(0.9, 0.95)),
    ]
    peaks = [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]
    batches = rows.split(settings.batch_size)
    started = time.monotonic()
    for step, batch in enumerate(batches):
        factor = learning_rate_factor("cosine", step, steps=len(batches), warmup=settings.warmup)
        for group, peak in zip((g for o in optimizers for g in o.param_groups), peaks, strict=True):
            group["lr"] = peak * factor
        batch = batch.to(device)
        with torch.autocast(device, dtype=torch.bfloat16):
            logits = model(batch[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())
        if not torch.isfinite(loss):
            raise NonFiniteLoss(step=step, learning_rate=peaks[-1] * factor, loss=loss.item())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        log(
            StepLog(
                step=step + 1,
                steps=len(batches),
                loss=loss.item(),
                learning_rate=peaks[-1] * factor,
                tokens=(step + 1) * batch.numel(),
                seconds=time.monotonic() - started,
            )
        )
    return model.eval()
