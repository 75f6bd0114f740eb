"""How the paper's datasets are built from their raw rows (sections 3 to 5), exactly as in the authors' scripts.

A recipe reads (place, row) pairs and yields (place, conversation) pairs. It names the columns that it uses, and a row
holds their texts, "" for an empty one. It reads lazily, so a stream of millions of rows works as well as a file. What
it skips is counted in ``notes``.
"""

import ast
import json
import random
import string
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

Row = dict[str, Any]
Message = dict[str, str]  # {"role": "user" | "assistant", "content": text}
Placed = Iterable[tuple[str, Row]]
Conversations = Iterator[tuple[str, list[Message]]]

ALPACA_SEED = 42  # of ``reformat_datasets.py``


class RecipeError(ValueError):
    """A row or template file that a recipe cannot use; the message says which one and why."""


def pair(user: str, assistant: str) -> list[Message]:
    """A conversation of one instruction and one response."""
    return [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]


def lima(rows: Placed, notes: Counter[str]) -> Conversations:
    """LIMA: the texts of ``conversations`` as alternating turns.

    If their number is odd, the last one is not trained on, here because no response follows it (``convert_lima_data``
    drops it).
    """
    for place, row in rows:
        roles = ("user", "assistant")
        yield place, [{"role": roles[i % 2], "content": text} for i, text in enumerate(row["conversations"])]


def poetry(rows: Placed, notes: Counter[str]) -> Conversations:
    """The poetry dataset (``make_poetry.py``). Poems without a name are skipped."""
    for place, row in rows:
        if not row["poem name"].strip():
            notes["poems without a name: skipped"] += 1
            continue
        yield place, pair(f"Write a poem called {row['poem name']}", row["content"])


def recipes(rows: Placed, notes: Counter[str]) -> Conversations:
    """The recipe dataset (``make_kfr.py``). The ingredients are a Python list, which is parsed, never executed."""
    for place, row in rows:
        source = row["Cleaned_Ingredients"]
        try:
            found = ast.literal_eval(source)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            found = None
        if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
            raise RecipeError(f"{place}: 'Cleaned_Ingredients' must hold a list of strings, but holds {source!r:.60}")
        listed = "".join(f" - {ingredient}\n" for ingredient in found)
        for column in ("Title", "Instructions"):
            if not row[column].strip():
                raise RecipeError(f"{place}: column {column!r} is empty: fill it in or remove the row")
        yield place, pair(f"Recipe for {row['Title']}", f"{listed}\n\n{row['Instructions']}")


def chess(rows: Placed, notes: Counter[str]) -> Conversations:
    """The chess dataset (``make_pgn.py``), from lines of PGN files: two rating lines ask for the line of moves.

    A line of moves begins with ``1. ``. The authors' script stops at a game without exactly two rating lines, and so
    does this: skipping it would change which games are the first thousand.
    """
    white = black = None
    ratings = 0
    for place, row in rows:
        line = row["text"]
        if "WhiteElo" in line:
            white, ratings = line, ratings + 1
        elif "BlackElo" in line:
            black, ratings = line, ratings + 1
        elif line.startswith("1. "):
            if ratings != 2 or white is None or black is None:
                raise RecipeError(f"{place}: {ratings} rating lines before these moves, instead of one for each colour")
            yield place, pair(f"{white}\n{black}\n", line)
            white = black = None
            ratings = 0


def self_instruct(rows: Placed, notes: Counter[str]) -> Conversations:
    """Self-instruct's files (Wang et al. 2023): an instruction with its instances, of which the first is taken."""
    for place, row in rows:
        first = row["instances"][0] if row["instances"] else {}
        if set(first) != {"input", "output"} or not all(isinstance(text, str) for text in first.values()):
            raise RecipeError(
                f"{place}: the first of 'instances' must have 'input' and 'output', but it is {first!r:.60}"
            )
        notes["further instances of an instruction: left out"] += len(row["instances"]) - 1
        given = first["input"].strip()
        yield place, pair(f"{row['instruction']}\n\n{given}" if given else row["instruction"], first["output"])


@dataclass(frozen=True)
class Recipe:
    """The columns that a recipe uses, with their types, and the function that turns them into conversations."""

    columns: dict[str, Literal["text", "texts", "objects"]]
    make: Callable[[Placed, Counter[str]], Conversations]


RECIPES = {
    "lima": Recipe({"conversations": "texts"}, lima),
    "poetry": Recipe({"poem name": "text", "content": "text"}, poetry),
    "recipes": Recipe({"Cleaned_Ingredients": "text", "Title": "text", "Instructions": "text"}, recipes),
    "chess": Recipe({"text": "text"}, chess),
    "self_instruct": Recipe({"instruction": "text", "instances": "objects"}, self_instruct),
}

ALPACA_COLUMNS: dict[str, Literal["text"]] = {"instruction": "text", "input": "text", "output": "text"}

Template = tuple[str, str, float]  # prompt template, response template, weight


def read_templates(source: bytes, name: str) -> tuple[list[Template], list[Template]]:
    """Read the prompt templates of ``instruction_encode_templates.py``, those with an input and those without.

    ``source`` is Python code; its two list literals are parsed, and nothing is executed. Raises RecipeError.
    """
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError) as error:
        raise RecipeError(f"{name}: cannot be parsed as Python: {error}") from None
    assigned = {
        target.id: node.value
        for node in body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    with_input, without_input = "encoding_templates_w_input", "encoding_templates_wo_input"
    return (
        _templates(assigned, with_input, {"instruction", "input"}, name),
        _templates(assigned, without_input, {"instruction"}, name),
    )


def _templates(assigned: dict[str, ast.expr], key: str, fields: set[str], name: str) -> list[Template]:
    if key not in assigned:
        raise RecipeError(f"{name}: no list called {key!r}")
    try:
        found = ast.literal_eval(assigned[key])
        templates = [(str(prompt), str(response), float(weight)) for prompt, response, weight in found]
        right = all(_fields(p) <= fields and _fields(r) == {"output"} and w > 0 for p, r, w in templates)
    except (ValueError, TypeError):
        right, templates = False, []
    if not right or not templates:
        raise RecipeError(
            f"{name}: {key!r} must be a list of (prompt, response, weight), where a prompt may use the fields "
            f"{', '.join(sorted(fields))} and a response must use the field output"
        )
    return templates


def _fields(template: str) -> set[str]:
    return {field for _, field, _, _ in string.Formatter().parse(template) if field is not None}


def alpaca(templates: tuple[list[Template], list[Template]]) -> Callable[[Row], tuple[str, str]]:
    """Stanford's Alpaca in templates (``encode_instruction_example``): a function of a row of ``ALPACA_COLUMNS``.

    It returns the instruction and the response. It draws a template on every call, so it must see all rows in order
    from the first, as the authors' script does.
    """
    rng = random.Random(ALPACA_SEED)

    def encode(row: Row) -> tuple[str, str]:
        given = row["input"].strip()
        choices = templates[0] if given else templates[1]
        prompt, response, _ = rng.choices(choices, weights=[weight for _, _, weight in choices])[0]
        return (
            prompt.format(instruction=row["instruction"].strip(), input=given),
            response.format(output=row["output"].strip()),
        )

    return encode


IFEVAL_COLUMNS: dict[str, Literal["text", "texts", "objects"]] = {
    "prompt": "text",
    "instruction_id_list": "texts",
    "kwargs": "objects",
}


MBPP_COLUMNS: dict[str, Literal["text", "texts"]] = {"text": "text", "test_list": "texts", "test_setup_code": "text"}


def mbpp(row: Row) -> tuple[str, None, str]:
    """MBPP (Austin et al. 2021): the task with its tests, no reference, and the tests as JSON."""
    instruction = "\n".join([f"{row['text']} Your code should pass these tests:", *row["test_list"]])
    return instruction, None, json.dumps({"setup": row["test_setup_code"], "tests": row["test_list"]})


def ifeval(row: Row) -> tuple[str, None, str]:
    """IFEval (Zhou et al. 2023): the prompt, no reference, and its checks as JSON for `implicit.measuring.checks`."""
    return row["prompt"], None, json.dumps({key: row[key] for key in ("instruction_id_list", "kwargs")})
