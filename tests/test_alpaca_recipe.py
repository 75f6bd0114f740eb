"""The paper's ranking set from Stanford's Alpaca: the templates that the authors draw, read and never executed."""

import json
import random

import pytest
from alpaca_rows import TEMPLATES, alpaca_rows
from sources import evaluation_rows

from implicit.data.recipes import RecipeError, read_templates
from pipeline.jobs.command import InputError


def naive_alpaca(rows, with_input, without_input):
    """The authors' loop, with the global generator seeded as in their script."""
    random.seed(42)
    found = []
    for row in rows:
        listed = with_input if row["input"].strip() else without_input
        prompt, response, _ = random.choices(listed, weights=[template[2] for template in listed])[0]
        prompt = prompt.replace("{instruction}", "\0").replace("{input}", row["input"].strip())
        found.append(
            (prompt.replace("\0", row["instruction"].strip()), response.replace("{output}", row["output"].strip()))
        )
    return found


def test_alpaca_draws_the_templates_that_the_authors_draw(tmp_path, capsys):
    rows = alpaca_rows(400)
    rows[7]["output"] = " "
    with_input = [
        ("{instruction}\n\n{input}\n\n", "{output}", 0.2),
        ("Do this: {instruction}\nWith: {input}\nSo:", "{output}", 0.5),
        ("A long one. In two parts: {input}, {instruction}", "\n{output}", 0.3),
    ]
    without = [
        ("{instruction}\n", "{output}", 0.6),
        ("{instruction}", "\n{output}", 0.35),
        ("Q: {instruction} A:", "{output}", 0.1),
    ]
    assert read_templates(TEMPLATES.encode(), "t.py") == (with_input, without)
    (tmp_path / "templates.py").write_text(TEMPLATES)
    (tmp_path / "alpaca.json").write_text(json.dumps(rows))
    source = {"file": str(tmp_path / "alpaca.json"), "recipe": "alpaca", "templates": str(tmp_path / "templates.py")}
    found = evaluation_rows("alpaca", source | {"instructions": 300}, None)
    assert [(row["instruction"], row["reference"]) for row in found] == naive_alpaca(rows, with_input, without)[:300]
    assert [row["index"] for row in found] == list(range(300))
    assert "1 references are empty: kept" in capsys.readouterr().out
    for row in (rows[0] | {"output": [3]}, rows[0] | {"input": True}):
        (tmp_path / "alpaca.json").write_text(json.dumps([rows[1], row]))
        with pytest.raises(InputError, match=r"alpaca.json, row 2: column '(out|in)put' must be text"):
            evaluation_rows("alpaca", source, None)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1", "t.py: no list called 'encoding_templates_w_input'"),
        ("x = (", "t.py: cannot be parsed as Python"),
        (TEMPLATES.replace('"{instruction}\\n"', 'open("x")'), "'encoding_templates_wo_input' must be a list of"),
        (TEMPLATES.replace("{input}", "{input.__class__}"), "'encoding_templates_w_input' must be a list of"),
        (TEMPLATES.replace("0.6", '"often"'), "'encoding_templates_wo_input' must be a list of"),
        (TEMPLATES.replace('"{instruction}\\n"', '"{instruction}{input}"'), "'encoding_templates_wo_input' must be"),
    ],
)
def test_templates_that_cannot_be_used_are_named(source, message):
    with pytest.raises(RecipeError) as caught:
        read_templates(source.encode(), "t.py")
    assert message in str(caught.value)
