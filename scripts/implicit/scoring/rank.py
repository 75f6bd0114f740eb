"""Response ranking: is the true response to an instruction more likely than another one's (equation 3)?"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from implicit.measuring.intervals import mean_interval
from implicit.progress import Progress
from implicit.scoring.batching import token_batches

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SCORES = ("sequence", "token")  # compared by the sum of log-probabilities (equation 3), or by their mean per token


@dataclass(frozen=True)
class Score:
    """The log-probability (nats) of a response given its prompt, summed over ``tokens`` tokens, EOS included.

    ``eos`` is the log-probability of the last token alone, which is EOS if a whole response is scored.
    """

    logprob: float
    tokens: int
    eos: float


def draw_others(count: int, *, others: int, seed: int) -> list[list[int]]:
    """For each of ``count`` instructions, draw ``others`` distinct other instructions whose responses compete.

    The authors' script draws with replacement and may draw the true response itself; this does neither.
    """
    if not 0 < others < count:
        raise ValueError(f"cannot draw {others} other responses from {count} instructions: use 1 to {count - 1}")
    rng = random.Random(f"ranking/{seed}")
    return [rng.sample([j for j in range(count) if j != i], others) for i in range(count)]


def draw_among(pools: Sequence[Sequence[int]], *, others: int, name: str, seed: int) -> list[list[int]]:
    """For each instruction, draw ``others`` distinct ones from its pool, in random order; all if it has fewer.

    ``name`` is the kind of draw: different kinds are independent for the same ``seed``.
    """
    rng = random.Random(f"ranking/{name}/{seed}")
    return [rng.sample(list(pool), min(others, len(pool))) for pool in pools]


def score_responses(
    model: "PreTrainedModel",
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
    *,
    pad: int,
    batch_tokens: int,
    device: str = "cpu",
    log: Callable[[str], None] = lambda line: None,
) -> list[Score]:
    """Score (prompt ids, response ids) pairs, in the given order. The last token of a response is not fed to the model.

    Each prompt is processed once, however many responses it has; they reuse its keys and values. Batches hold at most
    ``batch_tokens`` padded tokens, longest first, or a single longer row. Only the responses' positions are projected
    onto the vocabulary, in float32.
    """
    import torch

    by_prompt: dict[tuple[int, ...], list[int]] = {}
    for i, (prompt, _) in enumerate(pairs):
        by_prompt.setdefault(tuple(prompt), []).append(i)
    scores: dict[int, Score] = {}
    progress = Progress(len(pairs), "responses", log=log)
    prompts = sorted(by_prompt, key=len, reverse=True)
    with torch.inference_mode():
        for batch in token_batches([len(prompt) for prompt in prompts], tokens=batch_tokens):
            read = [prompts[i] for i in batch]
            owner = {pair: row for row, prompt in enumerate(read) for pair in by_prompt[prompt]}
            scored = _score_batch(
                model,
                read,
                [(owner[i], pairs[i][1]) for i in owner],
                pad=pad,
                batch_tokens=batch_tokens,
                device=device,
                done=progress.advance,
            )
            scores.update(zip(owner, scored, strict=True))
    return [scores[i] for i in range(len(pairs))]


def _score_batch(
    model: "PreTrainedModel",
    prompts: Sequence[Sequence[int]],
    responses: Sequence[tuple[int, Sequence[int]]],
    *,
    pad: int,
    batch_tokens: int,
    device: str,
    done: Callable[[int], None],
) -> list[Score]:
    """Score (row of the prompt, response ids), in the given order. Prompts are left-padded, responses right-padded.

    ``done`` is called with the number of responses in each batch.
    """
    import torch

    from implicit.generation.cache import growing_cache, taken
    from implicit.scoring.likelihood import log_likelihoods

    decoder, head = model.get_decoder(), model.get_output_embeddings()
    longest = max(map(len, prompts))
    ids = torch.tensor([[pad] * (longest - len(p)) + list(p) for p in prompts], device=device)
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=device)
    cache = growing_cache(model.config)
    read = decoder(
        input_ids=ids,
        attention_mask=mask,
        position_ids=(mask.cumsum(1) - 1).clamp(min=0),
        past_key_values=cache,
        use_cache=True,
    )
    ends = read.last_hidden_state[:, -1:]
    scores: dict[int, Score] = {}
    order = sorted(range(len(responses)), key=lambda i: len(responses[i][1]), reverse=True)
    for batch in token_batches([longest + len(responses[i][1]) for i in order], tokens=batch_tokens):
        chosen = [responses[order[i]] for i in batch]
        rows = torch.tensor([row for row, _ in chosen], device=device)
        width = len(chosen[0][1])
        targets = torch.tensor([[*r, *[pad] * (width - len(r))] for _, r in chosen], device=device)
        real = torch.tensor([[True] * len(r) + [False] * (width - len(r)) for _, r in chosen], device=device)
        hidden = ends[rows]
        if width > 1:
            past = mask[rows]
            positions = past.sum(1, keepdim=True) + torch.arange(width - 1, device=device)
            more = decoder(
                input_ids=targets[:, :-1],
                attention_mask=torch.cat([past, past.new_ones(len(rows), width - 1)], dim=1),
                position_ids=positions,
                past_key_values=taken(cache, rows),
                use_cache=True,
            )
            hidden = torch.cat([hidden, more.last_hidden_state], dim=1)
        parts = log_likelihoods(head, hidden[real], targets[real]).split([len(r) for _, r in chosen])
        for i, part in zip(batch, parts, strict=True):
            scores[order[i]] = Score(part.double().sum().item(), len(part), part[-1].item())
        done(len(batch))
    return [scores[i] for i in range(len(responses))]


def ranking_capability(
    rows: Sequence[dict[str, Any]], *, bootstrap: int, seed: int, eos: bool = True
) -> dict[str, Any]:
    """The share of pairs in which the true response scores higher, by whole sequence and per token.

    ``rows`` are those of a ranking table. Without ``eos``, responses are scored without their EOS, so that stopping
    does not matter; an empty one then has 0 nats. Ties are counted separately, not as successes. The interval (95 %) is
    a bootstrap over clusters of instructions, with all pairs of each. Shares are in [0, 1].
    """
    result: dict[str, Any] = {"instructions": len({row["id"] for row in rows}), "pairs": len(rows)}
    for column, name in enumerate(SCORES):
        true, other = (np.array([_scores(row, side, eos)[column] for row in rows]) for side in ("true", "other"))
        low, high = capability_interval([rows], name, bootstrap=bootstrap, seed=seed, eos=eos)
        result[name] = {
            "capability": float((true > other).mean()),
            "ties": float((true == other).mean()),
            "low": low,
            "high": high,
        }
    return result


def capability_interval(
    tables: Sequence[Sequence[dict[str, Any]]], score: str, *, bootstrap: int, seed: int, eos: bool = True
) -> tuple[float, float]:
    """The 95 % interval of the mean capability over ``tables``, one per seed: over seeds and instructions.

    ``score`` is ``sequence`` or ``token``. Every table must rank the same pairs. Shares are in [0, 1].
    """
    instructions = {row["id"]: row["cluster"] for row in sorted(tables[0], key=lambda row: row["id"])}
    place = {id_: i for i, id_ in enumerate(instructions)}
    column = SCORES.index(score)
    won, pairs = np.zeros((len(tables), len(place))), np.zeros((len(tables), len(place)))
    for i, rows in enumerate(tables):
        for row in rows:
            true, other = (_scores(row, side, eos)[column] for side in ("true", "other"))
            won[i, place[row["id"]]] += true > other
            pairs[i, place[row["id"]]] += 1
    return mean_interval(won, pairs, list(instructions.values()), draws=bootstrap, seed=seed)


def _scores(row: dict[str, Any], side: str, eos: bool) -> tuple[float, float]:
    """The log-probability of a side's response: total and per token."""
    logprob, tokens = row[f"{side}_logprob"], row[f"{side}_tokens"]
    if not eos:
        logprob, tokens = logprob - row[f"{side}_eos_logprob"], tokens - 1
    return logprob, logprob / max(1, tokens)
