"""From a conversation to token ids and a loss mask: the one place where the chat format lives.

The format is Tulu's, as in the paper (section 2) and the authors' ``finetune.py``::

    BOS<|user|>\\n{instruction}\\n<|assistant|>\\n{response}EOS

A conversation becomes segments, each either shown (the tags and the instructions) or trained (the
responses and their EOS), and each is encoded by itself. The mask is therefore right by construction,
and what a model is tuned on is token for token what it is asked with. All but the first are encoded as what
follows some text, as they do: SentencePiece tokenizers such as Llama-2's would else put a blank before them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

IGNORED = -100  # the label of a token that carries no loss

Message = dict[str, str]  # {"role": "user" | "assistant", "content": text}


@dataclass(frozen=True)
class Format:
    """The tags of the chat format, and whether a BOS stands first (paper: yes; the scripts, for OLMo: no)."""

    user_tag: str
    assistant_tag: str
    add_bos: bool


@dataclass(frozen=True)
class Segment:
    """A part of a conversation: shown or trained. A trained one is a response, which EOS ends."""

    text: str
    trained: bool


@dataclass(frozen=True)
class Rendered:
    """Token ids, and for each whether it is trained. ``cut`` counts the tokens lost to the maximum length."""

    ids: list[int]
    trained: list[bool]
    cut: int = 0

    @property
    def labels(self) -> list[int]:
        """The ids of trained tokens, -100 for the others; not shifted."""
        return [i if trained else IGNORED for i, trained in zip(self.ids, self.trained, strict=True)]


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Encode text as plain text: the name of a special token in it gives no special token."""
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def encode_after(tokenizer: PreTrainedTokenizerBase, text: str, *, before: str) -> list[int]:
    """Encode text as it is encoded behind ``before``. Raises ValueError where a token would hold parts of both."""
    first, whole = encode(tokenizer, before), encode(tokenizer, before + text)
    if whole[: len(first)] != first:
        raise ValueError(f"this tokenizer joins {before!r} and the text behind it, {text[:20]!r}, into one token")
    return whole[len(first) :]


def encode_response(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Encode what follows the newline behind the assistant tag."""
    return encode_after(tokenizer, text, before="\n")


def hide_instructions(messages: Sequence[Message]) -> list[Message]:
    """Response tuning (equation 2): every user turn becomes empty, the tags stay."""
    return [{**message, "content": ""} if message["role"] == "user" else dict(message) for message in messages]


def remove_instructions(messages: Sequence[Message]) -> list[Message]:
    """Response tuning without a place for instructions: every user turn goes, its tag with it."""
    return [dict(message) for message in messages if message["role"] != "user"]


USER_TURNS: dict[str, Callable[[Sequence[Message]], list[Message]]] = {  # what of the user's turns a mode sees
    "shown": list,
    "empty": hide_instructions,
    "removed": remove_instructions,
}


def segments(messages: Sequence[Message], chat: Format) -> list[Segment]:
    """Split a conversation into segments; the turns behind the last assistant's are dropped.

    Contents are stripped, as the authors' ``encode_with_messages_format`` does.
    """
    parts: list[Segment] = []
    shown = ""
    for message in messages:
        text = message["content"].strip()
        if message["role"] == "user":
            shown += f"{chat.user_tag}\n{text}\n"
        elif message["role"] == "assistant":
            parts += [Segment(f"{shown}{chat.assistant_tag}\n", trained=False), Segment(text, trained=True)]
            shown = "\n"
        else:
            raise ValueError(f"a message has the role {message['role']!r}: allowed are 'user' and 'assistant'")
    return parts


def render(
    messages: Sequence[Message],
    tokenizer: PreTrainedTokenizerBase,
    chat: Format,
    *,
    max_length: int | None = None,
    train_eos: bool = True,
    train_turn_newline: bool = False,
) -> Rendered:
    """Render a conversation whose last turn is the assistant's; turns after it are dropped.

    Tokens beyond ``max_length`` are cut off at the end, EOS included, as in the authors' scripts, and counted in
    ``cut``. Without ``train_eos`` a response's EOS stands where it stood, but carries no loss. The newline between an
    assistant turn's EOS and the next turn is trained only with ``train_turn_newline``: the authors' code does so, by
    accident as it seems.
    """
    ids: list[int] = [tokenizer.bos_token_id] if chat.add_bos else []
    trained = [False] * len(ids)
    for number, segment in enumerate(segments(messages, chat)):
        if segment.trained:
            piece = encode_response(tokenizer, segment.text) + [tokenizer.eos_token_id]
            ids += piece
            trained += [True] * (len(piece) - 1) + [train_eos]
        else:
            # Behind an EOS, the text goes on; the letter stands for whatever came before.
            piece = encode_after(tokenizer, segment.text, before="a") if number else encode(tokenizer, segment.text)
            newline = len(encode_after(tokenizer, "\n", before="a")) if number and train_turn_newline else 0
            ids += piece
            trained += [True] * newline + [False] * (len(piece) - newline)
    length = len(ids) if max_length is None else min(len(ids), max_length)
    return Rendered(ids[:length], trained[:length], cut=len(ids) - length)


def render_prompt(instruction: str, tokenizer: PreTrainedTokenizerBase, chat: Format) -> list[int]:
    """The token ids after which a model is to respond to ``instruction``."""
    messages = [{"role": "user", "content": instruction}, {"role": "assistant", "content": ""}]
    rendered = render(messages, tokenizer, chat)
    return rendered.ids[: rendered.trained.index(True)]


def chat_template(chat: Format) -> str:
    """The same format as a Jinja chat template, to be saved with a model for other programs."""
    bos = "{{ bos_token }}" if chat.add_bos else ""
    return (
        f"{bos}{{%- for message in messages -%}}"
        "{%- if message['role'] == 'user' -%}"
        f"{{{{ '{chat.user_tag}\\n' + message['content'] | trim + '\\n' }}}}"
        "{%- else -%}"
        f"{{{{ '{chat.assistant_tag}\\n' + message['content'] | trim + eos_token }}}}"
        "{%- if not loop.last -%}{{ '\\n' }}{%- endif -%}"
        "{%- endif -%}"
        "{%- endfor -%}"
        f"{{%- if add_generation_prompt -%}}{{{{ '{chat.assistant_tag}\\n' }}}}{{%- endif -%}}"
    )
