"""Base models that experiments share: what names one, and which an experiment has taken its own from."""

import hashlib
import json
from pathlib import Path
from typing import Any

from pipeline.files.storage import read_json

SHARED = "bases"  # the folder beside those of the experiments that the shared base models are in


def base_name(*, world: int, pretrain: dict[str, Any], experiment: str | None = None) -> str:
    """The name of a base model: its world, and eight hex digits of all that determines it but the code.

    That is ``world`` and ``pretrain``, nothing of chat or tuning. An ``experiment`` is named where it shares with none.
    """
    content = json.dumps({"world": world, "pretrain": pretrain, "experiment": experiment}, sort_keys=True)
    return f"world{world}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"


def shared_bases(results: Path) -> list[Path]:
    """The folders of the base models that those of an experiment were taken from, by their records, each once."""
    records = [read_json(path) for path in sorted(results.glob("*/base/record.json"))]
    taken = [Path(record["inputs"]["shared"]["path"]) for record in records if "shared" in record["inputs"]]
    # .../bases/NAME/model, or .../bases/NAME/snapshots/3
    names = [path.parts[path.parts.index(SHARED) + 1] for path in taken]
    return [results.parent / SHARED / name for name in dict.fromkeys(names)]
