"""What is wrong with a value, in one line: pydantic's errors in the words of the config."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel


def explain(fault: Any, shape: type[BaseModel]) -> str:
    """A line describing an error that pydantic found in a section of type ``shape``."""
    parts = [str(part) if str(part).isprintable() else repr(part) for part in fault["loc"] if part != "[key]"]
    key = ".".join(parts) or "config"
    if fault["type"] == "extra_forbidden":
        known = _keys_at(fault["loc"][:-1], shape)
        similar = meant(str(fault["loc"][-1]), known)
        return f"{key}: unknown key" + (f"; known keys here are {', '.join(known)}{similar}" if known else "")
    if fault["type"] == "missing":
        return f"{key}: missing"
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "value_error":
        return f"{key}: {message}"
    quotes = "; put it in quotes" if fault["type"] == "string_type" and fault["input"] is not None else ""
    return f"{key}: {message}, but it is {fault['input']!r}{quotes}"


def _keys_at(location: tuple, shape: type[BaseModel]) -> list[str]:
    """The known keys of the section at a location, as far as the location can be followed."""
    section: Any = shape
    for part in location:
        fields = getattr(section, "model_fields", None)
        annotation = fields[part].annotation if fields and part in fields else section
        sections = [a for a in _types_in(annotation) if isinstance(a, type) and issubclass(a, BaseModel)]
        if not sections:
            return []
        section = sections[0]
    return list(section.model_fields)


def _types_in(annotation: Any) -> list[Any]:
    inner = getattr(annotation, "__args__", ())
    return [annotation, *(t for arg in inner for t in _types_in(arg))]


def meant(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the most similar known name, if there is one."""
    similar = get_close_matches(name, list(known), n=1)
    return f"; did you mean {similar[0]!r}?" if similar else ""
