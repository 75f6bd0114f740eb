"""Base models that experiments share: how they are named, and which ones an experiment uses."""

import hashlib
import json
from pathlib import Path
from typing import Any

from pipeline.files.storage import read_json

SHARED = "bases"  # the folder of the shared base models, next to those of the experiments


def base_name(*, world: int, pretrain: dict[str, Any], experiment: str | None = None) -> str:
    """The name of a base model: its world, and eight hex digits that identify everything it depends on but the code.

    That is ``world`` (its seed) and ``pretrain``, not chat or tuning; and ``experiment``, if it does not share it.
    """
    content = json.dumps({"world": world, "pretrain": pretrain, "experiment": experiment}, sort_keys=True)
    return f"world{world}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"


def shared_bases(results: Path) -> list[Path]:
    """The folders of the shared base models that an experiment uses, according to its records, each once."""
    records = [read_json(path) for path in sorted(results.glob("*/base/record.json"))]
    taken = [Path(record["inputs"]["shared"]["path"]) for record in records if "shared" in record["inputs"]]
    # .../bases/NAME/model, or .../bases/NAME/snapshots/3
    names = [path.parts[path.parts.index(SHARED) + 1] for path in taken]
    return [results.parent / SHARED / name for name in dict.fromkeys(names)]
