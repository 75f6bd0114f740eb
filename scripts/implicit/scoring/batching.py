"""Batches by the number of their tokens, not of their rows."""

from collections.abc import Sequence


def token_batches(lengths: Sequence[int], *, tokens: int) -> list[list[int]]:
    """Divide rows, which come longest first, into batches of at most ``tokens`` tokens with padding: their places.

    A row that is longer than ``tokens`` makes a batch of its own.
    """
    batches: list[list[int]] = []
    for place in range(len(lengths)):
        if batches and lengths[batches[-1][0]] * (len(batches[-1]) + 1) <= tokens:
            batches[-1].append(place)
        else:
            batches.append([place])
    return batches
