"""Pack an experiment for a paper's supplement: everything but weights, as an RO-Crate 1.1 in one zip file.

    python scripts/archive_results.py results/tiny

It reads the results folder of a finished experiment, the records of base models shared with other experiments, and
``envs/cpu.txt``, and writes ``results/tiny.crate.zip``: config, tables, figures, report, responses, judgements,
rankings and records as they are, and ``ro-crate-metadata.json`` with each file's size and sha256 and the commits named
in the records. Weights are left out, and so are the data, which we may not be allowed to redistribute: the records hold
their fingerprints. The same files always give the same bytes; the date is that of the judge's last answer or, if no
judge was asked, the day of the report.
"""

import argparse
import datetime
import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pipeline.files.storage import read_json, written_whole
from pipeline.identity.bases import shared_bases
from pipeline.jobs.command import InputError, run_stage, say

ROOT = Path(__file__).parents[1]
METADATA = "ro-crate-metadata.json"
NEEDED = ("config.json", "report.html", "tables", "figures")  # present in every finished experiment
LEFT_OUT = ("data", "checkpoints", "logs", "benchmarks", "answers", "ledger", "tracked")  # of a results folder
FORMATS = {
    ".csv": "text/csv",
    ".html": "text/html",
    ".json": "application/json",
    ".md": "text/markdown",
    ".parquet": "application/vnd.apache.parquet",
    ".pdf": "application/pdf",
    ".png": "image/png",
    ".tex": "application/x-tex",
    ".txt": "text/plain",
}
PAPER = {
    "@id": "https://arxiv.org/abs/2409.14254",
    "@type": "ScholarlyArticle",
    "name": "Instruction Following without Instruction Tuning",
}

LICENCE = {
    "@id": "#licence",
    "@type": "CreativeWork",
    "name": "No licence is stated",
    "description": "Whoever publishes this crate has to choose a licence, and to name an author and a publisher.",
}


def files_of(results: Path) -> list[Path]:
    """The files of a results folder to be packed, in order. Raises InputError if the experiment is not finished."""
    missing = [name for name in NEEDED if not (results / name).exists()]
    if missing:
        raise InputError(f"{results} is not a finished experiment: {', '.join(missing)} missing")
    return sorted(
        path
        for path in results.rglob("*")
        if path.is_file() and not _is_left_out(path.relative_to(results)) and not _is_of_model(path, results)
    )


def _is_left_out(inside: Path) -> bool:
    return inside.parts[0] in LEFT_OUT or any(part.startswith(".") for part in inside.parts)


def _is_of_model(path: Path, results: Path) -> bool:
    """Whether a file is part of a model directory, i.e. one with a config.json of its own."""
    folders = [folder for folder in path.parents if folder.is_relative_to(results) and folder != results]
    return any((folder / "config.json").is_file() for folder in folders)


def describe(name: str, path: Path) -> dict[str, Any]:
    """Describe a file as an entity of the crate; ``name`` is its path there. The size is in bytes."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    entity = {"@id": quote(name), "@type": "File", "name": name, "contentSize": str(path.stat().st_size)}
    known = FORMATS.get(path.suffix)
    return entity | ({"encodingFormat": known} if known else {}) | {"sha256": digest}


def metadata(experiment: str, files: dict[str, Path]) -> dict[str, Any]:
    """The crate's metadata (https://w3id.org/ro/crate/1.1) for files, keyed by their path in the crate."""
    read = [
        content for path in files.values() if path.suffix == ".json" and isinstance(content := read_json(path), dict)
    ]
    commits = sorted({content["commit"] for content in read if content.get("commit")})
    dates = [content["date"] for content in read if isinstance(content.get("date"), str)]
    # Without a judge, only the files themselves have dates.
    date = max(dates, default=None) or _day(files["report.html"])
    entities = [describe(name, path) for name, path in files.items()]
    root = {
        "@id": "./",
        "@type": "Dataset",
        "name": f"{experiment}: an experiment of implicit-tuning",
        "description": "Config, tables, figures, report, responses, judgements and records of an experiment on "
        "instruction following without instruction tuning. Weights and data are left out.",
        "datePublished": date,
        "license": {"@id": LICENCE["@id"]},
        "citation": {"@id": PAPER["@id"]},
        "isBasedOn": {"@id": "#implicit-tuning"},
        "hasPart": [{"@id": entity["@id"]} for entity in entities],
    }
    software = {
        "@id": "#implicit-tuning",
        "@type": "SoftwareSourceCode",
        "name": "implicit-tuning",
        "version": ", ".join(commits) or "not known: the records name no commit",
        "license": {"@id": "https://spdx.org/licenses/Apache-2.0"},
        "softwareRequirements": {"@id": "envs/cpu.txt"},
    }
    descriptor = {
        "@id": METADATA,
        "@type": "CreativeWork",
        "about": {"@id": "./"},
        "conformsTo": {"@id": "https://w3id.org/ro/crate/1.1"},
    }
    return {
        # The 1.1 context does not define `sha256` yet.
        "@context": ["https://w3id.org/ro/crate/1.1/context", {"sha256": "https://schema.org/sha256"}],
        "@graph": [descriptor, root, LICENCE, software, PAPER, *entities],
    }


def _day(path: Path) -> str:
    return datetime.datetime.fromtimestamp(path.stat().st_mtime, tz=datetime.UTC).date().isoformat()


def pack(results: Path, output: Path) -> int:
    """Write the crate of a results folder; returns the number of files in it, including the metadata."""
    files = {str(path.relative_to(results)): path for path in files_of(results)}
    # The records of pre-training are stored with the base models, which other experiments share.
    files |= {f"{base.parent.name}/{base.name}/record.json": base / "record.json" for base in shared_bases(results)}
    files |= {"envs/cpu.txt": ROOT / "envs" / "cpu.txt"}
    description = json.dumps(metadata(results.name, files), indent=1, ensure_ascii=False) + "\n"
    with written_whole(output) as temporary, zipfile.ZipFile(temporary, "w") as crate:
        crate.writestr(_entry(METADATA), description)
        for name, path in files.items():
            with path.open("rb") as source, crate.open(_entry(name), "w") as packed:
                while part := source.read(2**20):
                    packed.write(part)
    return len(files) + 1


def _entry(name: str) -> zipfile.ZipInfo:
    """A zip entry without what may differ for the same content: modification time and permissions."""
    entry = zipfile.ZipInfo(name)
    entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
    return entry


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="the results folder of a finished experiment")
    results = parser.parse_args().results.resolve()
    output = results.with_name(f"{results.name}.crate.zip")
    count = pack(results, output)
    say(f"{output}: {count} files, {output.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    run_stage(main)
