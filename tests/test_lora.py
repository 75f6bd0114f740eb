"""Only adapters are trained, and merging gives a model that cannot be distinguished from any other."""

import copy
from importlib.util import find_spec

import pytest
import torch

from implicit.format.render import render
from implicit.tuning.lora import Lora, MethodUnavailable, adapter_weights, add_adapters, check_method, merge
from implicit.tuning.tune import Execution, Tuning, tune
from pipeline.models.directories import load_model, save_model

LORA = Lora(rank=4, alpha=8.0, dropout=0.0)
SETTINGS = Tuning(
    epochs=4, learning_rate=1e-2, batch_size=3, schedule="cosine", warmup=0.1, weight_decay=0.0, max_grad_norm=1.0,
    normalise_by="example", seed=5,
)  # fmt: skip
ADAPTED = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}

needs_peft = pytest.mark.skipif(not find_spec("peft"), reason="peft is not installed")


@pytest.fixture
def rows(world, tokenizer, chat):
    items = world.conversations("instructions", 6)
    return [
        render(
            [{"role": "user", "content": i.instruction}, {"role": "assistant", "content": i.response}], tokenizer, chat
        )
        for i in items
    ]


@pytest.fixture
def tuned(model, rows, tokenizer):
    """A base model, the same model with trained adapters, their log, and the base model with them merged."""
    base, adapted = copy.deepcopy(model), model
    torch.manual_seed(1)
    add_adapters(adapted, LORA)
    steps = tune(adapted, rows, SETTINGS, Execution(tokenizer.pad_token_id, precision=torch.float32))
    return base, adapted, steps, merge(copy.deepcopy(base), LORA, adapter_weights(adapted))


@needs_peft
def test_a_merged_model_responds_as_the_one_with_adapters(tuned, rows):
    base, adapted, steps, merged = tuned
    assert steps[-1].loss < steps[0].loss
    for row in rows:
        ids = torch.tensor([row.ids])
        with torch.inference_mode():
            expected, plain = adapted(ids).logits, base(ids).logits
            torch.testing.assert_close(merged(ids).logits, expected, rtol=1e-4, atol=1e-3)
            assert (expected - plain).abs().max() > 0.1


@needs_peft
@pytest.mark.parametrize("at_a_time", [700, 10**9])
def test_frozen_weights_are_kept_in_the_precision_of_the_arithmetic(model, rows, tokenizer, at_a_time, monkeypatch):
    """Half the memory and no casts; the losses are those of float32 within bfloat16's accuracy."""
    monkeypatch.setattr("implicit.scoring.likelihood.AT_A_TIME", at_a_time)  # the head in parts, or as a whole
    losses = []
    for precision in (torch.float32, torch.bfloat16):
        adapted = copy.deepcopy(model)
        torch.manual_seed(1)
        add_adapters(adapted, LORA)
        steps = tune(adapted, rows, SETTINGS, Execution(tokenizer.pad_token_id, precision=precision))
        losses.append([step.loss for step in steps])
        for parameter in adapted.parameters():
            assert parameter.dtype == (torch.float32 if parameter.requires_grad else precision)
    assert losses[1] == pytest.approx(losses[0], rel=0.03) and losses[1] != losses[0]
    assert losses[1][-1] < 0.9 * losses[1][0]


@needs_peft
def test_the_change_is_the_definition_and_only_where_adapters_were(tuned):
    """W + alpha / rank · B A, and every other weight, including embeddings and padding rows, bit for bit."""
    base, adapted, _, merged = tuned
    before, after, weights = base.state_dict(), merged.state_dict(), adapter_weights(adapted)
    assert list(before) == list(after)
    changed = set()
    for name, weight in before.items():
        module = name.removesuffix(".weight")
        if f"{module}.lora_A.default.weight" in weights:
            a, b = (weights[f"{module}.lora_{part}.default.weight"] for part in "AB")
            torch.testing.assert_close(after[name], weight + LORA.alpha / LORA.rank * b @ a, rtol=1e-5, atol=1e-6)
            assert not torch.equal(after[name], weight)
            changed.add(module.split(".")[-1])
        else:
            assert torch.equal(after[name], weight), name
    assert changed == ADAPTED
    assert after["model.embed_tokens.weight"].dtype == torch.float32


@needs_peft
def test_only_adapters_are_trained(model):
    add_adapters(model, LORA)
    assert all("lora_" in name for name in adapter_weights(model))
    assert len(adapter_weights(model)) == 2 * len(ADAPTED) * model.config.num_hidden_layers


@needs_peft
def test_a_merged_model_is_saved_and_loaded_like_any_other(tuned, tokenizer, rows, tmp_path):
    _, _, _, merged = tuned
    save_model(merged, tokenizer, tmp_path / "model", card={}, chat=None)
    ids = torch.tensor([rows[0].ids])
    assert torch.equal(load_model(tmp_path / "model", device="cpu")(ids).logits, merged(ids).logits)
    assert not [path for path in (tmp_path / "model").iterdir() if "adapter" in path.name]


@needs_peft
def test_gradient_checkpointing_changes_nothing_for_adapters(model, rows, tokenizer):
    weights = []
    for made, recomputed in ((copy.deepcopy(model), False), (copy.deepcopy(model), True)):
        torch.manual_seed(1)
        add_adapters(made, Lora(rank=4, alpha=8.0, dropout=0.3))
        tune(made, rows, SETTINGS, Execution(tokenizer.pad_token_id, gradient_checkpointing=recomputed))
        weights.append(adapter_weights(made))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@needs_peft
def test_adapters_of_another_model_are_refused(tuned):
    base, adapted, _, _ = tuned
    with pytest.raises(ValueError, match="adapters that do not belong to this model"):
        merge(base, LORA, {"x": torch.zeros(1)} | adapter_weights(adapted))


def test_what_a_method_lacks_is_said_in_one_message(monkeypatch):
    check_method("full", device="cpu", processes=8)
    with pytest.raises(MethodUnavailable) as caught:
        check_method("qlora", device="cpu", processes=2)
    message = str(caught.value)
    assert message.startswith("tuning.method: 'qlora' needs ")
    assert "a GPU (this run is on 'cpu')" in message and "a single process (execution.processes is 2)" in message
    assert ("bitsandbytes" in message) == (find_spec("bitsandbytes") is None)
    monkeypatch.setattr("implicit.tuning.lora.find_spec", lambda name: None)
    with pytest.raises(MethodUnavailable, match="'lora' needs the package peft; 'full' does not"):
        check_method("lora", device="cuda", processes=2)
