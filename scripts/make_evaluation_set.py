"""Write an evaluation set: Parquet of kind ``evaluation_set``, from the world, a file, or the Hugging Face Hub.

    python scripts/make_evaluation_set.py --output test.parquet \\
        --settings '{"name": "test", "source": {"world_part": "test", "instructions": 200}, "world_seed": 1}'

``index`` is the position in the source, even if ``rows`` selects a part of it, as length-controlled win rates look up
an instruction's difficulty by it; an integer column ``index`` in the rows takes precedence. References of the world's
validation set are those of a mediocre assistant, those of its test set the right responses, which ranking needs.
"""

import random
from collections.abc import Callable, Iterator
from typing import Any

from implicit.data.recipes import (
    ALPACA_COLUMNS,
    IFEVAL_COLUMNS,
    MBPP_COLUMNS,
    RecipeError,
    alpaca,
    ifeval,
    mbpp,
    read_templates,
)
from implicit.judging.oracle import describe
from implicit.world.sets import Item, World
from pipeline.config.datasets import EvaluationSet
from pipeline.config.types import Section, Seed
from pipeline.files.hub import source_rows
from pipeline.files.local_files import Counted, local_copy, take_first
from pipeline.files.rows import Columns, Row, check_distinct, check_sha256, fill, template_columns
from pipeline.files.storage import write_table
from pipeline.jobs.command import InputError, arguments, run_stage, say

WITH_CHECKS = {"ifeval": (IFEVAL_COLUMNS, ifeval), "mbpp": (MBPP_COLUMNS, mbpp)}
Mapping = Callable[[Row], tuple[str, str | None, str | None]]  # a row -> instruction, reference, request


class Settings(Section):
    """A section of `evaluation_sets`, with its name, and the seed of the model's world."""

    name: str
    source: EvaluationSet
    world_seed: Seed | None


def evaluation_rows(name: str, source: EvaluationSet, world: int | None) -> tuple[list[dict[str, Any]], str]:
    """The rows of an evaluation set, and how many of how many they are of where.

    Raises InputError or RecipeError for unusable rows or number of rows.
    """
    if source.origin == "world_part":
        drawn = World(world)
        rng = random.Random(f"references/{world}/{name}")
        try:
            items = drawn.evaluation(source.world_part, source.instructions)
        except ValueError as error:
            raise InputError(f"evaluation_sets.{name}.instructions: {error}") from None
        rows = [
            {
                "index": index,
                "instruction": item.instruction,
                "reference": item.response if source.world_part == "test" else drawn.reference(item, rng),
                "request": describe(item, world),
                "cluster": cluster_of(item),
                "source": f"world {world}",
            }
            for index, item in enumerate(items)
        ]
        taken = f"world {world}"
    else:
        key = f"evaluation_sets.{name}.instructions"
        counted, mapped = _mapped(name, source)
        found = take_first(mapped, source.instructions, key=key)
        taken = f"{counted.of_all()} of {found[0][1]['source']}"
        rows = [row for _, row in found]
        check_distinct([row["instruction"] for row in rows], [place for place, _ in found])
        empty = sum(row["reference"] is not None and not row["reference"].strip() for row in rows)
        if empty:
            say(f"{empty:,} references are empty: kept, as the authors do")
    return [{"id": f"{name}-{i}", "cluster": f"{name}-{i}"} | row for i, row in enumerate(rows)], taken


def cluster_of(item: Item) -> str:
    """What a request of the world is about: its three phrasings ask for the same thing, so they are not independent."""
    return f"{item.request.kind}: {' '.join(map(str, item.request.key))}"


def _mapped(name: str, source: EvaluationSet) -> tuple[Counted, Iterator[tuple[str, dict[str, Any]]]]:
    """The row counter of a file or hub dataset, and (place, row of the set) for each row."""
    columns, mapping = _recipe(source) if source.recipe else _filling(name, source)
    origin, counted, rows = source_rows(source, {**columns, "index": "index"})
    first = source.rows[0] if source.rows else 0

    def filled() -> Iterator[tuple[str, dict[str, Any]]]:
        for position, (place, row) in enumerate(rows, start=first):
            if (position - first) % (source.every or 1):
                continue
            instruction, reference, request = mapping(row)
            if not instruction.strip():
                raise InputError(f"{place}: the instruction is empty: fill it in or remove the row")
            if reference is not None and not reference.strip() and not source.recipe:
                raise InputError(f"{place}: the reference is empty: fill it in or remove the row")
            index = position if row["index"] is None else row["index"]
            given = {"index": index, "instruction": instruction, "reference": reference}
            yield place, given | {"request": request, "source": origin}

    return counted, filled()


def _filling(name: str, source: EvaluationSet) -> tuple[Columns, Mapping]:
    """The columns that the templates use, and a function that fills them. Raises InputError for unusable templates."""
    instruction, reference = source.instruction, source.reference
    templates = {"instruction": instruction} | ({"reference": reference} if reference else {})
    found = [template_columns(template, key=f"evaluation_sets.{name}.{key}") for key, template in templates.items()]
    columns = {column: use for columns in found for column, use in columns.items()}
    return columns, lambda row: (fill(instruction, row), fill(reference, row) if reference else None, None)


def _recipe(source: EvaluationSet) -> tuple[Columns, Mapping]:
    """The recipe: Alpaca with templates from a file or URL, whose empty responses stay empty, or one with checks."""
    if source.recipe in WITH_CHECKS:
        return WITH_CHECKS[source.recipe]
    with local_copy(source.templates) as path:
        encode = alpaca(read_templates(path.read_bytes(), source.templates))
    return ALPACA_COLUMNS, lambda row: (*encode(row), None)


def main() -> None:
    args = arguments(__doc__, paths=["output"], settings=Settings)
    name, source = args.settings.name, args.settings.source
    rows, taken = evaluation_rows(name, source, args.settings.world_seed)
    texts = [{key: row[key] for key in ("instruction", "reference")} for row in rows]
    digest = check_sha256(texts, source.sha256, key=f"evaluation_sets.{name}")
    write_table("evaluation_set", rows, args.output)
    say(f"sha256 of the rows: {digest}")
    say(f"{len(rows):,} instructions of {taken}")  # last: the run's display shows it


if __name__ == "__main__":
    run_stage(main, RecipeError)
