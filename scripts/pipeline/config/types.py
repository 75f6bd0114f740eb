"""The types of values in a config: each states what it rejects, once, for every key of that type."""

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
    """Return the values unchanged. Raises ValueError for a duplicate."""
    doubles = [value for value, count in Counter(values).items() if count > 1]
    if doubles:
        raise ValueError(f"{values} contains {doubles[0]!r} more than once")
    return values


def refuse_boolean(value: Any) -> Any:
    """Return the value unchanged. Raises ValueError for true and false, which Python treats as 1 and 0."""
    if isinstance(value, bool):
        raise ValueError(f"must be a number, but it is {str(value).lower()}")
    return value


def refuse_unwritable(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values unchanged. Raises ValueError for what JSON cannot represent, such as a date or NaN."""
    for key, value in values.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{key!r} cannot be written as JSON: {error}; put strings in quotes") from None
    return values


def refuse_control_characters(text: str) -> str:
    """Return the text unchanged. Raises ValueError if it is empty or has control characters such as line breaks."""
    if not text.strip():
        raise ValueError(f"must not be empty, but it is {text!r}")
    wrong = next((character for character in text if unicodedata.category(character) in ("Cc", "Cs")), None)
    if wrong is not None:
        raise ValueError(f"{text!r} contains {wrong!r}: only a single line of text is allowed")
    return text


def real_path(text: str) -> str:
    """A path with ``~`` expanded; URLs and hub ids unchanged. Raises ValueError for what a path may not contain."""
    refuse_control_characters(text)
    if text != text.strip():
        raise ValueError(f"{text!r} begins or ends with whitespace: remove it")
    if is_url(text):
        if " " in text:
            raise ValueError(f"{text!r} contains a space: write %20 in a URL")
        return text
    # Snakemake replaces {name} and <name> in every path that a rule reads, and offers no way to escape them.
    wrong = [character for character in "{}<>" if character in text]
    if wrong:
        raise ValueError(f"{text!r} contains {wrong[0]!r}, which Snakemake treats as a wildcard: rename it")
    return os.path.expanduser(text)


def real_file(text: str) -> str:
    """The path of a file as Snakemake normalises it, without ``./`` and double slashes; URLs unchanged."""
    path = real_path(text)
    return path if is_url(path) else str(Path(path))


def same_text(text: str) -> str:
    """A text normalised as a reader of a table sees it: case, width and whitespace are ignored."""
    return " ".join(unicodedata.normalize("NFKC", text).split()).casefold()


# Every list of names or values in a config: a duplicate entry can only be a mistake.
_unique = (AfterValidator(refuse_doubles), Field(json_schema_extra={"uniqueItems": True}))
Distinct = Annotated[list[Item], *_unique]
OneOrMore = Annotated[list[Item], Field(min_length=1), *_unique]
Two = Annotated[list[Item], Field(min_length=2, max_length=2), *_unique]
# Used in file names and Snakemake's wildcards, several in one path: hence the restricted characters and length.
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=64)]
Line = Annotated[str, AfterValidator(refuse_control_characters)]
LocalPath = Annotated[str, AfterValidator(real_path)]
LocalFile = Annotated[str, AfterValidator(real_file)]
Seed = Annotated[int, Strict(), Field(ge=0, le=1_000_000_000)]  # all random generators in use take these
Count = Annotated[int, Strict(), Field(ge=1)]
Draws = Annotated[int, Strict(), Field(ge=2)]  # of a bootstrap: a single one has no standard deviation
# A string such as "1e-4" is accepted as a number: YAML reads 1e-4, without a dot, as a string.
no_boolean = BeforeValidator(refuse_boolean)
Number = Annotated[float, no_boolean]
Share = Annotated[float, Field(ge=0, le=1), no_boolean]
Positive = Annotated[float, Field(gt=0), no_boolean]
NotNegative = Annotated[float, Field(ge=0), no_boolean]
Flag = Annotated[bool, Strict()]
JsonObject = Annotated[dict[str, Any], AfterValidator(refuse_unwritable)]
Precision = Literal["auto", "float32", "bfloat16", "float16"]


class Section(BaseModel):
    """A section of the config: an unknown key is an error.

    A key that ``config.yaml`` does not explain has a docstring below it instead. docs/config.md is made from both.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
