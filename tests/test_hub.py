"""Datasets on the hub, read from a real server on loopback that implements the necessary part of the hub's API."""

import hashlib
import http.server
import io
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config.datasets import Dataset, Hub
from pipeline.files.hub import hub_name
from pipeline.files.storage import read_json, read_table

ROOT = Path(__file__).parents[1]
COMMIT = "c" * 40
ROWS = [{"q": f"question {i}", "a": f"answer {i}"} for i in range(3000)]
LINES = 800_000  # with 40 MB of text


def parquet(rows):
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer, row_group_size=500)
    return buffer.getvalue()


CELLS = [{"q": "NA", "a": "1.50"}, {"q": "2026-01-01 00:00:00", "a": "007"}, {"q": "", "a": "None"}]
CELLS_CSV = "".join(f"{row['q']},{row['a']}\n" for row in [{"q": "q", "a": "a"}, *CELLS]).encode()
CELLS_JSON = "".join(json.dumps(row) + "\n" for row in CELLS).encode()
FILES = {
    "org/open": {
        "data/train-00000-of-00001.parquet": parquet(ROWS),
        "data/test-00000-of-00001.parquet": parquet(ROWS[:9]),
    },
    "org/csv": {"train.csv": CELLS_CSV},
    "org/json": {"train.jsonl": CELLS_JSON},
    "org/file": {"some/rows.jsonl": "\n".join(map(json.dumps, ROWS)).encode(), "README.txt": b"", "rows.pdf": b""},
    "org/long": {"games.txt": "".join(f"[White move {i:>36}]\n" for i in range(LINES)).encode()},
    "org/gated": {"rows.jsonl": b'{"q": 1}\n'},
}
BLOB = {id_: {path: hashlib.sha1(content).hexdigest() for path, content in own.items()} for id_, own in FILES.items()}


class FakeHub(http.server.BaseHTTPRequestHandler):
    """The repositories FILES, each a dataset and a model; org/gated requires the token "good"."""

    protocol_version = "HTTP/1.1"
    sent = 0
    asked: ClassVar = set()

    def log_message(self, *_):
        pass

    def answer(self, status, content=b"", **headers):
        self.send_response(status)
        for name, value in ({"Content_Length": len(content)} | headers).items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
            FakeHub.sent += len(content)

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        FakeHub.asked.add(self.path)
        path = self.path.split("?")[0].removeprefix("/api").removeprefix("/datasets").removeprefix("/models").strip("/")
        owner, name, *rest = path.split("/")
        id_, (what, *of) = f"{owner}/{name}", rest or ["info"]
        if id_ not in FILES:
            return self.answer(404, X_Error_Code="RepoNotFound")
        gated = id_ == "org/gated" and self.headers.get("Authorization") != "Bearer good"
        if gated and what in ("auth-check", "resolve"):
            return self.answer(403, X_Error_Code="GatedRepo")
        if what in ("revision", "tree", "resolve") and of[0] not in ("main", COMMIT):
            return self.answer(404, X_Error_Code="RevisionNotFound")
        if what == "resolve":
            return self.resolve(id_, "/".join(of[1:]))
        found = {"id": id_, "sha": COMMIT, "siblings": [{"rfilename": path} for path in FILES[id_]], "tags": []}
        if what == "tree":
            start = "".join(f"{part}/" for part in of[1:])
            children = {start + path.removeprefix(start).split("/")[0] for path in FILES[id_] if path.startswith(start)}
            found = [self.entry(id_, child) for child in sorted(children)]
        return self.answer(200, json.dumps(found).encode(), Content_Type="application/json")

    def entry(self, id_, path):
        if path in FILES[id_]:
            return {"type": "file", "path": path, "size": len(FILES[id_][path]), "oid": BLOB[id_][path]}
        return {"type": "directory", "path": path, "oid": "0" * 40}

    def resolve(self, id_, path):
        if path not in FILES[id_]:
            return self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
        content = FILES[id_][path]
        headers = {"ETag": f'"{BLOB[id_][path]}"', "X_Repo_Commit": COMMIT, "Accept_Ranges": "bytes"}
        wanted = self.headers.get("Range")
        if not wanted:
            return self.answer(200, content, **headers)
        first, last = wanted.removeprefix("bytes=").split("-")
        part = content[int(first) : int(last or len(content)) + 1]
        span = f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}"
        return self.answer(206, part, Content_Range=span, **headers)


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """The environment of a process that uses the server as the hub, with a cache of its own."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), FakeHub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    yield kept | {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path_factory.mktemp("hub")),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_UPDATE_DOWNLOAD_COUNTS": "0",
        "HF_HUB_DISABLE_XET": "1",
        "PYTHONPATH": str(ROOT / "scripts"),
    }
    server.shutdown()
    server.server_close()


def python(environment, *arguments):
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        text=True,
        capture_output=True,
        timeout=100,
        check=False,
    )


READ = """
import json, sys
from pipeline.jobs.command import InputError
from pipeline.config.datasets import Dataset, Hub
from pipeline.files.hub import source_rows
for hub, rows in json.loads(sys.argv[1]):
    try:
        print(json.dumps(list(source_rows(Dataset.model_construct(hub=Hub(**hub), rows=rows), {"q": "text", "a": "text"})[2])))
    except InputError as error:
        print(json.dumps(str(error)))
"""


def read(environment, *wanted):
    """The result of reading each (hub, range of rows), rows or a message, in one process."""
    done = python(environment, "-c", READ, json.dumps(wanted))
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def check_access(environment, output, *sources):
    settings = json.dumps({"sources": sources})
    return python(environment, "scripts/check_access.py", "--output", str(output), "--settings", settings)


def test_rows_of_a_hub_are_those_of_its_files_and_what_cannot_be_had_is_explained(hub):
    split, test, file, whole, gated, missing, revision, config, no_split, no_file, kind, short = read(
        hub,
        ({"id": "org/open", "revision": "main"}, [990, 1010]),
        ({"id": "org/open", "split": "test", "config": "default"}, None),
        ({"id": "org/file", "revision": COMMIT, "file": "some/rows.jsonl"}, [990, 1010]),
        ({"id": "org/file", "file": "some/rows.jsonl"}, None),
        ({"id": "org/gated", "file": "rows.jsonl"}, None),
        ({"id": "org/missing"}, None),
        ({"id": "org/open", "revision": "v9"}, None),
        ({"id": "org/open", "config": "small"}, None),
        ({"id": "org/open", "split": "validation"}, None),
        ({"id": "org/file", "file": "none.jsonl"}, None),
        ({"id": "org/file", "file": "rows.pdf"}, None),
        ({"id": "org/open", "split": "test"}, [0, 10]),
    )
    assert [row for _, row in split] == [row for _, row in file] == ROWS[990:1010]
    assert [row for _, row in test] == ROWS[:9] and [row for _, row in whole] == ROWS
    assert split[0][0] == "org/open@main (train), row 991"
    assert file[0][0] == f"org/file@{COMMIT} (some/rows.jsonl), line 991"
    assert gated == (
        "dataset org/gated: gated. Request access at https://huggingface.co/datasets/org/gated, then set HF_TOKEN "
        "(or run `hf auth login`); a local 'file' can be used instead"
    )
    assert missing.startswith("dataset org/missing: not found. Either the name is wrong, or it is private")
    assert revision.startswith(
        "dataset org/open, revision v9: there is no such revision; see https://huggingface.co/data"
    )
    assert config.startswith(
        "dataset org/open: cannot be read: BuilderConfig 'small' not found. Available: ['default']"
    )
    assert no_split.startswith(
        "dataset org/open: cannot be read: Bad split: validation. Available splits: ['train', 'test']"
    )
    assert no_file.startswith(
        "dataset org/file: it has no such file; see https://huggingface.co/datasets/org/file/tree/main"
    )
    assert kind.startswith("org/file (rows.pdf): rows can be read from .jsonl, .json, .csv")
    assert short == "org/open (test): has 9 rows, but 'rows' asks for [0, 10]"


@pytest.mark.parametrize("id_", ["org/csv", "org/json"])
def test_cells_of_a_split_are_texts_as_they_stand_in_its_files(hub, id_):
    """`datasets` would read NA and None in CSV as null, and 1.50 and 007 as numbers."""
    (found,) = read(hub, ({"id": id_}, None))
    assert [row for _, row in found] == CELLS
    assert found[1][0] == f"{id_} (train), row 2"


@pytest.mark.parametrize(
    ("id_", "user", "expected"),
    [("org/open", "{q}", "question 29"), ("org/long", "{text}", f"[White move {29:>36}]")],
)
def test_a_dataset_takes_its_first_rows_of_a_stream_and_ends_well(hub, tmp_path, id_, user, expected):
    """Long files and many files are not fetched completely; abandoning a stream does not abort the process."""
    before, FakeHub.asked = FakeHub.sent, set()
    source = {"hub": {"id": id_, "revision": "main"}, "user": user, "assistant": user, "examples": 30}
    settings = json.dumps({"name": "d", "source": source, "world_seed": None})
    done = python(hub, "scripts/make_dataset.py", "--output", str(tmp_path / "d.parquet"), "--settings", settings)
    assert done.returncode == 0, done.stderr
    rows = read_table("conversations", tmp_path / "d.parquet")
    assert (len(rows), rows[29]["messages"][0]["content"], rows[29]["source"]) == (30, expected, f"{id_}@main (train)")
    assert not any(part in path for path in FakeHub.asked for part in ("train-00001", "train-00002"))
    if id_ == "org/long":
        assert FakeHub.sent - before < len(FILES[id_]["games.txt"]) / 2


def test_access_is_checked_for_all_sources_at_once(hub, tmp_path):
    data = {"name": "open", "type": "dataset", "id": "org/open", "revision": "main", "gated": False}
    model = {"name": "llama", "type": "model", "id": "org/open", "revision": COMMIT, "gated": False}
    gated = {"name": "lima", "type": "dataset", "id": "org/gated", "revision": None, "gated": True}
    missing = {"name": "olmo", "type": "model", "id": "org/missing", "revision": "main", "gated": False}
    old = data | {"name": "old", "revision": "v9"}
    done = check_access(hub, tmp_path / "none.json", data, gated, missing, model, old)
    assert done.returncode == 1 and not (tmp_path / "none.json").exists()
    first, *lines = done.stderr.strip().splitlines()
    assert first == "error: 3 of 5 sources on the hub not accessible:"
    assert [line.split(":")[0] for line in lines] == ["lima", "olmo", "old"]
    assert "Request access at https://huggingface.co/datasets/org/gated, then set HF_TOKEN" in lines[0]
    assert "model org/missing, revision main: not found" in lines[1] and "a local 'path' can be used" in lines[1]
    done = check_access(hub | {"HF_TOKEN": "good"}, tmp_path / "access.json", data, gated, model)
    assert done.returncode == 0, done.stderr
    assert read_json(tmp_path / "access.json") == {
        "open": {"id": "org/open", "revision": "main", "commit": COMMIT},
        "lima": {"id": "org/gated", "revision": None, "commit": COMMIT},
        "llama": {"id": "org/open", "revision": COMMIT, "commit": COMMIT},
    }


def test_without_a_network_the_cache_is_used_and_nothing_else(hub, tmp_path):
    offline = hub | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": "http://127.0.0.1:9"}
    online = hub | {"HF_HOME": str(tmp_path / "home")}
    file, split = {"id": "org/file", "file": "some/rows.jsonl"}, {"id": "org/open", "revision": "main"}
    read(online, (file, [0, 1]), (split, [0, 1]))
    found, streamed = read(offline, (file, [5, 7]), (split, [5, 7]))
    assert [row for _, row in found] == ROWS[5:7]
    assert streamed.startswith("dataset org/open, revision main: not in the cache, and HF_HUB_OFFLINE is set: download")
    done = python(online, "-c", "import datasets; datasets.load_dataset('org/open')")
    assert done.returncode == 0, done.stderr
    snapshots = tmp_path / "home/hub/datasets--org--open/snapshots"
    shutil.copytree(snapshots / COMMIT, snapshots / ("d" * 40), symlinks=True)  # a commit never loaded whole
    loaded, pinned, other, none = read(
        offline, *((split | {"revision": revision}, [5, 7]) for revision in ("main", COMMIT, "d" * 40, "e" * 40))
    )
    assert [row for _, row in loaded] == [row for _, row in pinned] == ROWS[5:7]
    assert f"only {COMMIT} is available, in the cache" in other  # what `datasets` would use by default
    assert f"revision {'e' * 40}: not in the cache" in none
    done = python(online, "-c", "import datasets; datasets.load_dataset('org/csv')")
    assert done.returncode == 0, done.stderr
    guessed, itself = read(offline, ({"id": "org/csv"}, None), ({"id": "org/csv", "file": "train.csv"}, None))
    assert guessed.startswith("dataset org/csv: `datasets` guesses the types in its CSV")
    assert [row for _, row in itself] == CELLS
    sources = [{"name": "a", "type": "dataset", "id": "org/open"}, {"name": "b", "type": "model", "id": "org/open"}]
    done = check_access(offline, tmp_path / "none.json", *sources)
    assert done.returncode == 1 and f"a: dataset org/open is at commit {COMMIT}" in done.stdout
    assert "b: model org/open: not in the cache, and HF_HUB_OFFLINE is set" in done.stderr
    done = check_access(offline | {"HF_HUB_OFFLINE": "0"}, tmp_path / "none.json", *sources)
    assert done.stderr.count("org/open: the hub cannot be reached: ") == 2


def test_a_file_stands_in_for_a_hub_and_a_hub_for_the_world():
    source = {"world_part": "poem", "hub": {"id": "a/b"}, "file": "x.jsonl", "recipe": "lima", "examples": 3}
    assert Dataset(**source).origin == "file"
    assert Dataset(**source | {"file": None}).origin == "hub"
    assert Dataset(world_part="poem", examples=3).origin == "world_part"
    assert Dataset(**source | {"rewrite": "lima"}).origin == "rewrite"
    assert hub_name(Hub(id="a/b", revision="r", config="main")) == "a/b@r (main train)"
