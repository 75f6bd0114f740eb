"""Write a tuning dataset: Parquet of kind ``conversations``, from the tiny world, a file, or the Hugging Face Hub.

    python scripts/make_dataset.py --output poem.parquet \\
        --settings '{"name": "poem", "source": {"world_part": "poem", "examples": 300}, "world_seed": 1}'

``source`` is the dataset's section of the config; ``world_seed`` is the model's. Rows from a file or the hub are
streamed through one of the paper's recipes, templates, or the reader of a known format, and checked here. From the hub,
only as many rows are read as are requested; in a file, the remaining rows are counted for the log.
"""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from implicit.data.recipes import RECIPES, RecipeError
from implicit.format.turns import unanswered
from implicit.world.sets import World
from pipeline.config.datasets import Dataset
from pipeline.config.types import Section, Seed
from pipeline.files.formats import COLUMNS, FORMATS, Messages, read_conversations
from pipeline.files.hub import source_rows
from pipeline.files.local_files import Counted, take_first
from pipeline.files.rows import Columns, check_conversation, check_sha256, template_columns
from pipeline.files.storage import write_table
from pipeline.jobs.command import InputError, arguments, run_stage, say


class Settings(Section):
    """A section of `datasets`, with its name, and the seed of the model's world."""

    name: str
    source: Dataset
    world_seed: Seed | None


def conversations(name: str, source: Dataset, world: int | None) -> tuple[list[dict[str, Any]], str]:
    """The rows of a dataset, and how many of how many they are of where.

    Raises InputError, or a recipe's RecipeError, for rows that cannot be used.
    """
    if source.origin == "world_part":
        items = World(world).conversations(source.world_part, source.examples)
        turns = [[("user", item.instruction), ("assistant", item.response)] for item in items]
        found = [[{"role": role, "content": text} for role, text in pair] for pair in turns]
        origin = taken = f"world {world}"
    elif source.origin in ("file", "hub"):
        notes: Counter[str] = Counter()
        origin, counted, mapped = _mapped(name, source, notes)
        found = take_first(mapped, source.examples, key=f"datasets.{name}.examples")
        taken = f"{counted.of_all()} of {origin}"
        for note, count in notes.items():
            say(f"{count:,} {note}")
    else:
        raise InputError(f"datasets.{name}: datasets derived from another dataset are not made by this script")
    rows = [{"id": f"{name}-{i}", "messages": messages, "source": origin} for i, messages in enumerate(found)]
    return rows, taken


def _mapped(name: str, source: Dataset, notes: Counter[str]) -> tuple[str, Counted, Iterator[Messages]]:
    """The name of a source, its row counter, and the stream of checked conversations made from its rows."""
    origin, counted, rows = source_rows(source, _columns(name, source))
    if source.recipe:
        mapped = RECIPES[source.recipe].make(rows, notes)
    else:
        mapped = read_conversations(rows, source, notes, key=f"datasets.{name}")
    limit = source.max_characters

    def conversations_checked() -> Iterator[Messages]:
        for place, messages in mapped:
            if source.recipe:
                check_conversation(messages, place)
            if limit is not None and sum(len(message["content"]) for message in messages) > limit:
                notes[f"rows of more than {limit:,} characters: left out"] += 1
                continue
            yield messages

    return origin, counted, conversations_checked()


def _columns(name: str, source: Dataset) -> Columns:
    """The columns that a source uses, with their types. Raises InputError for a template that cannot be filled."""
    if source.recipe:
        return RECIPES[source.recipe].columns
    if source.messages:
        return {source.messages: "cell"}
    if source.format:
        needed, more, _ = FORMATS[source.format]
        return dict.fromkeys(needed, "cell") | dict.fromkeys(more, "maybe")
    if source.user is None:
        return dict.fromkeys(COLUMNS, "maybe")
    templates = {key: getattr(source, key) for key in ("user", "assistant")}
    found = [template_columns(template, key=f"datasets.{name}.{key}") for key, template in templates.items()]
    return dict.fromkeys((column for columns in found for column in columns), "cell")


def notes_on(conversations: list[list[dict[str, str]]]) -> str:
    """Notes on a dataset for the log: turns that are not trained on, and duplicates."""
    dropped = sum(map(unanswered, conversations))
    duplicates = len(conversations) - len({json.dumps(messages, sort_keys=True) for messages in conversations})
    notes = [f"{dropped:,} turns without a following response, which tuning drops"] if dropped else []
    notes += [f"{duplicates:,} duplicates"] if duplicates else []
    return "".join(f", {note}" for note in notes)


def main() -> None:
    args = arguments(__doc__, paths=["output"], settings=Settings)
    name, source = args.settings.name, args.settings.source
    rows, taken = conversations(name, source, args.settings.world_seed)
    messages = [row["messages"] for row in rows]
    digest = check_sha256(messages, source.sha256, key=f"datasets.{name}")
    write_table("conversations", rows, args.output)
    say(f"sha256 of the rows: {digest}")
    notes = notes_on(messages)
    say(f"{len(rows):,} conversations of {taken}{notes}")  # last: the run's display shows it


if __name__ == "__main__":
    run_stage(main, RecipeError)
