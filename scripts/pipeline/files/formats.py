"""The formats in which people keep conversations, recognised by their columns or named in the config.

Each reader makes a conversation from a raw row: messages with `role` (user, assistant or system) and `content`. It
raises InputError, beginning with the place of the row, for one that cannot be used.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, Any

from implicit.data.recipes import pair
from pipeline.files.rows import Row, check_conversation, fill, refusal, text_of
from pipeline.jobs.command import InputError, say

if TYPE_CHECKING:
    from pipeline.config.datasets import Dataset

Messages = list[dict[str, str]]
Reader = Callable[[Row, str], Messages]
NAMED_ROWS = 5  # of those that are skipped

ROLES = {
    "user": "user", "human": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant", "bot": "assistant",
    "system": "system", "developer": "system",
}  # fmt: skip


def messages_of(cell: Any, what: str, *, role: str = "role", text: str = "content", strict: bool = True) -> Messages:
    """The messages of a cell that is a list of objects; content may be text or parts that are all text.

    With ``strict``, a message may have no other keys, unless they are null: `tool_calls` or a `weight` would be lost.
    """
    if not isinstance(cell, list):
        raise refusal(cell, what, f"a list of {{{role}, {text}}}")
    found = []
    for number, message in enumerate(cell, start=1):
        place = f"{what}, message {number}"
        given = {k: v for k, v in message.items() if v is not None} if isinstance(message, dict) else {}
        if role not in given or (strict and not set(given) <= {role, text}):
            raise refusal(message, place, f"{{{role}, {text}}} and nothing else")
        speaker = text_of(given[role], f"{place}, its {role}")
        if speaker.lower() not in ROLES:
            known = "'user', 'assistant' or 'system'"
            raise InputError(f"{place} has the {role} {speaker!r}, which is none of {known} or a name for them")
        content = content_of(given.get(text), f"{place}, its {text}")
        found.append({"role": ROLES[speaker.lower()], "content": content})
    return found


def content_of(cell: Any, what: str) -> str:
    """The text of a message: a text, or a list of parts of the type `text`."""
    if not isinstance(cell, list):
        return text_of(cell, what)
    texts = []
    for part in cell:
        if not isinstance(part, dict) or part.get("type") != "text":
            kind = part.get("type") if isinstance(part, dict) else part
            raise InputError(f"{what} has a part that is no text: {kind!r:.40}")
        texts.append(text_of(part.get("text"), what))
    return "".join(texts)


def _with_more(row: Row, first: str, more: str, place: str) -> str:
    """An instruction, and what it is about after a blank line, if there is any."""
    instruction = text_of(row.get(first), f"{place}: column {first!r}")
    about = text_of(row.get(more), f"{place}: column {more!r}")
    return f"{instruction}\n\n{about}" if about.strip() else instruction


def _messages(row: Row, place: str) -> Messages:
    return messages_of(row["messages"], f"{place}: column 'messages'")


def _sharegpt(row: Row, place: str) -> Messages:
    cell, what = row["conversations"], f"{place}: column 'conversations'"
    if isinstance(cell, list) and cell and all(isinstance(turn, str) for turn in cell):
        raise InputError(f"{what} has texts instead of {{from, value}}: that is LIMA's format, `recipe: lima`")
    return messages_of(cell, what, role="from", text="value", strict=False)


def _alpaca(row: Row, place: str) -> Messages:
    response = text_of(row["output"], f"{place}: column 'output'")
    return pair(_with_more(row, "instruction", "input", place), response)


def _dolly(row: Row, place: str) -> Messages:
    response = text_of(row["response"], f"{place}: column 'response'")
    return pair(_with_more(row, "instruction", "context", place), response)


def _prompt_completion(row: Row, place: str) -> Messages:
    """Two texts, or two lists of messages."""
    cells = row["prompt"], row["completion"]
    if isinstance(cells[0], list) or isinstance(cells[1], list):
        return [
            message
            for name, cell in zip(("prompt", "completion"), cells, strict=True)
            for message in messages_of(cell, f"{place}: column {name!r}")
        ]
    one, other = (
        text_of(cell, f"{place}: column {name!r}") for name, cell in zip(("prompt", "completion"), cells, strict=True)
    )
    return pair(one, other)


# name -> the columns that it needs, further ones that it reads, and its reader
FORMATS: dict[str, tuple[tuple[str, ...], tuple[str, ...], Reader]] = {
    "messages": (("messages",), (), _messages),
    "sharegpt": (("conversations",), (), _sharegpt),
    "prompt_completion": (("prompt", "completion"), (), _prompt_completion),
    "alpaca": (("instruction", "output"), ("input",), _alpaca),
    "dolly": (("instruction", "response"), ("context",), _dolly),
}
COLUMNS = list(dict.fromkeys(column for needed, more, _ in FORMATS.values() for column in (*needed, *more)))


def recognised(columns: Collection[str]) -> str | None:
    """The first format whose columns are all there."""
    return next((name for name, (needed, _, _) in FORMATS.items() if set(needed) <= set(columns)), None)


def with_system(messages: Messages, place: str, *, keep: bool) -> tuple[Messages, int]:
    """A conversation without system turns, and how many there were; kept, they precede the first user turn's text.

    The chat format has no turn for them.
    """
    texts = [message["content"] for message in messages if message["role"] == "system"]
    others = [message for message in messages if message["role"] != "system"]
    if texts and keep:
        first = next((message for message in others if message["role"] == "user"), None)
        if first is None:
            raise InputError(f"{place}: the conversation has a system turn and no user turn that it could precede")
        texts = [text for text in texts if text.strip()]
        changed = first | {"content": "\n\n".join([*texts, first["content"]])}
        others = [changed if message is first else message for message in others]
    return others, sum(message["role"] == "system" for message in messages)


def read_conversations(
    rows: Iterator[tuple[str, Row]], source: "Dataset", notes: Counter[str], *, key: str
) -> Iterator[tuple[str, Messages]]:
    """Conversations from rows of one of the formats, or through templates; bad ones are errors, or are skipped."""
    without_text = source.user is not None and not source.user.strip()  # a template without an instruction
    own = source.user is not None or source.messages is not None  # templates or a column, not a format
    reader = FORMATS[source.format][-1] if source.format else None
    skipped = 0
    for place, row in rows:
        if reader is None and not own:
            reader = _recognised(row, place, key)
        try:
            messages = _conversation(row, place, source, reader)
            messages, system = with_system(messages, place, keep=source.system == "keep")
            check_conversation(messages, place, user_empty=without_text)
        except InputError as error:
            if source.on_bad_row == "error":
                raise
            skipped += 1
            if skipped <= NAMED_ROWS:
                say(f"skipped: {error}")
            notes["rows that cannot be used: skipped (datasets.*.on_bad_row)"] += 1
            continue
        if system:
            done = "put before the first instruction" if source.system == "keep" else "dropped"
            notes[f"system turns: {done}"] += system
        yield place, messages


def _conversation(row: Row, place: str, source: "Dataset", reader: Reader | None) -> Messages:
    """The conversation of a row, by templates, a column of messages, or a format's reader."""
    if source.user is not None:
        texts = {column: text_of(cell, f"{place}: column {column!r}") for column, cell in row.items()}
        return pair(fill(source.user, texts), fill(source.assistant, texts))
    if source.messages:
        return messages_of(row[source.messages], f"{place}: column {source.messages!r}")
    return reader(row, place)


def _recognised(row: Row, place: str, key: str) -> Reader:
    """The reader of the format whose columns the first row has. Raises InputError if there is none."""
    format_ = recognised(row)
    if format_ is None:
        known = "; ".join(f"{name}: {', '.join(needed)}" for name, (needed, _, _) in FORMATS.items())
        raise InputError(
            f"{place}: the columns are those of no known format ({known}): give {key} 'user' and 'assistant', "
            "templates with your own columns, or 'messages', a column"
        )
    say(f"recognised as {format_}, by {', '.join(FORMATS[format_][0])}")
    return FORMATS[format_][-1]
