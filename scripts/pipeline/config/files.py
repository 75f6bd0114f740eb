"""A strict reading of config files: Snakemake uses the last value of a duplicate key, and merges all sections."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from pipeline.files.local_files import similar_path

SIZES = {"datasets": ("examples",), "evaluation_sets": ("instructions",)}  # how much is drawn from a world


def read_layers(files: Sequence[str | Path]) -> tuple[list[dict[str, Any]], list[str]]:
    """The sections of each config file, and a line for each file that cannot be read as one."""
    layers: list[dict[str, Any]] = []
    faults: list[str] = []
    for file in map(Path, files):
        if not file.is_file():
            faults.append(f"{file}: no such file{similar_path(str(file))}")
            continue
        if broken := doubled_keys(file):
            faults += broken
            continue
        layer = yaml.safe_load(as_yaml(file))
        if not isinstance(layer, dict):
            what = "empty" if layer is None else f"a {type(layer).__name__}"
            faults.append(f"{file}: is {what}, but a config has keys at top level, such as `experiment: mine`")
            continue
        layers.append(layer)
    return layers, faults


def without_sizes_of_worlds(config: dict[str, Any], layers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The merged config without sizes that were stated for what is drawn from a world, if the rows come from elsewhere.

    How many rows to draw says nothing of a file: its own rows are all used, unless the layer that names the file, or a
    later one, says how many. Between a file and the hub, which may hold the same rows, a size is kept.
    """
    found = dict(config)
    for section, keys in SIZES.items():
        found[section] = sets = dict(config.get(section) or {})
        for name, merged in sets.items():
            if not isinstance(merged, dict):
                continue
            stated: dict[str, bool] = {}  # key -> whether it was stated while the rows came from elsewhere
            elsewhere = False
            for layer in layers:
                own = (layer.get(section) or {}).get(name) if isinstance(layer.get(section), dict) else None
                if not isinstance(own, dict):
                    continue
                elsewhere = elsewhere or any(own.get(key) is not None for key in ("file", "hub", "alter", "rewrite"))
                stated |= {key: elsewhere for key in keys if key in own}
            dropped = {key for key, fits in stated.items() if elsewhere and not fits}
            sets[name] = {key: value for key, value in merged.items() if key not in dropped}
    return found


def as_yaml(path: Path) -> str:
    """The text of a YAML or JSON file. JSON is YAML except for tabs, which JSON allows between values only."""
    text = path.read_text(encoding="utf-8")
    return text if text.lstrip()[:1] != "{" else text.replace("\t", " ")


def doubled_keys(path: Path) -> list[str]:
    """A line for each duplicate key in a section of a YAML or JSON file, with both places."""
    try:
        root = yaml.compose(as_yaml(path), Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        return [f"{path}: not valid YAML: {' '.join(str(error).split())}"]
    return list(_doubles(root, (), str(path), set()))


def _doubles(node: yaml.Node | None, section: tuple[str, ...], path: str, seen: set[int]) -> Iterator[str]:
    if id(node) in seen:  # an alias: its anchor has been read already
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _doubles(item, section, path, seen)
    elif isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for name, value in node.value:
            key, line = str(name.value), name.start_mark.line + 1
            if key in lines:
                place = ".".join((*section, key))
                yield f"{path}: {place} occurs twice, on lines {lines[key]} and {line}: keep one"
            lines.setdefault(key, line)
            yield from _doubles(value, (*section, key), path, seen)
