"""Keep one experiment's results from being replaced by another's that forgot to give itself a name."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.config.differences import ABSENT, differences
from pipeline.config.files import read_layers
from pipeline.config.schema import Config
from pipeline.files.storage import read_json, write_json

HOW = {"execution", "plan", "ceilings", "note"}  # what these say changes no result
SHOWN = 5  # differences


class OtherExperiment(ValueError):
    """A results folder was made with other config files, which say something else."""


def refuse_other(config: Config, files: Sequence[str | Path]) -> None:
    """Raise OtherExperiment if the experiment's folder was made with other files and another config.

    Editing a file reruns what depends on it, and that is meant; so are additions, and an added file that names the
    experiment itself. What is refused is the same name by accident: an overlay without `experiment`, or none where
    there was one.
    """
    path = record_of(config)
    if not path.is_file():
        return
    before, now = read_json(path), recorded(config, files)
    added = [file for file in now["files"] if file not in before["files"]]
    if before["files"] == now["files"] or any("experiment" in layer for layer in read_layers(added)[0]):
        return
    changes = list(changed(before["config"], now["config"]))
    if changes:
        more = [f"  and {len(changes) - SHOWN} more"] if len(changes) > SHOWN else []
        raise OtherExperiment(
            "\n".join((
                f"{path.parent} was made with {' '.join(before['files'])}. This run would replace its results, with:",
                *(f"  {change}" for change in changes[:SHOWN]),
                *more,
                "Give it a name of its own, such as `experiment: mine` in its config; or, to replace them: "
                f"rm {path}",
            ))
        )  # fmt: skip


def remember(config: Config, files: Sequence[str | Path]) -> None:
    """Record what an experiment's folder is made with."""
    path, now = record_of(config), recorded(config, files)
    if not path.is_file() or read_json(path) != now:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(now, path)


def record_of(config: Config) -> Path:
    """Where it is recorded."""
    return Path("results", config.experiment, "made_with.json")


def recorded(config: Config, files: Sequence[str | Path]) -> dict[str, Any]:
    """The config files, relative to the project if they are in it, and what they say together."""
    paths = [Path(file).resolve() for file in files]
    here = Path.cwd()
    names = [str(path.relative_to(here) if path.is_relative_to(here) else path) for path in paths]
    return {"files": names, "config": json.loads(config.model_dump_json(exclude=HOW))}


def changed(before: Any, now: Any) -> Iterator[str]:
    """A line for each value that is another, or was removed. Additions, and values in place of null, are left out."""
    for key, old, new in differences(before, now):
        if old is None or old is ABSENT:
            continue
        if not (isinstance(old, list) and isinstance(new, list) and all(item in new for item in old)):
            yield f"{key}: {None if new is ABSENT else new!r}, which was {old!r}"
