"""Rows streamed from files, with the place of every error. ``rows`` decides what their cells may be."""

import csv
import gzip
import json
import os
import shutil
import tempfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from http.client import HTTPException
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from pipeline.files.file_contents import check_contents
from pipeline.files.rows import Columns, Refused, Row, checked
from pipeline.jobs.command import InputError

Item = TypeVar("Item")
Rows = Iterator[tuple[str, Any]]  # (place, row), with the raw row of the file

DOWNLOAD_TIMEOUT = 60  # seconds without an answer
COUNTED = 100_000  # rows that are counted after those that are used


def read_rows(path: str, columns: Columns, rows: list[int] | None = None) -> Iterator[tuple[str, Row]]:
    """Stream the ``columns`` of a file's rows: (place, row) for each, checked by ``pipeline.files.rows``.

    ``path`` is a file or its URL: JSON lines, CSV, text (each line is ``{"text": line}``), Parquet, or a JSON
    list, which is read at once; each may be gzipped. ``rows`` = [first, end]: rows from ``end`` on are
    not read. Raises InputError naming file and line of what cannot be read, and for fewer rows than requested.
    """
    yield from checked(take_range(read_cells(path, columns, name=path), rows, name=path), columns)


def read_cells(path: str, columns: Collection[str], *, name: str) -> Rows:
    """Stream a file's raw rows. Only the ``columns`` of Parquet are read, the others are `Refused`.

    ``name`` replaces the path in messages.
    """
    kind = Path(path.removesuffix(".gz")).suffix
    if kind not in READERS:
        raise InputError(f"{name}: rows can be read from {', '.join(READERS)}, optionally with .gz")
    with local_copy(path) as file:
        check_contents(file, kind, name)
        yield from READERS[kind](file, name, columns)


class Counted(Iterator[Item]):
    """A stream that counts the rows taken from it; ``whole`` if the rest is available, so that it can be counted."""

    def __init__(self, found: Iterable[Item], *, whole: bool):
        self.found, self.count, self.whole = iter(found), 0, whole

    def __next__(self) -> Item:
        item = next(self.found)
        self.count += 1
        return item

    def of_all(self) -> str:
        """The total number, such as "15,000 rows"; at most 100,000 further rows are read to count them."""
        if not self.whole:
            return f"the first {self.count:,} rows"
        try:
            more = sum(1 for _ in islice(self, COUNTED)) == COUNTED
        except InputError:  # in a row that was not requested
            more = True
        return f"{'more than ' if more else ''}{self.count:,} rows"


def take_range(found: Iterable[Item], rows: list[int] | None, *, name: str) -> Iterator[Item]:
    """The items from the first up to but not including the end, or all. Raises InputError if there are fewer."""
    if rows is None:
        yield from found
        return
    first, end = rows
    count = 0
    for count, item in enumerate(islice(found, end), start=1):
        if count > first:
            yield item
    if count < end:
        raise InputError(f"{name}: has {count} rows, but 'rows' asks for {rows}")


def take_first(found: Iterable[Item], count: int | None, *, key: str) -> list[Item]:
    """The first ``count`` items, or all if it is None. Raises InputError naming ``key`` if there are fewer."""
    taken = list(islice(found, count))
    if count is not None and len(taken) < count:
        raise InputError(f"{key}: {count}, but the rows give only {len(taken)}")
    if not taken:
        raise InputError(f"{key.rpartition('.')[0]}: its source gives no rows at all")
    return taken


def _lines(path: Path, name: str, *, newline: str = "\n") -> Iterator[str]:
    """The lines of a text file, which only newlines end: characters such as U+2028 may occur inside a string."""
    settings = {"encoding": "utf-8-sig", "errors": "surrogateescape", "newline": newline}
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", **settings) as file:
            for number, line in enumerate(file, start=1):
                if not line.isascii():
                    _check_utf8(line, f"{name}, line {number}")
                yield line
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{name}: cannot be decompressed: {error}; is it complete?") from None


def _check_utf8(line: str, place: str) -> None:
    """Raise InputError for bytes that are not UTF-8: they were read as unpaired surrogates, which cannot be encoded."""
    try:
        line.encode()
    except UnicodeEncodeError as error:
        byte = ord(line[error.start]) - 0xDC00
        raise InputError(f"{place}: byte 0x{byte:02x} is not UTF-8 text: save the file as UTF-8") from None


def _json(path: Path, name: str, columns: Collection[str]) -> Rows:
    """The rows of a JSON list or of JSON lines, depending on the first character, not on the ending."""
    lines = _lines(path, name)
    before, first = [], ""
    for first in lines:
        if first.strip():
            break
        before.append(first)
    if first.lstrip().startswith("["):
        found = _parse("".join([*before, first, *lines]), name, listed=True)
        yield from ((f"{name}, row {number}", row) for number, row in enumerate(found, start=1))
        return
    numbered = ((n, line) for n, line in enumerate(chain(before, [first], lines), start=1) if line.strip())
    rows = ((f"{name}, line {n}", _parse(line, f"{name}, line {n}")) for n, line in numbered)
    if path.name.removesuffix(".gz").endswith(".json"):
        rows = _several(rows, name)
    yield from rows


def _several(rows: Rows, name: str) -> Rows:
    """Rows of JSON lines in a .json file, where a single object is more likely something else."""
    first = list(islice(rows, 2))
    if len(first) == 1:
        raise InputError(f"{name}: contains one JSON object, not a list of rows: write [...] around it")
    yield from first
    yield from rows


def _parse(text: str, place: str, *, listed: bool = False) -> Any:
    """Parse a JSON value. Raises InputError."""
    try:
        return json.loads(text, object_pairs_hook=_object, parse_int=_number, parse_float=_number)
    except json.JSONDecodeError as error:
        at = f"line {error.lineno}, column {error.colno}" if listed else f"column {error.colno}"
        rows = "rows are a list [...] of objects, or one object on each line"
        raise InputError(f"{place}: not valid JSON: {error.msg} at {at}; {rows}") from None
    except (ValueError, RecursionError) as error:  # thousands of digits, or of brackets
        raise InputError(f"{place}: cannot be read as JSON: {error}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object in which a duplicate key has no usable value."""
    found = dict(pairs)
    if len(found) < len(pairs):
        values: dict[str, list[Any]] = {}
        for key, value in pairs:
            values.setdefault(key, []).append(value)
        for key, given in values.items():
            if len(given) > 1:
                listed = " and then ".join(f"{value!r:.60}" for value in given)
                found[key] = Refused(f"this key occurs {len(given)} times in its object, for {listed}: keep one")
    return found


def _number(text: str) -> Any:
    """A JSON number, if the text of its value is the same as in the file, as it would be in CSV."""
    value = int(text) if text.removeprefix("-").isdigit() else float(text)
    if repr(value) == text:
        return value
    return Refused(f'the number {text} would become the text {value!r}: write it as text, "{text}"')


def _csv(path: Path, name: str, columns: Collection[str]) -> Rows:
    csv.field_size_limit(2**31 - 1)  # the default of 131,072 characters is less than a long text
    reader = csv.reader(_lines(path, name, newline=""), strict=True)
    line = 1
    try:
        header = next((row for row in reader if row), [])
        other = [mark for mark in ";\t|" if len(header) == 1 and mark in header[0]]
        if other:
            fault = f"its columns are separated by {other[0]!r}, not by commas: {header[0]!r:.60}"
            raise InputError(f"{name}, line {reader.line_num}: {fault}. Use commas")
        places = {column: [i for i, found in enumerate(header, start=1) if found == column] for column in header}
        twice = {column: _twice(own) for column, own in places.items() if len(own) > 1}
        while True:
            line = reader.line_num + 1
            row = next(reader, None)
            if row is None:
                return
            if row and len(row) != len(header):
                raise InputError(f"{name}, line {line}: {len(row)} cells, but the header has {len(header)}")
            if row:
                yield f"{name}, line {line}", dict(zip(header, row, strict=True)) | twice
    except csv.Error as error:
        raise InputError(f"{name}, line {line}: not valid CSV: {error}") from None


def _twice(places: list[int]) -> Refused:
    """The cell of a column that occurs several times, at these positions (from 1)."""
    return Refused(f"columns {' and '.join(map(str, places))} both have this name: rename or remove one")


def _text_lines(path: Path, name: str, columns: Collection[str]) -> Rows:
    for number, line in enumerate(_lines(path, name), start=1):
        yield f"{name}, line {number}", {"text": line.removesuffix("\n").removesuffix("\r")}


def _parquet(path: Path, name: str, columns: Collection[str]) -> Rows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _unpacked(path, name) as file:
        try:
            parquet = pq.ParquetFile(file)
            unread, wanted = _split_columns(parquet.schema_arrow, columns)
            number = 0
            for batch in parquet.iter_batches(batch_size=1000, columns=wanted):
                for row in batch.select(wanted).to_pylist():
                    number += 1
                    yield f"{name}, row {number}", unread | row
        except (pa.ArrowException, OSError, ValueError) as error:
            raise InputError(f"{name}: cannot be read as Parquet: {error}") from None


def _split_columns(schema: Any, columns: Collection[str]) -> tuple[dict[str, Refused], list[str]]:
    """The columns of a schema that are not read, each with the reason, and the names of those that are."""
    unread = dict.fromkeys(schema.names, Refused("not read"))
    wanted = []
    for column in unread:
        own = [number for number, name in enumerate(schema.names, start=1) if name == column]
        if column not in columns:
            continue
        if len(own) > 1:
            unread[column] = _twice(own)
        elif not _is_plain(schema.field(column).type):
            unread[column] = Refused(f"its type is {schema.field(column).type}: convert it to text")
        else:
            wanted.append(column)
    return unread, wanted


def _is_plain(kind: Any) -> bool:
    """Whether a Parquet type is text, or numbers with an unambiguous text, or lists or objects of them.

    A 32-bit float is not: 0.1 would become 0.10000000149011612.
    """
    from pyarrow import types

    if types.is_struct(kind):
        return all(_is_plain(kind.field(i).type) for i in range(kind.num_fields))
    if types.is_dictionary(kind) or types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _is_plain(kind.value_type)
    plain = (types.is_string, types.is_large_string, types.is_string_view, types.is_integer, types.is_float64)
    return any(is_kind(kind) for is_kind in (*plain, types.is_boolean, types.is_null))


@contextmanager
def _unpacked(path: Path, name: str) -> Iterator[BinaryIO]:
    """Open a binary file; Parquet is read from its end, so a gzipped one is decompressed to a temporary file."""
    if path.suffix != ".gz":
        with path.open("rb") as file:
            yield file
        return
    with tempfile.TemporaryFile() as file:
        try:
            with gzip.open(path) as packed:
                shutil.copyfileobj(packed, file)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise InputError(f"{name}: cannot be decompressed: {error}; is it complete?") from None
        file.seek(0)
        yield file


READERS: dict[str, Callable[[Path, str, Collection[str]], Rows]] = {
    ".jsonl": _json,
    ".json": _json,
    ".csv": _csv,
    ".txt": _text_lines,
    ".parquet": _parquet,
}


def similar_path(path: str) -> str:
    """The end of a message about a missing file or directory: the most similar one beside it, if there is one."""
    folder = Path(path).parent
    beside = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    near = get_close_matches(Path(path).name, beside, n=1)
    return f"; did you mean {str(folder / near[0])!r}?" if near else ""


def is_url(file: str) -> bool:
    """Whether a file must be downloaded."""
    return file.startswith(("https://", "http://"))


def offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids network access."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


@contextmanager
def local_copy(path: str) -> Iterator[Path]:
    """A file's path; for a URL, a copy that is deleted afterwards. Raises InputError for a missing file."""
    if not is_url(path):
        if not Path(path).is_file():
            raise InputError(f"{path}: no such file")
        yield Path(path)
        return
    if offline():
        raise InputError(f"{path}: not downloaded, as HF_HUB_OFFLINE is set; use a local file instead")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / Path(path).name
        try:
            _download(path, copy)
        except urllib.error.HTTPError as error:
            raise InputError(f"{path}: the server returned {error.code} {error.reason}") from None
        except (OSError, HTTPException, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise InputError(f"{path}: cannot be downloaded: {reason}; use a local file instead") from None
        yield copy


def _download(url: str, path: Path) -> None:
    with urllib.request.urlopen(url, timeout=DOWNLOAD_TIMEOUT) as answer, path.open("wb") as file:
        shutil.copyfileobj(answer, file)
        length = answer.headers.get("Content-Length")
    # A broken connection looks like the end of the file.
    if length is not None and path.stat().st_size != int(length):
        raise OSError(f"only {path.stat().st_size:,} of {int(length):,} bytes were received")
