import pytest
import torch

from implicit.rank import draw_others, ranking_capability, score_responses
from implicit.render import encode, render_prompt


@pytest.mark.parametrize("batch_tokens", [1, 300, 100_000])
def test_scores_equal_a_naive_loop(model, world, tokenizer, chat, batch_tokens):
    items = world.evaluation("test", 20)
    prompts = [render_prompt(item.instruction, tokenizer, chat) for item in items]
    responses = [encode(tokenizer, item.response) + [tokenizer.eos_token_id] for item in items]
    pairs = [(prompts[i], responses[j]) for i in range(20) for j in (i, (i + 3) % 20)]
    pairs += [(prompts[0], [tokenizer.eos_token_id]), pairs[5]]  # the shortest response, and a pair once more
    scores = score_responses(model, pairs, pad=tokenizer.pad_token_id, batch_tokens=batch_tokens)
    for (prompt, response), score in zip(pairs, scores, strict=True):
        with torch.inference_mode():
            logprobs = model(torch.tensor([[*prompt, *response]])).logits[0].log_softmax(dim=-1)
        naive = sum(float(logprobs[len(prompt) + i - 1, token]) for i, token in enumerate(response))
        assert score.logprob == pytest.approx(naive, abs=1e-3)
        assert score.tokens == len(response)


def row(id_, true, other, *, true_tokens=1, other_tokens=1):
    return {
        "id": id_, "other_id": "x", "true_logprob": true, "true_tokens": true_tokens,
        "other_logprob": other, "other_tokens": other_tokens,
    }  # fmt: skip


def test_capability_counts_ties_apart_and_tells_sequence_from_token():
    rows = [
        row("a", -2.0, -3.0, true_tokens=1, other_tokens=3),  # sequence: won; per token: -2 against -1, lost
        row("a", -1.0, -1.0),  # a tie in both
        row("b", -5.0, -4.0, true_tokens=5, other_tokens=2),  # sequence: lost; per token: -1 against -2, won
        row("b", -1.0, -9.0, true_tokens=1, other_tokens=1),  # won in both
    ]
    result = ranking_capability(rows, bootstrap=200, seed=0)
    assert (result["instructions"], result["pairs"]) == (2, 4)
    assert (result["sequence"]["capability"], result["sequence"]["ties"]) == (0.5, 0.25)
    assert (result["token"]["capability"], result["token"]["ties"]) == (0.5, 0.25)


def test_the_interval_is_over_instructions_not_pairs():
    """Two instructions, one wholly won and one wholly lost: however many pairs, the interval spans all."""
    rows = [row("a", -1.0, -2.0)] * 500 + [row("b", -2.0, -1.0)] * 500
    result = ranking_capability(rows, bootstrap=500, seed=0)["sequence"]
    assert (result["low"], result["capability"], result["high"]) == (0.0, 0.5, 1.0)


def test_others_are_different_and_never_the_true_one():
    drawn = draw_others(12, others=5, seed=1)
    assert all(len(set(row)) == 5 and i not in row for i, row in enumerate(drawn))
    assert drawn == draw_others(12, others=5, seed=1) != draw_others(12, others=5, seed=2)
    with pytest.raises(ValueError, match="give 1 to 2"):
        draw_others(3, others=3, seed=0)
