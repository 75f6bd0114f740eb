"""Everything that a user can get wrong ends in one clear message, before anything costly, with nothing half-written."""

import copy
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from make_dataset import conversations
from make_evaluation_set import evaluation_rows
from stage.check import ConfigError, check_config
from stage.command import InputError
from tune import render_rows

ROOT = Path(__file__).parents[1]
DEFAULT = yaml.safe_load((ROOT / "config.yaml").read_text())


def changed(path, value):
    """The default config with one value set."""
    config = copy.deepcopy(DEFAULT)
    section = config
    *parents, last = path.split(".")
    for key in parents:
        section = section[key]
    section[last] = value
    return config


def test_the_default_config_is_right():
    assert check_config(DEFAULT).experiment == "tiny"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("tuning.learning_rat", 1e-4, "tuning.learning_rat: unknown key; known keys here are learning_rate, batch_size"),
        ("generationn", {}, "generationn: unknown key; known keys here are experiment, run, models"),
        ("tuning.batch_size", "three", "tuning.batch_size: Input should be a valid integer, but it is 'three'"),
        ("tuning.schedule", "cosin", "tuning.schedule: Input should be 'cosine', 'linear' or 'constant', but it is 'cosin'"),
        ("chat.add_bos", "yes", "chat.add_bos: Input should be a valid boolean, but it is 'yes'"),
        ("modes.poem.dataset", "poems", "modes.poem.dataset: 'poems' is not defined; defined are lima, arithmetic"),
        ("modes.poem.tuning", {"epoch": 3}, "modes.poem.tuning.epoch: unknown key"),
        ("run.modes", ["haiku"], "run.modes: 'haiku' is not defined"),
        ("run.test_seeds", [], "run.test_seeds: List should have at least 1 item after validation, not 0, but it is []"),
        ("run.test_seeds", [1, 1], "run.test_seeds: [1, 1] holds a value twice"),
        ("selection.epochs", [0, 2], "selection.epochs.0: Input should be greater than or equal to 1, but it is 0"),
        ("judge", None, "selection.epochs: [1, 3] cannot be chosen from without a judge"),
        ("models.tiny.pretrain", None, "models.tiny: give either 'pretrain' or 'path'"),
        ("datasets.poem", {"file": "no/such.jsonl", "user": "{a}", "assistant": "{b}"}, "file no/such.jsonl: not found"),
        ("datasets.poem", {"file": "rows.doc", "user": "{a}", "assistant": "{b}"}, "must end in one of .json, .json.gz"),
        ("datasets.poem", {"file": "rows.jsonl", "user": "{a}"}, "needs one of 'user' and 'assistant', 'messages', 'recipe'"),
        ("tuning.max_length", 4096, "tuning.max_length: 4096 tokens, but the context of model 'tiny' is 2048"),
    ],
)  # fmt: skip
def test_a_wrong_config_is_named_by_key_and_value(path, value, message):
    with pytest.raises(ConfigError) as caught:
        check_config(changed(path, value))
    assert message in str(caught.value)


def test_all_faults_of_a_config_are_told_at_once():
    config = changed("tuning.batch_size", 0) | {"experiment": "No Spaces"}
    with pytest.raises(ConfigError) as caught:
        check_config(config)
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == ["experiment", "tuning.batch_size"]


def test_a_model_directory_without_a_tokenizer(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"models.tiny.path: the directory .* holds no tokenizer.json or"):
        check_config(changed("models.tiny", {"path": str(tmp_path), "world": 1}))


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return str(path)


def source(file, **more):
    return {"file": file, "rows": None, "user": None, "assistant": None, "messages": None} | more


GOOD = '{"q": "a", "a": "b"}\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + '{"q": "a", \n', "rows.jsonl, line 2: no valid JSON: "),
        (GOOD + GOOD + "[1]\n", r"rows.jsonl, line 3: a row must be an object"),
        (GOOD + '{"q": "a", "a": "  "}\n', "rows.jsonl, line 2: the response in message 2 is empty"),
        (GOOD + '{"q": "a"}\n', "rows.jsonl, line 2: no column of text called 'a'; the columns are q"),
        (GOOD + '{"q": "a", "a": null}\n', "rows.jsonl, line 2: no column of text called 'a'"),
    ],
)
def test_a_broken_row_is_named_by_its_line(tmp_path, text, message):
    file = write(tmp_path / "rows.jsonl", text)
    with pytest.raises(InputError, match=message):
        conversations("d", source(file, user="{q}", assistant="{a}"), None)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([{"role": "user", "content": "a"}], "row 1: the conversation has no assistant turn"),
        ([{"role": "assistant", "content": " "}], "row 1: the response in message 1 is empty"),
        ([{"role": "system", "content": "a"}], "row 1: message 1 has the role 'system'"),
        ([{"role": "assistant", "content": 3}], "row 1: message 1 is no text, but 3"),
        ("hello", "row 1: column 'm' must be a list"),
    ],
)
def test_a_conversation_that_cannot_be_tuned_on(tmp_path, messages, message):
    file = write(tmp_path / "rows.json", json.dumps([{"m": messages}]))
    with pytest.raises(InputError, match=message):
        conversations("d", source(file, messages="m"), None)


def test_too_few_rows_and_bytes_that_are_no_text(tmp_path):
    file = write(tmp_path / "rows.jsonl", GOOD)
    with pytest.raises(InputError, match=r"holds 1 rows, but 'rows' asks for \[0, 5\]"):
        conversations("d", source(file, user="{q}", assistant="{a}", rows=[0, 5]), None)
    (tmp_path / "bytes.jsonl").write_bytes(b"\xff\xfe{}")
    with pytest.raises(InputError, match="cannot be read as UTF-8 text"):
        conversations("d", source(str(tmp_path / "bytes.jsonl"), user="{q}", assistant="{a}"), None)


def test_an_instruction_that_occurs_twice(tmp_path):
    file = write(tmp_path / "rows.jsonl", '{"q": "a"}\n{"q": "b"}\n{"q": "a"}\n')
    with pytest.raises(InputError, match=r"line 3: the instruction 'a' occurs twice, first in .*line 1"):
        evaluation_rows("test", {"file": file, "rows": None, "instruction": "{q}", "reference": None}, None)


def test_more_instructions_than_the_world_holds():
    with pytest.raises(InputError, match=r"evaluation_sets.test.instructions: the world holds 240"):
        evaluation_rows("test", {"file": None, "world": "test", "instructions": 999}, 1)


def test_json_lines_json_and_parquet_give_the_same_conversations(tmp_path):
    """With a BOM, blank lines, a U+2028 inside a string, Windows line ends and braces in the text."""
    rows = [{"q": "uni \u2028 日本", "a": "{x} 🙂"}, {"q": "a\r\nb", "a": "\tc"}]
    lines = write(tmp_path / "a.jsonl", "\ufeff" + "\r\n\r\n".join(json.dumps(r, ensure_ascii=False) for r in rows))
    listed = write(tmp_path / "a.json", json.dumps(rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    found = [
        [row["messages"] for row in conversations("d", source(file, user="{q}", assistant="{a}"), None)]
        for file in (lines, listed, str(tmp_path / "a.parquet"))
    ]
    assert found[0] == found[1] == found[2]
    assert [m["content"] for m in found[0][0]] == ["uni \u2028 日本", "{x} 🙂"]


def test_responses_that_do_not_fit(tokenizer):
    chat = {"user_tag": "<|user|>", "assistant_tag": "<|assistant|>", "add_bos": True}
    settings = {
        "chat": chat,
        "tuning": {"max_length": 100, "train_turn_newline": False, "too_long": "error"},
        "show_instruction": True,
    }

    def row(user, assistant):
        turns = [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
        return {"id": "d-0", "source": "rows.jsonl", "messages": turns}

    (cut,) = render_rows([row("short", "word " * 90)], tokenizer, settings, context=256)
    assert len(cut.ids) == 100 and cut.cut > 0
    with pytest.raises(
        InputError, match=r"row d-0 \(rows.jsonl\): a response of \d+ tokens is longer than the context"
    ):
        render_rows([row("short", "word " * 900)], tokenizer, settings, context=256)
    with pytest.raises(InputError, match=r"nothing of the response is left within tuning.max_length = 100"):
        render_rows([row("word " * 200, "short")], tokenizer, settings, context=256)
    with pytest.raises(InputError, match=r"tuning.max_length: 100 tokens, but the context of the model is 64"):
        render_rows([row("a", "b")], tokenizer, settings, context=64)
