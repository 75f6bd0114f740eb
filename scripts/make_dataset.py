"""Write a dataset to tune on: Parquet of kind ``conversations``, from the tiny world, a file, or a hub.

    python scripts/make_dataset.py --output poem.parquet \\
        --settings '{"name": "poem", "source": {"world": "poem", "examples": 300}, "world": 1}'

``source`` is the dataset's section of the config; ``world`` is the model's. Rows of a file or a hub are streamed
through a recipe of the paper's, or templates, and checked here; no more are read than are asked for.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from implicit.recipes import RECIPES, RecipeError
from implicit.world.sets import World
from stage.command import InputError, arguments, run_stage, say
from stage.hub import origin_of, source_rows
from stage.local_files import check_conversation, check_sha256, take_first, to_conversation
from stage.storage import write_table


def conversations(name: str, source: dict[str, Any], world: int | None) -> list[dict[str, Any]]:
    """The rows of a dataset. Raises InputError, or a recipe's RecipeError, for rows that cannot be used."""
    kind = origin_of(source)
    if kind == "world":
        items = World(world).conversations(source["world"], source["examples"])
        turns = [[("user", item.instruction), ("assistant", item.response)] for item in items]
        found = [[{"role": role, "content": text} for role, text in pair] for pair in turns]
        origin = f"world {world}"
    elif kind in ("file", "hub"):
        notes: Counter[str] = Counter()
        origin, mapped = _mapped(source, notes)
        found = take_first(mapped, source.get("examples"), key=f"datasets.{name}.examples")
        for note, count in notes.items():
            say(f"{count:,} {note}")
    else:
        raise InputError(f"datasets.{name}: a dataset that is made of another is not made here")
    return [{"id": f"{name}-{i}", "messages": messages, "source": origin} for i, messages in enumerate(found)]


def _mapped(source: dict[str, Any], notes: Counter[str]) -> tuple[str, Iterator[list[dict[str, str]]]]:
    """The name of a source, and the stream of its conversations, each checked."""
    origin, rows = source_rows(source)
    if source.get("recipe"):
        mapped = RECIPES[source["recipe"]](rows, notes)
    else:
        keys = {key: source.get(key) for key in ("user", "assistant", "messages")}
        mapped = ((place, to_conversation(row, place, **keys)) for place, row in rows)

    def checked() -> Iterator[list[dict[str, str]]]:
        for place, messages in mapped:
            check_conversation(messages, place)
            yield messages

    return origin, checked()


def main() -> None:
    args = arguments(__doc__, paths=["output"])
    name, source = args.settings["name"], args.settings["source"]
    rows = conversations(name, source, args.settings["world"])
    digest = check_sha256([row["messages"] for row in rows], source.get("sha256"), key=f"datasets.{name}")
    write_table("conversations", rows, args.output)
    say(f"{len(rows):,} conversations, sha256 {digest}")


if __name__ == "__main__":
    run_stage(main, RecipeError)
