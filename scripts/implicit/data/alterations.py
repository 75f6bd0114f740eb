"""Datasets altered so that one part of them teaches nothing: controls for what it is that tuning teaches.

Pure functions of conversations and a seed. Every user turn is an instruction by itself, and every assistant turn a
response, also where a conversation has several.
"""

import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

Conversation = Sequence[dict[str, str]]  # messages of role and content
Texts = list[str]


class AlterationError(ValueError):
    """Conversations that cannot be altered as asked for."""


def shuffle_instructions(texts: Texts, rng: random.Random) -> Texts:
    """The same instructions in another order: none stands where it, or one that reads the same, stood.

    Raises AlterationError where there is no such order, as more than half of them read the same.
    """
    for text, count in Counter(texts).most_common(1):
        if 2 * count > len(texts):
            raise AlterationError(
                f"{count} of {len(texts)} instructions read the same, {text[:60]!r}: some would keep their own"
            )
    order = list(texts)
    rng.shuffle(order)
    for place, own in enumerate(texts):
        if order[place] == own:  # there is one to change with: `own` is at most half of either list
            others = [i for i, text in enumerate(order) if own not in (text, texts[i])]
            other = rng.choice(others)
            order[place], order[other] = order[other], order[place]
    return order


def random_instructions(texts: Texts, rng: random.Random) -> Texts:
    """For each instruction as many words, drawn from those of all instructions and joined by single blanks."""
    words = [word for text in texts for word in text.split()]
    return [" ".join(rng.choice(words) for _ in text.split()) for text in texts]


def cut_responses(texts: Texts, rng: random.Random) -> Texts:
    """The beginning of each response: a random number of its words, at least one and not all where there are several.

    No response may be blank.
    """
    cut = []
    for text in texts:
        ends = [word.end() for word in re.finditer(r"\S+", text)]
        cut.append(text[: ends[rng.randint(1, max(1, len(ends) - 1)) - 1]])
    return cut


ALTERATIONS: dict[str, tuple[str, Callable[[Texts, random.Random], Texts]]] = {  # whose turns, and how
    "shuffle_instructions": ("user", shuffle_instructions),
    "random_instructions": ("user", random_instructions),
    "cut_responses": ("assistant", cut_responses),
}


def alter(conversations: Sequence[Conversation], how: str, *, seed: str) -> list[list[dict[str, str]]]:
    """Conversations with the turns of one role altered; the same for the same seed. The given ones stay as they are."""
    role, change = ALTERATIONS[how]
    return with_turns(conversations, role, change(turns(conversations, role), random.Random(f"{how}/{seed}")))


def other_responses(
    conversations: Sequence[Conversation], lenders: Sequence[Conversation]
) -> list[list[dict[str, str]]]:
    """The instructions of some conversations with the responses of others, both in their order.

    Raises AlterationError where the others have fewer responses; what they have more is not used.
    """
    needed, lent = len(turns(conversations, "assistant")), turns(lenders, "assistant")
    if len(lent) < needed:
        raise AlterationError(f"{needed} responses are to be replaced, but there are {len(lent)} to replace them with")
    return with_turns(conversations, "assistant", lent)


def turns(conversations: Sequence[Conversation], role: str) -> Texts:
    """What a role says in all conversations, in order."""
    return [message["content"] for messages in conversations for message in messages if message["role"] == role]


def with_turns(conversations: Sequence[Conversation], role: str, texts: Iterable[str]) -> list[list[dict[str, str]]]:
    """Conversations in which a role says ``texts`` in place of what it said, in order."""
    said = iter(texts)
    return [
        [{**message, "content": next(said)} if message["role"] == role else dict(message) for message in messages]
        for messages in conversations
    ]
