"""A judge without a server: a causal language model's next-token probabilities of the two labels."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any

from implicit.format.context import ContextUnknown, context_length

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

OTHERS = 3  # number of tokens besides the labels whose probability is kept


class LocalJudgeError(ValueError):
    """A model that cannot be used as this judge, or a prompt that does not fit it."""


@dataclass(frozen=True)
class LocalModel:
    """A model on this machine; ``identity`` says which, weights included."""

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    identity: str
    batch_tokens: int = 8192  # of a batch of prompts, padded


def label_tokens(tokenizer: "PreTrainedTokenizerBase", labels: Sequence[str]) -> list[list[int]]:
    """For each label, the ids of all tokens that equal it when whitespace is stripped, such as 'm' and ' m'.

    Raises LocalJudgeError if there is none: a label must be a single token.
    """
    ids = sorted(tokenizer.get_vocab().values())
    texts = [text.strip() for text in tokenizer.batch_decode([[i] for i in ids])]
    found = [[i for i, text in zip(ids, texts, strict=True) if text == label] for label in labels]
    for label, tokens in zip(labels, found, strict=True):
        if not tokens:
            raise LocalJudgeError(
                f"the label {label!r} is not a single token of the judge's vocabulary; use another model"
            )
    return found


def encode_messages(tokenizer: "PreTrainedTokenizerBase", messages: Sequence[dict[str, str]]) -> list[int]:
    """The ids of a conversation up to the judge's answer: with its chat template, or as plain text without one."""
    if tokenizer.chat_template is None:
        return tokenizer("\n\n".join(message["content"] for message in messages) + "\n").input_ids
    text = tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)
    return tokenizer(text, add_special_tokens=False).input_ids


def special_texts(tokenizer: "PreTrainedTokenizerBase") -> list[str]:
    """The texts that the tokenizer reads as special tokens, which no judged text may bring into a prompt."""
    return sorted({token.content for token in tokenizer.added_tokens_decoder.values() if token.content.strip()})


def score_labels(
    model: "PreTrainedModel",
    prompts: Sequence[Sequence[int]],
    tokens: Sequence[Sequence[int]],
    *,
    batch_tokens: int,
) -> Iterator[tuple[int, list[float], list[tuple[int, float]]]]:
    """Log-probabilities (nats) of each label, summed over its possible tokens, as the token after each prompt.

    Yields a prompt's place, its labels' log-probabilities, and ids and log-probabilities of the three most likely
    other tokens, as soon as they are known, longest prompts first. Batches hold at most ``batch_tokens`` tokens
    including padding, which is on the left. Raises LocalJudgeError, before anything is computed, if prompts exceed the
    model's context: nothing is truncated.
    """
    import torch

    try:
        context = context_length(model.config)
    except ContextUnknown as error:
        raise LocalJudgeError(f"judge: {error}") from None
    longest = max((len(prompt) for prompt in prompts), default=0)
    if longest > context:
        long = sum(len(prompt) > context for prompt in prompts)
        raise LocalJudgeError(
            f"{long} of {len(prompts)} prompts are longer than the judge's context of {context} tokens (the "
            f"longest has {longest}); use a judge with a longer context, or lower generation.max_new_tokens"
        )
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]), reverse=True)
    batches: list[list[int]] = []
    for i in order:
        if batches and len(prompts[batches[-1][0]]) * (len(batches[-1]) + 1) <= batch_tokens:
            batches[-1].append(i)
        else:
            batches.append([i])
    for batch in batches:
        width = len(prompts[batch[0]])
        rows = [(width - len(prompts[i]), list(prompts[i])) for i in batch]
        ids = torch.tensor([[0] * padding + prompt for padding, prompt in rows], device=model.device)
        mask = torch.tensor([[0] * padding + [1] * len(prompt) for padding, prompt in rows], device=model.device)
        with torch.inference_mode():
            logits = model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=(mask.cumsum(1) - 1).clamp(min=0),
                use_cache=False,
                logits_to_keep=1,
            ).logits[:, -1]
        scores = logits.double().log_softmax(dim=-1).cpu()
        if scores.isnan().any():
            raise LocalJudgeError(
                "the judge's logits are not finite: its weights are corrupt or judge.precision is too low"
            )
        others = scores.clone()
        others[:, [token for ids_ in tokens for token in ids_]] = -inf
        top = others.topk(min(OTHERS, scores.shape[1]), dim=-1)
        for row, i in enumerate(batch):
            likely = zip(top.indices[row].tolist(), top.values[row].tolist(), strict=True)
            rivals = [(token, logprob) for token, logprob in likely if logprob > -inf]
            yield i, [scores[row, list(ids_)].logsumexp(dim=0).item() for ids_ in tokens], rivals


def as_choice(
    labels: Sequence[str], logprobs: Sequence[float], others: Sequence[tuple[str, float]] = ()
) -> dict[str, Any]:
    """Format log-probabilities of labels and other tokens like an OpenAI-compatible server's answer."""
    found = [*zip(labels, logprobs, strict=True), *others]
    ranked = [{"token": token, "logprob": logprob} for token, logprob in sorted(found, key=lambda entry: -entry[1])]
    return {
        "message": {"role": "assistant", "content": ranked[0]["token"]},
        "logprobs": {"content": [ranked[0] | {"top_logprobs": ranked}]},
    }
