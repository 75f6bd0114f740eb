"""The `reference` judge: the response that is more similar to a reference is preferred. It needs no model.

Similarity is a measure of machine translation by sacrebleu: chrF (Popović 2015), the F-score of character n-grams with
recall weighted twice, or BLEU over words. Both see wording, not truth.
"""

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sacrebleu.metrics.base import Metric

MEASURES = ("chrf", "bleu")


@cache
def _metric(measure: str) -> "Metric":
    from sacrebleu.metrics import BLEU, CHRF

    # Without an effective order, a sentence that shares no four words in a row with the reference would get 0.
    return CHRF() if measure == "chrf" else BLEU(effective_order=True)


def similarity(text: str, reference: str, measure: str) -> float:
    """How similar a text is to a reference, from 0 to 1."""
    return _metric(measure).sentence_score(text, [reference]).score / 100
