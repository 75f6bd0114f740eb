"""A GPU computes the same results as a CPU, and a whole workflow runs on it: make test-gpu."""

import copy
import os
from contextlib import nullcontext

import pytest
import torch
from torch._inductor.utils import fresh_cache
from tuned import PowerCut
from workflow import copy_project, snakemake

import tune as script
from implicit.format.render import render, render_prompt
from implicit.generation.generate import Limits, generate
from implicit.generation.rules import RuleAdapter, RuleSettings
from implicit.scoring.rank import score_responses
from implicit.tuning.sharding import Processes
from implicit.tuning.tune import CompilerMissing, Execution, Tuning, check_compiler, tune
from pipeline.files.storage import read_json, write_json
from pipeline.jobs.command import run_stage

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")]
GPU = Processes(device="cuda")
SETTINGS = Tuning(
    epochs=2, learning_rate=1e-3, batch_size=6, schedule="cosine", warmup=0.1, weight_decay=0.0,
    max_grad_norm=1.0, normalise_by="example", seed=5,
)  # fmt: skip


def may_skip(*, compiled=False, lora=False):
    """Skip a test if its requirements are missing."""
    if compiled:
        try:
            check_compiler("cuda")
        except CompilerMissing as error:
            pytest.skip(str(error))
    if lora:
        pytest.importorskip("peft", reason="peft is not installed")


@pytest.fixture
def items(world):
    return world.conversations("instructions", 20)


@pytest.fixture
def rows(items, tokenizer, chat):
    said = [[{"role": "user", "content": i.instruction}, {"role": "assistant", "content": i.response}] for i in items]
    return [render(messages, tokenizer, chat) for messages in said]


@pytest.mark.parametrize("rules", [(), ("eos", "uniform", "diversity")])
@pytest.mark.parametrize("batch_size", [1, 7])
def test_generation_equals_the_cpus(model, tokenizer, chat, items, rules, batch_size):
    settings = RuleSettings(3.0, 12, "hold", {"<": -4.0, "The": 3.0, " the": -2.0}, -1.5, "prompt_and_response")
    prompts = [render_prompt(item.instruction, tokenizer, chat) for item in items]
    found = {}
    for device in ("cpu", "cuda"):
        adapter = RuleAdapter(settings, rules, tokenizer, vocab_size=len(tokenizer)) if rules else None
        found[device] = generate(
            model.to(device), prompts, Limits(tokenizer.eos_token_id, tokenizer.pad_token_id, 24, 256),
            batch_size=batch_size, adapter=adapter,
        )  # fmt: skip
    assert found["cuda"] == found["cpu"]
    assert len({tuple(response.ids) for response in found["cpu"]}) > 5


def test_scores_equal_the_cpus(model, tokenizer, rows):
    pairs = [(row.ids[: row.trained.index(True)], row.ids[row.trained.index(True) :]) for row in rows]
    found = [
        score_responses(model.to(device), pairs, pad=tokenizer.pad_token_id, batch_tokens=300, device=device)
        for device in ("cpu", "cuda")
    ]
    assert [score.tokens for score in found[0]] == [score.tokens for score in found[1]]
    logprobs = [torch.tensor([score.logprob for score in scores]) for scores in found]
    torch.testing.assert_close(*logprobs, rtol=1e-4, atol=1e-3)


def losses_of(model, rows, tokenizer, processes, **how):
    execution = Execution(tokenizer.pad_token_id, **{"micro_batch_tokens": 200, "precision": torch.float32} | how)
    return torch.tensor([step.loss for step in tune(model, rows, SETTINGS, execution, processes=processes)])


def test_tuning_equals_the_cpus(model, rows, tokenizer):
    there = losses_of(copy.deepcopy(model), rows, tokenizer, GPU)
    here = losses_of(model, rows, tokenizer, Processes())
    torch.testing.assert_close(there, here, rtol=1e-3, atol=1e-4)


def test_tuning_again_is_the_same_to_the_last_bit(model, rows, tokenizer):
    made = [copy.deepcopy(model) for _ in range(2)]
    losses = [losses_of(one, rows, tokenizer, GPU, precision=torch.bfloat16) for one in made]
    assert torch.equal(*losses)
    weights = [torch.cat([p.detach().flatten() for p in one.parameters()]) for one in made]
    assert torch.equal(*weights)


@pytest.mark.parametrize(
    "how", [{"gradient_checkpointing": True}, {"compiled": True}, {"compiled": True, "gradient_checkpointing": True}]
)
def test_how_it_is_computed_does_not_matter(model, rows, tokenizer, how):
    may_skip(compiled=how.get("compiled", False))
    torch.compiler.reset()
    plain = losses_of(copy.deepcopy(model), rows, tokenizer, GPU)
    torch.testing.assert_close(losses_of(model, rows, tokenizer, GPU, **how), plain, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("method", "more"), [("full", ()), ("full", ("--compile",)), ("lora", ()), ("lora", ("--compile",))]
)
def test_a_run_that_was_cut_goes_on_without_a_seam(run, cut_at, monkeypatch, method, more):
    """To the last bit; up to rounding with compiled layers, as other kernels may then be chosen."""
    may_skip(compiled=bool(more), lora=method == "lora")
    more = ("--device", "cuda", *more)
    torch.compiler.reset()
    straight, weights = run("straight", *more, method=method)
    cut_at(8)
    with pytest.raises(PowerCut):
        run("cut", *more, method=method)
    monkeypatch.setattr(script, "say", print)
    torch.compiler.reset()
    compiled = "--compile" in more
    with fresh_cache() if compiled else nullcontext():  # as on another machine
        resumed, again = run("cut", *more, method=method)
    assert resumed["resumed_at"] == [6]
    assert resumed["losses"] == pytest.approx(straight["losses"], rel=5e-3 if compiled else 0, abs=0)
    assert compiled or again == weights
    assert straight["execution"]["device"] == "cuda" and straight["gpu_seconds"] > 0


def test_memory_that_is_too_small_is_said_with_what_to_do(run):
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1e-6)
    try:
        with pytest.raises(SystemExit, match=r"the GPU's memory is too small.*Lower execution.micro_batch_tokens"):
            run_stage(lambda: run("large", "--device", "cuda"), if_gpu_is_full="Lower execution.micro_batch_tokens")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_the_whole_workflow_runs_there(tmp_path):
    """Jobs are forked from one process that has imported torch: none of it may have touched the GPU before."""
    folder = copy_project(tmp_path)
    write_json({"execution": {"device": "cuda"}}, folder / "gpu.yaml")
    done = snakemake(folder, configs=("experiments/test.yaml", "gpu.yaml"), cores=min(8, os.cpu_count()))
    assert done.returncode == 0, done.stdout[-6000:]
    records = [read_json(path) for path in (folder / "results/test/tiny").rglob("record.json")]
    tuned = [record for record in records if record["stage"] == "tune"]
    assert len(tuned) == 12 and all(record["execution"]["device"] == "cuda" for record in tuned)
    assert all(record["gpu_seconds"] > 0 for record in tuned)
    assert (folder / "results/test/tables/table1.csv").is_file() and (folder / "results/test/report.html").is_file()
