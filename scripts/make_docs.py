"""Make the documents that follow from the code: docs/config.md, docs/dag.md and config.schema.json.

    python scripts/make_docs.py --output .

A key of the config is explained where it stands in ``config.yaml``, or below its name in ``pipeline/config/*.py``. The
schema is for editors: every key is optional in it, as an experiment is laid over ``config.yaml``; what must be there,
and what must fit together, is checked by ``pipeline.config.check`` before a run.
"""

import argparse
import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.config import schema as shapes
from pipeline.files.storage import write_text
from pipeline.jobs.command import InputError, run_stage, say

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "config.yaml"
NAME = "NAME"  # stands for a name of the user's own in a key
Key = tuple[str, ...]

CONFIG_PAGE = """\
# Every key of a config

Made by `make docs` from `config.yaml` and `scripts/pipeline/config/*.py`: not to be edited by hand.

An experiment is a YAML file laid over `config.yaml` with `--configfile`: it holds only what it changes. An unknown key
or a wrong value stops a run before its first job. Editors that know `config.schema.json` name them as they are typed:
the first line of each config says where it lies.

`NAME` is a name of your own: small letters, digits, `_` and `-`. The default of a key below `NAME` is what a new entry
has without it, and "needed" where there is none; that of any other key is what `config.yaml` says.
"""

DAG_PAGE = """\
# The rules, and what each waits for

Made by `make docs` from `snakemake --rulegraph mermaid-js` of the default experiment: not to be edited by hand.

An arrow goes from a rule to one that reads what it made. Other experiments add `import_model` (a model that exists
already), `check_access` (a hub), `rewrite_dataset` (appendix C), `alter_dataset` (datasets of others, for controls),
`measure_similarity` (section 5.2), `measure_drift` (what tuning costs) and `run_harness` (lm-evaluation-harness).

```mermaid
{graph}
```
"""


@dataclass(frozen=True)
class Entry:
    """A key of the config: where it stands, its section of the schema, its own schema, and whether it is needed."""

    key: Key
    section: str
    shape: dict[str, Any]
    needed: bool

    @property
    def own_section(self) -> bool:
        """Whether it is a section whose keys are entries, too."""
        return "$ref" in _inner(self.shape) and not self.overlay

    @property
    def overlay(self) -> bool:
        """Whether it is a model's or a mode's own, laid over the section of the same name."""
        return len(self.key) > 1 and self.key[-1] in ("tuning", "chat")


def comments(source: str) -> dict[Key, str]:
    """The comment of every key in a YAML text: the lines above it, then what stands behind it on its line."""
    lines = source.splitlines()
    found: dict[Key, str] = {}

    def walk(node: yaml.Node, path: Key) -> None:
        if not isinstance(node, yaml.MappingNode):
            return
        for name, value in node.value:
            key = (*path, name.value)
            start, block = name.start_mark, isinstance(value, yaml.CollectionNode) and not value.flow_style
            mark = name.end_mark if block else value.end_mark
            behind = re.match(r"[:\s]*\s#\s?(.*)", lines[mark.line][mark.column :])
            above: list[str] = []
            line = start.line - 1
            first_on_line = not lines[start.line][: start.column].strip()
            while first_on_line and line >= 0 and re.match(rf" {{{start.column}}}#", lines[line]):
                above.insert(0, lines[line].strip()[2:])
                line -= 1
            if start.line == len(above):  # the head of the file, and no key's
                above = []
            text = "\n".join([*above, *([behind[1]] if behind else [])])
            if text:
                found[key] = text
            walk(value, key)

    root = yaml.compose(source, Loader=yaml.SafeLoader)
    if root is not None:
        walk(root, ())
    return found


def explanations() -> dict[str, dict[str, str]]:
    """The text below each key of each section in ``pipeline/config/*.py``, inherited ones too: class -> key -> text."""
    own: dict[str, dict[str, str]] = {}
    files = sorted(Path(shapes.__file__).parent.glob("*.py"))
    for section in [node for file in files for node in ast.parse(file.read_text(encoding="utf-8")).body]:
        if isinstance(section, ast.ClassDef):
            own[section.name] = {
                before.target.id: after.value.value
                for before, after in zip(section.body, section.body[1:], strict=False)
                if isinstance(before, ast.AnnAssign) and isinstance(before.target, ast.Name)
                if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            }
    return {
        name: {k: text for base in reversed(section.__mro__) for k, text in own.get(base.__name__, {}).items()}
        for name, section in sections(shapes.Section).items()
    }


def sections(base: type) -> dict[str, type]:
    """All sections of a config by their names."""
    found = {own.__name__: own for own in base.__subclasses__()}
    return found | {name: own for section in base.__subclasses__() for name, own in sections(section).items()}


def entries(schema: dict[str, Any], section: str = "Config", path: Key = ()) -> Iterator[Entry]:
    """Every key of a JSON schema, in its order, those of sections below them."""
    shape = schema if section == "Config" else schema["$defs"][section]
    for name, own in shape["properties"].items():
        entry = Entry((*path, name), section, own, name in shape.get("required", []))
        if own.get("type") == "null":  # inherited, and not to be used there
            continue
        yield entry
        below = _inner(_named(_inner(own)))
        if entry.own_section:
            yield from entries(schema, _inner(own)["$ref"].rsplit("/")[-1], entry.key)
        elif "$ref" in below:
            yield from entries(schema, below["$ref"].rsplit("/")[-1], (*entry.key, NAME))


def _inner(shape: dict[str, Any]) -> dict[str, Any]:
    """What a shape is if it is not null."""
    return next((one for one in shape.get("anyOf", []) if one != {"type": "null"}), shape)


def _named(shape: dict[str, Any]) -> dict[str, Any]:
    """What the values of a mapping of names are; {} for anything, and for what is no mapping."""
    values = [*shape.get("patternProperties", {}).values(), shape.get("additionalProperties")]
    return values[0] if isinstance(values[0], dict) else {}


def make_schema(config: str) -> dict[str, Any]:
    """Pydantic's JSON schema of a whole config, each key explained. ``config`` is the text of ``config.yaml``."""
    schema = shapes.Config.model_json_schema()
    for section, key in (("Model", "tuning"), ("Model", "chat"), ("Mode", "tuning")):
        schema["$defs"][section]["properties"][key] = {"$ref": f"#/$defs/{key.capitalize()}", "default": {}}
    schema["$defs"]["Plan"]["properties"]["gpu"] = {"enum": list(shapes.gpus()), "type": "string"}
    said, below = comments(config), explanations()
    unexplained: list[str] = []
    for entry in entries(schema):
        fits = [text for key, text in said.items() if _matches(key, entry.key)]
        text = fits[0] if fits else below[entry.section].get(entry.key[-1])
        if text is None and not entry.own_section:
            unexplained.append(".".join(entry.key))
        entry.shape.setdefault("description", text or "")  # a section that is used twice is explained where it is first
    if unexplained:
        raise InputError(
            f"explained neither in config.yaml nor in scripts/pipeline/config/*.py: {', '.join(unexplained)}"
        )
    return schema


def _matches(key: Key, pattern: Key) -> bool:
    return len(key) == len(pattern) and all(part in (own, NAME) for own, part in zip(key, pattern, strict=True))


def for_editors(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with every key optional, and without the titles that pydantic makes of names."""

    def stripped(node: Any, names: bool = False) -> Any:
        if isinstance(node, list):
            return [stripped(item) for item in node]
        if not isinstance(node, dict):
            return node
        if "patternProperties" in node:  # a name that does not match is wrong, too
            node = node | {"additionalProperties": False}
        kept = {k: v for k, v in node.items() if names or (k not in ("title", "required") and v != "")}
        return {k: stripped(v, names=k in ("properties", "$defs") and not names) for k, v in kept.items()}

    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A config of implicit-tuning, or a part of one, to be laid over config.yaml",
    }
    return head | stripped(schema)


def kind(shape: dict[str, Any]) -> str:
    """What a value may be, in words."""
    inner = _inner(shape)
    if inner is not shape:
        return f"{kind(inner)}, or null"
    if "$ref" in shape:
        name = shape["$ref"].rsplit("/")[-1]
        return f"keys of `{name.lower()}`" if name in ("Tuning", "Chat") else "keys below"
    if "enum" in shape or "const" in shape:
        return " or ".join(f"`{value}`" for value in shape.get("enum", [shape.get("const")]))
    if shape["type"] == "array":
        return f"list of {kind(shape['items'])}"
    if shape["type"] == "object":
        values = _named(shape)
        return f"mapping of names to {kind(values) if values else 'anything'}"
    words = {"integer": "integer", "number": "number", "boolean": "`true` or `false`", "string": "text"}
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {shape[bound]:g}" for bound, sign in signs.items() if bound in shape]
    bounds += [f"like `{shape['pattern']}`"] if "pattern" in shape else []
    return " ".join([words[shape["type"]], ", ".join(bounds)]).strip()


def default(entry: Entry, values: Any) -> str:
    """What holds where a config does not say it. ``values`` are those of ``config.yaml``."""
    if NAME in entry.key:
        if entry.needed:
            return "needed"
        value = entry.shape.get("default")
    else:
        value = values
        for part in entry.key:
            if not isinstance(value, dict) or part not in value:
                return "needed" if entry.needed else _code(entry.shape.get("default"))
            value = value[part]
    return "" if entry.own_section and value else _code(value)


def _code(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return f"`{text}`" if len(text) <= 80 else "see `config.yaml`"


def config_page(schema: dict[str, Any], values: dict[str, Any]) -> str:
    """docs/config.md: a table for each section, with the text that stands above it in ``config.yaml``."""
    found = list(entries(schema))
    parts = [CONFIG_PAGE]
    single = [
        entry
        for entry in found
        if len(entry.key) == 1 and not any(e.key[:1] == entry.key for e in found if e is not entry)
    ]
    parts.append(_table(single, values))
    for top in (entry for entry in found if len(entry.key) == 1 and entry not in single):
        parts += [f"## {top.key[0]}\n", _paragraphs(top.shape["description"])]
        parts += [_table([entry for entry in found if entry.key[0] == top.key[0] and entry is not top], values)]
    return "\n".join(part for part in parts if part)


def _paragraphs(comment: str) -> str:
    """A comment as Markdown: lines that are set in are examples."""
    text, fenced = "", False
    for line in (comment[:1].upper() + comment[1:]).splitlines():
        if line.startswith("  ") != fenced:
            text += "```\n" if fenced else "\n```\n"
            fenced = not fenced
        text += line.removeprefix("  ") + "\n"
    return text + ("```\n" if fenced else "")


def _table(rows: list[Entry], values: dict[str, Any]) -> str:
    lines = ["| key | what it may be | default | |", "|---|---|---|---|"]
    for entry in rows:
        text = " ".join(entry.shape["description"].split())
        cells = (f"`{'.'.join(entry.key)}`", kind(entry.shape), default(entry, values), text)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def rule_graph() -> str:
    """The default experiment's rules as Mermaid. Raises InputError with what Snakemake says where it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--rulegraph", "mermaid-js", "--configfile", "config.yaml"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise InputError(f"snakemake --rulegraph: {done.stderr or done.stdout}")
    return tidy_graph(done.stdout)


def tidy_graph(graph: str) -> str:
    """Snakemake's Mermaid with the rules' names for its numbers, sorted, and without its colours: they say nothing."""
    names = dict(re.findall(r"^\s*(id\d+)\[(\w+)\]$", graph, flags=re.MULTILINE))
    arrows = re.findall(r"^\s*(id\d+) --> (id\d+)$", graph, flags=re.MULTILINE)
    if not names or not arrows:
        raise InputError(f"snakemake --rulegraph: no rules in {graph!r:.200}")
    return "\n".join(["flowchart LR", *sorted(f"  {names[a]} --> {names[b]}" for a, b in arrows)])


def make_docs() -> dict[str, str]:
    """The text of every document that is made, by its path from the repository's root."""
    config = CONFIG.read_text(encoding="utf-8")
    schema = make_schema(config)
    return {
        "docs/config.md": config_page(schema, yaml.safe_load(config)),
        "config.schema.json": json.dumps(for_editors(schema), indent=1, ensure_ascii=False) + "\n",
        "docs/dag.md": DAG_PAGE.format(graph=rule_graph()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT, help="the folder that the documents' paths begin in")
    args = parser.parse_args()
    for name, text in make_docs().items():
        (args.output / name).parent.mkdir(parents=True, exist_ok=True)
        write_text(text, args.output / name)
        say(name)


if __name__ == "__main__":
    run_stage(main)
