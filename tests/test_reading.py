"""Rows streamed from every kind of file, and from a URL."""

import csv
import gzip
import http.server
import itertools
import json
import threading
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from alpaca_rows import TEMPLATES, alpaca_rows
from sources import evaluation_rows

from pipeline.files.local_files import read_rows, take_first, take_range
from pipeline.jobs.command import InputError

TEXTS = {"q": "text", "a": "text"}
LINES = {"text": "text"}
HALF = gzip.compress(b'{"a": 1}\n' * 9)[:-12]
ROWS = [{"q": f"naïve {i}, “{i}”\n\u2028", "a": f'a "{i}"\r\n'} for i in range(2500)]


def packed(path):
    with gzip.open(f"{path}.gz", "wb") as file:
        file.write(Path(path).read_bytes())
    return f"{path}.gz"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The same rows in every file format: extension -> path."""
    folder = tmp_path_factory.mktemp("rows")
    (folder / "rows.json").write_text(json.dumps(ROWS), encoding="utf-8")
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)
    (folder / "rows.jsonl").write_text(lines, encoding="utf-8", newline="\n")
    with (folder / "rows.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["q", "a"])
        writer.writeheader()
        writer.writerows(ROWS)
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "rows.parquet", row_group_size=700)
    paths = {kind: str(folder / f"rows.{kind}") for kind in ("json", "jsonl", "csv", "parquet")}
    return paths | {f"{kind}.gz": packed(path) for kind, path in paths.items()}


@pytest.mark.parametrize("kind", ["json", "jsonl", "csv", "parquet", "json.gz", "jsonl.gz", "csv.gz", "parquet.gz"])
def test_all_kinds_of_file_give_the_same_rows(files, kind):
    found = [row for _, row in read_rows(files[kind], TEXTS)]
    assert found == ROWS
    places = [place for place, _ in read_rows(files[kind], TEXTS, [1200, 1203])]
    assert [row for _, row in read_rows(files[kind], TEXTS, [1200, 1203])] == ROWS[1200:1203]
    assert all(place.startswith(files[kind]) for place in places) and len(set(places)) == 3


def test_text_has_a_row_for_each_line(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffone\r\n\n three\u2028 \n".encode())
    for path in (str(tmp_path / "a.txt"), packed(tmp_path / "a.txt")):
        found = list(read_rows(path, LINES))
        assert [row for _, row in found] == [{"text": "one"}, {"text": ""}, {"text": " three\u2028 "}]
        assert found[2][0] == f"{path}, line 3"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b'q,a\n1,2\n"x\ny",2\n3,2,1\n', r"a.csv, line 5: 3 cells, but the header has 2"),
        ("a.csv", b'q,a\n1,2\n3,"4', r"a.csv, line 3: not valid CSV: unexpected end of data"),
        ("a.parquet", b"PAR1 no", r"a.parquet: cannot be read as Parquet: "),
        ("a.jsonl.gz", b"no gzip", r"a.jsonl.gz: is not gzip-compressed: give it a name without .gz"),
        ("a.parquet.gz", b"no gzip", r"a.parquet.gz: is not gzip-compressed: give it a name without .gz"),
        ("a.jsonl.gz", HALF, r"a.jsonl.gz: cannot be decompressed: .*end.*; is it complete"),
        ("a.txt", b"good\n\xff\n", r"a.txt, line 2: byte 0xff is not UTF-8 text: save the file as UTF-8"),
        ("a.json", b'{"rows": []}', r"a.json: contains one JSON object, not a list of rows"),
        ("a.pdf", b"", r"a.pdf: rows can be read from .jsonl, .json, .csv, .txt, .parquet, optionally with .gz"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        list(read_rows(str(tmp_path / name), TEXTS))


def test_no_more_is_read_than_is_taken():
    def endless(limit):
        for i in itertools.count():
            assert i < limit, "read on"
            yield i

    assert list(take_range(endless(7), [5, 7], name="x")) == [5, 6]
    assert take_first(endless(7), 7, key="x") == list(range(7))
    with pytest.raises(InputError, match=r"datasets.x.examples: 4, but the rows give only 3"):
        take_first(iter(range(3)), 4, key="datasets.x.examples")
    with pytest.raises(InputError, match=r"x: has 3 rows, but 'rows' asks for \[1, 4\]"):
        list(take_range(iter(range(3)), [1, 4], name="x"))


@contextmanager
def served(answers):
    """A real server on loopback: path -> (status, content, claimed length). Yields its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            status, content, length = answers.get(self.path, (404, b"", 0))
            self.send_response(status)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_a_url_is_as_good_as_a_file(files, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    good = Path(files["jsonl.gz"]).read_bytes()
    rows = alpaca_rows(20)
    answers = {"/a/rows.jsonl.gz": (200, good, len(good)), "/a/cut.jsonl.gz": (200, good[:50], len(good))}
    answers["/templates.py"] = (200, TEMPLATES.encode(), len(TEMPLATES))
    (tmp_path / "templates.py").write_text(TEMPLATES)
    (tmp_path / "alpaca.json").write_text(json.dumps(rows))
    with served(answers) as address:
        found = list(read_rows(f"{address}/a/rows.jsonl.gz", TEXTS, [5, 8]))
        assert [row for _, row in found] == ROWS[5:8] and found[0][0] == f"{address}/a/rows.jsonl.gz, line 6"
        with pytest.raises(InputError, match=r"no.jsonl: the server returned 404 Not Found"):
            list(read_rows(f"{address}/a/no.jsonl", TEXTS))
        with pytest.raises(
            InputError, match=r"cut.jsonl.gz: cannot be downloaded: only 50 of [\d,]+ bytes were received"
        ):
            list(read_rows(f"{address}/a/cut.jsonl.gz", TEXTS))
        source = {
            "file": str(tmp_path / "alpaca.json"),
            "recipe": "alpaca",
            "templates": str(tmp_path / "templates.py"),
        }
        local = evaluation_rows("alpaca", source, None)
        assert evaluation_rows("alpaca", source | {"templates": f"{address}/templates.py"}, None) == local
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        with pytest.raises(InputError, match=r"as HF_HUB_OFFLINE is set; use a local file instead"):
            list(read_rows(f"{address}/a/rows.jsonl.gz", TEXTS))
    monkeypatch.delenv("HF_HUB_OFFLINE")
    with pytest.raises(InputError, match=r"rows.jsonl.gz: cannot be downloaded: .*refused.*; use a local file"):
        list(read_rows(f"{address}/a/rows.jsonl.gz", TEXTS))
