"""Make a dataset by altering another one: Parquet of kind ``conversations``.

    python scripts/alter_dataset.py --data poem.parquet --responses-of chess.parquet --output chess_of_poems.parquet \\
        --settings '{"name": "chess_of_poems", "origin": "world1", "sha256": null, "alter": "poem",
                     "alteration": "other_responses", "responses_of": "chess"}'

Random draws depend on the name of the new dataset and on the origin of its rows (``origin``).
"""

from implicit.data.alterations import AlterationError, alter, other_responses
from pipeline.config.datasets import Alteration
from pipeline.config.types import Section
from pipeline.files.rows import check_sha256
from pipeline.files.storage import read_table, write_table
from pipeline.jobs.command import OPTIONAL_PATH, InputError, arguments, run_stage, say


class Settings(Section):
    """Which dataset to alter, how, and under which name."""

    name: str
    origin: str
    alter: str
    alteration: Alteration
    responses_of: str | None
    sha256: str | None


def main() -> None:
    paths, options = ["data", "output"], {"responses-of": OPTIONAL_PATH}
    args = arguments(__doc__, paths=paths, settings=Settings, options=options)
    settings, name, alteration = args.settings, args.settings.name, args.settings.alteration
    rows = read_table("conversations", args.data)
    conversations = [row["messages"] for row in rows]
    try:
        if args.responses_of:
            lenders = [row["messages"] for row in read_table("conversations", args.responses_of)]
            altered = other_responses(conversations, lenders)
        else:
            altered = alter(conversations, alteration, seed=f"{settings.origin}/{name}")
    except AlterationError as error:
        raise InputError(f"datasets.{name}: {error}") from None
    digest = check_sha256(altered, settings.sha256, key=f"datasets.{name}")
    description = f"{settings.alter}, {alteration}" + (f" of {settings.responses_of}" if args.responses_of else "")
    done = [
        {"id": f"{name}-{i}", "messages": messages, "source": f"{row['source']}: {description}"}
        for i, (row, messages) in enumerate(zip(rows, altered, strict=True))
    ]
    write_table("conversations", done, args.output)
    changed = sum(messages != new for messages, new in zip(conversations, altered, strict=True))
    say(f"sha256 of the rows: {digest}")
    say(f"{changed:,} of {len(rows):,} conversations altered")


if __name__ == "__main__":
    run_stage(main)
