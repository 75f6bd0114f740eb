"""Response ranking: is the true response to an instruction more likely than another one's (equation 3)?"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Score:
    """The log-probability (nats) of a response given its prompt, summed over ``tokens`` tokens, EOS included."""

    logprob: float
    tokens: int


def draw_others(count: int, *, others: int, seed: int) -> list[list[int]]:
    """For each of ``count`` instructions, which other instructions' responses compete: ``others`` each, all different.

    The authors' script draws with replacement and may draw the true response itself; this does neither.
    """
    if not 0 < others < count:
        raise ValueError(f"cannot draw {others} other responses from {count} instructions: give 1 to {count - 1}")
    rng = random.Random(f"ranking/{seed}")
    return [rng.sample([j for j in range(count) if j != i], others) for i in range(count)]


def score_responses(
    model: "PreTrainedModel",
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
    *,
    pad: int,
    batch_tokens: int,
    device: str = "cpu",
) -> list[Score]:
    """Score (prompt ids, response ids) pairs, in the given order.

    Batches hold at most ``batch_tokens`` padded tokens, longest pairs first. Only the responses' positions are
    projected on the vocabulary, in float32.
    """
    import torch

    order = sorted(range(len(pairs)), key=lambda i: len(pairs[i][0]) + len(pairs[i][1]), reverse=True)
    batches: list[list[int]] = []
    for i in order:
        longest = sum(map(len, pairs[batches[-1][0]])) if batches else 0
        if batches and longest * (len(batches[-1]) + 1) <= batch_tokens:
            batches[-1].append(i)
        else:
            batches.append([i])
    scores: dict[int, Score] = {}
    with torch.inference_mode():
        for batch in batches:
            longest = sum(map(len, pairs[batch[0]]))
            ids = torch.full((len(batch), longest), pad)
            mask = torch.zeros((len(batch), longest), dtype=torch.int64)
            target = torch.zeros((len(batch), longest), dtype=torch.bool)  # positions of response tokens
            for row, i in enumerate(batch):
                prompt, response = pairs[i]
                length = len(prompt) + len(response)
                ids[row, :length] = torch.tensor([*prompt, *response])
                mask[row, :length] = 1
                target[row, len(prompt) : length] = True
            ids, mask, target = ids.to(device), mask.to(device), target.to(device)
            hidden = model.get_decoder()(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
            logits = model.get_output_embeddings()(hidden[:, :-1][target[:, 1:]]).float()
            chosen = logits.gather(1, ids[target][:, None]).squeeze(1) - logits.logsumexp(dim=-1)
            parts = chosen.split([len(pairs[i][1]) for i in batch])
            for i, part in zip(batch, parts, strict=True):
                scores[i] = Score(part.double().sum().item(), len(part))
    return [scores[i] for i in range(len(pairs))]


def ranking_capability(rows: Sequence[dict[str, Any]], *, bootstrap: int, seed: int) -> dict[str, Any]:
    """The share of pairs in which the true response scores higher, by whole sequence and per token.

    ``rows`` are those of a ranking table. Ties are counted apart and are no success. The interval (95 %) is a
    bootstrap over instructions, since pairs of one instruction are not independent. Shares are in [0, 1].
    """
    instructions = sorted({row["id"] for row in rows})
    place = {id_: i for i, id_ in enumerate(instructions)}
    owner = np.array([place[row["id"]] for row in rows])
    true = np.array([[row["true_logprob"], row["true_logprob"] / row["true_tokens"]] for row in rows])
    other = np.array([[row["other_logprob"], row["other_logprob"] / row["other_tokens"]] for row in rows])
    pairs = np.bincount(owner)
    draws = np.random.default_rng(seed).integers(len(pairs), size=(bootstrap, len(pairs)))
    result: dict[str, Any] = {"instructions": len(instructions), "pairs": len(rows)}
    for column, name in enumerate(("sequence", "token")):
        won = true[:, column] > other[:, column]
        won_by_instruction = np.bincount(owner, weights=won)
        means = won_by_instruction[draws].sum(axis=1) / pairs[draws].sum(axis=1)
        low, high = np.quantile(means, [0.025, 0.975])
        result[name] = {
            "capability": float(won.mean()),
            "ties": float((true[:, column] == other[:, column]).mean()),
            "low": float(low),
            "high": float(high),
        }
    return result
