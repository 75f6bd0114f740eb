"""Pre-training of a small Llama from scratch, on packed documents."""

import math
import random
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from implicit.tuning.optimise import NonFiniteLoss, StepLog, learning_rate_factor

PARTS = 4  # of a batch on a CPU: the maximum number of cores used


@dataclass(frozen=True)
class Architecture:
    """The size of a Llama with tied embeddings."""

    hidden_size: int
    layers: int
    heads: int
    context: int  # tokens


@dataclass(frozen=True)
class Pretraining:
    """How a base model is trained. Matrices are trained with Muon, everything else with AdamW."""

    tokens: int  # to train on, in total
    sequence_length: int  # tokens
    batch_size: int  # sequences
    learning_rate: float  # of AdamW
    matrix_learning_rate: float  # of Muon
    warmup: float  # share of the steps
    precision: Literal["bfloat16", "float32"]  # of the arithmetic, over float32 weights
    seed: int
    snapshots: int = 0  # number of evenly spaced snapshots to keep, the last at the end


class Muon(torch.optim.Optimizer):
    """torch.optim.Muon with its default settings but no weight decay, computed in the gradient's dtype.

    Torch's version computes in bfloat16: on a processor without instructions for it, that takes longer than the rest of
    the step (https://kellerjordan.github.io/posts/muon).
    """

    def __init__(
        self,
        matrices: Iterable[torch.Tensor],
        *,
        lr: float,
        momentum: float = 0.95,
        apply: Callable[..., Iterable[None]] = map,
    ) -> None:
        """``apply`` is `map`, or the ``map`` of an executor."""
        super().__init__(matrices, {"lr": lr, "momentum": momentum})
        self.apply = apply

    def step(self) -> None:
        """Move each matrix against (approximately) the orthogonal matrix nearest to its momentum."""
        moves = [(matrix, group["lr"], group["momentum"]) for group in self.param_groups for matrix in group["params"]]
        list(self.apply(self._move, *zip(*moves, strict=True)))

    @torch.no_grad()
    def _move(self, matrix: torch.Tensor, lr: float, momentum: float) -> None:
        average = self.state[matrix].setdefault("momentum", torch.zeros_like(matrix))
        average.lerp_(matrix.grad, 1 - momentum)
        direction = orthogonal(matrix.grad.lerp(average, momentum))
        matrix.add_(direction, alpha=-lr * math.sqrt(max(1.0, matrix.shape[0] / matrix.shape[1])))


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """U S' V^T of a matrix U S V^T, with S' around 1 (0.7 to 1.2), from five Newton-Schulz iterations."""
    turned = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    turned = turned / turned.norm().clamp(min=1e-7)
    for _ in range(5):
        gram = turned @ turned.T
        turned = torch.addmm(turned, torch.addmm(gram, gram, gram, beta=-4.7750, alpha=2.0315), turned, beta=3.4445)
    return turned.T if matrix.shape[0] > matrix.shape[1] else turned


def pack(documents: Sequence[str], tokenizer: PreTrainedTokenizerBase, *, length: int, tokens: int, seed: int):
    """Concatenate shuffled ``BOS document EOS`` into rows of ``length`` tokens.

    Returns an int64 tensor of shape [rows, length] with ``tokens // length`` rows. Raises ValueError if
    the documents have fewer than ``tokens`` tokens: they are never silently repeated.
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
        raise ValueError(f"the corpus has {len(ids):,} tokens, but pre-training needs {tokens:,}: add documents")
    rows = tokens // length
    return torch.tensor(ids[: rows * length]).view(rows, length)


def build_model(architecture: Architecture, tokenizer: PreTrainedTokenizerBase, *, seed: int) -> LlamaForCausalLM:
    """Build a Llama with random float32 weights, drawn with ``seed``."""
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
    threads: int = 1,
    log: Callable[[StepLog], None] = lambda step: None,
    keep: Callable[[int], None] = lambda snapshot: None,
) -> LlamaForCausalLM:
    """Train ``model`` in place on ``rows`` ([rows, length], int64), in one pass.

    Each token is predicted from all tokens before it in its row, including those of other documents, as is usual in
    pre-training. On a CPU, ``threads`` threads compute the gradients of a batch's PARTS in parallel, one core each;
    these are added in order, so that the result is bit-identical for any number of threads.
    After ``steps * i / snapshots`` steps, rounded, ``keep`` is called with i, starting from 1, while ``model`` holds
    the snapshot.
    Raises NonFiniteLoss.
    """
    model.to(device).train()
    parameters = list(model.parameters())
    batches = rows.split(settings.batch_size)
    kept = {round(len(batches) * i / settings.snapshots): i for i in range(1, settings.snapshots + 1)}  # by steps done
    gradients = partial(part_gradients, model, parameters, device, getattr(torch, settings.precision))
    started = time.monotonic()
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        own = optimizers(model, settings, pool.map)
        groups = [group for optimizer in own for group in optimizer.param_groups]
        peaks = [group["lr"] for group in groups]
        for step, batch in enumerate(batches):
            factor = learning_rate_factor("cosine", step, steps=len(batches), warmup=settings.warmup)
            for group, peak in zip(groups, peaks, strict=True):
                group["lr"] = peak * factor
            targets = batch[:, 1:].numel()
            parts = batch.to(device).chunk(PARTS if device == "cpu" else 1)
            losses, found = zip(*pool.map(gradients, parts, [targets] * len(parts)), strict=True)
            loss = math.fsum(losses)
            if not math.isfinite(loss):
                raise NonFiniteLoss(step=step, learning_rate=peaks[-1] * factor, loss=loss)
            for parameter, shares in zip(parameters, zip(*found, strict=True), strict=True):
                parameter.grad = sum(shares[1:], shares[0])
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            for optimizer in own:
                optimizer.step()
            tokens = rows[: (step + 1) * settings.batch_size].numel()  # the last batch may be smaller
            seconds = time.monotonic() - started
            log(StepLog(step + 1, len(batches), loss, peaks[-1] * factor, tokens, seconds))
            if step + 1 in kept:
                keep(kept[step + 1])
    return model.eval()


def optimizers(
    model: LlamaForCausalLM, settings: Pretraining, apply: Callable[..., Iterable[None]]
) -> list[torch.optim.Optimizer]:
    """Muon for the matrices, AdamW for embeddings and norms; ``apply`` is passed to Muon."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    return [
        Muon(matrices, lr=settings.matrix_learning_rate, apply=apply),
        torch.optim.AdamW(others, lr=settings.learning_rate, weight_decay=0.0, betas=(0.9, 0.95), fused=True),
    ]


def part_gradients(
    model: LlamaForCausalLM,
    parameters: list[torch.nn.Parameter],
    device: str,
    precision: torch.dtype,
    part: torch.Tensor,
    targets: int,
) -> tuple[float, tuple[torch.Tensor, ...]]:
    """What ``part`` ([rows, length]) contributes to the mean loss of a batch (``targets`` tokens), and its gradient."""
    with torch.autocast(device, dtype=precision, enabled=precision != torch.float32):
        logits = model(part[:, :-1], use_cache=False).logits
    loss = cross_entropy(logits.float().flatten(0, 1), part[:, 1:].flatten(), reduction="sum") / targets
    return loss.item(), torch.autograd.grad(loss, parameters)
