"""Write the pre-training documents of a base model: Parquet of kind ``corpus``.

python scripts/make_corpus.py --settings '{"world_seed": 1, "documents": 1000, "controls": {}}' --output corpus.parquet
"""

from implicit.world.corpus import Controls
from implicit.world.sets import World
from pipeline.config.types import Count, Section, Seed
from pipeline.files.storage import write_table
from pipeline.jobs.command import arguments, run_stage, say


class Settings(Section):
    """The world, the number of documents, and what they lack or have in addition."""

    world_seed: Seed
    documents: Count
    controls: Controls


def main() -> None:
    args = arguments(__doc__, paths=["output"], settings=Settings)
    settings = args.settings
    documents = World(settings.world_seed).corpus(settings.documents, settings.controls)
    write_table("corpus", ({"text": text} for text in documents), args.output)
    say(f"{len(documents):,} documents, {sum(map(len, documents)):,} characters")


if __name__ == "__main__":
    run_stage(main)
