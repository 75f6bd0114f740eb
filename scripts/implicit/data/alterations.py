"""Datasets altered so that one part of them teaches nothing: controls that show what tuning teaches.

Pure functions of conversations and a seed. Every user turn is treated as an instruction of its own and every assistant
turn as a response of its own, also in multi-turn conversations.
"""

import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

Conversation = Sequence[dict[str, str]]  # messages of role and content
Texts = list[str]


class AlterationError(ValueError):
    """Conversations that cannot be altered as requested."""


def shuffle_instructions(texts: Texts, rng: random.Random) -> Texts:
    """Permute the instructions so that none keeps its place or takes that of an identical one.

    Raises AlterationError if more than half of them are identical, as there is no such order.
    """
    for text, count in Counter(texts).most_common(1):
        if 2 * count > len(texts):
            raise AlterationError(
                f"{count} of {len(texts)} instructions are identical ({text[:60]!r}): some would keep their place"
            )
    order = list(texts)
    rng.shuffle(order)
    for place, own in enumerate(texts):
        if order[place] == own:  # there is one to swap with: `own` is at most half of either list
            others = [i for i, text in enumerate(order) if own not in (text, texts[i])]
            other = rng.choice(others)
            order[place], order[other] = order[other], order[place]
    return order


def random_instructions(texts: Texts, rng: random.Random) -> Texts:
    """Replace each instruction by as many words, drawn from all instructions and joined by single spaces."""
    words = [word for text in texts for word in text.split()]
    return [" ".join(rng.choice(words) for _ in text.split()) for text in texts]


def cut_responses(texts: Texts, rng: random.Random) -> Texts:
    """Cut each response after a random number of its words: at least one, and not all if there are several.

    No response may be blank.
    """
    cut = []
    for text in texts:
        ends = [word.end() for word in re.finditer(r"\S+", text)]
        cut.append(text[: ends[rng.randint(1, max(1, len(ends) - 1)) - 1]])
    return cut


ALTERATIONS: dict[str, tuple[str, Callable[[Texts, random.Random], Texts]]] = {  # whose turns, function
    "shuffle_instructions": ("user", shuffle_instructions),
    "random_instructions": ("user", random_instructions),
    "cut_responses": ("assistant", cut_responses),
}


def alter(conversations: Sequence[Conversation], how: str, *, seed: str) -> list[list[dict[str, str]]]:
    """Alter the turns of one role; the same seed gives the same result. The input is not changed."""
    role, change = ALTERATIONS[how]
    return with_turns(conversations, role, change(turns(conversations, role), random.Random(f"{how}/{seed}")))


def other_responses(
    conversations: Sequence[Conversation], lenders: Sequence[Conversation]
) -> list[list[dict[str, str]]]:
    """Combine the instructions of some conversations with the responses of others, both in order.

    Raises AlterationError if the others have fewer responses; surplus ones are not used.
    """
    needed, lent = len(turns(conversations, "assistant")), turns(lenders, "assistant")
    if len(lent) < needed:
        raise AlterationError(f"{needed} responses have to be replaced, but only {len(lent)} are available")
    return with_turns(conversations, "assistant", lent)


def turns(conversations: Sequence[Conversation], role: str) -> Texts:
    """The contents of a role's messages in all conversations, in order."""
    return [message["content"] for messages in conversations for message in messages if message["role"] == role]


def with_turns(conversations: Sequence[Conversation], role: str, texts: Iterable[str]) -> list[list[dict[str, str]]]:
    """Replace the contents of a role's messages by ``texts``, in order."""
    contents = iter(texts)
    return [
        [{**message, "content": next(contents)} if message["role"] == role else dict(message) for message in messages]
        for messages in conversations
    ]
