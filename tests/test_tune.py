import copy
import math
from dataclasses import replace

import pytest
import torch
from torch._dynamo.utils import counters
from transformers import AutoModelForCausalLM, get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from implicit.format.render import render
from implicit.tuning.optimise import NonFiniteLoss, learning_rate_factor
from implicit.tuning.tune import (
    CompilerMissing,
    Execution,
    NonFiniteGradient,
    Tuning,
    WeightedLoss,
    batches,
    check_compiler,
    collate,
    loss_weights,
    micro_batches,
    trained_places,
    tune,
)
from pipeline.models.directories import load_model, save_model

SETTINGS = Tuning(
    epochs=2, learning_rate=1e-3, batch_size=6, schedule="cosine", warmup=0.1, weight_decay=0.0,
    max_grad_norm=1.0, normalise_by="example", seed=5,
)  # fmt: skip


@pytest.fixture
def rows(world, tokenizer, chat):
    items = world.conversations("instructions", 10)
    return [
        render(
            [{"role": "user", "content": i.instruction}, {"role": "assistant", "content": i.response}], tokenizer, chat
        )
        for i in items
    ]


def weights_of(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("normalise_by", ["example", "token"])
def test_accumulated_gradients_equal_those_of_the_whole_batch(model, rows, tokenizer, normalise_by):
    """The reference is the definition: the mean over examples of means over tokens, or one mean over all tokens."""
    parts = micro_batches(range(len(rows)), [len(row.ids) for row in rows], tokens=60)
    assert len(parts) > 2 and sorted(i for part in parts for i in part) == list(range(len(rows)))
    tokens = sum(sum(row.trained[1:]) for row in rows)
    for part in parts:
        ids, labels = collate([rows[i] for i in part], pad=tokenizer.pad_token_id)
        places, targets, mask = trained_places(labels)
        weights = loss_weights(mask, normalise_by=normalise_by, examples=len(rows), tokens=tokens)
        WeightedLoss(model)(ids, places, targets, weights[mask]).backward()
    accumulated = torch.cat([p.grad.flatten() for p in model.parameters()])
    model.zero_grad()
    sums, counts = [], []
    for row in rows:  # one by one, unpadded, with the model's full logits
        logits = model(torch.tensor([row.ids])).logits[0, :-1]
        labels = torch.tensor(row.labels[1:])
        sums.append(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"))
        counts.append(int((labels != -100).sum()))
    if normalise_by == "example":
        loss = sum(s / c for s, c in zip(sums, counts, strict=True)) / len(rows)
    else:
        loss = sum(sums) / sum(counts)
    loss.backward()
    whole = torch.cat([p.grad.flatten() for p in model.parameters()])
    torch.testing.assert_close(accumulated, whole, rtol=1e-4, atol=1e-5)


def test_micro_batch_size_does_not_change_the_tuned_model(model, rows, tokenizer):
    other = copy.deepcopy(model)
    small = Execution(tokenizer.pad_token_id, micro_batch_tokens=40, precision=torch.float32)
    one = tune(model, rows, SETTINGS, small)
    two = tune(other, rows, SETTINGS, replace(small, micro_batch_tokens=100_000))
    assert [s.loss for s in one] == pytest.approx([s.loss for s in two], rel=1e-4)
    assert one[-1].loss < one[0].loss
    torch.testing.assert_close(weights_of(model), weights_of(other), rtol=1e-3, atol=1e-4)


def test_compiled_layers_compute_the_same(model, rows, tokenizer):
    try:
        check_compiler("cpu")
    except CompilerMissing as error:
        pytest.skip(str(error))
    torch.compiler.reset()
    counters.clear()
    made = [copy.deepcopy(model) for _ in range(2)]
    execution = Execution(tokenizer.pad_token_id, micro_batch_tokens=200, precision=torch.float32)
    plain = tune(made[0], rows, SETTINGS, execution)
    compiled = tune(made[1], rows, SETTINGS, replace(execution, compiled=True, gradient_checkpointing=True))
    assert counters["stats"]["unique_graphs"] >= 1 and not counters["graph_break"]
    losses = [torch.tensor([step.loss for step in steps]) for steps in (plain, compiled)]
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-5)
    assert made[1].state_dict().keys() == made[0].state_dict().keys()


def test_what_compiling_lacks_is_said_at_once(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(CompilerMissing, match=r"needs a compiler \(no-such-compiler; .* CXX .*; or set it to false"):
        check_compiler("cpu")
    monkeypatch.setattr("implicit.tuning.tune.find_spec", lambda name: None)
    with pytest.raises(CompilerMissing, match="the package triton"):
        check_compiler("cuda")


def test_gradient_checkpointing_changes_nothing(model, rows, tokenizer):
    other, bits = copy.deepcopy(model), {}
    for made, recomputed in ((model, False), (other, True)):
        recomputations = count_forwards(made.get_decoder().layers[0])
        steps = tune(made, rows, SETTINGS, Execution(tokenizer.pad_token_id, gradient_checkpointing=recomputed))
        bits[recomputed] = ([step.loss for step in steps], weights_of(made), len(recomputations))
    assert bits[True][0] == bits[False][0] and torch.equal(bits[True][1], bits[False][1])
    assert bits[True][2] == 2 * bits[False][2]
    assert not other.is_activation_checkpointing


def count_forwards(layer):
    calls = []
    layer.input_layernorm.register_forward_hook(lambda *_: calls.append(1))
    return calls


def test_the_seed_alone_decides_a_run(model, rows, tokenizer):
    other = copy.deepcopy(model)
    for made in (model, other):
        tune(made, rows, SETTINGS, Execution(tokenizer.pad_token_id))
    assert torch.equal(weights_of(model), weights_of(other))


def test_a_tuned_model_loaded_again_equals_the_one_in_memory(model, rows, tokenizer, tmp_path):
    tune(model, rows, SETTINGS, Execution(tokenizer.pad_token_id))
    save_model(model, tokenizer, tmp_path / "model", card={"mode": "test"}, chat=None)
    for loaded in (
        load_model(tmp_path / "model", device="cpu"),
        AutoModelForCausalLM.from_pretrained(tmp_path / "model"),
    ):
        ids = torch.tensor([rows[0].ids])
        assert torch.equal(loaded(ids).logits, model(ids).logits)


def test_every_example_is_seen_once_an_epoch_in_an_order_of_its_own():
    plan = list(batches(10, SETTINGS))
    assert [len(batch) for batch in plan] == [6, 4, 6, 4]
    first, second = plan[0] + plan[1], plan[2] + plan[3]
    assert sorted(first) == sorted(second) == list(range(10)) and first != second


@pytest.mark.parametrize(
    ("name", "reference"), [("cosine", get_cosine_schedule_with_warmup), ("linear", get_linear_schedule_with_warmup)]
)
def test_schedules_equal_those_of_transformers(name, reference):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = reference(optimizer, num_warmup_steps=4, num_training_steps=40)
    for step in range(40):
        assert learning_rate_factor(name, step, steps=40, warmup=0.1) == pytest.approx(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()


def test_a_loss_that_is_not_finite_stops_with_step_and_learning_rate(model, rows, tokenizer):
    with torch.no_grad():
        model.model.norm.weight[0] = math.nan
    with pytest.raises(NonFiniteLoss, match=r"step 1 is nan, at learning rate 0: "):
        tune(model, rows, SETTINGS, Execution(tokenizer.pad_token_id))


def test_a_gradient_that_is_not_finite_stops_before_it_reaches_the_weights(model, rows, tokenizer):
    model.model.norm.weight.register_hook(lambda gradient: gradient * math.inf)
    before = weights_of(model)
    with pytest.raises(NonFiniteGradient, match=r"the gradient at step 1 is not finite, at learning rate 0: "):
        tune(model, rows, SETTINGS, Execution(tokenizer.pad_token_id))
    assert torch.equal(weights_of(model), before)


def test_a_row_without_a_trained_token_is_refused(model, tokenizer, rows, chat):
    prompt_only = render(
        [{"role": "user", "content": "x" * 40}, {"role": "assistant", "content": "y"}], tokenizer, chat, max_length=8
    )
    with pytest.raises(ValueError, match=r"without a single token to train on: \[1\]"):
        tune(model, [rows[0], prompt_only], SETTINGS, Execution(tokenizer.pad_token_id))
