"""Rows from files, streamed, mapped to conversations or to evaluation sets, every fault with its place."""

import csv
import gzip
import hashlib
import json
import os
import shutil
import tempfile
import urllib.error
import urllib.request
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from itertools import islice
from pathlib import Path
from string import Formatter
from typing import Any, BinaryIO, TextIO, TypeVar

from stage.command import InputError

Row = dict[str, Any]
Item = TypeVar("Item")

DOWNLOAD_TIMEOUT = 60  # seconds without an answer


def read_rows(path: str, rows: list[int] | None = None, *, name: str | None = None) -> Iterator[tuple[str, Row]]:
    """Stream a file's rows: (place, row) for each, ``rows`` = [first, behind the last], and nothing behind is read.

    ``path`` is a file or a URL of one: JSON lines, CSV (an empty cell is None), text (each line is ``{"text": line}``),
    Parquet, or a JSON list, which is read whole; each may be gzipped. ``name`` stands for it in messages.
    Raises InputError naming file and line of what cannot be read, and when the file holds fewer rows than asked for.
    """
    name = name or path
    kind = Path(path.removesuffix(".gz")).suffix
    if kind not in READERS:
        raise InputError(f"{name}: rows are read from {', '.join(READERS)}, each also with .gz")
    with local_copy(path) as file:
        yield from take_range(_objects(READERS[kind](file, name)), rows, name=name)


def _objects(found: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Row]]:
    for place, row in found:
        if not isinstance(row, dict):
            raise InputError(f"{place}: a row must be an object with named columns, but it is {str(row)[:60]!r}")
        yield place, row


def take_range(found: Iterable[Item], rows: list[int] | None, *, name: str) -> Iterator[Item]:
    """The items of a range, [first, behind the last]; all without one. Raises InputError when there are fewer."""
    if rows is None:
        yield from found
        return
    first, behind = rows
    count = 0
    for count, item in enumerate(islice(found, behind), start=1):
        if count > first:
            yield item
    if count < behind:
        raise InputError(f"{name}: holds {count} rows, but 'rows' asks for {rows}")


def take_first(found: Iterable[Item], count: int | None, *, key: str) -> list[Item]:
    """The first ``count`` items, all without one. Raises InputError naming ``key`` when there are fewer."""
    taken = list(islice(found, count))
    if count is not None and len(taken) < count:
        raise InputError(f"{key}: {count} are asked for, but the rows give only {len(taken)}")
    if not taken:
        raise InputError(f"{key.rpartition('.')[0]}: its source gives no rows at all")
    return taken


@contextmanager
def _text(path: Path, name: str, *, newline: str = "\n") -> Iterator[TextIO]:
    """A text file, opened; lines end at newlines alone: characters such as U+2028 may stand inside a string."""
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8-sig", newline=newline) as file:
            yield file
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{name}: cannot be read as UTF-8 text: {error}") from None


def _json_lines(path: Path, name: str) -> Iterator[tuple[str, Any]]:
    with _text(path, name) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                place = f"{name}, line {number}"
                yield place, _parse(place, line)


def _json_list(path: Path, name: str) -> Iterator[tuple[str, Any]]:
    with _text(path, name) as file:
        found = _parse(name, file.read())
    if not isinstance(found, list):
        raise InputError(f"{name}: must be a JSON list of rows, but it is a {type(found).__name__}")
    for number, row in enumerate(found, start=1):
        yield f"{name}, row {number}", row


def _parse(place: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{place}: no valid JSON: {error.msg} at column {error.colno}") from None
    except (ValueError, RecursionError) as error:  # thousands of digits, or of brackets
        raise InputError(f"{place}: JSON that cannot be taken in: {error}") from None


def _csv(path: Path, name: str) -> Iterator[tuple[str, Any]]:
    csv.field_size_limit(2**31 - 1)  # the default of 131,072 characters is less than a long text
    with _text(path, name, newline="") as file:
        reader = csv.reader(file, strict=True)
        line = 1
        try:
            header = next(reader, [])
            while True:
                line = reader.line_num + 1
                row = next(reader, None)
                if row is None:
                    return
                if row and len(row) != len(header):
                    raise InputError(f"{name}, line {line}: {len(row)} cells, but the header names {len(header)}")
                if row:
                    yield f"{name}, line {line}", dict(zip(header, (cell or None for cell in row), strict=True))
        except csv.Error as error:
            raise InputError(f"{name}, line {line}: no valid CSV: {error}") from None


def _text_lines(path: Path, name: str) -> Iterator[tuple[str, Any]]:
    with _text(path, name) as file:
        for number, line in enumerate(file, start=1):
            yield f"{name}, line {number}", {"text": line.removesuffix("\n").removesuffix("\r")}


def _parquet(path: Path, name: str) -> Iterator[tuple[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _unpacked(path, name) as file:
        try:
            batches = pq.ParquetFile(file).iter_batches(batch_size=1000)
            for number, row in enumerate((row for batch in batches for row in batch.to_pylist()), start=1):
                yield f"{name}, row {number}", row
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise InputError(f"{name}: cannot be read as Parquet: {error}") from None


@contextmanager
def _unpacked(path: Path, name: str) -> Iterator[BinaryIO]:
    """A binary file, opened; Parquet is read from its end, so a gzipped one is unpacked to a temporary file."""
    if path.suffix != ".gz":
        with path.open("rb") as file:
            yield file
        return
    with tempfile.TemporaryFile() as file:
        try:
            with gzip.open(path) as packed:
                shutil.copyfileobj(packed, file)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise InputError(f"{name}: cannot be unpacked: {error}") from None
        file.seek(0)
        yield file


READERS: dict[str, Callable[[Path, str], Iterator[tuple[str, Any]]]] = {
    ".jsonl": _json_lines,
    ".json": _json_list,
    ".csv": _csv,
    ".txt": _text_lines,
    ".parquet": _parquet,
}


def is_url(file: str) -> bool:
    """Whether a file is to be downloaded."""
    return file.startswith(("https://", "http://"))


def offline() -> bool:
    """Whether HF_HUB_OFFLINE says that no network is to be used."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


@contextmanager
def local_copy(path: str) -> Iterator[Path]:
    """A file's path; of a URL, a copy that is deleted afterwards. Raises InputError for what is not there."""
    if not is_url(path):
        if not Path(path).is_file():
            raise InputError(f"{path}: no such file")
        yield Path(path)
        return
    if offline():
        raise InputError(f"{path}: not downloaded, as HF_HUB_OFFLINE is set; give the path of a local file instead")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / Path(path).name
        try:
            _download(path, copy)
        except urllib.error.HTTPError as error:
            raise InputError(f"{path}: the server says {error.code} {error.reason}") from None
        except (OSError, HTTPException, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise InputError(f"{path}: cannot be downloaded: {reason}; give the path of a local file instead") from None
        yield copy


def _download(url: str, path: Path) -> None:
    with urllib.request.urlopen(url, timeout=DOWNLOAD_TIMEOUT) as answer, path.open("wb") as file:
        shutil.copyfileobj(answer, file)
        length = answer.headers.get("Content-Length")
    # A connection that breaks off looks like the end of the file.
    if length is not None and path.stat().st_size != int(length):
        raise OSError(f"{path.stat().st_size:,} of {int(length):,} bytes came")


def fill(template: str, row: Row, place: str) -> str:
    """Fill ``{column}`` in a template from a row.

    Raises InputError for a column that is missing or no text, and for a template with anything else in braces.
    """

    class Columns(dict):
        def __missing__(self, key: str) -> str:
            raise InputError(f"{place}: no column of text called {key!r}; the columns are {', '.join(row)}")

    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise InputError(
            f"{place}: the template {template!r} cannot be filled: {error}; write {{{{ for a brace"
        ) from None
    if any(spec or conversion for *_, spec, conversion in parts):
        raise InputError(f"{place}: the template {template!r} must have names of columns in braces, and nothing else")
    columns = Columns({k: v for k, v in row.items() if isinstance(v, str | int | float)})
    return "".join(text + ("" if name is None else str(columns[name])) for text, name, *_ in parts)


def to_conversation(row: Row, place: str, *, user: str | None, assistant: str | None, messages: str | None) -> list:
    """A row as messages: two templates filled, or a column that holds a list of role and content."""
    if messages is None:
        turns = [("user", fill(user or "", row, place)), ("assistant", fill(assistant or "", row, place))]
        return [{"role": role, "content": content} for role, content in turns]
    found = row.get(messages)
    if not isinstance(found, list) or any(not isinstance(m, dict) or set(m) != {"role", "content"} for m in found):
        raise InputError(f"{place}: column {messages!r} must be a list of {{role, content}}, but it is {found!r:.80}")
    return found


def check_conversation(messages: list[dict[str, str]], place: str) -> None:
    """Raise InputError for a conversation that cannot be tuned on."""
    for number, message in enumerate(messages, start=1):
        if message["role"] not in ("user", "assistant"):
            raise InputError(f"{place}: message {number} has the role {message['role']!r}: use 'user' or 'assistant'")
        if not isinstance(message["content"], str):
            raise InputError(f"{place}: message {number} is no text, but {message['content']!r}")
        check_text(message["content"], f"{place}: message {number}")
        if message["role"] == "assistant" and not message["content"].strip():
            raise InputError(f"{place}: the response in message {number} is empty")
    if not any(message["role"] == "assistant" for message in messages):
        raise InputError(f"{place}: the conversation has no assistant turn")


def check_text(text: str, what: str) -> None:
    """Raise InputError for a text that no file could hold: JSON may name one half of a character by itself."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = text[error.start].encode("unicode_escape").decode()
        raise InputError(f"{what} holds {half}, half a character, at place {error.start}: mend or drop it") from None


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
