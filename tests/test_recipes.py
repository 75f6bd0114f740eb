"""The paper's datasets from their raw rows, as the authors make them."""

import csv
import gzip
import json
import subprocess
import sys
import tracemalloc
from collections import Counter

import pytest
from sources import conversations, evaluation_rows
from workflow import ROOT

from implicit.data.recipes import RECIPES, RecipeError
from implicit.format.render import Format, segments
from implicit.format.turns import unanswered
from pipeline.files.local_files import read_rows
from pipeline.files.rows import check_sha256, checked, rows_sha256
from pipeline.files.storage import read_table
from pipeline.jobs.command import InputError

LINES = {"text": "text"}


def placed(rows):
    return ((f"row {i}", row) for i, row in enumerate(rows, start=1))


def made(recipe, rows):
    """The conversations that a recipe makes, and its notes."""
    notes = Counter()
    known = RECIPES[recipe]
    return [messages for _, messages in known.make(checked(placed(rows), known.columns), notes)], notes


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
    assert f"sha256 of the rows: {rows_sha256(messages)}" in done.stdout and "4 conversations of" in done.stdout
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
