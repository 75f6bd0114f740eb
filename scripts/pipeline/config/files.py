"""The files of a config, read once more and strictly: of a key that is there twice, Snakemake takes the last."""

from collections.abc import Iterator
from pathlib import Path

import yaml


def doubled_keys(path: Path) -> list[str]:
    """A line for each key that one section of a YAML or JSON file has twice, with both places."""
    text = path.read_text(encoding="utf-8")
    try:
        # JSON is YAML but for tabs, which are allowed there between values only.
        root = yaml.compose(text if text.lstrip()[:1] != "{" else text.replace("\t", " "), Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        return [f"{path}: not valid YAML: {' '.join(str(error).split())}"]
    return list(_doubles(root, (), str(path), set()))


def _doubles(node: yaml.Node | None, section: tuple[str, ...], path: str, seen: set[int]) -> Iterator[str]:
    if id(node) in seen:  # an alias, of what has been read where its anchor is
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
                yield f"{path}: {place} is there twice, in lines {lines[key]} and {line}: keep one"
            lines.setdefault(key, line)
            yield from _doubles(value, (*section, key), path, seen)
