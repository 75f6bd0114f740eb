"""Write the instructions of an evaluation set: Parquet of kind ``evaluation_set``, from the world or a local file.

    python scripts/make_evaluation_set.py --output test.parquet \\
        --settings '{"name": "test", "source": {"world": "test", "instructions": 200}, "world": 1}'

``index`` is the position in the set. References of the world's validation set are a middling assistant's, those
of its test set the right responses, which response ranking needs.
"""

import random
from typing import Any

from implicit.oracle import describe
from implicit.world.sets import World
from stage.command import InputError, arguments, run_stage, say
from stage.local_files import check_distinct, fill, read_rows
from stage.storage import write_table


def evaluation_rows(name: str, source: dict[str, Any], world: int | None) -> list[dict[str, Any]]:
    """The rows of an evaluation set. Raises InputError for a file, or a number, that cannot be used."""
    if source["file"] is None:
        drawn = World(world)
        rng = random.Random(f"references/{world}/{name}")
        try:
            items = drawn.evaluation(source["world"], source["instructions"])
        except ValueError as error:
            raise InputError(f"evaluation_sets.{name}.instructions: {error}") from None
        rows = [
            {
                "instruction": item.instruction,
                "reference": item.response if source["world"] == "test" else drawn.reference(item, rng),
                "request": describe(item, world),
                "source": f"world {world}",
            }
            for item in items
        ]
    else:
        found = read_rows(source["file"], source["rows"])
        rows = [_row(row, place, source) for place, row in found]
        check_distinct([row["instruction"] for row in rows], [place for place, _ in found])
    return [{"id": f"{name}-{i}", "index": i} | row for i, row in enumerate(rows)]


def _row(row: dict[str, Any], place: str, source: dict[str, Any]) -> dict[str, Any]:
    instruction = fill(source["instruction"], row, place)
    reference = fill(source["reference"], row, place) if source["reference"] else None
    for what, text in (("instruction", instruction), ("reference", reference)):
        if text is not None and not text.strip():
            raise InputError(f"{place}: the {what} is empty")
    return {"instruction": instruction, "reference": reference, "request": None, "source": source["file"]}


def main() -> None:
    args = arguments(__doc__, paths=["output"])
    rows = evaluation_rows(args.settings["name"], args.settings["source"], args.settings["world"])
    write_table("evaluation_set", rows, args.output)
    say(f"{len(rows):,} instructions")


if __name__ == "__main__":
    run_stage(main)
