"""Properties for arbitrary texts and scores: the renderer, the ranking and the win rate, on generated examples."""

import math
import re
from functools import partial

import architectures
import pytest
import torch
from transformers import PreTrainedTokenizerFast

pytest.importorskip("hypothesis", reason="hypothesis is not installed: see envs/")

from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from implicit.data.rewriting import answer_text, restates
from implicit.format.render import Format, hide_instructions, render, render_prompt
from implicit.judging.judge import CONTROL, MARK, Judge, protect, read_preferences
from implicit.judging.preferences import (
    LABELS,
    ROUNDING,
    label_share,
    parser_share,
    text_preference,
    weighted_preference,
)
from implicit.judging.win_rates import win_rates
from implicit.scoring.rank import ranking_capability, score_responses
from implicit.tuning.pretrain import Architecture, build_model

settings.register_profile("repeatable", max_examples=50, deadline=None, derandomize=True, database=None)
settings.load_profile("repeatable")

KINDS = {"sentencepiece": "</s>", "gemma": "<eos>", "llama-3": "<|end_of_text|>", "gpt-neox": "<|endoftext|>"}
MARKS = ["<|user|>", "<|assistant|>", "</s>", "<s>", "<eos>", "<|endoftext|>", "<|im_end|>", "[INST]", "<<SYS>>", "{output_1}",
         "{instruction}", "{{x}}", MARK, "<|", "|>", "{", "▁", "Ġ", "\n", "\n\n", "  ", "\t", "日本", "🙂", "e\u0301", "\u2028"]  # fmt: skip
letters = st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufffd")
texts = st.lists(st.sampled_from(MARKS) | st.text(letters, max_size=8), max_size=6).map("".join)
spoken = texts.filter(lambda text: text.strip())


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request):
    """A tokenizer of the given kind, with its special tokens."""
    eos = KINDS[request.param]
    backend = Tokenizer.from_str(architectures.train(request.param))
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<bos!>", eos_token=eos, pad_token="<pad!>")


def talks(turns=2):
    one = st.tuples(texts, spoken).map(
        lambda pair: [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    )
    return st.lists(one, min_size=1, max_size=turns).map(lambda pairs: [message for pair in pairs for message in pair])


CHAT = Format("<|user|>", "<|assistant|>", add_bos=True)


def unspaced(text):
    """Without the spaces that a tokenizer's decoder adds or strips at the start of a text, or its marker for a space."""
    return text.replace("▁", " ").strip()


@given(messages=talks())
def test_the_ids_say_the_conversation_and_the_mask_is_of_responses_and_eos(tokenizer, messages):
    rendered = render(messages, tokenizer, CHAT)
    runs, current = [], None  # the ids of each run of trained tokens, and of those between
    for i, trained in zip(rendered.ids, rendered.trained, strict=True):
        if trained != current:
            runs.append((trained, []))
            current = trained
        runs[-1][1].append(i)
    assert [trained for trained, _ in runs] == [False, True] * (len(messages) // 2)
    for (_, shown), (_, response), asked, answered in zip(
        runs[::2], runs[1::2], messages[::2], messages[1::2], strict=True
    ):
        assert response[-1] == tokenizer.eos_token_id and tokenizer.eos_token_id not in response[:-1]
        assert tokenizer.bos_token_id not in shown[1:] + response and tokenizer.pad_token_id not in shown + response
        assert unspaced(tokenizer.decode(response[:-1])) == unspaced(answered["content"].strip())
        plain = [i for i in shown if i != tokenizer.bos_token_id]
        text = f"{CHAT.user_tag}\n{asked['content'].strip()}\n{CHAT.assistant_tag}\n"
        assert unspaced(tokenizer.decode(plain)) == unspaced(text)
    assert rendered.ids[0] == tokenizer.bos_token_id and rendered.cut == 0


@given(messages=talks(), length=st.integers(1, 60))
def test_a_prompt_is_a_prefix_and_what_is_cut_adds_up(tokenizer, messages, length):
    whole, cut = render(messages, tokenizer, CHAT), render(messages, tokenizer, CHAT, max_length=length)
    prompt = render_prompt(messages[0]["content"], tokenizer, CHAT)
    assert whole.ids[: len(prompt)] == prompt and whole.trained[: len(prompt) + 1] == [False] * len(prompt) + [True]
    assert (cut.ids, cut.trained) == (whole.ids[:length], whole.trained[:length])
    assert len(cut.ids) + cut.cut == len(whole.ids) and len(cut.ids) <= length
    hidden = render(hide_instructions(messages), tokenizer, CHAT)
    answers = [[i for i, trained in zip(r.ids, r.trained, strict=True) if trained] for r in (whole, hidden)]
    assert answers[0] == answers[1]


# --- ranking --------------------------------------------------------------------------------------------------------

scores = st.integers(-64, 0).map(lambda n: n / 8)  # ties are common, and halves are exact
counts = st.sampled_from([1, 2, 4])
pairs = st.lists(
    st.fixed_dictionaries({"id": st.sampled_from("abcd"), "other_id": st.just("x"), "true_logprob": scores, "true_tokens": counts,
                           "other_logprob": scores, "other_tokens": counts}).map(lambda row: row | {"cluster": row["id"] in "ab"}),
    min_size=1, max_size=20,
)  # fmt: skip


def swapped(row):
    ends = ("logprob", "tokens")
    return (
        row
        | {f"true_{end}": row[f"other_{end}"] for end in ends}
        | {f"other_{end}": row[f"true_{end}"] for end in ends}
    )


@given(rows=pairs, seed=st.integers(0, 9), order=st.randoms(use_true_random=False))
def test_capability_is_a_share_of_pairs_in_any_order_and_of_the_swapped_ones_the_rest(rows, seed, order):
    found = ranking_capability(rows, bootstrap=20, seed=seed)
    mixed = ranking_capability(order.sample(rows, len(rows)), bootstrap=20, seed=seed)
    other_way = ranking_capability([swapped(row) for row in rows], bootstrap=20, seed=seed)
    for score in ("sequence", "token"):
        share, ties = found[score]["capability"], found[score]["ties"]
        assert (
            0 <= found[score]["low"] <= found[score]["high"] <= 1 and 0 <= share <= 1 and 0 <= ties <= 1 - share + 1e-12
        )
        assert mixed[score] == pytest.approx(found[score])
        assert other_way[score]["capability"] == pytest.approx(1 - share - ties) and other_way[score]["ties"] == ties
        assert share == sum(_score(row, "true", score) > _score(row, "other", score) for row in rows) / len(rows)


def _score(row, side, score):
    return row[f"{side}_logprob"] / (1 if score == "sequence" else row[f"{side}_tokens"])


@pytest.fixture(scope="module")
def ranked():
    """A model and a vocabulary of a few tokens."""
    torch.manual_seed(0)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(architectures.train("gpt-neox")), bos_token="<s>", eos_token="</s>", pad_token="<p>"
    )  # fmt: skip
    return build_model(Architecture(hidden_size=16, layers=1, heads=2, context=64), tokenizer, seed=1).eval()


ids = st.lists(st.integers(1, 99), min_size=1, max_size=12)


@settings(max_examples=25)
@given(asked=st.lists(st.tuples(ids, ids), min_size=1, max_size=6), batch=st.integers(1, 90))
def test_batched_scores_are_those_of_single_pairs(ranked, asked, batch):
    together = score_responses(ranked, asked, pad=0, batch_tokens=batch)
    alone = [score_responses(ranked, [pair], pad=0, batch_tokens=1)[0] for pair in asked]
    assert [score.tokens for score in together] == [len(response) for _, response in asked]
    assert [score.logprob for score in together] == pytest.approx([score.logprob for score in alone], abs=1e-4)
    assert all(score.logprob < 0 for score in together)


# --- win rates and what judges say ----------------------------------------------------------------------------------


@given(
    preferences=st.lists(st.integers(0, 16).map(lambda n: 1 + n / 16), min_size=2, max_size=9), seed=st.integers(0, 9)
)
def test_a_against_b_and_b_against_a_are_a_hundred_together(preferences, seed):
    def rated(mine, theirs, values):
        rows = [
            {"preference": p, "output_1": "a", "output_2": "bb", "generator_1": theirs, "generator_2": mine, "index": i, "cluster": f"{i // 2}", "instruction": f"{i}"}
            for i, p in enumerate(values)
        ]  # fmt: skip
        return win_rates(rows, bootstrap=5, seed=seed)

    there, back = rated("a", "b", preferences), rated("b", "a", [3 - p for p in preferences])
    assert 0 <= there["win_rate"] <= 100 and there["win_rate"] + back["win_rate"] == pytest.approx(100)
    assert (there["wins"], there["losses"], there["ties"]) == (back["losses"], back["wins"], back["ties"])
    assert there["wins"] + there["losses"] + there["ties"] == there["n"] == len(preferences)
    assert there["win_rate_error"] == pytest.approx(back["win_rate_error"])


@example(text=f"a{MARK}{{output_1}} <|im_end|>ab", special=["ab"])
@given(text=texts, special=st.lists(st.sampled_from(["<turn>", "ab", "日本", "[X]"]), max_size=2, unique=True))
def test_a_protected_text_holds_no_mark_and_needs_no_more_protection(text, special):
    safe = protect(text, special)
    assert not CONTROL.search(safe) and MARK not in safe and not any(token in safe for token in special)
    assert protect(safe, special) == safe
    kept = [re.sub(rf"[ {MARK}]", "", t) for t in (text, safe)]
    assert kept[0] == kept[1]  # only spaces are inserted or removed


tokens = st.fixed_dictionaries({"token": st.sampled_from(["m", " m", "M", "▁M", "Ġm", "x", ""]) | st.text(letters, max_size=3),
                                "logprob": st.floats(-50, 0)})  # fmt: skip
anything = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
                        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["message", "content", "logprobs", "top_logprobs", "token", "logprob", "refusal"]), inner, max_size=3),
                        max_leaves=8)  # fmt: skip


def judging(parse, share=label_share):
    return Judge("j", "server", "m", "", complete=lambda prompts: [], parse=parse, share=share)


@example(completion=0.5, parse=lambda completion: [completion])
@given(
    completion=anything | st.floats(0, 3), parse=st.sampled_from([weighted_preference, text_preference, lambda c: [c]])
)
def test_no_answer_whatever_breaks_the_reading_of_answers(completion, parse):
    for share in (label_share, partial(parser_share, numerator_token="m", denominator_tokens=["m", "M"])):
        (preference,) = read_preferences(judging(parse, share), completion)
        assert preference is None or 1 <= preference <= 2
        assert share(completion) is None or 0 <= share(completion).probability <= 1
    if isinstance(completion, dict):
        assert isinstance(answer_text(completion), str)


@given(top=st.lists(tokens, max_size=6))
def test_the_weighted_preference_is_the_share_of_the_second_label_and_turns_with_them(top):
    choice = {"logprobs": {"content": [{"top_logprobs": top}]}}
    one, other = (
        read_preferences(judging(lambda c, order=order: weighted_preference(c, order)), choice)[0]
        for order in (LABELS, LABELS[::-1])
    )
    labelled = any(t["token"].strip("▁Ġ \n\t") in LABELS for t in top)
    sum_ = sum(math.exp(p) for _, p in {(t["token"], t["logprob"]) for t in top})  # duplicates count once
    assert (one is None) == (other is None) == (not labelled or sum_ > 1 + ROUNDING)
    assert one is None or one + other == pytest.approx(3)


@given(before=texts, label=st.sampled_from(LABELS), marks=st.sampled_from(["{}", "**{}**", " ({}).\n", '"{}"']))
def test_a_label_is_read_behind_thoughts_and_between_marks(before, label, marks):
    thoughts = before.replace("</think>", "")
    choice = {"message": {"content": f"<think>{thoughts}</think>{marks.format(label)}"}}
    assert text_preference(choice) == [LABELS.index(label) + 1.0]
    assert text_preference({"message": {"content": f"{label}{label}"}}) == [None]


@given(before=texts, verdict=st.sampled_from(["YES", "NO"]))
def test_a_verdict_is_the_only_one_there_is(before, verdict):
    assert restates(f"{before}\n#### {verdict}") is (verdict == "YES")
    assert restates(f"#### YES {before} #### NO") is None and restates(before) is None
