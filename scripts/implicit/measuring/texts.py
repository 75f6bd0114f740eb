"""What can be said of a response without a judge: whether it repeats its instruction, and itself."""

from itertools import pairwise


def normalised(text: str) -> str:
    """A text without differences in case and white space."""
    return " ".join(text.split()).casefold()


def repeats_instruction(instruction: str, response: str) -> bool:
    """Whether a response contains its whole instruction, case and white space aside. An empty one is never repeated."""
    wanted = normalised(instruction)
    return bool(wanted) and wanted in normalised(response)


def distinct_bigrams(response: str) -> float | None:
    """The share of a response's pairs of successive words that are distinct: 1 without repetition, near 0 in a loop.

    Words are split at white space, case aside. None for fewer than two words.
    """
    words = normalised(response).split()
    pairs = list(pairwise(words))
    return len(set(pairs)) / len(pairs) if pairs else None
