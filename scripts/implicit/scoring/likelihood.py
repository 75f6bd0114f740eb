"""Log-likelihoods of tokens, without holding the logits of all positions in memory at once."""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import cross_entropy, linear
from torch.utils.checkpoint import checkpoint

AT_A_TIME = 2**25  # logits, in float32: 128 MiB; with 2**24, adapters on Gemma 3 270M took 1.1 times as long


def log_likelihoods(head: torch.nn.Module, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The log-likelihood (nats, float32) of each target [n] under the ``head`` applied to hidden states [n, width].

    At most AT_A_TIME logits are held at a time, whatever n and the vocabulary size; if there are more, they are
    computed in parts. If the head is trained, they are recomputed for the gradient; if it is frozen, as with adapters,
    the gradient comes from the same pass.
    """
    vocabulary = head.weight.shape[0]
    rows = max(1, AT_A_TIME // vocabulary)

    if len(targets) <= rows:
        return -cross_entropy(head(hidden).float(), targets, reduction="none")
    parts = zip(hidden.split(rows), targets.split(rows), strict=True)
    if not torch.is_grad_enabled() or not isinstance(head, torch.nn.Linear):
        return torch.cat([_recomputed(head, *part) for part in parts])
    # The weights are cast once, not for each part: casting 262,144 rows takes longer than the product with 64 of them.
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
    weight, bias = head.weight.to(dtype), None if head.bias is None else head.bias.to(dtype)
    if not head.weight.requires_grad:
        return _FrozenHead.apply(hidden.to(dtype), weight, bias, targets, rows)
    return torch.cat([_recomputed(lambda states: linear(states, weight, bias), *part) for part in parts])


def _recomputed(head: Callable[[torch.Tensor], torch.Tensor], hidden: torch.Tensor, targets: torch.Tensor):
    """Log-likelihoods [n] of a part, whose logits are recomputed for the gradient, if there is one."""

    def of_part(states: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        return -cross_entropy(head(states).float(), chosen, reduction="none")

    if not torch.is_grad_enabled():
        return of_part(hidden, targets)
    return checkpoint(of_part, hidden, targets, use_reentrant=False)


class _FrozenHead(torch.autograd.Function):
    """Log-likelihoods [n] under a head that is not trained.

    Each depends only on its own hidden state, so its gradient can be computed before the loss is known: the target's
    row of the weights minus the probability-weighted mean of the rows.
    """

    @staticmethod
    def forward(ctx: Any, hidden, weight, bias, targets, rows) -> torch.Tensor:
        found = hidden.new_empty(len(targets), dtype=torch.float32)
        slope = torch.empty_like(hidden)
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(targets), rows):
                part = slice(start, start + rows)
                logits = linear(hidden[part], weight, bias).float()
                total = logits.logsumexp(dim=-1, keepdim=True)
                found[part] = (logits.gather(1, targets[part, None]) - total).squeeze(1)
                probabilities = logits.sub_(total).exp_().to(weight.dtype)
                slope[part] = weight[targets[part]] - probabilities @ weight
        ctx.save_for_backward(slope)
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None, None, None]:
        (slope,) = ctx.saved_tensors
        return (gradients[0].unsqueeze(1) * slope).to(slope.dtype), None, None, None, None
