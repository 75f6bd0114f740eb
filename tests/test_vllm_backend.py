"""The parts of the vLLM backend that run without vLLM: the rules' scores, and the message if it is missing."""

from importlib.util import find_spec

import pytest
import torch

from implicit.generation.generate import Limits
from implicit.generation.rules import RuleAdapter, RuleSettings
from implicit.generation.vllm_backend import VllmUnavailable, add_rule_scores, generate_with_vllm

SCORES = {"<": -4.0, "The": 3.0, " the": -2.0, "\n": 1.0}


@pytest.mark.parametrize("scope", ["response", "prompt_and_response"])
@pytest.mark.parametrize("eos_after_ramp", ["hold", "none"])
@pytest.mark.parametrize("rules", [("eos", "uniform", "diversity"), ("eos",), ("uniform",), ("diversity",), ()])
def test_scores_computed_anew_equal_those_of_the_rule_adapter_at_every_step(tokenizer, rules, eos_after_ramp, scope):
    """Requests come in a different order at each step, with one adapter for all, as in vLLM."""
    settings = RuleSettings(30.0, 6, eos_after_ramp, SCORES, -1.5, scope)
    size, generator = len(tokenizer) + 3, torch.Generator().manual_seed(1)  # some models have more logits than tokens
    prompts = [[5, 6, 7, 6], [8], [9, 10]]
    reference, anew = (RuleAdapter(settings, rules, tokenizer, vocab_size=size) for _ in range(2))
    reference.start(prompts, "cpu")
    responses, chosen, changed = [[], [], []], None, False
    for step in range(10):
        logits = torch.randn(3, size, generator=generator)
        expected = reference.add_scores(logits.clone(), chosen)
        for row in torch.randperm(3, generator=generator).tolist():
            assert torch.equal(add_rule_scores(anew, prompts[row], responses[row], logits[row]), expected[row]), step
        changed |= not torch.equal(expected, logits)
        chosen = expected.argmax(dim=-1)
        for response, token in zip(responses, chosen.tolist(), strict=True):
            response.append(token)
    assert changed == bool(rules)


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vllm is installed")
def test_a_missing_vllm_is_said_before_anything_else(tmp_path):
    with pytest.raises(
        VllmUnavailable, match=r"execution.backend: 'vllm' needs the package vllm .* or use 'transformers'"
    ):
        generate_with_vllm(tmp_path, [[1]], Limits(eos=2, pad=0, max_new_tokens=3, context=8), precision="float32")
