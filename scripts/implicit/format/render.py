"""From a conversation to token ids and a loss mask: the only place that defines the chat format.

The format is Tulu's, as in the paper (section 2) and the authors' ``finetune.py``::

    BOS<|user|>\\n{instruction}\\n<|assistant|>\\n{response}EOS

A conversation is split into segments, each either shown (the tags and the instructions) or trained (the
responses and their EOS), and each is encoded separately. The mask is therefore correct by construction,
and the prompts used in tuning and generation agree token for token. All segments but the first are encoded as a
continuation of preceding text: otherwise SentencePiece tokenizers such as Llama-2's would put a space before them.

A tag that names a special token of the vocabulary becomes that token, as in the output of a chat template.
Instructions and responses are plain text: the name of a special token in them is not converted.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100  # the label of a token that is excluded from the loss

Message = dict[str, str]  # {"role": "user" | "assistant", "content": text}


@dataclass(frozen=True)
class Format:
    """The tags of the chat format, and whether it starts with BOS (paper: yes; authors' scripts, for OLMo: no)."""

    user_tag: str
    assistant_tag: str
    add_bos: bool


@dataclass(frozen=True)
class Piece:
    """Part of a segment's text: a tag, in which names of special tokens are converted to them, or plain text."""

    text: str
    is_tag: bool = False


@dataclass(frozen=True)
class Segment:
    """A part of a conversation, either shown or trained. A trained one is a response of one piece, followed by EOS."""

    pieces: tuple[Piece, ...]
    trained: bool


@dataclass(frozen=True)
class Rendered:
    """Token ids, and for each whether it is trained. ``cut`` counts the tokens truncated at the maximum length."""

    ids: list[int]
    trained: list[bool]
    cut: int = 0

    @property
    def labels(self) -> list[int]:
        """The ids of trained tokens, and -100 for the others; not shifted."""
        return [i if trained else IGNORED for i, trained in zip(self.ids, self.trained, strict=True)]


def encode(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """Encode text as plain text: names of special tokens in it are not converted."""
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


class JoinedTokens(ValueError):
    """A tokenizer merges the end of one text and the start of the next, which are encoded separately, into a token."""


def encode_after(tokenizer: "PreTrainedTokenizerBase", text: str, *, before: str) -> list[int]:
    """Encode text as it is encoded after ``before``. Raises JoinedTokens if a token would contain parts of both."""
    first, whole = encode(tokenizer, before), encode(tokenizer, before + text)
    if whole[: len(first)] != first:
        raise JoinedTokens(f"the tokenizer merges {before!r} and the text after it, {text[:20]!r}, into one token")
    return whole[len(first) :]


def encode_response(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """Encode the text that follows the newline after the assistant tag."""
    return encode_after(tokenizer, text, before="\n")


def encode_within(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """Encode text as in mid-text: after a newline, or after a letter if it begins with whitespace."""
    return encode_after(tokenizer, text, before="a" if text[:1].isspace() else "\n")


def encode_after_special(tokenizer: "PreTrainedTokenizerBase", text: str, *, special: str) -> list[int]:
    """Encode text as it is encoded after a special token.

    Some tokenizers then continue as in mid-text, others start again with a space; some special tokens absorb the spaces
    after them (``rstrip``, as Phi-3's). A short probe text shows which case it is. Raises ValueError if it is none of
    them.
    """
    wanted = tokenizer(f"{special}\na", add_special_tokens=False)["input_ids"][1:]
    for blanks_taken in (False, True):
        probe, rest = ("a", text.lstrip()) if blanks_taken else ("\na", text)
        if encode_within(tokenizer, probe) == wanted:
            return encode_within(tokenizer, rest)
        if encode(tokenizer, probe) == wanted:
            return encode(tokenizer, rest)
    raise ValueError(f"the way this tokenizer encodes text after {special!r} is not supported")


def split_at_special_tokens(tokenizer: "PreTrainedTokenizerBase", tag: str) -> list[str]:
    """Split a tag at the names of special tokens: alternating plain text and names, plain text first and last."""
    if tokenizer(tag, add_special_tokens=False)["input_ids"] == encode(tokenizer, tag):
        return [tag]
    names = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    return re.split("(" + "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True)) + ")", tag)


def encode_shown(
    tokenizer: "PreTrainedTokenizerBase", pieces: Sequence[Piece], *, special: str | None = None
) -> list[int]:
    """Encode tags and instructions at the start of a conversation or after a ``special`` token."""
    chunks: list[tuple[str | None, str]] = [(special, "")]  # a special token, and the text up to the next one
    for piece in pieces:
        parts = split_at_special_tokens(tokenizer, piece.text) if piece.is_tag else [piece.text]
        chunks[-1] = (chunks[-1][0], chunks[-1][1] + parts[0])
        chunks += zip(parts[1::2], parts[2::2], strict=True)
    ids: list[int] = []
    for number, (name, text) in enumerate(chunks):
        if number:
            ids.append(tokenizer.convert_tokens_to_ids(name))
        if text:
            ids += encode(tokenizer, text) if name is None else encode_after_special(tokenizer, text, special=name)
    return ids


def encode_opening(tokenizer: "PreTrainedTokenizerBase", chat: Format) -> list[int]:
    """Encode what precedes the first instruction: BOS, if the format has it, and the line of the user tag."""
    bos = [tokenizer.bos_token_id] if chat.add_bos else []
    return bos + encode_shown(tokenizer, [Piece(chat.user_tag, is_tag=True), Piece("\n")])


def hide_instructions(messages: Sequence[Message]) -> list[Message]:
    """Response tuning (equation 2): empty every user turn, but keep the tags."""
    return [{**message, "content": ""} if message["role"] == "user" else dict(message) for message in messages]


def remove_instructions(messages: Sequence[Message]) -> list[Message]:
    """Response tuning without a place for instructions: remove every user turn and its tag."""
    return [dict(message) for message in messages if message["role"] != "user"]


USER_TURNS: dict[str, Callable[[Sequence[Message]], list[Message]]] = {  # what a mode sees of the user turns
    "shown": list,
    "empty": hide_instructions,
    "removed": remove_instructions,
}


def segments(messages: Sequence[Message], chat: Format) -> list[Segment]:
    """Split a conversation into segments; turns after the last assistant turn are dropped.

    Contents are stripped, as the authors' ``encode_with_messages_format`` does.
    """
    parts: list[Segment] = []
    shown: list[Piece] = []
    for message in messages:
        text = message["content"].strip()
        if message["role"] == "user":
            shown += [Piece(chat.user_tag, is_tag=True), Piece(f"\n{text}\n")]
        elif message["role"] == "assistant":
            shown += [Piece(chat.assistant_tag, is_tag=True), Piece("\n")]
            parts += [Segment(tuple(shown), trained=False), Segment((Piece(text),), trained=True)]
            shown = [Piece("\n")]
        else:
            raise ValueError(f"a message has the role {message['role']!r}: allowed are 'user' and 'assistant'")
    return parts


def render(
    messages: Sequence[Message],
    tokenizer: "PreTrainedTokenizerBase",
    chat: Format,
    *,
    max_length: int | None = None,
    train_eos: bool = True,
    train_turn_newline: bool = False,
) -> Rendered:
    """Render a conversation up to its last assistant turn; turns after that are dropped.

    Tokens beyond ``max_length`` are truncated, EOS included, as in the authors' scripts, and counted in ``cut``.
    Without ``train_eos``, a response's EOS is kept but excluded from the loss. The newline between an assistant turn's
    EOS and the next turn is trained only with ``train_turn_newline``: the authors' code does so, apparently by
    accident.
    """
    ids: list[int] = [tokenizer.bos_token_id] if chat.add_bos else []
    trained = [False] * len(ids)
    for number, segment in enumerate(segments(messages, chat)):
        if segment.trained:
            piece = encode_response(tokenizer, segment.pieces[0].text) + [tokenizer.eos_token_id]
            ids += piece
            trained += [True] * (len(piece) - 1) + [train_eos]
        else:
            special = tokenizer.eos_token if number else None
            piece = encode_shown(tokenizer, segment.pieces, special=special)
            newline = 0
            if special and train_turn_newline:
                newline = len(encode_after_special(tokenizer, "\n", special=special))
            ids += piece
            trained += [True] * newline + [False] * (len(piece) - newline)
    length = len(ids) if max_length is None else min(len(ids), max_length)
    return Rendered(ids[:length], trained[:length], cut=len(ids) - length)


def render_request(messages: Sequence[Message], tokenizer: "PreTrainedTokenizerBase", chat: Format) -> list[int]:
    """The prompt, as token ids, for the response to a conversation."""
    rendered = render([*messages, {"role": "assistant", "content": ""}], tokenizer, chat)
    return rendered.ids[:-1]  # without the EOS of the empty response


def render_prompt(instruction: str, tokenizer: "PreTrainedTokenizerBase", chat: Format) -> list[int]:
    """The prompt, as token ids, for the response to ``instruction``."""
    return render_request([{"role": "user", "content": instruction}], tokenizer, chat)


def chat_template(tokenizer: "PreTrainedTokenizerBase", chat: Format) -> str:
    """The same format as a Jinja chat template, to be saved with a model for other programs.

    Like the renderer, it does not support a system prompt: roles other than ``user`` and ``assistant`` raise an error.
    """
    # JSON escapes are also valid in Jinja, so a tag may contain quotes, backslashes, newlines and braces. Non-ASCII
    # characters are kept: JSON would write an emoji as two escapes, which Jinja does not read as one character.
    user, assistant = (json.dumps(f"{tag}\n", ensure_ascii=False) for tag in (chat.user_tag, chat.assistant_tag))
    bos = "{{ bos_token }}" + _blank_after_bos(tokenizer, chat) if chat.add_bos else ""
    return (
        f"{bos}{{% for message in messages %}}"
        "{% if message['role'] == 'user' %}"
        f"{{{{ {user} + message['content'] | trim + '\n' }}}}"
        "{% elif message['role'] == 'assistant' %}"
        f"{{{{ {assistant} + message['content'] | trim + eos_token }}}}"
        "{% if not loop.last or add_generation_prompt %}{{ '\n' }}{% endif %}"
        "{% else %}{{ raise_exception('the roles are user and assistant, but this is ' + message['role']) }}{% endif %}"
        "{% endfor %}"
        f"{{% if add_generation_prompt %}}{{{{ {assistant} }}}}{{% endif %}}"
    )


def _blank_after_bos(tokenizer: "PreTrainedTokenizerBase", chat: Format) -> str:
    """A space for the template, if the tokenizer puts one at the beginning of a text but not after a BOS in it.

    Llama-2's does, so its own chat template has this space, too.
    """
    tag = f"{chat.user_tag}\n"
    without, with_blank = (
        tokenizer(f"{tokenizer.bos_token}{blank}{tag}", add_special_tokens=False)["input_ids"] for blank in ("", " ")
    )
    wanted = encode_opening(tokenizer, chat)
    return "{{ ' ' }}" if without != wanted and with_blank == wanted else ""
