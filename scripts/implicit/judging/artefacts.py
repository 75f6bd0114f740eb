"""How much of a win rate is due to the judge's taste for length and stopping? The same pairs, judged differently."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from implicit.judging.oracle import Oracle, prefer


@dataclass(frozen=True)
class Outcome:
    """Win rate and ties as percentages of ``n`` pairs, or None if ``n`` is 0."""

    n: int
    win_rate: float | None
    ties: float | None


def judged_otherwise(rows: Sequence[dict[str, Any]], requests: Mapping[str, str], oracle: Oracle) -> dict[str, Outcome]:
    """Outcomes of the oracle's judgements as they are, and under less demanding criteria.

    ``content`` has no penalty for length or not stopping, ``right`` considers correctness only, ``similar_length``
    keeps only pairs in which neither output is more than 1.25 times as long as the other, in characters.
    ``requests`` holds the oracle's description of each instruction, by id.
    """
    outputs = ("output_1", "output_2")
    parts = [[oracle.parts(requests[row["id"]], row[side], stopped=True) for side in outputs] for row in rows]
    return {
        "judged": _outcome([row["preference"] for row in rows]),
        "content": _outcome([prefer(one.content, two.content) for one, two in parts]),
        "right": _outcome([prefer(one.right, two.right) for one, two in parts]),
        "similar_length": _outcome([row["preference"] for row in rows if alike(*(len(row[side]) for side in outputs))]),
    }


def alike(one: int, two: int) -> bool:
    """Whether neither length exceeds 1.25 times the other."""
    return 4 * one <= 5 * two and 4 * two <= 5 * one


def _outcome(preferences: Sequence[float]) -> Outcome:
    n = len(preferences)
    if not n:
        return Outcome(0, None, None)
    return Outcome(n, 100 * sum(p - 1 for p in preferences) / n, 100 * sum(p == 1.5 for p in preferences) / n)
