"""What a row is: the one check that every row of every source passes, and how its columns are converted.

Readers of files and of the hub yield raw rows. `checked` yields the columns that are used, converted to what they are
used as, and rejects what cannot be converted; unused columns are not checked. A cell means the same in every
format. It is a **text**, or a number, which becomes the text that Python's ``repr`` gives; ``null``, a missing key
and an empty string are all *empty*, the text "". Anything else is rejected, never converted to text:
NaN and infinities, true and false (which every program writes differently), dates, bytes, lists.
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
Use = Literal["text", "texts", "cell", "maybe", "objects", "index"]
Columns = Mapping[str, Use]  # column -> what it is used as

OPTIONAL = ("index", "maybe")
LOOK_AHEAD = 1000  # rows in which every used column must occur: a stream may not be read to its end


@dataclass(frozen=True)
class Refused:
    """A cell that a reader cannot return as it is in the file: an error if its column is used."""

    why: str

    def __repr__(self) -> str:
        return self.why


def checked(found: Iterable[tuple[str, Row]], columns: Columns) -> Iterator[tuple[str, Row]]:
    """The used columns of each (place, row): a text, a list of texts, an index, or a cell as it is.

    Raises InputError naming place, column and value of a cell that cannot be converted, and for a column that no
    row has. Only an index may be missing, which is then None, and what is a cell only `maybe`, which is left out.
    """
    for place, row in _with_columns(found, [column for column, use in columns.items() if use not in OPTIONAL]):
        used = {c: use for c, use in columns.items() if use != "maybe" or c in row}
        yield place, {c: USES[use](row.get(c), f"{place}: column {c!r}") for c, use in used.items()}


def _with_columns(found: Iterable[tuple[str, Row]], columns: list[str]) -> Iterator[tuple[str, Row]]:
    """The rows, after checking that every column occurs in one of the first: a single row may omit empty columns."""
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
    """The message that a column is missing, with the closest match and the existing columns."""
    plain = {name.strip("\ufeff \t").casefold(): name for name in names}
    close = get_close_matches(column.strip().casefold(), plain, n=1)
    meant = f": did you mean {plain[close[0]]!r}?" if close else "."
    return f"no column {column!r}{meant} The columns are {', '.join(map(repr, names))}"


def text_of(cell: Any, what: str) -> str:
    """The text of a cell, "" if it is empty. Raises InputError, beginning with ``what``, for anything else."""
    if cell is None:
        return ""
    if isinstance(cell, str):
        check_text(cell, what)
        return cell
    if isinstance(cell, int | float) and not isinstance(cell, bool) and math.isfinite(cell):
        return repr(cell)
    raise refusal(cell, what, "text or a finite number")


def texts_of(cell: Any, what: str) -> list[str]:
    """The texts of a cell that is a list. Raises InputError."""
    if not isinstance(cell, list) or any(one is None for one in cell):
        raise refusal(cell, what, "a list of texts")
    return [text_of(one, f"{what}, item {number}") for number, one in enumerate(cell, start=1)]


def objects_of(cell: Any, what: str) -> list[dict[str, Any]]:
    """The objects of a cell that is a list of them, without their null values. Raises InputError."""
    if not isinstance(cell, list) or not all(isinstance(one, dict) for one in cell):
        raise refusal(cell, what, "a list of objects")
    return [{key: value for key, value in one.items() if value is not None} for one in cell]


def index_of(cell: Any, what: str) -> int | None:
    """The position in a set that a cell gives, None if it is empty. Raises InputError."""
    text = text_of(cell, what)
    if text and (not re.fullmatch("[0-9]{1,19}", text) or int(text) >= 2**63):
        raise InputError(f"{what} must be a position in the set, a whole number from 0, but it is {text:.60}")
    return int(text) if text else None


USES: dict[str, Callable[[Any, str], Any]] = {
    "text": text_of,
    "texts": texts_of,
    "cell": lambda cell, what: cell,
    "maybe": lambda cell, what: cell,
    "objects": objects_of,
    "index": index_of,
}


def refusal(cell: Any, what: str, wanted: str) -> InputError:
    """The error that a cell, named ``what``, is not what is ``wanted``."""
    if isinstance(cell, Refused):
        return InputError(f"{what}: {cell.why}")
    if cell is None or cell == "":
        return InputError(f"{what} must be {wanted}, but it is empty")
    names = {dict: "an object", list: "a list", bool: "a boolean", float: "a number", str: "text"}
    return InputError(f"{what} must be {wanted}, but it is {cell!r:.60} ({names.get(type(cell), type(cell).__name__)})")


def check_text(text: str, what: str) -> None:
    """Raise InputError for a text that cannot be encoded: JSON can contain unpaired surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        surrogate = text[error.start].encode("unicode_escape").decode()
        raise InputError(f"{what} contains an unpaired surrogate, {surrogate}, at {error.start}: remove it") from None


def template_columns(template: str, *, key: str) -> dict[str, Use]:
    """The columns that a template names, each a text.

    Raises InputError naming the config's ``key`` for an invalid template.
    """
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise InputError(
            f"{key}: the template {template!r} is invalid: {error}; write {{{{ for a literal brace"
        ) from None
    if any(spec or conversion or name == "" for _, name, spec, conversion in parts):
        raise InputError(f"{key}: the template {template!r} may have only column names in braces")
    return {name: "text" for _, name, *_ in parts if name is not None}


def fill(template: str, row: Row) -> str:
    """A template with the names in braces replaced by the texts of a row's columns."""
    return "".join(text + ("" if name is None else row[name]) for text, name, *_ in Formatter().parse(template))


def check_conversation(messages: list[dict[str, str]], place: str, *, user_empty: bool = False) -> None:
    """Raise InputError for a conversation that cannot be tuned on; ``user_empty`` allows instructions without text."""
    for number, message in enumerate(messages, start=1):
        if message["role"] not in ("user", "assistant"):
            raise InputError(f"{place}: message {number} has the role {message['role']!r}: use 'user' or 'assistant'")
        if not message["content"].strip() and not (user_empty and message["role"] == "user"):
            part = "response" if message["role"] == "assistant" else "instruction"
            raise InputError(f"{place}: the {part} in message {number} is empty: fill it in, or remove the row")
    if not any(message["role"] == "assistant" for message in messages):
        raise InputError(f"{place}: the conversation has no assistant turn")


def check_distinct(instructions: list[str], places: list[str]) -> None:
    """Raise InputError for a duplicate instruction in an evaluation set: judgements are matched by instruction."""
    twice = [text for text, count in Counter(instructions).items() if count > 1]
    if twice:
        where = [place for place, text in zip(places, instructions, strict=True) if text == twice[0]]
        raise InputError(f"{where[1]}: the instruction {twice[0][:60]!r} occurs twice, first in {where[0]}")


def rows_sha256(rows: Iterable[Any]) -> str:
    """The SHA-256 of the rows taken from a source, as 64 hexadecimal digits: of one line of JSON for each row.

    The JSON is ASCII, without spaces and with sorted keys. A dataset's row is its list of messages, an evaluation
    set's is ``{"instruction": text, "reference": text or null}``.
    """
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True, separators=(",", ":")).encode("ascii") + b"\n")
    return digest.hexdigest()


def check_sha256(rows: Iterable[Any], expected: str | None, *, key: str) -> str:
    """The SHA-256 of rows. Raises InputError naming ``key`` if it is not the expected one."""
    found = rows_sha256(rows)
    if expected is not None and found != expected:
        raise InputError(f"{key}.sha256: {expected} is expected, but the rows have {found}")
    return found
