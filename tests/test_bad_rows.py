"""Unusable rows give one clear message and leave nothing half-written."""

import gzip
import io
import json
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sources import conversations

import make_dataset
import make_evaluation_set
from implicit.data.recipes import RecipeError
from implicit.format.render import Format
from pipeline.config.models import Tuning
from pipeline.jobs.command import InputError
from tune import Settings, render_rows


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return str(path)


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def parquet(rows, share=1.0):
    """Rows as a truncated Parquet file."""
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()[: int(share * buffer.tell())]


def talk(*turns):
    return json.dumps([{"m": [{"role": role, "content": content} for role, content in turns]}])


GOOD = {"q": "a", "a": "b"}
PAIR = {"user": "{q}", "assistant": "{a}"}
TURNS = {"messages": "m"}
ASKED = {"instruction": "{q}"}
ROWS = [  # kind of set, file name, content, source, message
    ("dataset", "r.jsonl", lines(GOOD) + '{"q": "a", \n', PAIR, r"r.jsonl, line 2: not valid JSON: "),
    ("dataset", "r.jsonl", lines(GOOD, GOOD, [1]), PAIR, r"r.jsonl, line 3: a row must be an object with named columns"),
    ("dataset", "r.jsonl", lines(GOOD, GOOD | {"a": "  "}), PAIR, r"r.jsonl, line 2: the response in message 2 is empty"),
    ("dataset", "r.jsonl", lines(GOOD, {"q": "a"}), PAIR, r"r.jsonl, line 2: the response in message 2 is empty"),
    ("dataset", "r.jsonl", lines(GOOD, {"q": "a", "a": None}), PAIR, r"r.jsonl, line 2: the response in message 2 is empty"),
    ("dataset", "r.jsonl", lines({"q": {"x": 1}, "a": "b"}), PAIR, r"r.jsonl, line 1: column 'q' must be text or a finite number, but it is \{'x': 1\} \(an object\)"),
    ("dataset", "r.jsonl", lines(GOOD, GOOD | {"a": "x \ud83d"}), PAIR, r"line 2: column 'a' contains an unpaired surrogate, \\ud83d, at 2"),
    ("dataset", "r.jsonl", '{"q": ' + "[" * 100_000, PAIR, r"r.jsonl, line 1: cannot be read as JSON: .*recursion"),
    ("dataset", "r.jsonl", '{"q": ' + "9" * 5000 + "}", PAIR, r"r.jsonl, line 1: cannot be read as JSON: .*digits"),
    ("dataset", "r.jsonl", "", PAIR, r"datasets.d: its source gives no rows at all"),
    ("dataset", "r.json", "[]", PAIR, r"datasets.d: its source gives no rows at all"),
    ("dataset", "r.jsonl", lines(GOOD), PAIR | {"rows": [0, 5]}, r"r.jsonl: has 1 rows, but 'rows' asks for \[0, 5\]"),
    ("dataset", "r.jsonl", lines(GOOD), PAIR | {"examples": 5}, r"datasets.d.examples: 5, but .* only 1"),
    ("dataset", "r.jsonl", lines(GOOD), PAIR | {"sha256": "0" * 64}, r"datasets.d.sha256: 0000.* is expected, but the rows have"),
    ("dataset", "r.jsonl", b"\xff\xfe{}", PAIR, r"r.jsonl: contains text in UTF-16 or UTF-32: save it as UTF-8"),
    ("dataset", "r.jsonl", lines(GOOD), PAIR | {"user": "{q"}, r"datasets.d.user: the template '{q' is invalid: .*brace"),
    ("dataset", "r.jsonl", lines(GOOD), PAIR | {"user": "{}"}, r"datasets.d.user: the template '{}' may have only column names"),
    ("dataset", "r.jsonl", lines(GOOD), PAIR | {"user": "{q.__class__}"}, r"line 1.*: no column 'q.__class__'. "),
    ("dataset", "r.jsonl", lines(GOOD), PAIR | {"user": "{q!r:>99}"}, r"datasets.d.user: .* may have only column names in braces"),
    ("dataset", "r.json", '{"q": "a"}', PAIR, r"r.json: contains one JSON object, not a list of rows"),
    ("dataset", "r.csv", "q,a\nx\n", PAIR, r"r.csv, line 2: 1 cells, but the header has 2"),
    ("dataset", "r.csv", 'q,a\n"x,y\n', PAIR, r"r.csv, line 2: not valid CSV"),
    ("dataset", "r.jsonl.gz", gzip.compress(lines(GOOD).encode())[:-9], PAIR, r"r.jsonl.gz: cannot be decompressed: "),
    ("dataset", "r.parquet", parquet([GOOD] * 99, 0.6), PAIR, r"r.parquet: cannot be read as Parquet"),
    ("dataset", "r.parquet", b"", PAIR, r"r.parquet: the file is empty"),
    ("dataset", "r.parquet.gz", gzip.compress(parquet([GOOD]))[:40], PAIR, r"r.parquet.gz: cannot be decompressed"),
    ("dataset", "r.parquet", parquet([{"x": 1}]), PAIR, r"r.parquet, row 1: no column 'q'. The columns are 'x'"),
    ("dataset", "r.json", talk(("user", "a")), TURNS, r"r.json, row 1: the conversation has no assistant turn"),
    ("dataset", "r.json", talk(("assistant", " ")), TURNS, r"r.json, row 1: the response in message 1 is empty"),
    ("dataset", "r.json", talk(("tool", "a")), TURNS, r"row 1: column '\w+', message 1 has the role 'tool', which is none of"),
    ("dataset", "r.json", talk(("assistant", True)), TURNS, r"r.json, row 1: column 'm', message 1, its content must be text or a finite number, but"),
    ("dataset", "r.json", talk(), TURNS, r"r.json, row 1: the conversation has no assistant turn"),
    ("dataset", "r.json", '[{"m": "hello"}]', TURNS, r"r.json, row 1: column 'm' must be a list of {role, content}"),
    ("dataset", "r.json", '[{"m": [{"role": "user"}]}]', TURNS, r"r.json, row 1: the instruction in message 1 is empty"),
    ("dataset", "r.json", '[{"conversations": "x"}]', {"recipe": "lima"}, r"row 1: column 'conversations' must be a list of texts"),
    ("set", "r.jsonl", lines({"q": "a"}, {"q": "b"}, {"q": "a"}), ASKED, r"line 3: the instruction 'a' occurs twice, first in .*line 1"),
    ("set", "r.jsonl", lines({"q": "a"}, {"q": " "}), ASKED, r"r.jsonl, line 2: the instruction is empty"),
    ("set", "r.jsonl", lines({"q": "\udc00"}), ASKED, r"line 1: column 'q' contains an unpaired surrogate, \\udc00"),
    ("set", "r.jsonl", lines(GOOD | {"a": ""}), ASKED | {"reference": "{a}"}, r"r.jsonl, line 1: the reference is empty"),
    ("set", "r.jsonl", lines({"q": "a"}), ASKED | {"reference": "{a}"}, r"r.jsonl, line 1: no column 'a'. The columns are 'q'"),
    ("set", "r.jsonl", "", ASKED, r"evaluation_sets.d: its source gives no rows at all"),
    ("set", "r.jsonl", lines({"q": "a"}), ASKED | {"instructions": 9}, r"evaluation_sets.d.instructions: 9, but"),
    ("set", "r.jsonl", lines({"q": "a", "index": 2**70}), ASKED, r"r.jsonl, line 1: column 'index' must be a position .*, but it is 1180591620717411303424"),
    ("set", "r.parquet", parquet([{"q": "a"}] * 99, 0.5), ASKED, r"r.parquet: cannot be read as Parquet"),
    ("set", None, None, {"world_part": "test", "instructions": 999}, r"evaluation_sets.d.instructions: the world has 240"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "name", "content", "given", "message"), ROWS, ids=[f"{i} {case[1]}" for i, case in enumerate(ROWS)]
)
def test_rows_that_cannot_be_used_are_named_and_nothing_is_written(
    tmp_path, monkeypatch, kind, name, content, given, message
):
    folder = tmp_path / "out"
    script = {"dataset": make_dataset, "set": make_evaluation_set}[kind]
    if name is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    source = {"file": str(tmp_path / name) if name else None} | given
    settings = json.dumps({"name": "d", "source": source, "world_seed": 1})
    monkeypatch.setattr(sys, "argv", ["x", "--output", str(folder / "d.parquet"), "--settings", settings])
    with pytest.raises((InputError, RecipeError), match=message):
        script.main()
    assert not folder.exists()


def source(file, **more):
    return {"file": file, "rows": None, "user": None, "assistant": None, "messages": None} | more


def test_json_lines_json_and_parquet_give_the_same_conversations(tmp_path):
    """With a BOM, blank lines, U+2028 in a string, Windows line ends and braces in the text."""
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
    tuning = {"max_length": 100, "train_eos": True, "train_turn_newline": False, "too_long": "error"}
    settings = Settings.model_construct(
        chat=Format("<|user|>", "<|assistant|>", True), tuning=Tuning.model_construct(**tuning), user_turn="shown"
    )

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
