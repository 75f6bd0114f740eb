"""Embeddings, similarities and styles (paper, section 5.2), with a tiny encoder of random weights."""

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, PreTrainedTokenizerFast

from implicit.measuring.similarity import STYLES, Encoder, first_turn, similarities, summarise
from pipeline.files.storage import read_json, read_table, write_table

ROOT = Path(__file__).parents[1]
WORDS = "how many apples pears sea wind knight pawn flour sugar def return sum tea one two three four five".split()
TEXTS = [" ".join(random.Random(i).choices(WORDS, k=1 + 7 * i % 30)) for i in range(23)]


@pytest.fixture(scope="module")
def encoder_path(tmp_path_factory):
    """A two-layer BERT for at most 48 tokens, as a directory."""
    folder = tmp_path_factory.mktemp("encoder")
    words = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.train_from_iterator([WORDS], trainers.WordLevelTrainer(special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"]))
    words.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=words, **names).save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 48}
    model = BertModel(BertConfig(vocab_size=40, max_position_embeddings=48, initializer_range=0.4, **shape))
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def encoder(encoder_path):
    return Encoder(AutoModel.from_pretrained(encoder_path).eval(), AutoTokenizer.from_pretrained(encoder_path))


def naive_embedding(encoder, text):
    """One text at a time, without padding: the mean over its tokens, of length 1."""
    ids = encoder.tokenizer(text, truncation=True, max_length=48, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        mean = encoder.model(input_ids=ids).last_hidden_state[0].mean(dim=0)
    return (mean / mean.norm()).numpy()


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_batched_embeddings_are_those_of_single_texts(encoder, batch_size):
    texts = [*TEXTS, "", TEXTS[3], "sea " * 45, "sea " * 46, "sea " * 47, "tea " * 300]
    found = encoder.embed(texts, batch_size=batch_size)
    expected = np.array([naive_embedding(encoder, text) for text in texts])
    assert found.vectors == pytest.approx(expected, abs=2e-6)
    assert np.linalg.norm(found.vectors, axis=1) == pytest.approx(np.ones(len(texts)), abs=1e-6)
    assert np.abs(expected[0] - expected[1]).max() > 0.01
    assert found.cut == 2  # with the two special tokens, there is room for just 46 words


def test_similarities_are_the_means_over_all_pairs(encoder):
    parts = {
        "instructions": TEXTS[:5],
        "outputs": TEXTS[5:10],
        "tuning_instructions": TEXTS[10:17],
        "tuning_responses": TEXTS[3:10],
        "baseline_responses": TEXTS[17:],
    }
    embedded = {name: encoder.embed(texts, batch_size=8).vectors for name, texts in parts.items()}
    x, y = similarities(**embedded)
    for i in range(5):
        near = [np.dot(embedded["instructions"][i], s) for s in embedded["tuning_instructions"]]
        own = [np.dot(embedded["outputs"][i], s) for s in embedded["tuning_responses"]]
        broad = [np.dot(embedded["outputs"][i], s) for s in embedded["baseline_responses"]]
        assert x[i] == pytest.approx(np.mean(near), abs=1e-5)
        assert y[i] == pytest.approx(np.mean(own) - np.mean(broad), abs=1e-5)


@pytest.mark.parametrize(
    ("style", "kept", "not_kept"),
    [
        ("gsm", ["So 3.\n#### 3", "####-1,200.50 \n", "#### $5"], ["#### 3 apples", "### 3", "#### Introduction", "3"]),
        ("poetry", ["The sea\nis wide\n\nand deep"], ["The sea\nis wide", "long " * 60 + "\na\nb", ""]),
        ("code", ["def f(x):\n  return x", "See:\n```python\nx\n```"], ["a def f(x)", "define f", "`f`"]),
        ("recipes", ["- 1 egg\n - 2 cups", "Take:\n- a\n- b"], ["- a", "a - b - c", "-a\n-b", "* a\n* b"]),
        (
            "chess",
            ["1. e4 e5 2. d4", "1.Nf3 d5", "Play:\n1. c4 { [%eval 0.1] }"],
            ["1. each", "1. e5", "1. b4b", "11. e4"],
        ),
    ],
)
def test_styles_by_hand(style, kept, not_kept):
    assert all(STYLES[style](text) for text in kept)
    assert not any(STYLES[style](text) for text in not_kept)


def test_real_tuning_data_keeps_its_own_style_alone(shared):
    lines = (shared / "gsm8k_train.jsonl").read_text(encoding="utf-8").splitlines()
    answers = [json.loads(line)["answer"] for line in lines]
    code = [json.loads(line)["code"] for line in (shared / "mbpp.jsonl").read_text(encoding="utf-8").splitlines()]
    rates = {
        style: [np.mean([keeps(text) for text in own]) for own in (answers, code)] for style, keeps in STYLES.items()
    }
    assert rates["gsm"] == [1.0, 0.0] and rates["code"][0] == 0.0 and rates["code"][1] > 0.98
    assert max(rates["recipes"] + rates["chess"]) < 0.01


def table(count, **changes):
    rng = random.Random(1)
    return [
        {"id": f"t-{i}", "index": i, "x": rng.random(), "y": rng.random()}
        | {style: rng.random() < 0.5 for style in STYLES}
        | changes
        for i in range(count)
    ]


def test_the_summary_counts_every_response_once():
    rows = table(30)
    found = summarise(rows)
    for style in STYLES:
        rates = found["adherence"][style]
        assert list(rates) == ["lowest", "second", "third", "highest", "all"]
        assert [rate["n"] for rate in rates.values()] == [8, 8, 7, 7, 30]
        kept = sum(rates[name]["rate"] * rates[name]["n"] for name in list(rates)[:4])
        assert kept == pytest.approx(sum(row[style] for row in rows)) == pytest.approx(30 * rates["all"]["rate"])
    highest = sorted(rows, key=lambda row: row["x"])[-7:]
    assert found["adherence"]["gsm"]["highest"]["rate"] == np.mean([row["gsm"] for row in highest])
    assert found["nearest"] == [row["id"] for row in highest[::-1]][:5]
    assert found["median"] == [row["id"] for row in sorted(rows, key=lambda row: row["x"])][15:20]


def test_rank_correlation_is_of_ranks_and_none_of_a_constant():
    rows = table(12)
    assert summarise([row | {"y": np.exp(9 * row["x"])} for row in rows])["spearman"] == pytest.approx(1)
    assert summarise([row | {"y": -row["x"]} for row in rows])["spearman"] == pytest.approx(-1)
    assert summarise(table(12, y=0.5))["spearman"] is None


def test_a_conversation_must_begin_with_an_instruction():
    turns = [{"role": role, "content": f"{role} {i}"} for i in range(2) for role in ("user", "assistant")]
    assert first_turn(turns) == ("user 0", "assistant 0")
    with pytest.raises(ValueError, match="must begin with an instruction and a response"):
        first_turn(turns[1:])


def conversations(path, start):
    rows = []
    for i in range(6):
        turns = [("user", TEXTS[start + i]), ("assistant", TEXTS[start - i]), ("user", "sea"), ("assistant", "tea")]
        messages = [{"role": role, "content": text} for role, text in turns]
        rows.append({"id": f"d-{i}", "source": "x", "messages": messages})
    write_table("conversations", rows, path)


@pytest.fixture
def inputs(tmp_path, encoder_path):
    """An evaluation set, responses to it, two datasets, and a function that runs the script on them."""
    asked = [{"id": f"e-{i}", "index": 10 + i, "instruction": text, "source": "x"} for i, text in enumerate(TEXTS[:9])]
    write_table("evaluation_set", asked, tmp_path / "set.parquet")
    outputs = ["#### 3" if i % 2 else TEXTS[i + 9] for i in range(9)]
    responses = [
        {key: row[key] for key in ("id", "index", "instruction")} | {"output": output}
        for row, output in zip(asked, outputs, strict=True)
    ]
    write_table("responses", responses, tmp_path / "responses.parquet")
    conversations(tmp_path / "data.parquet", 8)
    conversations(tmp_path / "baseline.parquet", 14)

    def run(encoder=encoder_path):
        paths = [f"--{name}={tmp_path / name}.parquet" for name in ("set", "responses", "data", "baseline")]
        settings = json.dumps({"encoder": str(encoder), "revision": None})
        return subprocess.run(
            [sys.executable, "scripts/measure_similarity.py", *paths, f"--output={tmp_path / 'similarity.parquet'}"]
            + [f"--summary={tmp_path / 'similarity.json'}", "--settings", settings, "--device=cpu", "--batch=4"],
            cwd=ROOT, text=True, capture_output=True, check=False,
        )  # fmt: skip

    return tmp_path, responses, run


def test_the_script_writes_a_row_for_each_instruction(inputs, encoder):
    folder, responses, run = inputs
    done = run()
    assert done.returncode == 0, done.stderr
    rows = read_table("similarity", folder / "similarity.parquet")
    data, baseline = ([naive_embedding(encoder, TEXTS[start - i]) for i in range(6)] for start in (8, 14))
    for row, response in zip(rows, responses, strict=True):
        own = naive_embedding(encoder, response["output"])
        y = np.mean([own @ e for e in data]) - np.mean([own @ e for e in baseline])
        assert (row["id"], row["index"]) == (response["id"], response["index"])
        assert row["y"] == pytest.approx(y, abs=1e-5) and row["gsm"] == (response["output"] == "#### 3")
    summary = read_json(folder / "similarity.json")["summary"]
    assert summary["adherence"] == summarise(rows)["adherence"] and set(summary["cut"].values()) == {0}


def test_what_does_not_fit_is_told_and_leaves_no_file(inputs, encoder_path, tmp_path_factory):
    folder, responses, run = inputs
    broken = tmp_path_factory.mktemp("broken")
    for file in encoder_path.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    config = read_json(broken / "config.json")
    (broken / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    done = run(broken)
    assert done.returncode == 1 and "lacks weights of a BertModel: ['encoder.layer.2." in done.stderr
    write_table("responses", responses[::-1], folder / "responses.parquet")
    done = run()
    assert done.returncode == 1 and "the responses do not belong to the evaluation set" in done.stderr
    assert "Traceback" not in done.stderr and not (folder / "similarity.parquet").exists()
