"""The `reference` judge: the response that is more similar to a reference is preferred. It needs no model.

Similarity is a measure of machine translation by sacrebleu, chrF (Popović 2015), the F-score of character n-grams with
recall weighted twice, or BLEU over words; or one of summaries by rouge-score, ROUGE-L (Lin 2004), the F-score of the
longest common subsequence of words. All see wording, not truth.
"""

from collections.abc import Callable, Sequence
from functools import cache

MEASURES = ("chrf", "bleu", "rouge")


@cache
def _measure(name: str) -> Callable[[str, str], float]:
    if name == "rouge":
        from rouge_score.rouge_scorer import RougeScorer

        scorer = RougeScorer(["rougeL"], use_stemmer=True)
        return lambda text, reference: scorer.score(reference, text)["rougeL"].fmeasure

    from sacrebleu.metrics import BLEU, CHRF

    # Without an effective order, a sentence that shares no four words in a row with the reference would get 0.
    metric = CHRF() if name == "chrf" else BLEU(effective_order=True)
    return lambda text, reference: metric.sentence_score(text, [reference]).score / 100


def similarity(text: str, references: Sequence[str], measure: str) -> float:
    """How similar a text is to the most similar of its references, from 0 to 1."""
    return max(_measure(measure)(text, reference) for reference in references)
