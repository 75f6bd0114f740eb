"""Reading a server's replies: their text, the tokens used, and whether an error is transient."""

import json
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import openai

LONGEST_ASKED_PAUSE = 600.0  # seconds; limit on the pauses that a server asks for


def choice_text(choice: dict[str, Any]) -> str:
    """The text of an answer, or the arguments of the tool that it calls; empty if there is neither."""
    message = choice.get("message")
    message = message if isinstance(message, dict) else {}
    calls = message.get("tool_calls")
    call = calls[0] if isinstance(calls, list) and calls else {}
    function = (call.get("function") if isinstance(call, dict) else None) or message.get("function_call")
    arguments = function.get("arguments") if isinstance(function, dict) else None
    return str(arguments or message.get("content") or "")


def read_completion(text: str) -> dict[str, Any] | None:
    """Parse a reply whose first choice contains a message; None for any other."""
    try:
        reply = json.loads(text)
        return reply if isinstance(reply["choices"][0]["message"], dict) else None
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        return None


def tokens_used(reply: dict[str, Any], name: str, estimate: float) -> int:
    """The number of tokens used according to a reply; the estimate if it does not give a valid number."""
    usage = reply.get("usage")
    count = usage.get(name) if isinstance(usage, dict) else None
    return count if isinstance(count, int) and count >= 0 else round(estimate)


def may_pass(error: "openai.APIStatusError") -> bool:
    """Whether an error may be transient: overload or a server error, but not an empty account."""
    if error.status_code == 429:
        return error.code != "insufficient_quota"
    return error.status_code in (408, 409) or error.status_code >= 500


def pause_asked_for(error: "openai.APIStatusError") -> float | None:
    """The pause in seconds from a Retry-After header, which may also contain a date."""
    asked = error.response.headers.get("retry-after")
    if asked is None:
        return None
    try:
        seconds = float(asked)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(asked) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return None
    return min(max(seconds, 0.0), LONGEST_ASKED_PAUSE)
