"""The kinds of values in a config: each says what it refuses, once, for every key that has it."""

import json
import os
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, Strict

from pipeline.files.local_files import is_url

Item = TypeVar("Item")


def refuse_doubles(values: list[Item]) -> list[Item]:
    """The values as they are. Raises ValueError for one that is there twice."""
    doubles = [value for value, count in Counter(values).items() if count > 1]
    if doubles:
        raise ValueError(f"{values} contains {doubles[0]!r} more than once")
    return values


def refuse_boolean(value: Any) -> Any:
    """The value as it is. Raises ValueError for true and false, which Python takes for 1 and 0."""
    if isinstance(value, bool):
        raise ValueError(f"must be a number, but it is {str(value).lower()}")
    return value


def refuse_unwritable(values: dict[str, Any]) -> dict[str, Any]:
    """The values as they are. Raises ValueError for what JSON cannot hold, such as a date or NaN."""
    for key, value in values.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{key!r} cannot be written as JSON: {error}; put a text in quotes") from None
    return values


def refuse_control_characters(text: str) -> str:
    """The text as it is. Raises ValueError for an empty one, and for line breaks and the like."""
    if not text.strip():
        raise ValueError(f"must not be empty, but it is {text!r}")
    wrong = next((character for character in text if unicodedata.category(character) in ("Cc", "Cs")), None)
    if wrong is not None:
        raise ValueError(f"{text!r} contains {wrong!r}: only a single line of text is allowed")
    return text


def real_path(text: str) -> str:
    """A path with ``~`` expanded; a URL or a hub id as it is. Raises ValueError for what a path may not contain."""
    refuse_control_characters(text)
    if text != text.strip():
        raise ValueError(f"{text!r} begins or ends with a blank: remove it")
    if is_url(text):
        if " " in text:
            raise ValueError(f"{text!r} contains a blank: write %20 in a URL")
        return text
    # Snakemake replaces {name} and <name> in every path that a rule reads, and has no escape for them.
    wrong = [character for character in "{}<>" if character in text]
    if wrong:
        raise ValueError(f"{text!r} contains {wrong[0]!r}, which Snakemake takes for a wildcard: rename it")
    return os.path.expanduser(text)


def real_file(text: str) -> str:
    """The path of a file as Snakemake names it, without ``./`` and double slashes, or a URL as it is."""
    path = real_path(text)
    return path if is_url(path) else str(Path(path))


def same_text(text: str) -> str:
    """What two texts have in common that a reader of a table cannot tell apart: case, width and blanks are ignored."""
    return " ".join(unicodedata.normalize("NFKC", text).split()).casefold()


# Every list of names or values in a config: an entry that is there twice can only be a mistake.
_unique = (AfterValidator(refuse_doubles), Field(json_schema_extra={"uniqueItems": True}))
Distinct = Annotated[list[Item], *_unique]
OneOrMore = Annotated[list[Item], Field(min_length=1), *_unique]
# Part of the names of files and of Snakemake's wildcards, several in one path: hence the alphabet and the length.
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=64)]
Line = Annotated[str, AfterValidator(refuse_control_characters)]
LocalPath = Annotated[str, AfterValidator(real_path)]
LocalFile = Annotated[str, AfterValidator(real_file)]
Seed = Annotated[int, Strict(), Field(ge=0, le=1_000_000_000)]  # all random generators in use take these
Count = Annotated[int, Strict(), Field(ge=1)]
Draws = Annotated[int, Strict(), Field(ge=2)]  # of a bootstrap: one has no standard deviation
# A text such as "1e-4" is a number, too: YAML takes 1e-4, without a dot, for a text.
no_boolean = BeforeValidator(refuse_boolean)
Number = Annotated[float, no_boolean]
Share = Annotated[float, Field(ge=0, le=1), no_boolean]
Positive = Annotated[float, Field(gt=0), no_boolean]
NotNegative = Annotated[float, Field(ge=0), no_boolean]
Flag = Annotated[bool, Strict()]
JsonObject = Annotated[dict[str, Any], AfterValidator(refuse_unwritable)]
Precision = Literal["float32", "bfloat16", "float16"]


class Section(BaseModel):
    """A part of the config: a key that is not named in it is an error.

    A key that ``config.yaml`` does not explain has a text below it instead. docs/config.md is made of both.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
