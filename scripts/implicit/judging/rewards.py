"""The `reward` judge: a sequence-classification model gives every response a score of its own.

The score of a response y to an instruction x is the single logit r(x, y) of a model trained as in Bradley and Terry
(1952): y2 is preferred to y1 with probability sigmoid(r(x, y2) - r(x, y1)). So the order of two responses cannot
matter, and each is read once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from inspect import signature
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from implicit.format.context import ContextUnknown, context_length
from implicit.judging.judge import protect
from implicit.judging.local_judge import special_texts
from implicit.scoring.batching import token_batches

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class RewardError(ValueError):
    """A model that cannot be used as a reward model, or scores that are not numbers."""


class Encoded(NamedTuple):
    """An instruction with a response, as the model reads them. ``types`` are the token types of an encoder."""

    ids: list[int]
    types: list[int] | None
    cut: bool


@dataclass
class RewardModel:
    """A reward model, and how texts are written for it; ``identity`` says which it is, weights included.

    With a chat template, instruction and response are its two turns; without one (encoders), they are a pair of texts.
    ``cut`` counts the texts that were longer than ``limit`` tokens, of which the end is not read.
    """

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    identity: str
    batch_tokens: int = 8192  # of a batch, padded
    cut: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        labels = self.model.config.num_labels
        if labels != 1:
            raise RewardError(f"{self.identity} has {labels} outputs; a reward model has one, the score")
        if not self.tokenizer.is_fast:
            raise RewardError(
                f"{self.identity}: its tokenizer has no tokenizer.json, which is needed to cut long texts"
            )
        if self.tokenizer.chat_template is None and not separates_pairs(self.tokenizer):
            raise RewardError(
                f"{self.identity}: its tokenizer has no chat template, so it is unclear where a response begins"
            )
        self.special = special_texts(self.tokenizer)
        # The head is computed in float32: in bfloat16, scores around 12 have steps of 1/16, and close ones would tie.
        for name in ("score", "classifier"):
            head = getattr(self.model, name, None)
            if isinstance(head, torch.nn.Linear):
                head.float().register_forward_pre_hook(lambda layer, given: (given[0].float(), *given[1:]))

    @property
    def limit(self) -> int:
        """The maximum number of tokens: the tokenizer's, or the model's context if that is shorter."""
        try:
            return min(self.tokenizer.model_max_length, context_length(self.model.config))
        except ContextUnknown:
            return self.tokenizer.model_max_length

    def encode(self, instruction: str, response: str) -> Encoded:
        """The tokens of a response to an instruction, at most ``limit``, with everything that surrounds the two texts.

        If there are more, the instruction keeps at most half of the room, and the response gets the rest. Raises
        RewardError if the limit leaves no room.
        """
        instruction, response = (protect(text, self.special) for text in (instruction, response))
        whole = self._written(instruction, response)
        if len(whole.ids) <= self.limit:
            return whole
        room = self.limit - (len(self._written("a", "a").ids) - 2)
        if room < 2:
            raise RewardError(f"{self.identity} reads {self.limit} tokens, which leaves no room for a response")
        asked, answered = (len(self._tokens(text).input_ids) for text in (instruction, response))
        kept = min(asked, max(room // 2, room - answered))
        rest = room - kept
        while True:  # a text that is cut may have more tokens than it had there, at its new end
            cut = self._written(self._beginning(instruction, kept), self._beginning(response, rest))
            if len(cut.ids) <= self.limit:
                return Encoded(cut.ids, cut.types, True)
            kept, rest = (kept, rest - 1) if rest >= kept else (kept - 1, rest)

    def _tokens(self, text: str) -> Any:
        return self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)

    def _beginning(self, text: str, count: int) -> str:
        """The characters of a text's first tokens."""
        offsets = self._tokens(text).offset_mapping
        return text if len(offsets) <= count else text[: offsets[count - 1][1]] if count > 0 else ""

    def _written(self, instruction: str, response: str) -> Encoded:
        if self.tokenizer.chat_template is None:
            # An empty second text would be none, and the first alone is written otherwise than a pair.
            pair = self.tokenizer(instruction or " ", response or " ", return_token_type_ids=True, verbose=False)
            return Encoded(pair.input_ids, pair.token_type_ids, False)
        turns = [{"role": "user", "content": instruction}, {"role": "assistant", "content": response}]
        text = self.tokenizer.apply_chat_template(turns, tokenize=False)
        return Encoded(self._tokens(text).input_ids, None, False)

    def scores(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """The scores of (instruction, response) pairs. Raises RewardError if one is not a finite number."""
        encoded = [self.encode(*pair) for pair in pairs]
        self.cut += sum(one.cut for one in encoded)
        with torch.inference_mode():
            found = scores_of(self.model, encoded, tokens=self.batch_tokens).double().cpu()
        if not found.isfinite().all():
            raise RewardError("the judge's scores are not finite: corrupt weights, or judge.precision is too low")
        return found.tolist()


def scores_of(model: "PreTrainedModel", texts: Sequence[Encoded], *, tokens: int) -> torch.Tensor:
    """The scores [texts] of encoded texts, in batches of similar length with at most ``tokens`` tokens each."""
    if not texts:
        return torch.zeros(0)
    order = sorted(range(len(texts)), key=lambda i: len(texts[i].ids), reverse=True)
    batches = token_batches([len(texts[i].ids) for i in order], tokens=tokens)
    found = torch.cat([score(model, [texts[order[place]] for place in batch]) for batch in batches])
    return found[torch.tensor(order, device=found.device).argsort()]


def score(model: "PreTrainedModel", rows: Sequence[Encoded]) -> torch.Tensor:
    """The scores [rows] of encoded texts, computed as one batch."""
    longest = max(len(row.ids) for row in rows)
    # Causal models of transformers read the score at the last token that is not padding, and take any token with the
    # padding's id for padding, such as an EOS that ends a response. So the padding is an id that is in no row.
    used = {token for row in rows for token in row.ids}
    padding = next(token for token in range(len(used) + 1) if token not in used)
    model.config.get_text_config().pad_token_id = padding

    def padded(parts: Sequence[Sequence[int]], filler: int) -> torch.Tensor:
        return torch.tensor([[*part, *[filler] * (longest - len(part))] for part in parts], device=model.device)

    given = {"attention_mask": padded([[1] * len(row.ids) for row in rows], 0)}
    types = [row.types for row in rows if row.types is not None]
    if len(types) == len(rows) and "token_type_ids" in signature(model.forward).parameters:
        given["token_type_ids"] = padded(types, 0)
    return model(input_ids=padded([row.ids for row in rows], padding), **given).logits[:, 0].float()


def separates_pairs(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether a tokenizer puts something between two texts, as those of encoders do."""
    return None in tokenizer("a", "a").sequence_ids(0)[1:-1]
