"""Responses that do not restate their instruction: the no-rephrase dataset (paper, appendix C).

A language model is asked whether each response begins by restating its instruction, and rewrites those that do. All
rows are kept; the authors' script loses the first one to an off-by-one error.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from implicit.servers.answers import Answers
from implicit.servers.chat_client import (
    Asked,
    BudgetGuard,
    ChatServer,
    Question,
    ask,
    completion_limit,
    estimate_tokens,
)
from implicit.servers.replies import choice_text

PLACEHOLDERS = ("instruction", "response")
VERDICT = re.compile(r"####\s*(YES|NO)\b")


class RewritingError(ValueError):
    """Templates or conversations that cannot be used."""


class IncompleteRewriting(RuntimeError):
    """Some turns have no verdict or no new response: a dataset without them would be a different one."""


@dataclass(frozen=True)
class Turn:
    """A user's message and the assistant's answer; ``row`` and ``place`` are the position of the answer."""

    row: int
    place: int
    instruction: str
    response: str


@dataclass(frozen=True)
class Rewritten:
    """The new conversations, how many turns were checked and rewritten, and the requests that this took.

    ``kept_characters`` is the length of the rewritten responses as a share of the original ones, in characters.
    """

    rows: list[dict[str, Any]]
    turns: int
    flagged: int
    kept_characters: float | None
    detected: Asked
    rewritten: Asked


def find_turns(rows: Sequence[dict[str, Any]]) -> list[Turn]:
    """Find every assistant answer to a user message, in order. Rows hold ``messages`` with role and content."""
    return [
        Turn(row=i, place=place + 1, instruction=asked["content"], response=answered["content"])
        for i, row in enumerate(rows)
        for place, (asked, answered) in enumerate(zip(row["messages"], row["messages"][1:], strict=False))
        if (asked["role"], answered["role"]) == ("user", "assistant")
    ]


def fill(template: str, turn: Turn) -> str:
    """Fill a template with a turn's texts, in a single pass: a placeholder inside a text is left as it is."""
    texts = {"instruction": turn.instruction, "response": turn.response}
    return re.sub(r"\{(instruction|response)\}", lambda found: texts[found.group(1)], template)


def check_templates(**templates: str) -> None:
    """Raise RewritingError, with the template's name, if a placeholder is missing."""
    for name, template in templates.items():
        missing = [f"{{{key}}}" for key in PLACEHOLDERS if f"{{{key}}}" not in template]
        if missing:
            raise RewritingError(f"rewriting.{name}: the template lacks {' and '.join(missing)}")


def restates(answer: str) -> bool | None:
    """The verdict in an answer, `#### YES` or `#### NO`; None if it contains neither or both."""
    found = set(VERDICT.findall(answer))
    return found == {"YES"} if len(found) == 1 else None


def answer_text(choice: dict[str, Any]) -> str:
    """The text of an answer without preceding reasoning, which must not be trained on."""
    return choice_text(choice).rpartition("</think>")[2].strip()


def verdict_fault(choice: dict[str, Any]) -> str | None:
    """Why a verdict is invalid, or None."""
    text = answer_text(choice)
    return f"expected either '#### YES' or '#### NO' in {text[:200]!r}" if restates(text) is None else None


def rewrite_fault(choice: dict[str, Any]) -> str | None:
    """Why a rewritten response is invalid, or None: a truncated one would be trained on as if it were complete."""
    if choice.get("finish_reason") == "length":
        return "the rewritten response is cut off: raise max_tokens in rewriting.server.request"
    try:
        return None if answer_text(choice).encode() else "the rewritten response is empty"
    except UnicodeEncodeError:
        return "the rewritten response contains an unpaired surrogate"


def rewrite(
    rows: Sequence[dict[str, Any]],
    *,
    detect: str,
    rewrite: str,
    server: ChatServer,
    answers: Answers,
    budget: BudgetGuard | None = None,
) -> Rewritten:
    """Check every turn with the template ``detect``, and rewrite those that restate with the template ``rewrite``.

    Raises RewritingError for invalid templates and IncompleteRewriting, with the rows, when answers are missing; those
    received are kept in ``answers``.
    """
    check_templates(detect=detect, rewrite=rewrite)
    turns = find_turns(rows)

    def put(kind: str, asked_of: Sequence[Turn], template: str, fault: Callable[[dict[str, Any]], str | None]) -> Asked:
        limit = completion_limit(server.request)
        questions = []
        for turn in asked_of:
            prompt = fill(template, turn)
            expected = min(limit, 10 if kind == "detect" else estimate_tokens(len(turn.response)))
            questions.append(Question([{"role": "user", "content": prompt}], estimate_tokens(len(prompt)), expected))
        asked = ask(questions, kind=kind, server=server, answers=answers, fault=fault, budget=budget)
        if asked.failures:
            places = [rows[asked_of[i].row]["id"] for i in sorted(asked.failures)]
            why = list(dict.fromkeys(asked.failures.values()))
            raise IncompleteRewriting(
                f"{len(places)} of {len(asked_of)} turns have no answer to `{kind}`: rows {places[:20]}; reasons: "
                f"{'; '.join(why[:3])}. Answers received so far are kept: run the command again for the rest"
            )
        return asked

    detected = put("detect", turns, detect, verdict_fault)
    flagged = [turn for turn, a in zip(turns, detected.answers, strict=True) if restates(answer_text(a.content))]
    answers.log(f"{len(flagged)} of {len(turns)} responses restate their instruction")
    done = put("rewrite", flagged, rewrite, rewrite_fault)
    messages = [[dict(message) for message in row["messages"]] for row in rows]
    for turn, answer in zip(flagged, done.answers, strict=True):
        messages[turn.row][turn.place]["content"] = answer_text(answer.content)
    left = sum(len(messages[turn.row][turn.place]["content"]) for turn in flagged)
    return Rewritten(
        rows=[dict(row) | {"messages": new} for row, new in zip(rows, messages, strict=True)],
        turns=len(turns),
        flagged=len(flagged),
        kept_characters=left / sum(len(turn.response) for turn in flagged) if flagged else None,
        detected=detected,
        rewritten=done,
    )
