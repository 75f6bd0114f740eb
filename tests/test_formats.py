"""The formats in which people keep conversations: each gives the same conversation, however it is told which it is."""

import json
import re

import pytest
from sources import conversations
from workflow import ROOT

from pipeline.files.formats import FORMATS, recognised
from pipeline.jobs.command import InputError

PAGE = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```json (\w+)\n(.*?)\n```$", PAGE, flags=re.MULTILINE | re.DOTALL)


def asked(row):
    """What the instruction of an example of the page is."""
    before = "Be brief.\n\n" if "Be brief" in row else ""
    return before + ("Name the colour.\n\na tomato" if "tomato" in row else "Name a colour.")


def written(folder, *rows, name="rows.jsonl"):
    path = folder / name
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return str(path)


def turns(found):
    return [[(message["role"], message["content"]) for message in row["messages"]] for row in found]


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize(("format_", "row"), EXAMPLES)
def test_every_example_of_the_page_is_the_same_conversation(tmp_path, format_, row, named):
    source = {"file": written(tmp_path, row)} | ({"format": format_} if named else {})
    assert turns(conversations("mine", source, None)) == [[("user", asked(row)), ("assistant", "Red.")]]


def test_every_format_is_on_the_page_and_recognised_in_the_order_that_it_says():
    assert {name for name, _ in EXAMPLES} == set(FORMATS)
    table = re.findall(r"^\| `(\w+)` \|", PAGE.partition("## The formats")[2], flags=re.MULTILINE)
    assert table == ["format", *FORMATS]
    for name, (needed, _, _) in FORMATS.items():
        assert recognised([*needed, "id"]) == name
    assert recognised(["question", "answer"]) is None


def test_what_was_recognised_is_said_and_unknown_columns_are_told_what_to_do(tmp_path, capsys):
    conversations("mine", {"file": written(tmp_path, EXAMPLES[2][1])}, None)
    assert "recognised as sharegpt, by conversations" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"line 1: the columns are those of no known format .*datasets\.mine 'user'"):
        conversations("mine", {"file": written(tmp_path, {"question": "a", "answer": "b"})}, None)
    lima = written(tmp_path, {"conversations": ["a", "b"]})
    with pytest.raises(InputError, match="recipe: lima"):
        conversations("mine", {"file": lima}, None)


def test_system_turns_are_kept_before_the_first_instruction_or_dropped_and_counted(tmp_path, capsys):
    row = json.loads(EXAMPLES[0][1])
    row["messages"] += [{"role": "user", "content": "Another."}, {"role": "assistant", "content": "Blue."}]
    path = written(tmp_path, row)
    (kept,), (dropped,) = (
        turns(conversations("mine", {"file": path, "system": how}, None)) for how in ("keep", "drop")
    )
    assert kept[0] == ("user", "Be brief.\n\nName a colour.") and kept[1:] == dropped[1:] and len(dropped) == 4
    assert dropped[0] == ("user", "Name a colour.")
    said = capsys.readouterr().out
    assert "1 system turns: put before" in said and "1 system turns: dropped" in said


BAD = (
    {"instruction": "a", "output": ""},
    {"instruction": "", "output": "b"},
    {"instruction": "a", "output": ["b"]},
    {"instruction": "a", "input": float("nan"), "output": "b"},
)


def test_bad_rows_end_the_run_or_are_skipped_counted_and_named(tmp_path, capsys):
    good = {"instruction": "a", "input": None, "output": "b"}
    path = written(tmp_path, good, *BAD, good)
    with pytest.raises(InputError, match=r"rows\.jsonl, line 2"):
        conversations("mine", {"file": path}, None)
    found = conversations("mine", {"file": path, "on_bad_row": "skip"}, None)
    assert turns(found) == [[("user", "a"), ("assistant", "b")]] * 2
    said = capsys.readouterr().out
    assert (
        "4 rows that cannot be used: skipped" in said and said.count("\nskipped: ") + said.startswith("skipped: ") == 4
    )


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"messages": [{"role": "tool", "content": "a"}]}, "has the role 'tool'"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
            "no text: 'image_url'",
        ),
        ({"messages": [{"role": "assistant", "content": "a", "weight": 0}]}, "and nothing else"),
        ({"messages": "a"}, "a list of {role, content}"),
        ({"conversations": [{"from": "human"}]}, "the instruction in message 1 is empty"),
        ({"prompt": "a", "completion": None}, "the response in message 2 is empty"),
        ({"messages": [{"role": "system", "content": "a"}, {"role": "assistant", "content": "b"}]}, "no user turn"),
    ],
)
def test_what_would_be_lost_or_is_missing_is_an_error_with_its_place(tmp_path, row, told):
    with pytest.raises(InputError, match=r"rows\.jsonl, line 1") as caught:
        conversations("mine", {"file": written(tmp_path, row)}, None)
    assert told in str(caught.value)


def test_a_parquet_file_gives_what_its_lines_give(tmp_path):
    import pyarrow
    import pyarrow.parquet

    rows = [{"id": i, "instruction": f"a{i}", "input": "x" if i else "", "output": f"b{i}"} for i in range(3)]
    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    lines = conversations("mine", {"file": written(tmp_path, *rows)}, None)
    assert turns(conversations("mine", {"file": str(path)}, None)) == turns(lines)
