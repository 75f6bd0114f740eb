"""Write the instructions of an evaluation set: Parquet of kind ``evaluation_set``, from the world, a file, or a hub.

    python scripts/make_evaluation_set.py --output test.parquet \\
        --settings '{"name": "test", "source": {"world": "test", "instructions": 200}, "world": 1}'

``index`` is the position in the source, also where ``rows`` takes a part of it, for length-controlled win rates look up
an instruction's difficulty by it; a column ``index`` of integers in the rows goes first. References of the world's
validation set are a middling assistant's, those of its test set the right responses, which response ranking needs.
"""

import random
from collections.abc import Callable, Iterator
from typing import Any

from implicit.oracle import describe
from implicit.recipes import RecipeError, alpaca, read_templates
from implicit.world.sets import Item, World
from stage.command import InputError, arguments, run_stage, say
from stage.hub import origin_of, source_rows
from stage.local_files import Row, check_distinct, check_sha256, check_text, fill, local_copy, take_first
from stage.storage import write_table

Mapping = Callable[[Row, str], tuple[str, str | None]]  # a row and its place -> the instruction and its reference


def evaluation_rows(name: str, source: dict[str, Any], world: int | None) -> list[dict[str, Any]]:
    """The rows of an evaluation set. Raises InputError, or RecipeError, for rows or a number that cannot be used."""
    if origin_of(source) == "world":
        drawn = World(world)
        rng = random.Random(f"references/{world}/{name}")
        try:
            items = drawn.evaluation(source["world"], source["instructions"])
        except ValueError as error:
            raise InputError(f"evaluation_sets.{name}.instructions: {error}") from None
        rows = [
            {
                "index": index,
                "instruction": item.instruction,
                "reference": item.response if source["world"] == "test" else drawn.reference(item, rng),
                "request": describe(item, world),
                "cluster": cluster_of(item),
                "source": f"world {world}",
            }
            for index, item in enumerate(items)
        ]
    else:
        key = f"evaluation_sets.{name}.instructions"
        found = take_first(_mapped(source), source.get("instructions"), key=key)
        rows = [row for _, row in found]
        check_distinct([row["instruction"] for row in rows], [place for place, _ in found])
        empty = sum(row["reference"] is not None and not row["reference"].strip() for row in rows)
        if empty:
            say(f"{empty:,} references are empty: kept, as the authors do")
    return [{"id": f"{name}-{i}", "cluster": f"{name}-{i}"} | row for i, row in enumerate(rows)]


def cluster_of(item: Item) -> str:
    """What a request of the world is about: its three phrasings ask for the same, so they are not independent."""
    return f"{item.request.kind}: {' '.join(map(str, item.request.key))}"


def _mapped(source: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, row of the set) for each row of a file or a hub."""
    origin, rows = source_rows(source)
    mapping = _alpaca(source["templates"]) if source.get("recipe") else _filling(source)
    first = source["rows"][0] if source.get("rows") else 0
    for position, (place, row) in enumerate(rows, start=first):
        instruction, reference = mapping(row, place)
        if not instruction.strip():
            raise InputError(f"{place}: the instruction is empty")
        check_text(instruction, f"{place}: the instruction")
        check_text(reference or "", f"{place}: the reference")
        given = row.get("index")
        index = given if isinstance(given, int) and not isinstance(given, bool) else position
        if not 0 <= index < 2**63:
            raise InputError(f"{place}: 'index' is {index}: it must be a position in the set, from 0")
        filled = {"index": index, "instruction": instruction, "reference": reference}
        yield place, filled | {"request": None, "source": origin}


def _filling(source: dict[str, Any]) -> Mapping:
    def mapping(row: Row, place: str) -> tuple[str, str | None]:
        reference = fill(source["reference"], row, place) if source.get("reference") else None
        if reference is not None and not reference.strip():
            raise InputError(f"{place}: the reference is empty")
        return fill(source["instruction"], row, place), reference

    return mapping


def _alpaca(templates: str) -> Mapping:
    """The recipe, with the templates of a file or a URL. Responses that are empty in the data stay empty."""
    with local_copy(templates) as path:
        return alpaca(read_templates(path.read_bytes(), templates))


def main() -> None:
    args = arguments(__doc__, paths=["output"])
    name, source = args.settings["name"], args.settings["source"]
    rows = evaluation_rows(name, source, args.settings["world"])
    taken = [{key: row[key] for key in ("instruction", "reference")} for row in rows]
    digest = check_sha256(taken, source.get("sha256"), key=f"evaluation_sets.{name}")
    write_table("evaluation_set", rows, args.output)
    say(f"{len(rows):,} instructions, sha256 {digest}")


if __name__ == "__main__":
    run_stage(main, RecipeError)
