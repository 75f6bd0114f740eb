"""Log-likelihoods of tokens, without ever holding logits for all positions at once."""

from collections.abc import Callable

import torch
from torch.utils.checkpoint import checkpoint

AT_A_TIME = 2**24  # logits, in float32: 64 MiB


def log_likelihoods(
    head: Callable[[torch.Tensor], torch.Tensor], hidden: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """The log-likelihood (nats, float32) of each target [n] from the ``head`` applied to hidden states [n, width].

    At most AT_A_TIME logits are held at a time, whatever n and the vocabulary size: if there are more, they are
    computed in parts, and recomputed for the gradient.
    """
    vocabulary = head.weight.shape[0]
    rows = max(1, AT_A_TIME // vocabulary)

    def of_part(states: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        return -torch.nn.functional.cross_entropy(head(states).float(), chosen, reduction="none")

    if len(targets) <= rows:
        return of_part(hidden, targets)
    parts = zip(hidden.split(rows), targets.split(rows), strict=True)
    if not torch.is_grad_enabled():
        return torch.cat([of_part(*part) for part in parts])
    return torch.cat([checkpoint(of_part, *part, use_reentrant=False) for part in parts])
