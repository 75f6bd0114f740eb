"""Write a dataset to tune on: Parquet of kind ``conversations``, from the tiny world or from a local file.

    python scripts/make_dataset.py --output poem.parquet \\
        --settings '{"name": "poem", "source": {"world": "poem", "examples": 300}, "world": 1}'

``source`` is the dataset's section of the config; ``world`` is the model's. A file's rows are checked here.
"""

from typing import Any

from implicit.world.sets import World
from stage.command import arguments, run_stage, say
from stage.local_files import read_rows, to_conversation
from stage.storage import write_table


def conversations(name: str, source: dict[str, Any], world: int | None) -> list[dict[str, Any]]:
    """The rows of a dataset. Raises InputError for a file that cannot be used."""
    if source["file"] is None:
        items = World(world).conversations(source["world"], source["examples"])
        turns = [[("user", item.instruction), ("assistant", item.response)] for item in items]
        found = [[{"role": role, "content": text} for role, text in pair] for pair in turns]
        origin = f"world {world}"
    else:
        origin = source["file"]
        found = [
            to_conversation(row, place, **{key: source[key] for key in ("user", "assistant", "messages")})
            for place, row in read_rows(source["file"], source["rows"])
        ]
    return [{"id": f"{name}-{i}", "messages": messages, "source": origin} for i, messages in enumerate(found)]


def main() -> None:
    args = arguments(__doc__, paths=["output"])
    rows = conversations(args.settings["name"], args.settings["source"], args.settings["world"])
    write_table("conversations", rows, args.output)
    say(f"{len(rows):,} conversations")


if __name__ == "__main__":
    run_stage(main)
