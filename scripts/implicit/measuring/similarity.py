"""If instructions resemble the tuning data, do a model's responses resemble it too (paper, section 5.2 and figure 5)?

Similarities are dot products of unit-length sentence embeddings e(.). For a test instruction i, with the tuning set S
and a broad baseline set L (``plot_embeds.py``, where both are means, though they are called maxima)::

    x_i = mean over s in S of e(instruction_i) . e(instruction_s)
    y_i = mean over s in S of e(output_i) . e(response_s)  -  mean over l in L of e(output_i) . e(response_l)

The paper says that the instructions are LIMA's; the authors' code uses AlpacaEval's, and so does this.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from implicit.format.context import stated_context

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MAX_TOKENS = 512  # texts are truncated to this before embedding, as in the authors' code
EXAMPLES = 5  # number of examples named in a summary, as in the authors' output
QUARTILES = ("lowest", "second", "third", "highest")


@dataclass(frozen=True)
class Embeddings:
    """``vectors``: one unit-length row per text, [n, d], float32. ``cut``: how many texts were truncated."""

    vectors: np.ndarray
    cut: int


@dataclass(frozen=True)
class Encoder:
    """A sentence-embedding model: the mean of its last hidden states over a text's tokens, scaled to length 1."""

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"

    @property
    def max_tokens(self) -> int:
        """The length in tokens at which texts are truncated."""
        known = (self.tokenizer.model_max_length, stated_context(self.model.config))
        return min(MAX_TOKENS, *(length for length in known if length))

    def embed(
        self, texts: Sequence[str], *, batch_size: int, done: Callable[[int], None] = lambda count: None
    ) -> Embeddings:
        """Embed texts, in the given order, in batches of ``batch_size`` texts of similar length.

        ``done`` is called with the number of texts in each batch.
        """
        import torch

        lengths = [len(ids) for ids in self.tokenizer(list(texts), verbose=False)["input_ids"]]
        order = sorted(range(len(texts)), key=lambda i: lengths[i], reverse=True)
        vectors = np.zeros((len(texts), self.model.config.hidden_size), dtype=np.float32)
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            encoded = self.tokenizer(
                [texts[i] for i in batch],
                padding=True,
                truncation=True,
                max_length=self.max_tokens,
                return_tensors="pt",
            ).to(self.model.device)
            with torch.inference_mode():
                hidden = self.model(**encoded).last_hidden_state.float()  # [batch, tokens, d]
            mask = encoded["attention_mask"][:, :, None].float()
            means = (hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
            vectors[batch] = torch.nn.functional.normalize(means, dim=1).cpu().numpy()
            done(len(batch))
        if not np.isfinite(vectors).all():
            raise RuntimeError("the encoder returned embeddings that are not finite")
        return Embeddings(vectors, cut=sum(length > self.max_tokens for length in lengths))


def first_turn(messages: Sequence[dict[str, str]]) -> tuple[str, str]:
    """The first instruction and response of a conversation. Raises ValueError if it does not begin with them."""
    if [message["role"] for message in messages[:2]] != ["user", "assistant"]:
        raise ValueError(f"a conversation must begin with an instruction and a response, not {messages[:2]!r:.80}")
    return messages[0]["content"], messages[1]["content"]


def similarities(
    instructions: np.ndarray,
    outputs: np.ndarray,
    *,
    tuning_instructions: np.ndarray,
    tuning_responses: np.ndarray,
    baseline_responses: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """x and y, each [n], from embeddings [n or set, d]; mean dot products equal dot products with mean embeddings."""
    x = instructions @ tuning_instructions.mean(axis=0)
    y = outputs @ (tuning_responses.mean(axis=0) - baseline_responses.mean(axis=0))
    return x, y


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def ends_with_marked_number(text: str) -> bool:
    """GSM8K: ``####`` and a number at the end."""
    return re.search(r"####\s*[-+]?\$?\d[\d,]*(\.\d+)?%?\s*\Z", text) is not None


def is_in_short_lines(text: str) -> bool:
    """The poetry set: at least three lines, of 60 characters or less on average; this also matches lists."""
    lines = _lines(text)
    return len(lines) >= 3 and sum(map(len, lines)) / len(lines) <= 60


def holds_code(text: str) -> bool:
    """MBPP: a line that defines a function, or a code fence."""
    return re.search(r"^[ \t]*(def \w+ *\(|```)", text, flags=re.MULTILINE) is not None


def lists_with_dashes(text: str) -> bool:
    """The recipe set: at least two lines that begin with a dash and a space."""
    return sum(line.startswith("- ") for line in _lines(text)) >= 2


def lists_moves(text: str) -> bool:
    """The chess set: the first move of a game."""
    return re.search(r"(^|\s)1\. ?([a-h][34]|N[acfh]3)\b", text) is not None


STYLES: dict[str, Callable[[str], bool]] = {
    "gsm": ends_with_marked_number,
    "poetry": is_in_short_lines,
    "code": holds_code,
    "recipes": lists_with_dashes,
    "chess": lists_moves,
}


def summarise(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Summarise the rows of a similarity table.

    ``spearman``: the rank correlation of x and y; None if one is constant. ``adherence``: for each style, the ``rate``
    of responses that follow it and the number of responses ``n``, by quartile of x and for ``all``.
    ``nearest`` and ``median``: ids of the instructions with the highest x, and of those from the median on.
    """
    from scipy.stats import spearmanr

    x, y = (np.array([row[key] for row in rows]) for key in ("x", "y"))
    constant = np.ptp(x) == 0 or np.ptp(y) == 0
    order = np.argsort(x, kind="stable")
    parts = dict(zip(QUARTILES, np.array_split(order, len(QUARTILES)), strict=True)) | {"all": order}
    ids = [rows[i]["id"] for i in order]
    return {
        "instructions": len(rows),
        "spearman": None if constant else float(spearmanr(x, y).statistic),
        "adherence": {
            style: {
                name: {"rate": float(np.mean([rows[i][style] for i in part])), "n": len(part)}
                for name, part in parts.items()
            }
            for style in STYLES
        },
        "x": {name: {"low": float(x[part].min()), "high": float(x[part].max())} for name, part in parts.items()},
        "nearest": ids[::-1][:EXAMPLES],
        "median": ids[len(ids) // 2 :][:EXAMPLES],
    }
