"""Write known judgements of pairs of responses: Parquet of kind ``annotations``, from a file or the hub.

    python scripts/make_annotations.py --output pandalm.parquet \\
        --settings '{"name": "pandalm", "source": {"file": "pandalm.jsonl", "preferences": ["annotator1"]}}'

Preferences are read as AlpacaEval writes them: from 1 (the first response) to 2, a tie as 1.5 or 0, empty without a
verdict. Pairs on which no annotator has a verdict are left out, and counted.
"""

import random
from collections.abc import Iterator
from typing import Any

from implicit.measuring.texts import one_line
from pipeline.config.datasets import Annotations
from pipeline.config.types import Section
from pipeline.files.hub import source_rows
from pipeline.files.rows import Row, check_sha256, fill, template_columns
from pipeline.files.storage import write_table
from pipeline.jobs.command import InputError, arguments, run_stage, say


class Settings(Section):
    """A section of `annotations`, with its name."""

    name: str
    source: Annotations


def verdict(text: str, place: str) -> float | None:
    """A preference from 1 to 2, or None for an empty cell. Raises InputError for anything else."""
    if not text.strip():
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if value == 0:
        return 1.5
    if not 1 <= value <= 2:
        raise InputError(f"{place}: a preference is from 1 to 2, 0 for a tie, or empty, but it is {text!r}")
    return value


def annotated(name: str, source: Annotations) -> Iterator[Row]:
    """The pairs with a verdict. Raises InputError for rows that cannot be used."""
    columns = dict(template_columns(source.instruction, key=f"annotations.{name}.instruction"))
    columns |= dict.fromkeys([*source.outputs, *(source.models or []), *source.preferences], "text")
    origin, counted, rows = source_rows(source, columns)
    clusters: dict[str, str] = {}
    without = found = 0
    for number, (place, row) in enumerate(rows):
        instruction = fill(source.instruction, row).strip()  # a template may end with an empty input
        verdicts = [verdict(row[column], f"{place}, column {column!r}") for column in source.preferences]
        known = [value for value in verdicts if value is not None]
        if not known:
            without += 1
            continue
        found += 1
        one, two = (row[column] for column in source.models) if source.models else (None, None)
        yield {
            "id": f"{name}-{number}",
            "cluster": clusters.setdefault(one_line(instruction), f"{name}-{number}"),
            "instruction": instruction,
            "model_1": one,
            "model_2": two,
            "output_1": row[source.outputs[0]],
            "output_2": row[source.outputs[1]],
            "annotators": known,
            "annotation": sum(known) / len(known),
        }
    of_all = counted.of_all()
    say(f"{found:,} pairs of {of_all} of {origin}; {without:,} without a verdict are left out")


def drawn(rows: list[Row], name: str, count: int | None) -> list[Row]:
    """As many of the rows, in their order, drawn by the set's name. Raises InputError if there are fewer."""
    if count is None:
        return rows
    if count > len(rows):
        raise InputError(f"annotations.{name}.sample: {count:,}, but there are {len(rows):,} pairs with a verdict")
    places = random.Random(f"annotations/{name}").sample(range(len(rows)), count)
    return [rows[place] for place in sorted(places)]


def main() -> None:
    args = arguments(__doc__, paths=["output"], settings=Settings)
    name, source = args.settings.name, args.settings.source
    rows: list[dict[str, Any]] = drawn(list(annotated(name, source)), name, source.sample)
    if not rows:
        raise InputError(f"annotations.{name}: there is no pair with a verdict")
    digest = check_sha256(rows, source.sha256, key=f"annotations.{name}")
    write_table("annotations", rows, args.output)
    clusters = len({row["cluster"] for row in rows})
    say(f"sha256 of the rows: {digest}")
    say(f"{len(rows):,} pairs of responses to {clusters:,} instructions")


if __name__ == "__main__":
    run_stage(main)
