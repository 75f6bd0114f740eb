"""Batches limited by number of tokens rather than rows."""

from collections.abc import Sequence


def token_batches(lengths: Sequence[int], *, tokens: int) -> list[list[int]]:
    """Divide rows, sorted longest first, into batches of at most ``tokens`` tokens including padding: their places.

    A row longer than ``tokens`` forms a batch of its own.
    """
    batches: list[list[int]] = []
    for place in range(len(lengths)):
        if batches and lengths[batches[-1][0]] * (len(batches[-1]) + 1) <= tokens:
            batches[-1].append(place)
        else:
            batches.append([place])
    return batches
