import hashlib
import json

import pytest
import torch

from implicit.format.render import encode, render_prompt
from implicit.judging.oracle import Oracle, describe
from implicit.scoring.rank import draw_others, ranking_capability, score_responses
from implicit.world.kinds import FORMATS
from pipeline.jobs.command import InputError
from rank_responses import Settings, draws, summarise


@pytest.mark.parametrize("batch_tokens", [1, 300, 100_000])
def test_scores_equal_a_naive_loop(model, world, tokenizer, chat, batch_tokens):
    items = world.evaluation("test", 20)
    prompts = [render_prompt(item.instruction, tokenizer, chat) for item in items]
    responses = [encode(tokenizer, item.response) + [tokenizer.eos_token_id] for item in items]
    pairs = [(prompts[i], responses[j]) for i in range(20) for j in (i, (i + 3) % 20)]
    pairs += [(prompts[0], [tokenizer.eos_token_id]), pairs[5]]  # the shortest response, and a duplicate pair
    scores = score_responses(model, pairs, pad=tokenizer.pad_token_id, batch_tokens=batch_tokens)
    for (prompt, response), score in zip(pairs, scores, strict=True):
        with torch.inference_mode():
            logprobs = model(torch.tensor([[*prompt, *response]])).logits[0].log_softmax(dim=-1)
        naive = sum(float(logprobs[len(prompt) + i - 1, token]) for i, token in enumerate(response))
        assert score.logprob == pytest.approx(naive, abs=1e-3)
        assert score.tokens == len(response)


def row(id_, true, other, *, true_tokens=1, other_tokens=1):
    return {
        "id": id_, "other_id": "x", "cluster": id_, "true_logprob": true, "true_tokens": true_tokens,
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
    """Two instructions, one with all pairs won and one with all lost: the interval covers the full range."""
    rows = [row("a", -1.0, -2.0)] * 500 + [row("b", -2.0, -1.0)] * 500
    result = ranking_capability(rows, bootstrap=500, seed=0)["sequence"]
    assert (result["low"], result["capability"], result["high"]) == (0.0, 0.5, 1.0)


def test_others_are_different_and_never_the_true_one():
    drawn = draw_others(12, others=5, seed=1)
    assert all(len(set(row)) == 5 and i not in row for i, row in enumerate(drawn))
    assert drawn == draw_others(12, others=5, seed=1) != draw_others(12, others=5, seed=2)
    with pytest.raises(ValueError, match="use 1 to 2"):
        draw_others(3, others=3, seed=0)


def test_without_eos_and_eos_are_the_whole(model, world, tokenizer, chat):
    """The score without EOS equals that of the preceding tokens scored separately."""
    items = world.evaluation("test", 12)
    prompts = [render_prompt(item.instruction, tokenizer, chat) for item in items]
    texts = [encode(tokenizer, item.response) for item in items]
    whole = score_responses(
        model,
        [(prompt, [*ids, tokenizer.eos_token_id]) for prompt, ids in zip(prompts, texts, strict=True)],
        pad=tokenizer.pad_token_id,
        batch_tokens=400,
    )
    without = score_responses(
        model, list(zip(prompts, texts, strict=True)), pad=tokenizer.pad_token_id, batch_tokens=100_000
    )
    for one, two in zip(whole, without, strict=True):
        assert one.logprob - one.eos == pytest.approx(two.logprob, abs=1e-3) and one.tokens == two.tokens + 1


def test_capability_without_eos_takes_one_token_out():
    rows = [
        row("a", -4.0, -11.0, true_tokens=2, other_tokens=5) | {"true_eos_logprob": -1.0, "other_eos_logprob": -1.0},
        row("b", -1.0, -2.0) | {"true_eos_logprob": -1.0, "other_eos_logprob": -2.0},  # both empty: a tie
    ]
    result = ranking_capability(rows, bootstrap=50, seed=0, eos=False)
    assert (result["sequence"]["capability"], result["sequence"]["ties"]) == (0.5, 0.5)  # -3 against -10
    assert (result["token"]["capability"], result["token"]["ties"]) == (0.0, 0.5)  # -3 against -10 / 4
    assert ranking_capability(rows, bootstrap=50, seed=0)["sequence"]["capability"] == 1.0


def test_draws_from_any_are_those_of_before():
    """The draws used for every published figure of this project."""
    drawn = json.dumps(draw_others(200, others=5, seed=0)).encode()
    assert hashlib.sha256(drawn).hexdigest()[:16] == "88c8411fe98d43ea"


def ranking(**settings):
    """Settings of the stage, with ``settings`` in place of some."""
    some = {"precision": "float32", "instructions": 40, "others": 4, "bootstrap": 20, "seed": 0, "negatives": ["any"]}
    return Settings.model_construct(**some | settings)


def drawn_from(world, count, **settings):
    rows = [
        {"id": str(i), "request": describe(item, world.seed), "reference": item.response}
        for i, item in enumerate(world.evaluation("test", count))
    ]
    return rows, draws(rows, ranking(**settings))


@pytest.mark.parametrize("name", ["same_kind", "same_format"])
def test_harder_negatives_are_what_they_are_called_and_wrong(world, name):
    rows, drawn = drawn_from(world, 120, negatives=["any", name])
    oracle = Oracle()
    assert drawn["any"] == draw_others(120, others=4, seed=0)
    for i, others in enumerate(drawn[name]):
        kind = oracle.kind(rows[i]["request"])
        assert i not in others and len(set(others)) == len(others)
        for j in others:
            other = oracle.kind(rows[j]["request"])
            assert (other == kind) == (name == "same_kind") and FORMATS[other] == FORMATS[kind]
            assert oracle.parts(rows[i]["request"], rows[j]["reference"], stopped=True).right < 1
        alone = list(FORMATS.values()).count(FORMATS[kind]) == 1
        assert len(others) == (0 if name == "same_format" and alone else 4)
    assert drawn[name] == drawn_from(world, 120, negatives=[name, "any"])[1][name]
    assert drawn[name] != drawn_from(world, 120, negatives=[name], seed=1)[1][name]


def test_what_is_left_out_and_what_has_fewer_is_counted(world):
    rows, drawn = drawn_from(world, 40, negatives=["any", "same_kind", "same_format"])
    score = {f"{side}_{what}": -1.0 for side in ("true", "other") for what in ("logprob", "eos_logprob")}
    table = [
        {"id": rows[i]["id"], "other_id": rows[j]["id"], "cluster": rows[i]["id"], "negatives": name,
         "true_tokens": 2, "other_tokens": 2} | score
        for name, others in drawn.items() for i, row in enumerate(others) for j in row
    ]  # fmt: skip
    settings = ranking(negatives=list(drawn))
    summary = summarise(table, settings)
    any_, kind, format_ = summary["controls"]
    assert summary["pairs"] == any_["with_eos"]["pairs"] == 160 and (any_["left_out"], any_["fewer"]) == (0, 0)
    assert kind["fewer"] == 40 - kind["left_out"] and kind["with_eos"]["pairs"] <= 40 * 3  # four of each kind
    assert format_["left_out"] == 16 and format_["fewer"] == 0  # poems, sums, functions and repetitions
    with pytest.raises(InputError, match="no instruction has a wrong response of the same kind"):
        summarise([row for row in table if row["negatives"] == "any"], settings)


def test_kinds_of_instructions_that_no_oracle_knows_are_refused(world):
    rows, _ = drawn_from(world, 20, negatives=["any"])
    rows[3]["request"] = None
    with pytest.raises(InputError, match=r"ranking.negatives: same_kind needs requests of the tiny world, .* \['3'\]"):
        draws(rows, ranking(negatives=["any", "same_kind"]))
