"""Rows streamed from every kind of file, and the paper's datasets from their raw rows as the authors make them."""

import csv
import gzip
import http.server
import itertools
import json
import subprocess
import sys
import threading
import tracemalloc
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from alpaca_rows import TEMPLATES, alpaca_rows
from sources import conversations, evaluation_rows
from workflow import ROOT

from implicit.data.recipes import RECIPES, RecipeError
from implicit.format.render import Format, segments
from implicit.format.turns import unanswered
from pipeline.files.local_files import read_rows, take_first, take_range
from pipeline.files.rows import check_sha256, checked, rows_sha256
from pipeline.files.storage import read_table
from pipeline.jobs.command import InputError

TEXTS = {"q": "text", "a": "text"}
LINES = {"text": "text"}
HALF = gzip.compress(b'{"a": 1}\n' * 9)[:-12]
ROWS = [{"q": f"naïve {i}, “{i}”\n\u2028", "a": f'a "{i}"\r\n'} for i in range(2500)]


def placed(rows):
    return ((f"row {i}", row) for i, row in enumerate(rows, start=1))


def made(recipe, rows):
    """The conversations that a recipe makes, and its notes."""
    notes = Counter()
    known = RECIPES[recipe]
    return [messages for _, messages in known.make(checked(placed(rows), known.columns), notes)], notes


def packed(path):
    with gzip.open(f"{path}.gz", "wb") as file:
        file.write(Path(path).read_bytes())
    return f"{path}.gz"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The same rows in every file format: extension -> path."""
    folder = tmp_path_factory.mktemp("rows")
    (folder / "rows.json").write_text(json.dumps(ROWS), encoding="utf-8")
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)
    (folder / "rows.jsonl").write_text(lines, encoding="utf-8", newline="\n")
    with (folder / "rows.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["q", "a"])
        writer.writeheader()
        writer.writerows(ROWS)
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "rows.parquet", row_group_size=700)
    paths = {kind: str(folder / f"rows.{kind}") for kind in ("json", "jsonl", "csv", "parquet")}
    return paths | {f"{kind}.gz": packed(path) for kind, path in paths.items()}


@pytest.mark.parametrize("kind", ["json", "jsonl", "csv", "parquet", "json.gz", "jsonl.gz", "csv.gz", "parquet.gz"])
def test_all_kinds_of_file_give_the_same_rows(files, kind):
    found = [row for _, row in read_rows(files[kind], TEXTS)]
    assert found == ROWS
    places = [place for place, _ in read_rows(files[kind], TEXTS, [1200, 1203])]
    assert [row for _, row in read_rows(files[kind], TEXTS, [1200, 1203])] == ROWS[1200:1203]
    assert all(place.startswith(files[kind]) for place in places) and len(set(places)) == 3


def test_text_has_a_row_for_each_line(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffone\r\n\n three\u2028 \n".encode())
    for path in (str(tmp_path / "a.txt"), packed(tmp_path / "a.txt")):
        found = list(read_rows(path, LINES))
        assert [row for _, row in found] == [{"text": "one"}, {"text": ""}, {"text": " three\u2028 "}]
        assert found[2][0] == f"{path}, line 3"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b'q,a\n1,2\n"x\ny",2\n3,2,1\n', r"a.csv, line 5: 3 cells, but the header has 2"),
        ("a.csv", b'q,a\n1,2\n3,"4', r"a.csv, line 3: not valid CSV: unexpected end of data"),
        ("a.parquet", b"PAR1 no", r"a.parquet: cannot be read as Parquet: "),
        ("a.jsonl.gz", b"no gzip", r"a.jsonl.gz: is not gzip-compressed: give it a name without .gz"),
        ("a.parquet.gz", b"no gzip", r"a.parquet.gz: is not gzip-compressed: give it a name without .gz"),
        ("a.jsonl.gz", HALF, r"a.jsonl.gz: cannot be decompressed: .*end.*; is it complete"),
        ("a.txt", b"good\n\xff\n", r"a.txt, line 2: byte 0xff is not UTF-8 text: save the file as UTF-8"),
        ("a.json", b'{"rows": []}', r"a.json: contains one JSON object, not a list of rows"),
        ("a.pdf", b"", r"a.pdf: rows can be read from .jsonl, .json, .csv, .txt, .parquet, optionally with .gz"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        list(read_rows(str(tmp_path / name), TEXTS))


def test_no_more_is_read_than_is_taken():
    def endless(limit):
        for i in itertools.count():
            assert i < limit, "read on"
            yield i

    assert list(take_range(endless(7), [5, 7], name="x")) == [5, 6]
    assert take_first(endless(7), 7, key="x") == list(range(7))
    with pytest.raises(InputError, match=r"datasets.x.examples: 4, but the rows give only 3"):
        take_first(iter(range(3)), 4, key="datasets.x.examples")
    with pytest.raises(InputError, match=r"x: has 3 rows, but 'rows' asks for \[1, 4\]"):
        list(take_range(iter(range(3)), [1, 4], name="x"))


def pgn(games):
    for i in range(games):
        yield from (
            '[Event "Rated"]',
            f'[WhiteElo "{i}"]',
            f'[BlackElo "{i + 1}"]',
            "",
            f"1. e4 e5 2. d{i % 8} 1-0",
            "",
        )


@pytest.mark.parametrize("ending", [".txt", ".txt.gz"])
def test_a_file_of_millions_of_lines_takes_no_memory(tmp_path, ending):
    """Games are taken from the start of a long file with a binary end, whose rows are streamed, not kept in memory."""
    path = tmp_path / f"games{ending}"
    content = "\n".join(pgn(60_000)).encode() + b"\n\xff\xff\n"
    path.write_bytes(gzip.compress(content, compresslevel=1) if ending.endswith("gz") else content)
    source = {"file": str(path), "recipe": "chess", "examples": 100}
    tracemalloc.start()
    rows = conversations("chess", source, None)
    last = list(read_rows(str(path), LINES, [300_000, 300_001]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(rows) == 100 and rows[99]["messages"][0]["content"] == '[WhiteElo "99"]\n[BlackElo "100"]\n'
    assert [row["text"] for _, row in last] == ['[Event "Rated"]']
    assert peak < 1_000_000 < len(content) / 4


def test_lima_takes_turns_and_an_odd_last_message_is_not_trained_on():
    rows = [{"conversations": ["u", "a"]}, {"conversations": ["u1", "a1", "u2", "a2", "u3"], "source": "x"}]
    found, notes = made("lima", rows)
    assert [[(m["role"], m["content"]) for m in messages] for messages in found] == [
        [("user", "u"), ("assistant", "a")],
        [("user", "u1"), ("assistant", "a1"), ("user", "u2"), ("assistant", "a2"), ("user", "u3")],
    ]
    assert [unanswered(messages) for messages in found] == [0, 1] and not notes
    chat = Format("<|user|>", "<|assistant|>", add_bos=True)
    assert segments(found[1], chat) == segments(found[1][:-1], chat)  # as the authors' script, which drops it here


def test_poems_without_a_name_are_skipped_and_counted(tmp_path, capsys):
    rows = [
        {"poem name": "Sea", "content": "Waves"},
        {"poem name": None, "content": "?"},
        {"poem name": "Sky", "content": "Blue"},
    ]
    (tmp_path / "poems.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with (tmp_path / "poems.csv").open("w", newline="") as file:
        csv.writer(file).writerows([list(rows[0]), *(list(row.values()) for row in rows)])
    for name in ("poems.jsonl", "poems.csv"):
        found = conversations("p", {"file": str(tmp_path / name), "recipe": "poetry", "examples": 2}, None)
        assert [row["messages"][0]["content"] for row in found] == [
            "Write a poem called Sea",
            "Write a poem called Sky",
        ]
        assert "1 poems without a name: skipped" in capsys.readouterr().out


def test_recipes_read_a_python_list_and_execute_nothing(tmp_path):
    row = {"Title": "Tea", "Cleaned_Ingredients": '[\'2 "leaves"\', "water\'s"]', "Instructions": "Boil.\nWait."}
    (messages,), _ = made("recipes", [row])
    assert [m["content"] for m in messages] == ["Recipe for Tea", ' - 2 "leaves"\n - water\'s\n\n\nBoil.\nWait.']
    for bad in (f"open({str(tmp_path / 'x')!r}, 'w')", "{'a': 1}", "[1]", "['a'", ""):
        with pytest.raises(RecipeError, match="row 1: 'Cleaned_Ingredients' must hold a list of strings"):
            made("recipes", [row | {"Cleaned_Ingredients": bad}])
    assert not (tmp_path / "x").exists()


def test_self_instruct_takes_the_first_instance_and_counts_the_others():
    rows = [
        {"instruction": "Add.", "instances": [{"input": " 1 and 2 ", "output": "3"}, {"input": "2", "output": "2"}]},
        {"instruction": "Say it.", "instances": [{"input": "", "output": "It."}]},
    ]
    found, notes = made("self_instruct", rows)
    assert [[m["content"] for m in messages] for messages in found] == [["Add.\n\n1 and 2", "3"], ["Say it.", "It."]]
    assert sum(notes.values()) == 1


@pytest.mark.parametrize("instances", [[], [{"input": "x"}], [{"input": "x", "output": 3}]])
def test_self_instruct_without_a_response_is_named(instances):
    with pytest.raises(RecipeError, match="row 1: the first of 'instances' must have"):
        made("self_instruct", [{"instruction": "Add.", "instances": instances}])


def test_self_instructs_own_file(shared):
    source = {"file": str(shared / "self_instruct" / "seed_tasks.jsonl"), "recipe": "self_instruct"}
    assert len(conversations("seeds", source, None)) == 175


def test_chess_pairs_ratings_and_moves_and_stops_at_a_game_without():
    rows = [{"text": line} for line in pgn(3)]
    found, _ = made("chess", rows)
    assert found[2] == [
        {"role": "user", "content": '[WhiteElo "2"]\n[BlackElo "3"]\n'},
        {"role": "assistant", "content": "1. e4 e5 2. d2 1-0"},
    ]
    for left_out, number in ((1, 5), (8, 11)):  # the first game's WhiteElo, the second's BlackElo
        with pytest.raises(RecipeError, match=rf"^row {number - 1}: 1 rating lines before these moves"):
            made("chess", rows[:left_out] + rows[left_out + 1 :])
    with pytest.raises(RecipeError, match="row 11: 2 rating lines before these moves, instead of one for each colour"):
        made("chess", [*rows[:8], rows[7], *rows[9:]])


@pytest.mark.parametrize(
    ("recipe", "row", "message"),
    [
        ("lima", {"conversations": "text"}, "row 1: column 'conversations' must be a list of texts, but it is 'text'"),
        ("lima", {"conversations": ["a", None]}, "row 1: column 'conversations' must be a list of texts"),
        ("lima", {"conversations": ["a", float("nan")]}, "row 1: column 'conversations', item 2 must be text"),
        ("poetry", {"name": "a", "content": "b"}, "row 1: no column 'poem name': did you mean 'name'? The columns are"),
        ("poetry", {"poem name": "a", "content": [1]}, "row 1: column 'content' must be text"),
        (
            "recipes",
            {"Cleaned_Ingredients": "[]", "Title": None, "Instructions": "a"},
            "row 1: column 'Title' is empty",
        ),
        ("chess", {"line": "1. e4"}, "row 1: no column 'text'. The columns are 'line'"),
    ],
)
def test_a_faulty_row_is_named(recipe, row, message):
    with pytest.raises((InputError, RecipeError)) as caught:
        made(recipe, [row])
    assert message in str(caught.value)


def test_the_hash_is_of_what_was_taken_and_is_checked():
    turns = [{"role": "user", "content": "日本"}, {"content": "a\n", "role": "assistant"}]
    assert rows_sha256([turns]) == rows_sha256([[dict(sorted(turn.items())) for turn in turns]])
    assert len({rows_sha256(rows) for rows in ([turns], [turns, turns], [turns + turns], [turns[::-1]], [])}) == 5
    assert check_sha256([turns], rows_sha256([turns]), key="datasets.d") == check_sha256(
        [turns], None, key="datasets.d"
    )
    with pytest.raises(InputError, match=r"^datasets.d.sha256: 0{64} is expected, but the rows have [0-9a-f]{64}$"):
        check_sha256([turns], "0" * 64, key="datasets.d")


def run(script, output, **settings):
    command = [sys.executable, f"scripts/{script}.py", "--output", str(output), "--settings", json.dumps(settings)]
    return subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=False)


def test_a_wrong_hash_or_a_faulty_row_leaves_no_file(tmp_path):
    (tmp_path / "games.txt").write_text("\n".join(pgn(4)))
    source = {"file": str(tmp_path / "games.txt"), "recipe": "chess", "examples": 4}
    done = run("make_dataset", tmp_path / "chess.parquet", name="chess", source=source, world_seed=None)
    assert done.returncode == 0, done.stderr
    messages = [row["messages"] for row in read_table("conversations", tmp_path / "chess.parquet")]
    assert f"4 conversations, sha256 {rows_sha256(messages)}" in done.stdout
    for more, message in (({"sha256": "0" * 64}, "datasets.chess.sha256: 000"), ({"examples": 5}, "give only 4")):
        done = run("make_dataset", tmp_path / "none.parquet", name="chess", source=source | more, world_seed=None)
        assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr
    (tmp_path / "games.txt").write_text("1. e4\n")
    done = run("make_dataset", tmp_path / "none.parquet", name="chess", source=source, world_seed=None)
    assert done.returncode == 1 and "games.txt, line 1: 0 rating lines" in done.stderr
    assert not (tmp_path / "none.parquet").exists()


def test_index_is_the_position_in_the_source(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps({"q": f"q{i}"}) for i in range(9)))
    source = {"file": str(path), "instruction": "{q}", "reference": None}
    assert [row["index"] for row in evaluation_rows("e", source, None)] == list(range(9))
    part = evaluation_rows("e", source | {"rows": [3, 8], "instructions": 4}, None)
    assert [(row["id"], row["index"], row["instruction"]) for row in part][1] == ("e-1", 4, "q4")
    assert len(part) == 4
    path.write_text("\n".join(json.dumps({"q": f"q{i}", "index": 100 - i}) for i in range(9)))
    assert [row["index"] for row in evaluation_rows("e", source | {"rows": [3, 5]}, None)] == [97, 96]


def test_multi_turn_conversations_stay_as_they_are(tmp_path):
    turns = [{"role": role, "content": f" {role} {i}\n"} for i in range(3) for role in ("user", "assistant")]
    (tmp_path / "a.json").write_text(json.dumps([{"m": turns}]))
    (row,) = conversations("d", {"file": str(tmp_path / "a.json"), "messages": "m"}, None)
    assert row["messages"] == turns


@contextmanager
def served(answers):
    """A real server on loopback: path -> (status, content, claimed length). Yields its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            status, content, length = answers.get(self.path, (404, b"", 0))
            self.send_response(status)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_a_url_is_as_good_as_a_file(files, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    good = Path(files["jsonl.gz"]).read_bytes()
    rows = alpaca_rows(20)
    answers = {"/a/rows.jsonl.gz": (200, good, len(good)), "/a/cut.jsonl.gz": (200, good[:50], len(good))}
    answers["/templates.py"] = (200, TEMPLATES.encode(), len(TEMPLATES))
    (tmp_path / "templates.py").write_text(TEMPLATES)
    (tmp_path / "alpaca.json").write_text(json.dumps(rows))
    with served(answers) as address:
        found = list(read_rows(f"{address}/a/rows.jsonl.gz", TEXTS, [5, 8]))
        assert [row for _, row in found] == ROWS[5:8] and found[0][0] == f"{address}/a/rows.jsonl.gz, line 6"
        with pytest.raises(InputError, match=r"no.jsonl: the server returned 404 Not Found"):
            list(read_rows(f"{address}/a/no.jsonl", TEXTS))
        with pytest.raises(
            InputError, match=r"cut.jsonl.gz: cannot be downloaded: only 50 of [\d,]+ bytes were received"
        ):
            list(read_rows(f"{address}/a/cut.jsonl.gz", TEXTS))
        source = {
            "file": str(tmp_path / "alpaca.json"),
            "recipe": "alpaca",
            "templates": str(tmp_path / "templates.py"),
        }
        local = evaluation_rows("alpaca", source, None)
        assert evaluation_rows("alpaca", source | {"templates": f"{address}/templates.py"}, None) == local
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        with pytest.raises(InputError, match=r"as HF_HUB_OFFLINE is set; use a local file instead"):
            list(read_rows(f"{address}/a/rows.jsonl.gz", TEXTS))
    monkeypatch.delenv("HF_HUB_OFFLINE")
    with pytest.raises(InputError, match=r"rows.jsonl.gz: cannot be downloaded: .*refused.*; use a local file"):
        list(read_rows(f"{address}/a/rows.jsonl.gz", TEXTS))


def test_real_rows_are_taken_as_the_authors_take_them(shared):
    """GSM8K's first thousand questions, and MBPP's train split of 374 (paper, table 3)."""
    source = {
        "file": str(shared / "gsm8k_train.jsonl"),
        "user": "{question}",
        "assistant": "{answer}",
        "examples": 1000,
    }
    gsm8k = conversations("g", source, None)
    lines = (shared / "gsm8k_train.jsonl").read_text(encoding="utf-8").split("\n")[:1000]
    assert [[m["content"] for m in row["messages"]] for row in gsm8k] == [
        [*json.loads(line).values()] for line in lines
    ]
    source = {"file": str(shared / "mbpp.jsonl"), "user": "{task_id}{text}", "assistant": "{code}", "rows": [600, 974]}
    mbpp = conversations("m", source, None)
    assert len(mbpp) == 374
    assert mbpp[0]["messages"][0]["content"].startswith("601") and mbpp[-1]["messages"][0]["content"].startswith("974")
