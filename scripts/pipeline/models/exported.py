"""Checks that a model's directory works elsewhere, done at every import and save before the directory is in place.

Other programs (transformers' ``generate()``, vLLM, lm-evaluation-harness) read from it which token ends a response,
how text is encoded, and the format of a prompt. All of that must be the same as in tuning.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from implicit.format.render import Format, JoinedTokens, Message, encode, render, render_request
from pipeline.jobs.command import InputError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Encoder = Callable[[str], list[int]]

SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")
# What a generation config may hold without changing a response.
NO_SETTING = {
    *SPECIAL, "transformers_version", "_from_model_config", "use_cache", "output_attentions", "output_hidden_states",
}  # fmt: skip
PART = 2**24  # values of a tensor that are checked at a time, to avoid a second copy of a model in memory
TEXTS = (
    "What is the capital of Puven?", "", "- a\n- b\n\n- c", "def f(x):\n    return {'x': [x, \"y\"]}\n",
    "  blanks  within  and around  ", "Grüße, e\u0301 and é, 日本, 🙂 \u2028 and \u00a0.", "tab\tand\r\nreturn",
    'back\\slash \\n, \'single\' and "double" quotes', "{{ bos_token }}{% if x %}{# no #}{{ '}}' }}",
    "<b>1,000,000 &amp; 3.14159</b>", "It's what they'LL say... I'd #1 *say* so!", "\n\nx\n\n",
    "<|user|>\nhello\n<|assistant|>\n",
)  # fmt: skip


def check_exported(path: Path, tokenizer: "PreTrainedTokenizerBase", *, chat: Format | None) -> None:
    """Check the directory of a model that was just written with ``tokenizer``, as another program would load it.

    ``chat`` is the format of its chat template, None if it has none. Raises InputError for anything that would fail.
    """
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(path)
    check_tokenizer(path, tokenizer, loaded)
    check_token_ids(path, loaded)
    if chat is not None:
        check_template(loaded, chat)
    check_weights(stored_weights(path))


def encoder(tokenizer: "PreTrainedTokenizerBase") -> Encoder:
    """Encode as other programs do: names of special tokens in a text become these tokens, and none is added."""
    return lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]


def file_encoder(file: Path | str) -> Encoder:
    """Encode with a ``tokenizer.json``, without the truncation and padding that some of them set."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


def first_difference(texts: Iterable[str], one: Encoder, other: Encoder) -> str | None:
    """The first text that is encoded differently; None if there is none."""
    return next((text for text in texts if one(text) != other(text)), None)


def check_tokenizer(path: Path, tokenizer: "PreTrainedTokenizerBase", loaded: "PreTrainedTokenizerBase") -> None:
    """Raise InputError unless a saved tokenizer encodes as before, and as its ``tokenizer.json`` does."""
    special = [token for name in SPECIAL if (token := getattr(tokenizer, name.removesuffix("_id")))]
    texts = [*TEXTS, *(f"{token}\nHi {token}" for token in special)]
    text = first_difference(texts, encoder(tokenizer), encoder(loaded))
    if text is None and (path / "tokenizer.json").exists():
        text = first_difference(texts, encoder(loaded), file_encoder(path / "tokenizer.json"))
    if text is not None:
        raise InputError(
            f"the tokenizer, a {type(tokenizer).__name__}, encodes {text!r} differently after saving and loading: set "
            "tokenizer_class to PreTrainedTokenizerFast in the tokenizer_config.json of the imported model"
        )


def check_token_ids(path: Path, tokenizer: "PreTrainedTokenizerBase") -> None:
    """Raise InputError unless config and generation config have the tokenizer's BOS, EOS and pad, and nothing else.

    Sampling, penalties or forced tokens in a generation config would give other responses than those measured.
    """
    from transformers import AutoConfig, GenerationConfig

    config, generation = AutoConfig.from_pretrained(path), GenerationConfig.from_pretrained(path)
    holders = {
        "config.json": config,
        "the text config of config.json": config.get_text_config(),
        "generation_config.json": generation,
    }
    for place, holder in holders.items():
        for name in SPECIAL:
            found, wanted = getattr(holder, name, None), getattr(tokenizer, name)
            if found != wanted:
                raise InputError(f"{name} is {found} in {place}, but {wanted} in the tokenizer: import the model again")
    others = set(generation.to_diff_dict()) - NO_SETTING
    if others:
        raise InputError(f"generation_config.json sets {', '.join(sorted(others))}: import the model again")


def conversations(tokenizer: "PreTrainedTokenizerBase") -> Iterator[list[Message]]:
    """Conversations of one and of several turns from all the texts, with user turns, with empty ones, and without.

    Texts with the name of a special token are omitted: a template's text cannot distinguish it from the token.
    """
    plain = [t for t in TEXTS if tokenizer(t, add_special_tokens=False)["input_ids"] == encode(tokenizer, t)]
    for i in range(len(plain)):
        user, next_user, response, next_response = (plain[(i + step) % len(plain)] for step in range(4))
        first, second = {"role": "user", "content": user}, {"role": "user", "content": next_user}
        answers = [{"role": "assistant", "content": text} for text in (response, next_response)]
        yield [first, answers[0]]
        yield [first, answers[0], second, answers[1]]
        yield [{**first, "content": ""}, answers[0], {**second, "content": ""}, answers[1]]
        yield answers


def check_template(tokenizer: "PreTrainedTokenizerBase", chat: Format) -> None:
    """Raise InputError unless the tokenizer's chat template gives the same tokens as in tuning and generation.

    Both as ids and as a text that is encoded afterwards, as in vLLM and lm-evaluation-harness.
    """
    joined = None
    compared = 0
    for messages in conversations(tokenizer):
        try:
            expected = [
                (messages, False, render(messages, tokenizer, chat).ids),
                (messages, True, render_request(messages, tokenizer, chat)),
                (messages[:-1], True, render_request(messages[:-1], tokenizer, chat)),
            ]
        except JoinedTokens as error:  # specific to this response; responses in the data are checked one by one
            joined = error
            continue
        except ValueError as error:
            raise InputError(f"{error}: use another model") from None
        for asked, prompt, ids in expected:
            compared += 1
            _compare(tokenizer, chat, asked, ids, prompt=prompt)
    if not compared:
        raise InputError(f"{joined}: use another model")


def _compare(
    tokenizer: "PreTrainedTokenizerBase", chat: Format, messages: list[Message], ids: list[int], *, prompt: bool
) -> None:
    """Raise InputError unless the template gives ``ids`` for a conversation, with or without a generation prompt."""
    given = tokenizer.apply_chat_template(messages, add_generation_prompt=prompt)["input_ids"]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=prompt, tokenize=False)
    for found in (given, tokenizer(text, add_special_tokens=False)["input_ids"]):
        if found != ids:
            place = next(
                (i for i, pair in enumerate(zip(found, ids, strict=False)) if pair[0] != pair[1]),
                min(len(found), len(ids)),
            )
            there, here = (tokenizer.convert_ids_to_tokens(x[max(0, place - 2) : place + 3]) for x in (found, ids))
            raise InputError(
                f"chat.user_tag {chat.user_tag!r}, chat.assistant_tag {chat.assistant_tag!r}: with this tokenizer, "
                f"a chat template gives other tokens than in tuning ({there} for {here}, in {text!r:.120}): choose "
                "other tags for this model, without whitespace at their ends and without special tokens"
            )


def stored_weights(path: Path) -> Iterator[tuple[str, "torch.Tensor"]]:
    """The tensors in a directory's safetensors files, by name; a tensor may come in several parts of some rows."""
    from safetensors import safe_open

    for file in sorted(Path(path).glob("*.safetensors")):
        with safe_open(file, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118
                rows = weights.get_slice(name)
                shape = rows.get_shape()
                if not shape:
                    yield name, weights.get_tensor(name)
                    continue
                step = max(1, PART * shape[0] // max(1, math.prod(shape)))
                for start in range(0, shape[0], step):
                    yield name, rows[start : start + step]


def loaded_weights(model: "PreTrainedModel") -> Iterator[tuple[str, "torch.Tensor"]]:
    """The tensors of a model in memory, by name: a tensor may come in several parts."""
    for name, tensor in model.state_dict().items():
        for part in tensor.flatten().split(PART):
            yield name, part


def check_weights(weights: Iterable[tuple[str, "torch.Tensor"]]) -> None:
    """Raise InputError if weights contain NaN or infinite values."""
    broken = list(dict.fromkeys(name for name, part in weights if not _finite(part)))
    if broken:
        raise InputError(
            f"{len(broken)} weight tensors contain NaN or infinite values, such as {', '.join(broken[:3])}: the "
            "files are damaged, training has diverged, or the range of tuning.saved_precision is too small"
        )


def _finite(values: "torch.Tensor") -> bool:
    import torch

    if not values.is_floating_point():
        return True
    return bool(torch.isfinite(values if values.element_size() > 1 else values.float()).all())  # float8 has no isfinite
