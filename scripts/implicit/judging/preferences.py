"""Reading a judge's answer about two outputs: the preference, and how much of the probability its labels have."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from implicit.servers.replies import choice_text

LABELS = ("m", "M")  # of the output shown first and the output shown second, in AlpacaEval 2's prompt
ROUNDING = 0.01  # tolerance for probabilities that sum to more than 1, as from a server in bfloat16


@dataclass(frozen=True)
class LabelShare:
    """The probability of all labels together, and the most likely tokens with their probabilities."""

    probability: float
    top: tuple[tuple[str, float], ...]

    def __str__(self) -> str:
        likely = ", ".join(f'"{token}" {probability:.4g}' for token, probability in self.top).replace("\n", "\\n")
        return f"the labels have {self.probability:.2g} of the probability; the most likely tokens are {likely}"


def weighted_preference(choice: dict[str, Any], labels: Sequence[str] = LABELS) -> list[float | None]:
    """AlpacaEval 2's weighted preference, from top log-probabilities: 2 - p(first label) / (p(first) + p(second)).

    Only the answer's first token is used. Tokens are compared without surrounding spaces, as some servers return
    ' m'; a missing label has probability 0, and if both are missing, the preference is None. How much probability the
    labels have does not matter here: see `label_share`.
    """
    top = first_alternatives(choice)
    if top is None:
        return [None]
    found = [np.logaddexp.reduce([p for token, p in top if bare(token) == label] or [-np.inf]) for label in labels]
    return [None] if np.isinf(found).all() else [2 - float(np.exp(found[0] - np.logaddexp(*found)))]


def label_share(choice: Any, labels: Sequence[str] = LABELS) -> LabelShare | None:
    """The labels' share of the probability of an answer's first token; None if there are no log-probabilities."""
    top = first_alternatives(choice)
    return None if top is None else _share(top, [bare(token) in labels for token, _ in top])


def parser_share(
    completion: Any, *, numerator_token: str, denominator_tokens: Sequence[str], log_prob_index: Any = "batch", **_: Any
) -> LabelShare | None:
    """The labels' share under the settings of alpaca-eval's `logprob_parser`: the lowest among the tokens it reads.

    Tokens are compared as they are. None if there are no log-probabilities.
    """
    content = _content(completion)
    try:
        read = content if log_prob_index == "batch" else [content[log_prob_index]]
    except IndexError:
        return None
    labels = {numerator_token, *denominator_tokens}
    tops = [alternatives(entry) for entry in read]
    if not tops or None in tops:
        return None
    shares = [_share(top, [token in labels for token, _ in top]) for top in tops if top is not None]
    return min(shares, key=lambda share: share.probability)


def first_alternatives(choice: Any) -> list[tuple[str, float]] | None:
    """The alternatives of an answer's first token; None for a refusal or if there are none."""
    content = _content(choice)
    return alternatives(content[0]) if content else None


def alternatives(entry: Any) -> list[tuple[str, float]] | None:
    """The tokens and log-probabilities that a server returns for a position of its answer, without duplicates.

    None if they are missing or not log-probabilities: not numbers, above 0, or with probabilities summing to above 1.
    """
    given = entry.get("top_logprobs") if isinstance(entry, dict) else None
    if not isinstance(given, list) or not given:
        return None
    found = {}
    for each in given:
        token, logprob = (each.get("token"), each.get("logprob")) if isinstance(each, dict) else (None, None)
        if not isinstance(token, str) or isinstance(logprob, bool) or not isinstance(logprob, int | float):
            return None
        if not logprob <= ROUNDING:  # NaN as well
            return None
        # Some servers list the sampled token twice. JSON may hold integers too large for a float.
        found[token, float(logprob) if logprob > -1e6 else -math.inf] = None
    return list(found) if math.fsum(math.exp(p) for _, p in found) <= 1 + ROUNDING else None


def bare(token: str) -> str:
    """A token without surrounding spaces, in any of the forms that vocabularies use for them."""
    return token.replace("▁", " ").replace("Ġ", " ").strip()


def text_preference(choice: dict[str, Any], labels: Sequence[str] = LABELS) -> list[float | None]:
    """1 or 2 for an answer that is a label, apart from reasoning before it and punctuation around it; otherwise None.

    A truncated answer does not count: "M" may be the beginning of "Model m".
    """
    text = choice_text(choice).rpartition("</think>")[2].strip().strip("\"'`*.()[]: \n")
    return [None if text not in labels or refused(choice) or cut_off(choice) else labels.index(text) + 1.0]


def refused(choice: Any) -> bool:
    """Whether a server's answer is a refusal or was stopped by a content filter."""
    message = choice.get("message") if isinstance(choice, dict) else None
    refusal = message.get("refusal") if isinstance(message, dict) else None
    return bool(refusal) or (isinstance(choice, dict) and choice.get("finish_reason") == "content_filter")


def cut_off(choice: Any) -> bool:
    """Whether an answer was truncated at the maximum length."""
    return isinstance(choice, dict) and choice.get("finish_reason") == "length"


def _content(choice: Any) -> list[Any]:
    """The tokens of an answer with their log-probabilities; empty for a refusal."""
    logprobs = choice.get("logprobs") if isinstance(choice, dict) and not refused(choice) else None
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    return content if isinstance(content, list) else []


def _share(top: Sequence[tuple[str, float]], is_label: Sequence[bool]) -> LabelShare:
    share = math.fsum(math.exp(p) for (_, p), counts in zip(top, is_label, strict=True) if counts)
    likely = sorted(top, key=lambda entry: -entry[1])[:3]
    return LabelShare(min(share, 1.0), tuple((token, min(math.exp(p), 1.0)) for token, p in likely))
