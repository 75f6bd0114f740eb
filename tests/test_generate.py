import pytest
import torch
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from generate_responses import fit_prompt
from implicit.format.render import render_prompt
from implicit.generation.generate import Limits, generate
from implicit.generation.rules import RuleAdapter, RuleSettings, UnresolvedToken, resolve_tokens

SCORES = {"<": -4.0, "The": 3.0, " the": -2.0, "\n": 1.0}


@pytest.fixture
def prompts(world, tokenizer, chat):
    return [render_prompt(item.instruction, tokenizer, chat) for item in world.evaluation("test", 20)]


def rule_settings(scope="response", eos_after_ramp="hold"):
    return RuleSettings(
        eos_bonus=30.0, eos_ramp=12, eos_after_ramp=eos_after_ramp, token_scores=SCORES, diversity_penalty=-1.5,
        diversity_scope=scope,
    )  # fmt: skip


def limits(tokenizer):
    return Limits(tokenizer.eos_token_id, tokenizer.pad_token_id, max_new_tokens=24, context=256)


def test_batches_equal_one_at_a_time_and_transformers_own_generate(model, tokenizer, prompts):
    batched = generate(model, prompts, limits(tokenizer), batch_size=7)
    single = generate(model, prompts, limits(tokenizer), batch_size=1)
    assert batched == single
    assert len({tuple(response.ids) for response in single}) > 5  # not the same for all prompts
    for prompt, response in zip(prompts, single, strict=True):
        ids = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
            max_new_tokens=24,
            do_sample=False,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )[0, len(prompt) :].tolist()
        stopped = tokenizer.eos_token_id in ids
        assert (response.ids, response.stopped) == (
            ids[: ids.index(tokenizer.eos_token_id)] if stopped else ids,
            stopped,
        )


def listing(model, tokenizer, prompt, tag, settings, rules, *, limit):
    """The paper's listing 1: no cache, batch of one, a product of two normalised distributions, Python loops."""
    ids, response = list(prompt), []
    while len(response) < limit:
        base = model(torch.tensor([ids])).logits[0, -1].log_softmax(dim=-1)
        scores = torch.zeros_like(base)
        if "uniform" in rules:
            for text, score in settings.token_scores.items():
                (token,) = tokenizer(text, add_special_tokens=False)["input_ids"]
                scores[token] += score
        t = len(response)
        if "eos" in rules and 0 < t < settings.eos_ramp:
            scores[tokenizer.eos_token_id] += settings.eos_bonus * t / settings.eos_ramp
        elif "eos" in rules and t >= settings.eos_ramp and settings.eos_after_ramp == "hold":
            scores[tokenizer.eos_token_id] += settings.eos_bonus
        if "diversity" in rules:
            counted = ids[tag:] if settings.diversity_scope == "prompt_and_response" else response
            for token in set(counted):
                scores[token] += settings.diversity_penalty
        token = int((base + scores.log_softmax(dim=-1)).argmax())
        if token == tokenizer.eos_token_id:
            return response, True
        ids.append(token)
        response.append(token)
    return response, False


@pytest.mark.parametrize("scope", ["response", "prompt_and_response"])
@pytest.mark.parametrize("eos_after_ramp", ["hold", "none"])
@pytest.mark.parametrize(
    "rules", [("eos", "uniform", "diversity"), ("uniform", "diversity"), ("eos", "diversity"), ("eos", "uniform"), ()]
)
def test_the_rule_adapter_equals_the_papers_listing(model, tokenizer, prompts, rules, eos_after_ramp, scope):
    settings, tag, prompts = rule_settings(scope, eos_after_ramp), 4, prompts[:8]
    adapter = RuleAdapter(settings, rules, tokenizer, vocab_size=len(tokenizer))
    batched = generate(
        model, prompts, limits(tokenizer), batch_size=3, adapter=adapter, adapter_prompts=[p[tag:] for p in prompts]
    )
    with torch.inference_mode():
        naive = [listing(model, tokenizer, p, tag, settings, rules, limit=24) for p in prompts]
    assert [(response.ids, response.stopped) for response in batched] == naive


def test_the_ramp_of_the_eos_rule(tokenizer):
    """15 t / 250 for 0 < t < 250 (paper, listing 1); at 250 and beyond as configured."""
    for eos_after_ramp, beyond in (("hold", 15.0), ("none", 0.0)):
        settings = RuleSettings(15.0, 250, eos_after_ramp, {}, 0.0, "response")
        adapter = RuleAdapter(settings, ["eos"], tokenizer, vocab_size=len(tokenizer))
        scores = {}
        for adapter.length in (0, 1, 100, 249, 250, 251, 2000):
            scores[adapter.length] = adapter.eos_score()
        expected = {0: 0.0, 1: 0.06, 100: 6.0, 249: 14.94, 250: beyond, 251: beyond, 2000: beyond}
        assert scores == pytest.approx(expected)


def test_each_rule_changes_something(model, tokenizer, prompts):
    """Otherwise the equivalence above would also hold for rules that do nothing."""
    outputs = set()
    for rules in [(), ("eos",), ("uniform",), ("diversity",), ("eos", "uniform", "diversity")]:
        adapter = RuleAdapter(rule_settings(), rules, tokenizer, vocab_size=len(tokenizer))
        outputs.add(str(generate(model, prompts, limits(tokenizer), batch_size=20, adapter=adapter)))
    assert len(outputs) == 5


def test_a_string_that_is_no_single_token_is_named(tokenizer):
    settings = RuleSettings(15.0, 250, "hold", {"The": 1.0, "zebra crossing": -1.0}, -1.5, "response")
    with pytest.raises(UnresolvedToken, match=r"rules.token_scores: .*'zebra crossing' \(it is split into \["):
        RuleAdapter(settings, ["uniform"], tokenizer, vocab_size=len(tokenizer))


def with_added_token(pieces, added):
    """A tokenizer with these pieces, each a word of its own, and an added token that is not special."""
    own = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(["<unk>", *pieces])}, unk_token="<unk>"))
    own.normalizer = normalizers.Replace(" ", "▁") if "▁" in pieces else None
    own.pre_tokenizer = pre_tokenizers.Split("no such text", "isolated")
    own.add_tokens([AddedToken(added, normalized=True)])
    return PreTrainedTokenizerFast(tokenizer_object=own, unk_token="<unk>")


def test_of_two_tokens_with_the_same_text_the_one_that_the_tokenizer_uses_is_scored():
    tokenizer = with_added_token(["ĠĠĠ", "Ġ", "a"], "   ")  # as in Pythia's vocabulary
    assert resolve_tokens({"   ": 1.0}, tokenizer) == {tokenizer.convert_tokens_to_ids("   "): 1.0} == {4: 1.0}


def test_an_added_token_of_blanks_is_found_where_blanks_are_written_as_a_sign():
    tokenizer = with_added_token(["▁", "a"], "▁▁▁")  # as in Gemma's
    assert resolve_tokens({"   ": 1.0}, tokenizer) == {tokenizer.convert_tokens_to_ids("▁▁▁"): 1.0}


def test_a_prompt_too_long_for_the_context_keeps_its_tags(tokenizer, chat):
    instruction = "List three fruits. " * 40 + "日本" * 30
    whole, nothing = fit_prompt(instruction, tokenizer, chat, room=10_000)
    fitted, cut = fit_prompt(instruction, tokenizer, chat, room=100)
    assert (nothing, cut) == (0, len(whole) - len(fitted)) and 90 < len(fitted) <= 100
    end = render_prompt("", tokenizer, chat)[-6:]
    assert fitted[-6:] == end and fitted[:40] == whole[:40]


def test_a_response_ends_with_the_context_at_the_latest(model, tokenizer, prompts):
    """Short prompts have more room than long ones; rows leave the batch one by one."""
    context = max(map(len, prompts)) + 6
    endless = Limits(
        -1, tokenizer.pad_token_id, 10_000, context
    )  # an EOS that does not exist, so that only the context stops them
    found = generate(model, prompts, endless, batch_size=len(prompts))
    assert [len(prompt) + len(response.ids) for prompt, response in zip(prompts, found, strict=True)] == [
        context
    ] * len(prompts)
    assert not any(response.stopped for response in found)
    assert found == generate(model, prompts, endless, batch_size=1)
