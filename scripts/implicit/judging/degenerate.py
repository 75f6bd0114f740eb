"""Pairs for a reward model in which one response is worse by construction.

Known judgements are of models that answer. A base model often does not: it repeats the instruction, or itself, without
end, and a reward model that never saw such a response gives it any score. Each pair that is made here has a response
that an annotator preferred, and a worse one: a repetition of the instruction, a repetition of the response's own
beginning, or the response to another instruction.
"""

import random
from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]

BEGINNING = (4, 16)  # words of a response that are repeated, at least and at most
LONGEST = 1000  # characters


def degenerate_pairs(rows: Sequence[Row], *, count: int, seed: int) -> list[Row]:
    """``count`` pairs of annotations like ``rows``, of the same instructions and models, each lost by ``output_2``.

    The three kinds of worse response are equally frequent, and from half to twice as long as the better one (a response
    to another instruction is as long as it is). Pairs whose better response is empty are not used.
    """
    rng = random.Random(f"degenerate/{seed}")
    better = [(row, row["output_1" if row["annotation"] < 1.5 else "output_2"]) for row in rows]
    better = [(row, text) for row, text in better if text.split()]
    found = []
    for number, (row, text) in enumerate(rng.choices(better, k=count) if better else []):
        length = min(LONGEST, round(len(text) * rng.uniform(0.5, 2)))
        other = rng.choice(better)
        worse = (
            repeated(row["instruction"], length),
            repeated(" ".join(text.split()[: rng.randint(*BEGINNING)]), length),
            other[1] if other[0]["instruction"] != row["instruction"] else repeated(row["instruction"], length),
        )[number % 3]
        found.append(row | {"output_1": text, "output_2": worse, "annotation": 1.0})
    return found


def repeated(text: str, length: int) -> str:
    """A text over and over, on lines of its own, up to ``length`` characters, but at least once."""
    return "\n".join([text] * (1 + length // (len(text) + 1)))[: max(length, len(text))]
