"""A strict second reading of config files: Snakemake uses the last value of a duplicate key."""

from collections.abc import Iterator
from pathlib import Path

import yaml


def doubled_keys(path: Path) -> list[str]:
    """A line for each duplicate key in a section of a YAML or JSON file, with both places."""
    text = path.read_text(encoding="utf-8")
    try:
        # JSON is YAML except for tabs, which JSON allows between values only.
        root = yaml.compose(text if text.lstrip()[:1] != "{" else text.replace("\t", " "), Loader=yaml.SafeLoader)
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
