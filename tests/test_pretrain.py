import copy

import pytest
import torch

from implicit.tuning.pretrain import Architecture, Muon, Pretraining, build_model, orthogonal, pretrain


def plan(rows, **own):
    """How rows are trained on, in one pass."""
    common = {"tokens": rows.numel(), "sequence_length": rows.shape[1], "learning_rate": 3e-3, "seed": 0}
    common |= {"matrix_learning_rate": 0.02, "warmup": 0.1, "precision": "float32"}
    return Pretraining(**common | own)


@pytest.mark.parametrize("shape", [(24, 24), (16, 64), (64, 16)])
def test_muon_is_torchs_own_but_for_its_rounding(shape):
    """Torch computes it in bfloat16, which has 8 bits of precision."""
    torch.manual_seed(0)
    first = torch.nn.Parameter(torch.randn(shape))
    second, start = copy.deepcopy(first), first.detach().clone()
    ours, torchs = Muon([first], lr=0.02), torch.optim.Muon([second], lr=0.02, weight_decay=0.0)
    for _ in range(5):
        gradient = torch.linalg.qr(torch.randn(max(shape), min(shape)))[0]
        gradient = gradient * torch.linspace(0.5, 1.5, min(shape))
        for optimizer, matrix in ((ours, first), (torchs, second)):
            matrix.grad = (gradient if shape[0] >= shape[1] else gradient.T).clone()
            optimizer.step()
    assert (first - second).norm() < 0.02 * (first - start).norm()
    assert torch.linalg.svdvals(orthogonal(gradient)).sub(1).abs().max() < 0.4


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_pretraining_learns_in_either_precision(precision, tokenizer):
    model = build_model(Architecture(hidden_size=32, layers=1, heads=2, context=64), tokenizer, seed=3)
    rows = torch.randint(3, 20, (256, 1)).repeat(1, 32)  # the same token repeatedly
    settings = plan(rows, batch_size=4, precision=precision)
    losses = []
    pretrain(model, rows, settings, log=lambda step: losses.append(step.loss))
    assert losses[-1] < losses[0] - 1
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_the_number_of_threads_changes_not_a_bit(tokenizer):
    architecture = Architecture(hidden_size=32, layers=2, heads=2, context=64)
    rows = torch.randint(3, len(tokenizer), (24, 64), generator=torch.Generator().manual_seed(0))
    settings = plan(rows, batch_size=8)
    trained = [pretrain(build_model(architecture, tokenizer, seed=3), rows, settings, threads=n) for n in (1, 2, 4)]
    for other in trained[1:]:
        for parameter, same in zip(trained[0].parameters(), other.parameters(), strict=True):
            assert torch.equal(parameter, same)


def test_snapshots_are_of_the_same_run_at_equal_distances_and_the_last_is_the_model(tokenizer):
    architecture = Architecture(hidden_size=32, layers=1, heads=2, context=64)
    rows = torch.randint(3, len(tokenizer), (40, 64), generator=torch.Generator().manual_seed(0))
    model, plain = (build_model(architecture, tokenizer, seed=3) for _ in range(2))
    steps, kept = [], {}

    def keep(snapshot):
        kept[snapshot] = len(steps), copy.deepcopy(model.state_dict())

    pretrain(model, rows, plan(rows, batch_size=4, snapshots=4), log=steps.append, keep=keep)
    pretrain(plain, rows, plan(rows, batch_size=4))
    assert {snapshot: after for snapshot, (after, _) in kept.items()} == {1: 2, 2: 5, 3: 8, 4: 10}
    for name, weights in plain.state_dict().items():
        assert torch.equal(weights, model.state_dict()[name]) and torch.equal(weights, kept[4][1][name])
    assert not torch.equal(kept[3][1]["model.norm.weight"], plain.state_dict()["model.norm.weight"])


def test_the_log_counts_the_tokens_of_a_smaller_last_batch(tokenizer):
    rows, steps = torch.full((10, 8), 3), []
    model = build_model(Architecture(hidden_size=32, layers=1, heads=2, context=64), tokenizer, seed=3)
    pretrain(model, rows, plan(rows, batch_size=4), log=steps.append)
    assert [step.tokens for step in steps] == [32, 64, 80]


def test_a_batch_in_parts_has_the_gradient_of_the_whole(tokenizer, monkeypatch):
    """After one step without a warm-up, the weights reveal the gradient."""
    rows = torch.randint(3, len(tokenizer), (6, 64), generator=torch.Generator().manual_seed(0))  # parts of 2, 2, 2, 0
    settings = plan(rows, batch_size=6, warmup=0.0)
    losses, models = [], []
    for parts in (4, 1):
        monkeypatch.setattr("implicit.tuning.pretrain.PARTS", parts)
        models.append(build_model(Architecture(hidden_size=32, layers=2, heads=2, context=64), tokenizer, seed=3))
        pretrain(models[-1], rows, settings, log=lambda step: losses.append(step.loss))
    labels = rows[:, 1:].flatten()
    first = build_model(Architecture(hidden_size=32, layers=2, heads=2, context=64), tokenizer, seed=3)
    plain = torch.nn.functional.cross_entropy(first(rows[:, :-1]).logits.flatten(0, 1), labels).item()
    assert losses == pytest.approx([plain, plain], rel=1e-5)
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
