"""A row means the same in every format, or is refused in every format, with file and row; likewise for whole files."""

import csv
import datetime
import decimal
import gzip
import io
import json
import math
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sources import conversations, evaluation_rows

import make_dataset
import make_evaluation_set
from implicit.format.render import Format, segments
from implicit.format.turns import unanswered
from make_dataset import notes_on
from pipeline.files.local_files import read_rows
from pipeline.files.rows import rows_sha256
from pipeline.files.storage import read_table, write_table
from pipeline.jobs.command import InputError

KINDS = ["csv", "jsonl", "json", "parquet"]
PAIR = {"user": "{q}|{x}", "assistant": "{a}"}
GOOD = {"q": "Why?", "x": "so", "a": "Because."}


def as_bytes(rows, kind):
    """Rows as a file of the given format; raises TypeError if it cannot represent them."""
    if kind == "jsonl":
        return "".join(json.dumps(row) + "\n" for row in rows).encode()
    if kind == "json":
        return json.dumps(rows, ensure_ascii=False, indent=1).encode()
    columns = list(dict.fromkeys(column for row in rows for column in row))
    if kind == "csv":
        cells = [row.get(column) for row in rows for column in columns]
        if any(
            isinstance(cell, bool | list | dict) or (isinstance(cell, float) and not math.isfinite(cell))
            for cell in cells
        ):
            raise TypeError("CSV has texts only")
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns)
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue().encode()
    buffer = io.BytesIO()
    pq.write_table(pa.table({column: [row.get(column) for row in rows] for column in columns}), buffer)
    return buffer.getvalue()


def write(folder, content, ending):
    path = folder / f"rows.{ending}"
    path.write_bytes(gzip.compress(content) if ending.endswith(".gz") else content)
    return str(path)


def made(path, **more):
    """The sha256 of the dataset that a file makes."""
    found = conversations("d", {"file": path} | PAIR | more, None)
    return rows_sha256([row["messages"] for row in found])


def said(*pairs):
    """The sha256 of conversations, each an instruction and a response."""
    return rows_sha256([[{"role": "user", "content": u}, {"role": "assistant", "content": a}] for u, a in pairs])


def with_x(*cells):
    return [GOOD | {"x": cell} for cell in cells]


def without(row, column):
    return {name: cell for name, cell in row.items() if name != column}


def texts(*found):
    return [(f"Why?|{text}", "Because.") for text in found]


LONG = "ein langes Wort " * 20_000
SAME = {  # rows, the resulting pairs, and the formats that cannot represent them, for which writing must fail
    "empty is empty, null or missing": ([GOOD, *with_x("", None), without(GOOD, "x")], texts("so", "", "", ""), []),
    "a first row may lack a column": ([without(GOOD, "x"), GOOD], texts("", "so"), []),
    "whole numbers": (with_x(1, -7, 2**53 + 1), texts("1", "-7", "9007199254740993"), []),
    "very large numbers": (with_x(2**70), texts("1180591620717411303424"), ["parquet"]),
    "numbers with a point": (with_x(1.0, 0.1, 1e16, 1e-7, -0.0), texts("1.0", "0.1", "1e+16", "1e-07", "-0.0"), []),
    "numbers as text": (with_x("1", "1.50", "007", "1e3"), texts("1", "1.50", "007", "1e3"), []),
    "words that other readers take for nothing": (
        with_x("nan", "None", "null", "NA", "inf", "true"),
        texts("nan", "None", "null", "NA", "inf", "true"),
        [],
    ),
    "blanks": (with_x("  ", "\t"), texts("  ", "\t"), []),
    "line ends": (with_x("a\nb", "a\r\nb", "a\rb", "\n"), texts("a\nb", "a\r\nb", "a\rb", "\n"), []),
    "quotes and commas": (with_x('"', '"a", b', "'", "\\", '\\"'), texts('"', '"a", b', "'", "\\", '\\"'), []),
    "unicode": (with_x("\u2028", "e\u0301", "é", "🙂", "\ufeff", "日"), texts("\u2028", "e\u0301", "é", "🙂", "\ufeff", "日"), []),
    "braces": (with_x("{q}", "{{"), texts("{q}", "{{"), []),
    "a very long cell": (with_x(LONG), texts(LONG), []),
}  # fmt: skip


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", SAME)
def test_the_same_rows_give_the_same_dataset(tmp_path, case, kind, packed):
    rows, pairs, impossible = SAME[case]
    if kind in impossible:
        with pytest.raises((TypeError, OverflowError)):
            as_bytes(rows, kind)
        return
    assert made(write(tmp_path, as_bytes(rows, kind), f"{kind}{packed}")) == said(*pairs)


REFUSED = {  # a column of two rows, the second invalid; the message after its place; the formats that cannot represent it
    "response null": ("a", ["b", None], "the response in message 2 is empty", []),
    "response without characters": ("a", ["b", ""], "the response in message 2 is empty", []),
    "response of blanks": ("a", ["b", " \n"], "the response in message 2 is empty", []),
    "NaN": ("a", [1.5, math.nan], "column 'a' must be text or a finite number, but it is nan", ["csv"]),
    "infinity": ("x", [None, -math.inf], "column 'x' must be text or a finite number, but it is -inf", ["csv"]),
    "true": ("x", [None, True], "column 'x' must be text or a finite number, but it is True", ["csv"]),
    "list": ("x", [None, ["a"]], r"column 'x' must be text or a finite number, but it is \['a'\]", ["csv"]),
    "object": ("x", [None, {"k": "a"}], "column 'x' must be text or a finite number, but it is {'k': 'a'}", ["csv"]),
}


def place(path, kind, number):
    """The name of a row, counted from 1."""
    return f"{path}, {'row' if kind in ('json', 'parquet') else 'line'} {number + (kind == 'csv')}"


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", REFUSED)
def test_the_same_rows_are_refused_alike(tmp_path, case, kind, packed):
    column, cells, message, impossible = REFUSED[case]
    rows = [GOOD | {column: cell} for cell in cells]
    if kind in impossible:
        with pytest.raises(TypeError):
            as_bytes(rows, kind)
        return
    path = write(tmp_path, as_bytes(rows, kind), f"{kind}{packed}")
    with pytest.raises(InputError, match=f"^{re.escape(place(path, kind, 2))}: {message}"):
        made(path)
    if column == "x":  # unused columns are not checked
        assert made(path, user="{q}") == said(("Why?", "Because."), ("Why?", "Because."))


@pytest.mark.parametrize("kind", KINDS)
def test_an_instruction_that_comes_out_empty_is_refused(tmp_path, kind):
    path = write(tmp_path, as_bytes([GOOD, GOOD | {"x": None}], kind), kind)
    with pytest.raises(InputError, match=f"^{re.escape(place(path, kind, 2))}: the instruction in message 1 is empty"):
        made(path, user="{x}")
    with pytest.raises(InputError, match=f"^{re.escape(place(path, kind, 2))}: the instruction is empty"):
        evaluation_rows("e", {"file": path, "instruction": "{x}"}, None)
    assert made(path, user="") == said(("", "Because."), ("", "Because."))  # a template without an instruction


@pytest.mark.parametrize("kind", KINDS)
def test_a_column_that_no_row_has_is_refused_with_the_one_that_may_be_meant(tmp_path, kind):
    path = write(tmp_path, as_bytes([without(GOOD, "x") | {"Question ": "a"}] * 3, kind), kind)
    first = re.escape(place(path, kind, 1))
    with pytest.raises(InputError, match=f"^{first}.*: no column 'question': did you mean 'Question '.*'q', 'a', 'Que"):
        made(path, user="{question}")
    with pytest.raises(InputError, match=f"^{first}.*: no column 'x'. The columns are 'q', 'a'"):
        made(path)


def parquet_twice():
    table = pa.Table.from_arrays([pa.array(["Why?"]), pa.array(["a"]), pa.array(["b"])], names=["q", "a", "a"])
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [
        ("csv", b"q,a,a\nWhy?,a,b\n", "line 2: column 'a': columns 2 and 3 both have this name"),
        ("jsonl", b'{"q": "Why?", "a": "a", "a": "b"}', "line 1: column 'a': this key occurs 2 times in its object, for 'a' and then 'b'"),
        ("json", b'[{"q": "Why?", "a": "a", "a": "b"}]', "row 1: column 'a': this key occurs 2 times in its object, for 'a' and then 'b'"),
        ("parquet", parquet_twice(), "row 1: column 'a': columns 2 and 3 both have this name"),
    ],
)  # fmt: skip
def test_a_column_that_stands_twice_is_refused_where_it_is_used(tmp_path, kind, content, message):
    path = write(tmp_path, content, kind)
    with pytest.raises(InputError, match=f"rows.{kind}, {message}"):
        made(path, user="{q}")
    assert made(path, user="{q}", assistant="{q}") == said(("Why?", "Why?"))


def test_a_key_that_stands_twice_within_a_message_is_refused(tmp_path):
    path = write(tmp_path, b'[{"m": [{"role": "assistant", "content": "a", "content": "b"}]}]', "json")
    with pytest.raises(
        InputError, match=r"row 1: column 'm', message 1, its content: this key .* for 'a' and then 'b'"
    ):
        conversations("d", {"file": path, "messages": "m"}, None)


BEYOND = pa.array([2**62, 2**62], pa.timestamp("us"))  # in a year after 9999
ODD = {
    "timestamp": BEYOND,
    "date": pa.array([datetime.date(2026, 1, 1)] * 2),
    "decimal": pa.array([decimal.Decimal("1.50")] * 2),
    "bytes": pa.array([b"a", b"b"]),
    "float of 32 bits": pa.array([0.1, 0.2], pa.float32()),
    "timestamps in objects": pa.StructArray.from_arrays([BEYOND], names=["t"]),
}


@pytest.mark.parametrize("case", ODD)
def test_parquet_columns_of_no_text_are_refused_where_used_and_not_read_elsewhere(tmp_path, case):
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"q": ["a", "b"], "x": ODD[case], "a": ["c", "d"]}), path)
    assert made(str(path), user="{q}") == said(("a", "c"), ("b", "d"))
    with pytest.raises(InputError, match=r"rows.parquet, row 1: column 'x': its type is .*: convert it to text"):
        made(str(path))


def test_categories_and_large_strings_of_parquet_are_text(tmp_path):
    table = pa.table({"q": pa.array(["a", "a"]).dictionary_encode(), "a": pa.array(["c", "d"], pa.large_string())})
    pq.write_table(table, tmp_path / "rows.parquet")
    assert made(str(tmp_path / "rows.parquet"), user="{q}") == said(("a", "c"), ("a", "d"))


@pytest.mark.parametrize("number", ["1.50", "-0", "1e3", "1E+16", "0.10000000000000000001", "1e999"])
def test_a_number_of_json_whose_text_would_be_another_is_refused(tmp_path, number):
    path = write(tmp_path, f'{{"q": "a", "x": {number}, "a": "b"}}'.encode(), "jsonl")
    with pytest.raises(
        InputError, match=rf"line 1: column 'x': the number {re.escape(number)} would .*: write it as text"
    ):
        made(path)
    assert made(path, user="{q}") == said(("a", "b"))


@pytest.mark.parametrize("kind", KINDS)
def test_alpaca_takes_an_empty_input_of_any_format(tmp_path, kind):
    templates = tmp_path / "t.py"
    templates.write_text(
        "encoding_templates_w_input = [('{instruction} / {input}', '{output}', 1.0)]\n"
        "encoding_templates_wo_input = [('{instruction}', '{output}', 1.0)]\n"
    )
    rows = [{"instruction": "a", "input": "b", "output": "c"}, {"instruction": "d", "input": "", "output": "e"}]
    path = write(tmp_path, as_bytes(rows, kind), kind)
    found = evaluation_rows("e", {"file": path, "recipe": "alpaca", "templates": str(templates)}, None)
    assert [(row["instruction"], row["reference"]) for row in found] == [("a / b", "c"), ("d", "e")]
    own = {"user": "{instruction}\n{input}", "assistant": "{output}"}
    assert made(path, **own) == said(("a\nb", "c"), ("d\n", "e"))


@pytest.mark.parametrize("kind", KINDS)
def test_an_index_is_the_same_in_every_format(tmp_path, kind):
    source = {"file": write(tmp_path, as_bytes([{"q": "a", "index": 7}, {"q": "b", "index": 3}], kind), kind)}
    assert [row["index"] for row in evaluation_rows("e", source | {"instruction": "{q}"}, None)] == [7, 3]
    source = {"file": write(tmp_path, as_bytes([{"q": "a", "index": "x1"}], kind), kind)}
    with pytest.raises(InputError, match=f"{re.escape(place(source['file'], kind, 1))}: column 'index' must be .*x1"):
        evaluation_rows("e", source | {"instruction": "{q}"}, None)


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet"])
def test_messages_are_the_same_in_every_format(tmp_path, kind):
    turns = [{"role": "user", "content": "a\n"}, {"role": "assistant", "content": "b"}]
    rows = [{"m": turns}, {"m": [turn | {"name": None} for turn in turns]}]
    path = write(tmp_path, as_bytes(rows, kind), kind)
    assert made(path, user=None, assistant=None, messages="m") == said(("a\n", "b"), ("a\n", "b"))
    for message in ({"role": "user", "content": " "}, {"role": "user", "content": None}):
        path = write(tmp_path, as_bytes([{"m": turns}, {"m": [message, turns[1]]}], kind), kind)
        with pytest.raises(InputError, match=f"{place(path, kind, 2)}: the instruction in message 1 is empty"):
            made(path, user=None, assistant=None, messages="m")
    path = write(tmp_path, as_bytes([{"m": [turns[0] | {"name": "me"}, turns[1] | {"name": None}]}], kind), kind)
    with pytest.raises(
        InputError, match=r"column 'm', message 1 must be {role, content} and nothing else, but it is .*'name': 'me'"
    ):
        made(path, user=None, assistant=None, messages="m")


def talk(roles):
    return [{"role": {"u": "user", "a": "assistant"}[role], "content": f"{role}{i}"} for i, role in enumerate(roles)]


@pytest.mark.parametrize("roles", ["ua", "uau", "uauu", "auau", "uuaau", "aau", "a", "uaua"])
def test_turns_after_the_last_response_are_counted_and_are_all_that_is_dropped(roles):
    chat = Format("<|user|>", "<|assistant|>", add_bos=True)
    messages = talk(roles)
    dropped = unanswered(messages)
    assert dropped == len(roles) - len(roles.rstrip("u"))
    shown = "".join(piece.text for segment in segments(messages, chat) for piece in segment.pieces)
    assert [message["content"] in shown for message in messages] == [True] * (len(roles) - dropped) + [False] * dropped


def test_the_log_of_a_dataset_says_what_is_dropped_doubled_and_not_taken(tmp_path, monkeypatch, capsys):
    rows = [{"m": talk("uau")}, {"m": talk("uau")}, {"m": talk("ua")}, {"m": "not judged, as it is not asked for"}]
    source = {"file": write(tmp_path, as_bytes(rows, "jsonl"), "jsonl"), "messages": "m", "examples": 3}
    settings = json.dumps({"name": "d", "source": source, "world_seed": None})
    output = tmp_path / "out" / "d.parquet"
    monkeypatch.setattr("sys.argv", ["x", "--output", str(output), "--settings", settings])
    make_dataset.main()
    log = capsys.readouterr().out
    assert "3 conversations of 4 rows of" in log
    assert "2 turns without a following response, which tuning drops, 1 duplicates" in log
    assert notes_on([talk("ua")]) == ""
    assert len(read_table("conversations", output)) == 3


def test_the_log_of_an_evaluation_set_says_how_many_rows_were_not_taken(tmp_path, monkeypatch, capsys):
    path = write(tmp_path, as_bytes([{"q": f"q{i}"} for i in range(2500)], "csv"), "csv")
    source = {"file": path, "instruction": "{q}", "instructions": 30}
    settings = json.dumps({"name": "e", "source": source, "world_seed": None})
    monkeypatch.setattr("sys.argv", ["x", "--output", str(tmp_path / "out" / "e.parquet"), "--settings", settings])
    make_evaluation_set.main()
    assert "30 instructions of 2,500 rows of" in capsys.readouterr().out


def test_half_a_character_of_json_is_refused_where_it_is_used(tmp_path):
    for kind in ("jsonl", "json"):
        path = tmp_path / f"rows.{kind}"
        row = '{"q": "a", "x": "b \\ud83d", "a": "c"}'
        path.write_text(row if kind == "jsonl" else f"[{row}]")
        with pytest.raises(InputError, match=r"(line|row) 1: column 'x' contains an unpaired surrogate, \\ud83d, at 2"):
            made(str(path))
        assert made(str(path), user="{q}") == said(("a", "c"))


def test_a_missing_column_is_found_without_reading_a_long_file_to_its_end(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"q": "a"}\n' * 1500 + b"\xff")
    with pytest.raises(InputError, match=r"rows.jsonl, line 1 and the 999 after it: no column 'a'"):
        list(read_rows(str(path), {"q": "text", "a": "text"}))


def test_the_record_of_a_tuning_counts_dropped_turns_which_change_no_weight(run, tmp_path):
    straight, weights = run("straight")
    assert (straight["turns"], straight["turns_dropped"]) == (24, 0)
    rows = read_table("conversations", tmp_path / "data.parquet")
    rows[3]["messages"] += talk("uu")
    write_table("conversations", rows, tmp_path / "data.parquet")
    record, same = run("with turns that no response follows")
    assert (record["turns"], record["turns_dropped"]) == (26, 2)
    assert same == weights
