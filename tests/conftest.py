"""A tokenizer and a small model with random weights, and the location of third-party rows."""

import os
import sys
from pathlib import Path

import pytest
import torch
from judge_server import KEY, good_and_bad
from tuned import TUNING, PowerCut, command_line, save_base, save_conversations
from workflow import copy_project, snakemake

import tune
from implicit.format.render import Format
from implicit.format.tokenizer import train_tokenizer
from implicit.judging.oracle import Oracle, describe
from implicit.tuning.pretrain import Architecture, build_model
from implicit.world.sets import World
from pipeline.files.storage import read_json

SHARED = Path(__file__).parents[2] / "shared" / "data"


def pytest_configure(config):
    """Hide a GPU from all tests except GPU tests: they expect CPU results, to the last bit."""
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_make_parametrize_id(val, argname):
    """Name bytes by their argument: gzip's hold the time, and pytest-xdist wants the same names from all workers."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture(scope="session")
def chat():
    return Format(user_tag="<|user|>", assistant_tag="<|assistant|>", add_bos=True)


@pytest.fixture(scope="session")
def world():
    return World(7)


@pytest.fixture(scope="session")
def tokenizer(world):
    return train_tokenizer(world.corpus(800), vocab_size=500, context=256)


@pytest.fixture(scope="session")
def clear_cut(tokenizer):
    """Makes two-layer Llamas in float32. Weights are scaled up so that greedy choices are unambiguous and varied."""

    def make(seed):
        made = build_model(Architecture(hidden_size=32, layers=2, heads=4, context=256), tokenizer, seed=seed)
        with torch.no_grad():
            for parameter in made.parameters():
                if parameter.ndim == 2:
                    parameter.mul_(8)
        return made.eval()

    return make


@pytest.fixture
def model(clear_cut):
    return clear_cut(3)


@pytest.fixture
def sides(world):
    """Responses of three qualities to the same instructions: right, to another request, and right but rambling."""
    items, oracle = world.evaluation("test", 40), Oracle()

    def side(texts):
        rows = []
        for i, (item, text) in enumerate(zip(items, texts, strict=True)):
            quality = oracle.quality(describe(item, world.seed), text, stopped=True)
            rows.append({"id": str(i), "instruction": item.instruction, "output": text, "quality": quality})
        return rows

    right = [item.response for item in items]
    mixed = [
        text if i % 3 == 0 else right[i - 1] if i % 3 == 1 else text + " and so on" * 9 for i, text in enumerate(right)
    ]
    return side(right), side(mixed)


@pytest.fixture(scope="session")
def shared():
    """Third-party rows for tests, which are not part of the project."""
    if not SHARED.is_dir():
        pytest.skip(f"third-party test data is not at {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A copy of the project in which the test experiment has been run: (folder, what it printed)."""
    folder = copy_project(tmp_path_factory.mktemp("project"))
    done = snakemake(folder)
    assert done.returncode == 0, done.stdout[-6000:]
    return folder, done.stdout


@pytest.fixture
def project(finished):
    """The folder in which the test experiment has been run."""
    return finished[0]


@pytest.fixture
def run(tmp_path, world, tokenizer, model, monkeypatch):
    """Runs the tuning script on a small model, in this process: 16 steps; gives its record and its weights' bytes."""
    save_base(model, tokenizer, tmp_path / "base")
    save_conversations(world.conversations("instructions", 12), tmp_path / "data.parquet")

    def words(name, *more, **tuning):
        options = {"epochs": 4, "checkpoint-steps": 3}
        return [
            *command_line(tmp_path / "base", tmp_path / "data.parquet", tmp_path / name, TUNING | tuning, **options),
            *more,
        ]

    def start(name, *more, **tuning):
        monkeypatch.setattr(sys, "argv", ["tune.py", *words(name, *more, **tuning)])
        tune.main()
        out = tmp_path / name
        return read_json(out / "record.json"), (out / "model" / "model.safetensors").read_bytes()

    start.command_line = words
    return start


@pytest.fixture
def cut_at(monkeypatch):
    """Makes the next run fail while logging a step."""

    def cut(step, end=None):
        def say(line):
            if str(line).startswith(f"step {step}/"):
                if end:
                    os.kill(os.getpid(), end)
                else:
                    raise PowerCut

        monkeypatch.setattr(tune, "say", say)

    return cut


@pytest.fixture
def judge_key(monkeypatch):
    """The API key of the test servers."""
    monkeypatch.setenv("JUDGE_KEY", KEY)


@pytest.fixture
def pairs():
    """Twelve pairs; the second output is better in all but one, which is a tie."""
    return good_and_bad(12)
