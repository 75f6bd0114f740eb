"""What a row is: the one check that every row of every source passes, and what is made of its columns.

A reader of files or of a hub gives rows as it finds them. `checked` gives those columns of them that are used, as what
they are used as, and refuses what cannot be; a column that is not used is not judged. A cell means the same in every
format. It is a **text**, or a number, which becomes the text that Python's ``repr`` gives; ``null``, a key that a row
lacks, and a cell without characters are all *empty*, the text "". Anything else is refused, never written out as text:
NaN and infinities, true and false (which every program writes in another way), dates, bytes, lists.
"""

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from string import Formatter
from typing import Any, Literal

from pipeline.jobs.command import InputError

Row = dict[str, Any]
Use = Literal["text", "texts", "turns", "index"]
Columns = Mapping[str, Use]  # the columns that are used, and as what

LOOK_AHEAD = 1000  # rows, within which every column that is used must occur: a stream may not be read to its end


@dataclass(frozen=True)
class Refused:
    """A cell that a reader cannot give as it stands in the file: an error where its column is used."""

    why: str

    def __repr__(self) -> str:
        return self.why


def checked(found: Iterable[tuple[str, Row]], columns: Columns) -> Iterator[tuple[str, Row]]:
    """The columns that are used, of each (place, row): a text, a list of texts, a list of turns, or an index.

    Raises InputError naming place, column and value of a cell that cannot be used as that, and for a column that no
    row has. An index alone may be missing: it is None then.
    """
    for place, row in _with_columns(found, [column for column, use in columns.items() if use != "index"]):
        yield place, {c: USES[use](row.get(c), f"{place}: column {c!r}") for c, use in columns.items()}


def _with_columns(found: Iterable[tuple[str, Row]], columns: list[str]) -> Iterator[tuple[str, Row]]:
    """The rows, once every column has occurred in one of the first: a single row may lack what it leaves empty."""
    rows = _objects(found)
    held: list[tuple[str, Row]] = []
    missing = dict.fromkeys(columns)
    for place, row in islice(rows, LOOK_AHEAD):
        missing = {column: None for column in missing if column not in row}
        held.append((place, row))
        if not missing:
            break
    if missing and held:
        names = list(dict.fromkeys(name for _, row in held for name in row))
        first = held[0][0] + (f" and the {len(held) - 1:,} after it" if len(held) > 1 else "")
        raise InputError(f"{first}: {missing_column(next(iter(missing)), names)}")
    yield from held
    yield from rows


def _objects(found: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Row]]:
    for place, row in found:
        if not isinstance(row, dict):
            raise InputError(f"{place}: a row must be an object with named columns, but it is {row!r:.60}")
        yield place, row


def missing_column(column: str, names: list[str]) -> str:
    """That there is no such column, with the one that may be meant, and those that there are."""
    plain = {name.strip("\ufeff \t").casefold(): name for name in names}
    close = get_close_matches(column.strip().casefold(), plain, n=1)
    meant = f": did you mean {plain[close[0]]!r}?" if close else "."
    return f"no column {column!r}{meant} The columns are {', '.join(map(repr, names))}"


def text_of(cell: Any, what: str) -> str:
    """The text of a cell, "" of an empty one. Raises InputError, beginning with ``what``, for anything else."""
    if cell is None:
        return ""
    if isinstance(cell, str):
        check_text(cell, what)
        return cell
    if isinstance(cell, int | float) and not isinstance(cell, bool) and math.isfinite(cell):
        return repr(cell)
    raise _refusal(cell, what, "text or a finite number")


def texts_of(cell: Any, what: str) -> list[str]:
    """The texts of a cell that is a list. Raises InputError."""
    if not isinstance(cell, list) or any(one is None for one in cell):
        raise _refusal(cell, what, "a list of texts")
    return [text_of(one, f"{what}, item {number}") for number, one in enumerate(cell, start=1)]


def turns_of(cell: Any, what: str) -> list[dict[str, str]]:
    """The messages of a cell that is a list of role and content; further keys must be null. Raises InputError."""
    if not isinstance(cell, list):
        raise _refusal(cell, what, "a list of {role, content}")
    turns = []
    for number, message in enumerate(cell, start=1):
        place = f"{what}, message {number}"
        given = {k: v for k, v in message.items() if v is not None} if isinstance(message, dict) else {}
        if not {"role"} <= set(given) <= {"role", "content"}:
            raise _refusal(message, place, "{role, content} and nothing else")
        turns.append({key: text_of(given.get(key), f"{place}, its {key}") for key in ("role", "content")})
    return turns


def index_of(cell: Any, what: str) -> int | None:
    """The position in a set that a cell holds, None of an empty one. Raises InputError."""
    text = text_of(cell, what)
    if text and (not re.fullmatch("[0-9]{1,19}", text) or int(text) >= 2**63):
        raise InputError(f"{what} must be a position in the set, a whole number from 0, but it is {text:.60}")
    return int(text) if text else None


USES: dict[str, Callable[[Any, str], Any]] = {
    "text": text_of,
    "texts": texts_of,
    "turns": turns_of,
    "index": index_of,
}


def _refusal(cell: Any, what: str, wanted: str) -> InputError:
    if isinstance(cell, Refused):
        return InputError(f"{what}: {cell.why}")
    if cell is None or cell == "":
        return InputError(f"{what} must be {wanted}, but it is empty")
    names = {dict: "an object", list: "a list", bool: "a boolean", float: "a number", str: "text"}
    return InputError(f"{what} must be {wanted}, but it is {cell!r:.60} ({names.get(type(cell), type(cell).__name__)})")


def check_text(text: str, what: str) -> None:
    """Raise InputError for a text that no file can hold: JSON can name one half of a character by itself."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = text[error.start].encode("unicode_escape").decode()
        raise InputError(f"{what} contains an unpaired surrogate, {half}, at {error.start}: remove it") from None


def template_columns(template: str, *, key: str) -> dict[str, Use]:
    """The columns that a template names, each a text.

    Raises InputError naming the config's ``key`` for a template that cannot be filled.
    """
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise InputError(
            f"{key}: the template {template!r} cannot be filled: {error}; write {{{{ for a brace"
        ) from None
    if any(spec or conversion or name == "" for _, name, spec, conversion in parts):
        raise InputError(f"{key}: the template {template!r} must have names of columns in braces, and nothing else")
    return {name: "text" for _, name, *_ in parts if name is not None}


def fill(template: str, row: Row) -> str:
    """A template with the texts of a row's columns in place of their names in braces."""
    return "".join(text + ("" if name is None else row[name]) for text, name, *_ in Formatter().parse(template))


def check_conversation(messages: list[dict[str, str]], place: str, *, user_empty: bool = False) -> None:
    """Raise InputError for a conversation that cannot be tuned on; ``user_empty`` allows instructions without text."""
    for number, message in enumerate(messages, start=1):
        if message["role"] not in ("user", "assistant"):
            raise InputError(f"{place}: message {number} has the role {message['role']!r}: use 'user' or 'assistant'")
        if not message["content"].strip() and not (user_empty and message["role"] == "user"):
            part = "response" if message["role"] == "assistant" else "instruction"
            raise InputError(f"{place}: the {part} in message {number} is empty: fill it in, or leave out the row")
    if not any(message["role"] == "assistant" for message in messages):
        raise InputError(f"{place}: the conversation has no assistant turn")


def check_distinct(instructions: list[str], places: list[str]) -> None:
    """Raise InputError when an instruction stands twice in an evaluation set: judgements are matched by it."""
    twice = [text for text, count in Counter(instructions).items() if count > 1]
    if twice:
        where = [place for place, text in zip(places, instructions, strict=True) if text == twice[0]]
        raise InputError(f"{where[1]}: the instruction {twice[0][:60]!r} occurs twice, first in {where[0]}")


def rows_sha256(rows: Iterable[Any]) -> str:
    """The SHA-256 of what was taken from a source, as 64 hexadecimal digits: a line of JSON for each row.

    The JSON is ASCII, without blanks and with sorted keys. A dataset's row is its list of messages, an evaluation
    set's is ``{"instruction": text, "reference": text or null}``.
    """
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True, separators=(",", ":")).encode("ascii") + b"\n")
    return digest.hexdigest()


def check_sha256(rows: Iterable[Any], expected: str | None, *, key: str) -> str:
    """The SHA-256 of rows. Raises InputError naming ``key`` when it is not the expected one."""
    found = rows_sha256(rows)
    if expected is not None and found != expected:
        raise InputError(f"{key}.sha256: {expected} is expected, but the rows have {found}")
    return found
