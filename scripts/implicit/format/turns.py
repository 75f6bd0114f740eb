"""The turns of a conversation that tuning does not use."""

from collections.abc import Sequence


def unanswered(messages: Sequence[dict[str, str]]) -> int:
    """How many turns come after the last response: there is nothing to train on, and ``render.segments`` drops them."""
    roles = [message["role"] for message in reversed(messages)]
    return roles.index("assistant") if "assistant" in roles else len(roles)
