"""Does a file contain what its name says? Checked before its rows are read, by its first bytes only."""

import gzip
import zlib
from pathlib import Path

from pipeline.jobs.command import InputError

HEAD = 4096  # bytes

BINARY = {  # the first bytes of formats that people use by mistake: what it is, and what to do
    b"PAR1": ("Parquet", "give it the ending .parquet"),
    b"\x1f\x8b": ("gzip", "give it the ending .gz after the format's own, once"),
    b"PK\x03\x04": ("a zip archive or an Excel workbook", "unzip it, or export the sheet as CSV in UTF-8"),
    b"\xd0\xcf\x11\xe0": ("an old Excel workbook", "export the sheet as CSV in UTF-8"),
    b"\x28\xb5\x2f\xfd": ("compressed by zstd", "decompress it"),
    b"BZh": ("compressed by bzip2", "decompress it"),
    b"\xfd7zXZ\x00": ("compressed by xz", "decompress it"),
    b"ARROW1": ("Arrow, not Parquet", "write it as Parquet"),
    b"SQLite format 3\x00": ("an SQLite database", "export the table as CSV in UTF-8"),
    b"%PDF": ("a PDF", "give the data as text"),
    b"\xff\xfe": ("text in UTF-16 or UTF-32", "save it as UTF-8"),
    b"\xfe\xff": ("text in UTF-16", "save it as UTF-8"),
    b"\x00\x00\xfe\xff": ("text in UTF-32", "save it as UTF-8"),
    b"version https://git-lfs": ("a git-lfs pointer instead of the file", "run `git lfs pull`"),
}


def check_contents(path: Path, kind: str, name: str) -> None:
    """Raise InputError, with what to do, if a file's format does not match its ending ``kind``."""
    head = _head(path, name)
    if not head:
        if kind == ".parquet":
            raise InputError(f"{name}: the file is empty")
        return
    for start, (what, advice) in BINARY.items():
        if head.startswith(start) and not (kind == ".parquet" and start == b"PAR1"):
            raise InputError(f"{name}: contains {what}: {advice}")
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text[:9].lower() == b"<!doctype" or text[:5].lower() in (b"<html", b"<?xml"):
        raise InputError(f"{name}: contains a web page or XML, not rows: give the address of the raw file")
    if b"\x00" in head and kind != ".parquet":
        raise InputError(f"{name}: contains bytes that are not UTF-8 text (zeros): save it as UTF-8")
    fault = _wrong_text(text, kind)
    if fault:
        raise InputError(f"{name}: {fault}")


def _wrong_text(text: bytes, kind: str) -> str:
    """What is wrong with a file that begins with this text; empty if it matches its ending."""
    json = b"".join(text.split()).startswith((b'{"', b'[{"'))
    if kind == ".parquet":
        return "contains text, not Parquet: give it the ending of its format" if _is_text(text) else ""
    if kind == ".csv" and json:
        return "contains JSON, not CSV: give it the ending .jsonl or .json"
    if kind in (".json", ".jsonl") and text and text[:1] not in b"[{":
        first = text.splitlines()[0][:60].decode("utf-8", "replace")
        return f"contains no JSON rows: it begins with {first!r}. Give it the ending of its format, such as .csv"
    return ""


def _is_text(head: bytes) -> bool:
    try:
        head[: HEAD - 4].decode()  # a character may be cut at the end
    except UnicodeDecodeError:
        return False
    return b"\x00" not in head and not head.startswith(b"PAR1")


def _head(path: Path, name: str) -> bytes:
    """The first bytes, decompressed if the ending is .gz."""
    with path.open("rb") as file:
        head = file.read(HEAD)
    if path.suffix != ".gz" or not head:
        return head
    if not head.startswith(b"\x1f\x8b"):
        raise InputError(f"{name}: is not gzip-compressed: give it a name without .gz")
    try:
        with gzip.open(path) as packed:
            return packed.read(HEAD)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{name}: cannot be decompressed: {error}; is it complete?") from None
