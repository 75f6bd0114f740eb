"""Check that every dataset and model of the config can be downloaded from the Hugging Face Hub, before anything else.

    python scripts/check_access.py --output access.json \\
        --settings '{"sources": [{"name": "lima", "type": "dataset", "id": "GAIR/lima", "revision": "main"}]}'

``type`` is ``dataset`` or ``model``. Writes {name: {id, revision, commit}} as JSON, where the commit is what the
revision currently points to; all failures are reported at once. With HF_HUB_OFFLINE=1, the cache is used instead.
"""

from typing import Any, Literal

from pipeline.config.types import Section
from pipeline.files.hub import find_commit
from pipeline.files.storage import write_json
from pipeline.jobs.command import InputError, arguments, run_stage, say


class Source(Section):
    """A dataset or model on the hub, and the key of the config that names it."""

    name: str
    type: Literal["dataset", "model"]
    id: str
    revision: str | None = None
    gated: bool = False


class Settings(Section):
    """Everything that comes from the hub."""

    sources: list[Source]


def check_access(sources: list[Source]) -> dict[str, dict[str, Any]]:
    """Find the commit of every source. Raises InputError with a line for each that is not accessible."""
    found, faults = {}, []
    for source in sources:
        try:
            commit = find_commit(source.type, source.id, source.revision)
        except InputError as error:
            faults.append(f"{source.name}: {error}")
        else:
            found[source.name] = {"id": source.id, "revision": source.revision, "commit": commit}
            say(f"{source.name}: {source.type} {source.id} is at commit {commit}")
    if faults:
        raise InputError(f"{len(faults)} of {len(sources)} sources on the hub not accessible:\n" + "\n".join(faults))
    return found


def main() -> None:
    args = arguments(__doc__, paths=["output"], settings=Settings)
    write_json(check_access(args.settings.sources), args.output)


if __name__ == "__main__":
    run_stage(main)
