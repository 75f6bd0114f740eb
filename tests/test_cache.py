import pytest
import torch
from transformers import DynamicCache

from implicit.generation.cache import ROOM, GrowingLayer, growing_cache, taken
from implicit.scoring.likelihood import log_likelihoods


def reads(model, cache, widths, generator):
    """A model's outputs for further tokens, a few at a time."""
    said = []
    for width in widths:
        ids = torch.randint(3, 100, (4, width), generator=generator)
        with torch.inference_mode():
            said.append(model(ids, past_key_values=cache, use_cache=True).logits)
    return said


def test_a_growing_cache_equals_the_librarys_beyond_its_room(model):
    widths = [5, 1, 1, ROOM + 7, *[1] * (ROOM + 3)]
    caches = growing_cache(model.config), DynamicCache(config=model.config)
    assert all(type(layer) is GrowingLayer for layer in caches[0].layers)
    ours, theirs = (reads(model, cache, widths, torch.Generator().manual_seed(0)) for cache in caches)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_rows_that_are_taken_leave_the_cache_as_it_was(model):
    cache = growing_cache(model.config)
    reads(model, cache, [6], torch.Generator().manual_seed(0))
    before = [layer.keys.clone() for layer in cache.layers]
    rows = torch.tensor([3, 0, 0, 2])  # the same number, but different ones
    copied = taken(cache, rows)
    reads(model, copied, [1, 1], torch.Generator().manual_seed(1))
    for layer, keys, old in zip(copied.layers, cache.layers, before, strict=True):
        assert torch.equal(layer.keys[:, :, :6], old[rows]) and layer.keys.shape[2] == 8
        assert torch.equal(keys.keys, old)


@pytest.mark.parametrize("at_a_time", [1, 700, 10**9])
def test_log_likelihoods_and_their_gradient_do_not_depend_on_the_parts(at_a_time, monkeypatch):
    torch.manual_seed(0)
    head, hidden, targets = torch.nn.Linear(16, 300), torch.randn(9, 16, requires_grad=True), torch.arange(9)
    plain = head(hidden).log_softmax(-1)[torch.arange(9), targets]
    expected = torch.autograd.grad(plain.square().sum(), [hidden, *head.parameters()])
    monkeypatch.setattr("implicit.scoring.likelihood.AT_A_TIME", at_a_time)
    found = log_likelihoods(head, hidden, targets)
    torch.testing.assert_close(found, plain)
    for one, other in zip(
        torch.autograd.grad(found.square().sum(), [hidden, *head.parameters()]), expected, strict=True
    ):
        torch.testing.assert_close(one, other)
    with torch.no_grad():
        torch.testing.assert_close(log_likelihoods(head, hidden, targets), plain)
    head.requires_grad_(False)
    found = log_likelihoods(head, hidden, targets)
    torch.testing.assert_close(found, plain)
    torch.testing.assert_close(torch.autograd.grad(found.square().sum(), hidden)[0], expected[0])


@pytest.mark.parametrize("trained", [True, False])
def test_parts_in_bfloat16_are_the_whole_but_for_rounding(trained, monkeypatch):
    torch.manual_seed(0)
    head, targets = torch.nn.Linear(32, 300, bias=False).requires_grad_(trained), torch.arange(40)
    found = []
    for at_a_time in (10**9, 3000):  # one part, or four
        monkeypatch.setattr("implicit.scoring.likelihood.AT_A_TIME", at_a_time)
        hidden = torch.linspace(-2, 2, 40 * 32).sin().view(40, 32).requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
            loss = log_likelihoods(head, hidden, targets).square().mean()
        wanted = [hidden, *([head.weight] if trained else [])]
        found.append((loss.detach(), *torch.autograd.grad(loss, wanted)))
    for whole, parts in zip(*found, strict=True):
        assert parts.dtype == torch.float32
        torch.testing.assert_close(parts, whole, rtol=0.05, atol=0.02 * whole.abs().max().item())
