"""Turns of a conversation that tuning does not use."""

from collections.abc import Sequence


def unanswered(messages: Sequence[dict[str, str]]) -> int:
    """Count the turns after the last response: they have nothing to train on, and ``render.segments`` drops them."""
    roles = [message["role"] for message in reversed(messages)]
    return roles.index("assistant") if "assistant" in roles else len(roles)
