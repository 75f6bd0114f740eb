"""Rows from local files, mapped to conversations or to evaluation sets, every fault with its place."""

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

from stage.command import InputError

Row = dict[str, Any]


def read_rows(path: str, rows: list[int] | None = None) -> list[tuple[str, Row]]:
    """Read a JSON list, JSON lines or Parquet: (place, row) for each, ``rows`` = [first, behind the last].

    Raises InputError naming file and line of what cannot be read, and when the file holds fewer rows than asked for.
    """
    name = path.removesuffix(".gz")
    if name.endswith(".parquet"):
        import pyarrow.parquet as pq

        found = [(f"{path}, row {i + 1}", row) for i, row in enumerate(pq.read_table(path).to_pylist())]
    else:
        data = Path(path).read_bytes()
        try:
            text = (gzip.decompress(data) if path.endswith(".gz") else data).decode("utf-8-sig")
        except (UnicodeDecodeError, gzip.BadGzipFile, EOFError) as error:
            raise InputError(f"{path}: cannot be read as UTF-8 text: {error}") from None
        found = _json_lines(path, text) if name.endswith(".jsonl") else _json_list(path, text)
    for place, row in found:
        if not isinstance(row, dict):
            raise InputError(f"{place}: a row must be an object with named columns, but it is {str(row)[:60]!r}")
    if rows and len(found) < rows[1]:
        raise InputError(f"{path}: holds {len(found)} rows, but 'rows' asks for {rows}")
    return found[rows[0] : rows[1]] if rows else found


def _json_lines(path: str, text: str) -> list[tuple[str, Any]]:
    # Not splitlines: it would split at characters such as U+2028, which may stand inside a JSON string.
    lines = [(f"{path}, line {i}", line) for i, line in enumerate(text.split("\n"), start=1) if line.strip()]
    return [(place, _parse(place, line)) for place, line in lines]


def _json_list(path: str, text: str) -> list[tuple[str, Any]]:
    found = _parse(path, text)
    if not isinstance(found, list):
        raise InputError(f"{path}: must be a JSON list of rows, but it is a {type(found).__name__}")
    return [(f"{path}, row {i + 1}", row) for i, row in enumerate(found)]


def _parse(place: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{place}: no valid JSON: {error.msg} at column {error.colno}") from None


def fill(template: str, row: Row, place: str) -> str:
    """Fill ``{column}`` in a template from a row. Raises InputError for a column that is missing or no text."""

    class Columns(dict):
        def __missing__(self, key: str) -> str:
            raise InputError(f"{place}: no column of text called {key!r}; the columns are {', '.join(row)}")

    return template.format_map(Columns({k: v for k, v in row.items() if isinstance(v, str | int | float)}))


def to_conversation(row: Row, place: str, *, user: str | None, assistant: str | None, messages: str | None) -> list:
    """A row as messages: two templates filled, or a column that holds a list of role and content."""
    if messages is None:
        turns = [("user", fill(user or "", row, place)), ("assistant", fill(assistant or "", row, place))]
        found = [{"role": role, "content": content} for role, content in turns]
    else:
        found = row.get(messages)
        if not isinstance(found, list) or any(set(m) != {"role", "content"} for m in found if isinstance(m, dict)):
            raise InputError(
                f"{place}: column {messages!r} must be a list of {{role, content}}, but it is {found!r:.80}"
            )
    check_conversation(found, place)
    return found


def check_conversation(messages: list[dict[str, str]], place: str) -> None:
    """Raise InputError for a conversation that cannot be tuned on."""
    for number, message in enumerate(messages, start=1):
        if message["role"] not in ("user", "assistant"):
            raise InputError(f"{place}: message {number} has the role {message['role']!r}: use 'user' or 'assistant'")
        if not isinstance(message["content"], str):
            raise InputError(f"{place}: message {number} is no text, but {message['content']!r}")
        if message["role"] == "assistant" and not message["content"].strip():
            raise InputError(f"{place}: the response in message {number} is empty")
    if not any(message["role"] == "assistant" for message in messages):
        raise InputError(f"{place}: the conversation has no assistant turn")


def check_distinct(instructions: list[str], places: list[str]) -> None:
    """Raise InputError when an instruction stands twice in an evaluation set: judgements are matched by it."""
    twice = [text for text, count in Counter(instructions).items() if count > 1]
    if twice:
        where = [place for place, text in zip(places, instructions, strict=True) if text == twice[0]]
        raise InputError(f"{where[1]}: the instruction {twice[0][:60]!r} occurs twice, first in {where[0]}")
