"""The rule adapter: three hand-written rules as a product of experts with a base model (paper, section 6).

p(w | x) ∝ p_base(w | x) · p_rules(w | x), with p_rules the softmax of the rules' summed scores (equations 4, 5).
The normalisers do not depend on w, so under greedy decoding this is argmax(base logits + scores): the scores
are added to the logits of a whole batch at the cost of one scatter per step.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from tokenizers.decoders import ByteLevel
from transformers import PreTrainedTokenizerBase

BYTE = re.compile(r"<0x[0-9A-F]{2}>")  # a byte for which SentencePiece has no other token

RULES = ("eos", "uniform", "diversity")


@dataclass(frozen=True)
class RuleSettings:
    """The rules' weights (paper, table 8). Tokens are strings, resolved in each model's own vocabulary.

    After t response tokens, 0 < t < ``eos_ramp``, EOS gets ``eos_bonus`` · t / eos_ramp. From there on,
    ``eos_after_ramp`` "hold" keeps the full bonus; "none" gives nothing, as in the authors' code (they call it a bug).
    """

    eos_bonus: float
    eos_ramp: int  # tokens
    eos_after_ramp: Literal["hold", "none"]
    token_scores: Mapping[str, float]
    diversity_penalty: float
    diversity_scope: Literal["response", "prompt_and_response"]


class UnresolvedToken(ValueError):
    """A string of the rules is not exactly one token of the model's tokenizer."""


def token_texts(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """The text of every token of a vocabulary, for byte-level BPE (GPT-NeoX, Llama-3) and SentencePiece (Llama-2).

    Byte tokens such as ``<0x0A>`` come last, as another token may have the same text. Added tokens are written as they
    are, but a vocabulary that writes "▁" for a blank does so in added tokens, too, except in special ones.
    """
    pieces = tokenizer.get_vocab()
    added = tokenizer.get_added_vocab()
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    # Byte-level pieces are written in 256 characters, without this one. Their own "Ġ" is no proof: Gemma has it, too.
    byte_level = not any("▁" in piece for piece in pieces if piece not in added)
    decoder = ByteLevel()
    texts, single_bytes = {}, {}
    for piece, i in sorted(pieces.items(), key=lambda entry: entry[1]):
        if i in special or (byte_level and piece in added):
            texts[i] = piece
        elif byte_level:
            texts[i] = decoder.decode([piece])
        elif BYTE.fullmatch(piece):
            single_bytes[i] = chr(int(piece[3:5], 16))
        else:
            texts[i] = piece.replace("▁", " ")
    return texts | single_bytes


def resolve_tokens(scores: Mapping[str, float], tokenizer: PreTrainedTokenizerBase) -> dict[int, float]:
    """Map token strings to ids: each to the token with exactly that text, spaces included.

    If several have it, it is the one that the tokenizer uses: Pythia's has three blanks twice, and never uses the
    first. Raises UnresolvedToken naming every string that is not a token, with the closest tokens.
    """
    ids: dict[str, list[int]] = {}
    for i, text in token_texts(tokenizer).items():
        ids.setdefault(text, []).append(i)
    wrong = [text for text in scores if text not in ids]
    if wrong:
        listed = "; ".join(f"{text!r} ({_explain(text, ids, tokenizer)})" for text in wrong)
        raise UnresolvedToken(
            f"rules.token_scores: each string must be one token of this model's tokenizer; these are not: {listed}"
        )
    used = {text: tokenizer(text, add_special_tokens=False)["input_ids"] for text in scores}
    return {next((i for i in ids[text] if used[text] == [i]), ids[text][0]): score for text, score in scores.items()}


def _explain(text: str, ids: Collection[str], tokenizer: PreTrainedTokenizerBase) -> str:
    """The tokens that differ only by spaces or case, or otherwise the tokens into which a text is split."""
    wanted = text.strip().lower()
    near = [other for other in ids if other.strip().lower() == wanted and (wanted or other.isspace())]
    if near:
        return "similar: " + ", ".join(map(repr, sorted(near, key=lambda other: abs(len(other) - len(text)))[:5]))
    return f"it is split into {tokenizer.convert_ids_to_tokens(tokenizer(text, add_special_tokens=False)['input_ids'])}"


class RuleAdapter:
    """Adds the scores of the chosen rules to a batch's logits, step by step.

    ``start`` begins a batch of prompts; ``add_scores`` is then called once per step, with the tokens chosen
    in the previous step. Rows that have stopped may be dropped in between (``keep``).
    """

    def __init__(
        self, settings: RuleSettings, rules: Sequence[str], tokenizer: PreTrainedTokenizerBase, *, vocab_size: int
    ) -> None:
        unknown = sorted(set(rules) - set(RULES))
        if unknown:
            raise ValueError(f"unknown rules {unknown}: allowed are {list(RULES)}")
        self.settings, self.rules, self.eos = settings, tuple(rules), tokenizer.eos_token_id
        self.uniform = torch.zeros(vocab_size)
        if "uniform" in rules:
            for token, score in resolve_tokens(settings.token_scores, tokenizer).items():
                self.uniform[token] = score
        self.scores = self.uniform[None, :0]
        self.length = 0

    def start(self, prompts: Sequence[Sequence[int]], device: torch.device | str) -> None:
        """Begin a batch. ``prompts`` are the ids from the instruction's first token on, for ``prompt_and_response``."""
        self.uniform = self.uniform.to(device)
        self.scores = self.uniform.repeat(len(prompts), 1)
        self.length = 0
        if self.settings.diversity_scope == "prompt_and_response":
            for row, prompt in enumerate(prompts):
                self.has_seen(torch.tensor([row], device=device), torch.tensor(list(prompt), device=device)[None])

    def keep(self, rows: torch.Tensor) -> None:
        """Keep only these rows of the batch (int64 indices or a bool mask)."""
        self.scores = self.scores[rows]

    def add_scores(self, logits: torch.Tensor, chosen: torch.Tensor | None) -> torch.Tensor:
        """Add the rules' scores to logits [rows, vocabulary] in place; ``chosen`` [rows] are the last step's tokens."""
        if chosen is not None:
            self.length += 1
            self.has_seen(torch.arange(len(chosen), device=chosen.device), chosen[:, None])
        of_eos = logits[:, self.eos] + (self.scores[:, self.eos] + (self.eos_score() if "eos" in self.rules else 0.0))
        logits += self.scores
        logits[:, self.eos] = of_eos
        return logits

    def has_seen(self, rows: torch.Tensor, tokens: torch.Tensor) -> None:
        """Set the scores of ``tokens`` [rows, n] in these rows to their uniform score plus the (negative) penalty."""
        if "diversity" in self.rules:
            self.scores[rows[:, None], tokens] = self.uniform[tokens] + self.settings.diversity_penalty

    def eos_score(self) -> float:
        """The score that rule 1 adds to EOS after ``length`` response tokens."""
        settings = self.settings
        if 0 < self.length < settings.eos_ramp:
            return settings.eos_bonus * self.length / settings.eos_ramp
        return settings.eos_bonus if self.length and settings.eos_after_ramp == "hold" else 0.0
