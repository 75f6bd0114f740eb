"""The cost of tuning: how far a tuned model has drifted from its base model on text that neither was tuned on."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from implicit.progress import Progress
from implicit.scoring.batching import token_batches
from implicit.scoring.rank import score_responses

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

Question = tuple[Sequence[int], Sequence[Sequence[int]]]  # the ids of a prompt, and of each candidate value


@dataclass(frozen=True)
class Drift:
    """Sums over the ``tokens`` of a document after its first: log-probabilities and KL(base || tuned), in nats."""

    tokens: int
    base_logprob: float
    tuned_logprob: float
    kl: float


def measure_drift(
    base: "PreTrainedModel",
    tuned: "PreTrainedModel",
    documents: Sequence[Sequence[int]],
    *,
    pad: int,
    batch_tokens: int,
    device: str = "cpu",
    log: Callable[[str], None] = lambda line: None,
) -> list[Drift]:
    """Score the token ids of documents with both models, in the given order; the first token of each is not scored.

    Batches hold at most ``batch_tokens`` padded tokens, longest documents first, or a single longer document. KL is
    over the whole vocabulary; logits are held for only part of the positions at a time, in float32.
    """
    import torch

    order = sorted(range(len(documents)), key=lambda i: len(documents[i]), reverse=True)
    found: dict[int, Drift] = {}
    progress = Progress(len(documents), "documents", log=log)
    with torch.inference_mode():
        for batch in token_batches([len(documents[i]) for i in order], tokens=batch_tokens):
            chosen = [documents[order[i]] for i in batch]
            width = len(chosen[0])
            if width < 2:  # there is nothing to score
                found.update({order[i]: Drift(0, 0.0, 0.0, 0.0) for i in batch})
                progress.advance(len(batch))
                continue
            ids = torch.tensor([[*row, *[pad] * (width - len(row))] for row in chosen], device=device)
            mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in chosen], device=device)
            real = mask[:, 1:].bool()
            states = [m.get_decoder()(input_ids=ids, attention_mask=mask).last_hidden_state for m in (base, tuned)]
            sums = _compared(base, tuned, *(state[:, :-1][real] for state in states), ids[:, 1:][real])
            parts = sums.split([max(0, len(row) - 1) for row in chosen])
            for i, part in zip(batch, parts, strict=True):
                found[order[i]] = Drift(len(part), *part.double().sum(dim=0).tolist())
            progress.advance(len(batch))
    return [found[i] for i in range(len(documents))]


def _compared(
    base: "PreTrainedModel",
    tuned: "PreTrainedModel",
    base_states: "torch.Tensor",
    tuned_states: "torch.Tensor",
    targets: "torch.Tensor",
) -> "torch.Tensor":
    """Log-probabilities under base and tuned model, and KL, [n, 3], from hidden states [n, width] and targets [n]."""
    import torch

    from implicit.scoring.likelihood import AT_A_TIME

    heads = [model.get_output_embeddings() for model in (base, tuned)]
    rows = max(1, AT_A_TIME // (2 * heads[0].weight.shape[0]))
    parts = []
    for before, after, chosen in zip(*(t.split(rows) for t in (base_states, tuned_states, targets)), strict=True):
        p, q = (head(s).float().log_softmax(dim=-1) for head, s in zip(heads, (before, after), strict=True))
        scores = [logprobs.gather(1, chosen[:, None])[:, 0] for logprobs in (p, q)]
        parts.append(torch.stack([*scores, (p.exp() * (p - q)).sum(dim=-1)], dim=1))
    return torch.cat(parts)


def recalled(
    model: "PreTrainedModel",
    questions: Sequence[Question],
    *,
    pad: int,
    batch_tokens: int,
    device: str = "cpu",
    log: Callable[[str], None] = lambda line: None,
) -> list[int]:
    """For each question, the index of the value with the highest total log-probability; the first one if tied."""
    pairs = [(prompt, value) for prompt, values in questions for value in values]
    scores = iter(score_responses(model, pairs, pad=pad, batch_tokens=batch_tokens, device=device, log=log))
    found = []
    for _, values in questions:
        own = [next(scores).logprob for _ in values]
        found.append(own.index(max(own)))
    return found


def summarise(documents: Sequence[dict[str, Any]], facts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Perplexities, KL(base || tuned) per token in nats, and the shares of facts recalled, in [0, 1], by form.

    ``documents`` are the rows of a drift table, ``facts`` those of a recall table. Raises ValueError if no token was
    scored.
    """
    tokens = sum(row["tokens"] for row in documents)
    if not tokens:
        raise ValueError("no document has more than one token, so there is nothing to score")
    summary: dict[str, Any] = {"documents": len(documents), "tokens": tokens}
    summary["cut"] = sum(row["cut"] for row in documents)
    for side in ("base", "tuned"):
        summary[f"{side}_perplexity"] = math.exp(-sum(row[f"{side}_logprob"] for row in documents) / tokens)
    summary["kl"] = sum(row["kl"] for row in documents) / tokens
    summary["recall"] = {}
    for form in sorted({row["form"] for row in facts}):
        rows = [row for row in facts if row["form"] == form]
        shares = {side: sum(row[side] == row["right"] for row in rows) / len(rows) for side in ("base", "tuned")}
        summary["recall"][form] = shares | {
            "facts": len(rows),
            "chance": sum(1 / row["rivals"] for row in rows) / len(rows),
        }
    return summary
