"""A file's content decides how its rows are read; if its name is misleading, one line says so and what to do."""

import gzip
import io
import json
import re
import zipfile

import pytest
from test_rows import GOOD, as_bytes, made, said, texts, write

from pipeline.jobs.command import InputError


@pytest.mark.parametrize("ending", ["json", "jsonl", "json.gz", "jsonl.gz"])
@pytest.mark.parametrize("written", ["jsonl", "json"])
def test_json_lines_and_a_list_are_told_apart_by_what_is_in_the_file(tmp_path, written, ending):
    rows = [GOOD, GOOD | {"x": "b"}]
    content = b"\xef\xbb\xbf\n" + as_bytes(rows, written)
    assert made(write(tmp_path, content, ending)) == said(*texts("so", "b"))


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path):
    assert made(write(tmp_path, b"\xef\xbb\xbf" + as_bytes([GOOD], "csv"), "csv")) == said(*texts("so"))


def zipped(content):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("rows.csv", content)
    return buffer.getvalue()


CSV, LINES, PARQUET = (as_bytes([GOOD], kind) for kind in ("csv", "jsonl", "parquet"))
BELIED = [  # file name, content, message
    ("csv", PARQUET, "contains Parquet: give it the ending .parquet"),
    ("jsonl", gzip.compress(LINES, mtime=0), "contains gzip: give it the ending .gz"),
    ("jsonl.gz", gzip.compress(gzip.compress(LINES)), "contains gzip"),
    ("jsonl.gz", LINES, "is not gzip-compressed: give it a name without .gz"),
    ("parquet.gz", PARQUET, "is not gzip-compressed: give it a name without .gz"),
    ("csv", zipped(CSV), "contains a zip archive or an Excel workbook: unzip it, or export the sheet as CSV"),
    ("parquet", zipped(CSV), "contains a zip archive"),
    ("txt", b"%PDF-1.7 \n", "contains a PDF"),
    ("csv", "q,a\n".encode("utf-16"), "contains text in UTF-16.*: save it as UTF-8"),
    ("csv", "q,a\n".encode("utf-16-le"), "contains bytes that are not UTF-8 text"),
    ("json", b"\n<!DOCTYPE html><html>Not found</html>", "contains a web page or XML, not rows: give the address"),
    ("csv", b"<html>", "contains a web page or XML"),
    ("parquet", b"version https://git-lfs.github.com/spec/v1\n", "contains a git-lfs pointer .*: run `git lfs pull`"),
    ("jsonl", b"version https://git-lfs.github.com/spec/v1\n", "contains a git-lfs pointer .*: run `git lfs pull`"),
    ("parquet", CSV, "contains text, not Parquet: give it the ending of its format"),
    ("jsonl", CSV, "contains no JSON rows: it begins with 'q,x,a'. Give it the ending of its format, such as .csv"),
    ("csv", LINES, "contains JSON, not CSV: give it the ending .jsonl or .json"),
    ("csv", b"q;x;a\nWhy?;so;Because.\n", "line 1: its columns are separated by ';', not by commas"),
    ("csv", b"q\tx\ta\nWhy?\tso\tBecause.\n", r"line 1: its columns are separated by '\\t', not by commas"),
    ("csv", "q,x,a\nWhy?,ü,Because.\n".encode("latin-1"), "line 2: byte 0xfc is not UTF-8 text: save the file as UTF-8"),
    ("jsonl", LINES + '{"q": "ü"}'.encode("latin-1"), "line 2: byte 0xfc is not UTF-8 text"),
    ("json", json.dumps(GOOD, indent=1).encode(), r"line 1: not valid JSON: .*; rows are a list \[...\] of objects"),
    ("json", b'{"data": [{"q": "a"}]}', "contains one JSON object, not a list of rows"),
    ("json", b'[{"q": "a"},\n{"q": ]', "not valid JSON: .* at line 2, column 7"),
    ("jsonl", b"{'q': 'a'}", "line 1: not valid JSON"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("ending", "content", "message"), BELIED, ids=[f"{i} {case[0]}" for i, case in enumerate(BELIED)]
)
def test_a_file_whose_name_belies_it_is_refused_with_what_to_do(tmp_path, ending, content, message):
    path = tmp_path / f"rows.{ending}"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"^{re.escape(str(path))}[:,] {message}") as caught:
        made(str(path))
    assert "\n" not in str(caught.value)
