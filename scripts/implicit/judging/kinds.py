"""Judges: by given qualities, by a server, and by a local model; `evaluators` has those of alpaca-eval."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from alpaca_eval.constants import EVALUATORS_CONFIG_DIR
from alpaca_eval.utils import prompt_to_chatml

from implicit.judging.judge import MARK, Judge, check_pairs, fault_of, protect, shortfall
from implicit.judging.local_judge import (
    LocalModel,
    as_choice,
    encode_messages,
    label_tokens,
    score_labels,
    special_texts,
)
from implicit.judging.oracle import prefer
from implicit.judging.preferences import LABELS, label_share, refused, text_preference, weighted_preference
from implicit.judging.template import PLACEHOLDERS, JudgeError, check_template
from implicit.progress import Progress
from implicit.servers.answers import Answer, Answers, answer_key
from implicit.servers.chat_client import (
    STOP_AFTER,
    Asked,
    BudgetGuard,
    ChatServer,
    Question,
    ask,
    completion_limit,
    estimate_tokens,
    utc_now,
)

EVALUATORS = Path(EVALUATORS_CONFIG_DIR)
ALPACA_EVAL_2 = EVALUATORS / "alpaca_eval_clf_gpt4_turbo" / "alpaca_eval_clf.txt"


def to_messages(prompt: str) -> list[dict[str, str]]:
    """A filled template as messages: its turns if it is in ChatML, otherwise a single user message."""
    prompt = prompt.strip()
    return prompt_to_chatml(prompt) if prompt.startswith("<|im_start|>") else [{"role": "user", "content": prompt}]


def quality_judge(
    opponent: Sequence[dict[str, Any]],
    model: Sequence[dict[str, Any]],
    *,
    name: str = "oracle",
    kind: str = "oracle",
    identity: str | None = None,
    temperature: float | None = None,
) -> Judge:
    """A judge for rows that also have a ``quality``: the better output wins, equal ones tie.

    With a ``temperature``, the preference is the logistic function of the difference. ``identity`` is the model that
    gave the qualities, if one did.
    """
    check_pairs(opponent, model)
    qualities = {
        (protect(row["instruction"]), protect(row["output"])): row["quality"]
        for side in (opponent, model)
        for row in side
    }

    def complete(prompts: list[str]) -> list[float]:
        shown = [prompt.split(MARK) for prompt in prompts]
        return [prefer(qualities[asked, one], qualities[asked, two], temperature) for asked, one, two in shown]

    return Judge(
        name=name,
        kind=kind,
        model=identity,
        template=MARK.join(f"{{{placeholder}}}" for placeholder in PLACEHOLDERS),
        complete=complete,
        parse=lambda preference: [preference],
    )


def server_judge(
    *,
    name: str,
    server: ChatServer,
    answers: Answers,
    template: str | None = None,
    answer: str = "logprobs",
    floor: float,
    budget: BudgetGuard | None = None,
) -> Judge:
    """A judge on an OpenAI-compatible server; ``answer`` is `logprobs` (weighted) or `text` (the label).

    ``floor`` is the minimum probability that the labels must have for a weighted preference.
    """
    if answer == "logprobs" and not (server.request.get("logprobs") and server.request.get("top_logprobs")):
        raise JudgeError("judge.answer: 'logprobs' needs `logprobs: true` and `top_logprobs` in judge.server.request")
    template = ALPACA_EVAL_2.read_text(encoding="utf-8") if template is None else template
    check_template(template)
    judge = Judge(name, "server", server.model, template, complete=lambda prompts: [], parse=text_preference)
    if answer == "logprobs":
        judge = replace(judge, parse=weighted_preference, share=label_share, floor=floor)
    return replace(judge, complete=partial(complete_by_server, judge, server, answers, None, budget))


def complete_by_server(
    judge: Judge,
    server: ChatServer,
    answers: Answers,
    present: Callable[[Answer], Any] | None,
    budget: BudgetGuard | None,
    prompts: list[str],
) -> list[Any]:
    """Ask a server; ``present`` converts an answer's content to the form that the judge's parser expects."""

    def fault(choice: dict[str, Any]) -> str | None:
        wrong = fault_of(judge, choice if present is None else present(choice))
        return wrong or ("the answer is a refusal" if refused(choice) else None)

    known = judge.template.strip() == ALPACA_EVAL_2.read_text(encoding="utf-8").strip()
    fixed = len(judge.template) if known else 0
    limit = completion_limit(server.request)
    questions = [
        Question(to_messages(prompt), estimate_tokens(len(prompt) - fixed, alpaca_eval_2=known), limit)
        for prompt in prompts
    ]
    asked = ask(questions, kind=judge.kind, server=server, answers=answers, fault=fault, budget=budget)
    judge.asked.add(asked)
    shaped = [None if answer is None else answer.content for answer in asked.answers]
    return shaped if present is None else [None if choice is None else present(choice) for choice in shaped]


def local_judge(local: LocalModel, *, name: str, answers: Answers, floor: float, template: str | None = None) -> Judge:
    """A judge that runs a model on this machine; the model's identity is part of the answers' keys.

    ``floor`` is the minimum probability that the labels must have for a preference. If the first ten prompts scored are
    all below it, the rest are not scored.
    """
    template = ALPACA_EVAL_2.read_text(encoding="utf-8") if template is None else template
    check_template(template)
    judge = Judge(
        name=name,
        kind="local",
        model=local.identity,
        template=template,
        complete=lambda prompts: [],
        parse=weighted_preference,
        special=tuple(special_texts(local.tokenizer)),
        share=label_share,
        floor=floor,
    )
    tokens = label_tokens(local.tokenizer, LABELS)
    return replace(judge, complete=partial(complete_locally, judge, local, tokens, answers))


def complete_locally(
    judge: Judge, local: LocalModel, tokens: list[list[int]], answers: Answers, prompts: list[str]
) -> list[Any]:
    """Score the labels (their ids are ``tokens``) after every prompt that is not in ``answers``."""
    conversations = [to_messages(prompt) for prompt in prompts]
    request = {"labels": list(LABELS), "dtype": str(local.model.dtype)}
    keys = [answer_key("local", local.identity, messages, request) for messages in conversations]
    pending = [i for i, key in enumerate(keys) if answers.get(key) is None]
    known = len(keys) - len(pending)
    answers.log(f"{judge.name}: {len(keys)} prompts, {known} already answered; {len(pending)} to answer")
    encoded = [encode_messages(local.tokenizer, conversations[i]) for i in pending]
    progress = Progress(len(pending), "prompts", log=answers.log)
    scored = low = 0
    for place, logprobs, others in score_labels(local.model, encoded, tokens, batch_tokens=local.batch_tokens):
        content = as_choice(LABELS, logprobs, [(local.tokenizer.decode([i]), p) for i, p in others])
        answers.add(Answer(keys[pending[place]], local.identity, content, len(encoded[place]), 0, 0.0, utc_now()))
        progress.advance()
        scored, low = scored + 1, low + (shortfall(judge, content) is not None)
        if scored == low == STOP_AFTER < len(pending):
            answers.log(f"none of the first {STOP_AFTER} answers has a preference: the rest are not scored")
            break
    answers.log(f"{scored:,} prompts answered")
    found = [answers.get(key) for key in keys]
    judge.asked.add(Asked(answers=found, calls=scored, cached=known))
    return [None if answer is None else answer.content for answer in found]
