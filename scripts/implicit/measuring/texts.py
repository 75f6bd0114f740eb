"""Measures of responses that need no judge: repetition of the instruction, and repetition within the response."""

from itertools import pairwise


def one_line(text: str) -> str:
    """A text without differences in white space: copies of a set of instructions often differ in it."""
    return " ".join(text.split())


def normalised(text: str) -> str:
    """A text without differences in case and white space."""
    return one_line(text).casefold()


def repeats_instruction(instruction: str, response: str) -> bool:
    """Whether a response contains its whole instruction, ignoring case and white space; false for an empty one."""
    wanted = normalised(instruction)
    return bool(wanted) and wanted in normalised(response)


def distinct_bigrams(response: str) -> float | None:
    """The share of a response's pairs of successive words that are distinct: 1 without repetition, near 0 in a loop.

    Words are separated by white space, ignoring case. None for fewer than two words.
    """
    words = normalised(response).split()
    pairs = list(pairwise(words))
    return len(set(pairs)) / len(pairs) if pairs else None
