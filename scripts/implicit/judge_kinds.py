"""The four kinds of judge: the tiny world's oracle, an evaluator of alpaca-eval's, a server, and a local model."""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from alpaca_eval import completion_parsers
from alpaca_eval.constants import EVALUATORS_CONFIG_DIR
from alpaca_eval.decoders import get_fn_completions
from alpaca_eval.decoders.openai import _get_price_per_token, _requires_chatml
from alpaca_eval.utils import get_module_attribute, prompt_to_chatml

from implicit.answers import Answer, Answers, answer_key
from implicit.chat_client import (
    Asked,
    ChatServer,
    Purse,
    Question,
    ServerError,
    ask,
    choice_text,
    completion_limit,
    estimate_tokens,
    utc_now,
)
from implicit.judge import (
    LABELS,
    MARK,
    PLACEHOLDERS,
    Judge,
    JudgeError,
    check_pairs,
    check_template,
    fault_of,
    protect,
    text_preference,
    weighted_preference,
)
from implicit.local_judge import as_choice, encode_messages, label_tokens, score_labels, special_texts
from implicit.oracle import answer_prompts

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PREFERENCES = {"output_1": 1.0, "output_2": 2.0, "tie": 1.5}
EVALUATORS = Path(EVALUATORS_CONFIG_DIR)
ALPACA_EVAL_2 = EVALUATORS / "alpaca_eval_clf_gpt4_turbo" / "alpaca_eval_clf.txt"
OPENAI = "https://api.openai.com/v1"
# What alpaca-eval's own function for OpenAI sets where a config does not, and what of a config is not for the server.
OPENAI_DEFAULTS = {"max_tokens": 2048, "top_p": 1.0, "temperature": 0.7}
NOT_SENT = ("model_name", "price_per_token", "num_procs", "batch_size", "is_strip", "n_retries", "sleep_time")
NOT_SUPPORTED = ("tokens_to_favor", "tokens_to_avoid", "client_config_path", "openai_api_keys", "openai_api_base")
CHUNK = 8  # prompts that a completions function of alpaca-eval's own is given at a time; then their answers are kept


def to_messages(prompt: str) -> list[dict[str, str]]:
    """A filled template as messages: its turns where it is in ChatML, else a single user's."""
    prompt = prompt.strip()
    return prompt_to_chatml(prompt) if prompt.startswith("<|im_start|>") else [{"role": "user", "content": prompt}]


def oracle_judge(opponent: Sequence[dict[str, Any]], model: Sequence[dict[str, Any]], *, name: str = "oracle") -> Judge:
    """The tiny world's judge, for rows that hold a ``quality`` as well: the better one wins, equal ones are a tie."""
    check_pairs(opponent, model)
    qualities = {
        (protect(row["instruction"]), protect(row["output"])): row["quality"]
        for side in (opponent, model)
        for row in side
    }
    return Judge(
        name=name,
        kind="oracle",
        model=None,
        template=MARK.join(f"{{{placeholder}}}" for placeholder in PLACEHOLDERS),
        complete=lambda prompts: answer_prompts(prompts, qualities=qualities, mark=MARK)["completions"],
        parse=lambda completion: [PREFERENCES.get(completion)],
    )


def server_judge(
    *,
    name: str,
    server: ChatServer,
    answers: Answers,
    template: str | None = None,
    answer: str = "logprobs",
    log: Callable[[str], None] = lambda line: None,
    purse: Purse | None = None,
) -> Judge:
    """A judge behind an OpenAI-compatible server; ``answer`` is `logprobs` (weighted) or `text` (the label)."""
    if answer == "logprobs" and not (server.request.get("logprobs") and server.request.get("top_logprobs")):
        raise JudgeError("judge.answer: 'logprobs' needs `logprobs: true` and `top_logprobs` in judge.server.request")
    template = ALPACA_EVAL_2.read_text(encoding="utf-8") if template is None else template
    check_template(template)
    parse = weighted_preference if answer == "logprobs" else text_preference
    judge = Judge(name, "server", server.model, template, complete=lambda prompts: [], parse=parse)
    return replace(judge, complete=partial(_complete_by_server, judge, server, answers, None, log, purse))


def _complete_by_server(
    judge: Judge,
    server: ChatServer,
    answers: Answers,
    present: Callable[[Answer], Any] | None,
    log: Callable[[str], None],
    purse: Purse | None,
    prompts: list[str],
) -> list[Any]:
    """Ask a server; ``present`` shapes an answer's content for the judge's parser."""
    known = judge.template.strip() == ALPACA_EVAL_2.read_text(encoding="utf-8").strip()
    fixed = len(judge.template) if known else 0
    limit = completion_limit(server.request)
    questions = [
        Question(to_messages(prompt), estimate_tokens(len(prompt) - fixed, alpaca_eval_2=known), limit)
        for prompt in prompts
    ]
    asked = ask(
        questions,
        kind=judge.kind,
        server=server,
        answers=answers,
        fault=lambda choice: fault_of(judge, choice if present is None else present(choice)),
        log=log,
        purse=purse,
    )
    judge.asked.add(asked)
    shaped = [None if answer is None else answer.content for answer in asked.answers]
    return shaped if present is None else [None if choice is None else present(choice) for choice in shaped]


def evaluator_judge(
    *,
    name: str,
    evaluator: str,
    answers: Answers,
    requests: int = 8,
    timeout: float = 120.0,
    attempts: int = 6,
    pause: float = 1.0,
    log: Callable[[str], None] = lambda line: None,
    purse: Purse | None = None,
) -> Judge:
    """An evaluator as alpaca-eval defines it: one that it ships, by name, or the user's folder or YAML file.

    Template, parser and settings are the config's. Where its completions are OpenAI's, our client asks instead, at
    OPENAI_BASE_URL with OPENAI_API_KEY, so that answers are kept and tried again; other functions are called as they
    are, a few prompts at a time. Raises JudgeError for a config that cannot be used.
    """
    settings, template = read_evaluator(evaluator)
    batch_size = settings.pop("batch_size", 1)
    check_template(template, pairs=batch_size)
    parser = settings.pop("fn_completion_parser", "regex_parser")
    parse = partial(
        get_module_attribute(completion_parsers, parser), **settings.pop("completion_parser_kwargs", None) or {}
    )
    function, given = (
        settings.pop("fn_completions", "openai_completions"),
        settings.pop("completions_kwargs", None) or {},
    )
    key = settings.pop("completion_key", "completions")
    options = {option: value for option, value in settings.items() if option not in ("pretty_name", "link")}
    model = given.get("model_name")
    judge = Judge(name, "evaluator", model, template, lambda prompts: [], parse, batch_size, options)
    if function == "openai_completions":
        server = openai_server(evaluator, given, requests=requests, timeout=timeout, attempts=attempts, pause=pause)
        present = choice_text if key == "completions" else partial(_with_text)
        complete = partial(_complete_by_server, judge, server, answers, present, log, purse)
    else:
        complete = partial(_complete_by_function, judge, function, given, key, answers, log, purse)
    return replace(judge, complete=complete)


def read_evaluator(evaluator: str) -> tuple[dict[str, Any], str]:
    """An evaluator's settings, without its template's name, and the template. Raises JudgeError."""
    path = Path(evaluator) if Path(evaluator).exists() else EVALUATORS / evaluator
    path = path / "configs.yaml" if path.is_dir() else path
    if not path.is_file():
        shipped = ", ".join(sorted(folder.parent.name for folder in EVALUATORS.glob("*/configs.yaml")))
        raise JudgeError(
            f"judge.evaluator: no folder or file {evaluator!r}, and alpaca-eval ships none of that name: {shipped}"
        )
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise JudgeError(f"judge.evaluator: {path} is no YAML: {error}") from None
    if not isinstance(config, dict) or len(config) != 1:
        raise JudgeError(f"judge.evaluator: {path} must define exactly one annotator, by name")
    settings = next(iter(config.values()))
    if not isinstance(settings, dict):
        raise JudgeError(f"judge.evaluator: {path}: its annotator must be a mapping of settings, not {settings!r:.60}")
    settings = dict(settings)
    template = path.resolve().parents[1] / settings.pop("prompt_template", "")
    if not template.is_file():
        raise JudgeError(f"judge.evaluator: {path}: its prompt_template {template} is no file")
    try:
        return settings, template.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise JudgeError(f"judge.evaluator: {template} is no UTF-8 text: {error}") from None


def openai_server(
    evaluator: str, given: dict[str, Any], *, requests: int, timeout: float, attempts: int, pause: float
) -> ChatServer:
    """The server that an evaluator's OpenAI settings ask, as alpaca-eval's function would. Raises JudgeError."""
    model = given.get("model_name")
    if not model:
        raise JudgeError(f"judge.evaluator: {evaluator} names no model_name in completions_kwargs")
    unsupported = [name for name in NOT_SUPPORTED if given.get(name) is not None]
    if unsupported:
        raise JudgeError(f"judge.evaluator: {evaluator}: {', '.join(unsupported)} cannot be used here; leave it out")
    if not given.get("is_chat", given.get("requires_chatml", _requires_chatml(model))):
        raise JudgeError(f"judge.evaluator: {evaluator}: {model!r} is no chat model, which alone can be asked here")
    kept = {name: value for name, value in given.items() if name not in (*NOT_SENT, "is_chat", "requires_chatml")}
    client = kept.pop("client_kwargs", None) or {}
    price = float(_get_price_per_token(model, given.get("price_per_token"))) * 1e6
    return ChatServer(
        base_url=os.environ.get("OPENAI_BASE_URL") or client.get("base_url") or OPENAI,
        model=model,
        key_variable="OPENAI_API_KEY",
        request={name: value for name, value in (OPENAI_DEFAULTS | kept).items() if value is not None},
        input_price=None if math.isnan(price) else price,
        output_price=None if math.isnan(price) else price,
        requests=requests,
        timeout=timeout,
        attempts=attempts,
        pause=pause,
    )


def _with_text(choice: dict[str, Any]) -> dict[str, Any]:
    """A choice in the shape of alpaca-eval's ``completions_all``."""
    return choice | {"text": choice_text(choice)}


def _complete_by_function(
    judge: Judge,
    function: str,
    given: dict[str, Any],
    key: str,
    answers: Answers,
    log: Callable[[str], None],
    purse: Purse | None,
    prompts: list[str],
) -> list[Any]:
    """Let one of alpaca-eval's other completions functions answer, and keep what can be read."""
    try:
        complete = get_fn_completions(function)
    except (ImportError, ValueError) as error:
        raise JudgeError(f"judge.evaluator: its {function} cannot be used: {error}") from None
    model, per_token = str(judge.model), given.get("price_per_token")
    if purse is not None and per_token is None:
        raise ServerError(f"the price of {model} is not known, and there is a ceiling: give its price_per_token")
    keys = [answer_key(judge.kind, model, prompt, {"function": function} | given) for prompt in prompts]
    held = {k: answers.get(k) for k in keys}
    pending = [i for i, k in enumerate(keys) if held[k] is None or fault_of(judge, held[k].content) is not None]
    log(f"{model}: {len(prompts)} prompts, {len(prompts) - len(pending)} answered before; to ask {len(pending)}")
    asked = Asked(calls=len(pending), cached=len(prompts) - len(pending))
    if purse is not None:
        estimates = {i: estimate_tokens(len(prompts[i])) * float(per_token) for i in pending}
        purse.begin(sum(estimates.values()))
    for start in range(0, len(pending), CHUNK):
        chunk = pending[start : start + CHUNK]
        if purse is not None:
            purse.spend(sum(estimates[i] for i in chunk))
        result = complete(prompts=[prompts[i] for i in chunk], **given)
        prices = result.get("price_per_example") or [None] * len(chunk)
        for i, content, price in zip(chunk, result[key], prices, strict=True):
            price = None if price is None or math.isnan(price) else float(price)
            asked.spent = None if price is None or asked.spent is None else asked.spent + price
            wrong = fault_of(judge, content)
            if wrong is None:
                answers.add(Answer(keys[i], model, content, 0, 0, price, utc_now()))
            else:
                asked.failures[i] = wrong
            if purse is not None and price is not None:
                purse.correct(price - estimates[i])
    asked.answers = [None if i in asked.failures else answers.get(k) for i, k in enumerate(keys)]
    judge.asked.add(asked)
    return [None if answer is None else answer.content for answer in asked.answers]


def local_judge(
    *,
    name: str,
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    identity: str,
    answers: Answers,
    template: str | None = None,
    labels: Sequence[str] = LABELS,
    batch_tokens: int = 8192,
    log: Callable[[str], None] = lambda line: None,
) -> Judge:
    """A model on this machine; ``identity`` says which, weights included, and is part of the answers' keys."""
    template = ALPACA_EVAL_2.read_text(encoding="utf-8") if template is None else template
    check_template(template)
    tokens = label_tokens(tokenizer, labels)
    asked = Asked()

    def complete(prompts: list[str]) -> list[Any]:
        conversations = [to_messages(prompt) for prompt in prompts]
        request = {"labels": list(labels), "dtype": str(model.dtype)}
        keys = [answer_key("local", identity, messages, request) for messages in conversations]
        pending = [i for i, key in enumerate(keys) if answers.get(key) is None]
        log(f"{name}: {len(keys)} prompts, {len(keys) - len(pending)} answered before; {len(pending)} to answer")
        encoded = [encode_messages(tokenizer, conversations[i]) for i in pending]

        def done(place: int, logprobs: list[float]) -> None:
            content = as_choice(labels, logprobs)
            answers.add(Answer(keys[pending[place]], identity, content, len(encoded[place]), 0, 0.0, utc_now()))

        score_labels(model, encoded, tokens, batch_tokens=batch_tokens, done=done)
        found = [answers.get(key) for key in keys]
        asked.add(Asked(answers=found, calls=len(pending), cached=len(keys) - len(pending)))
        return [answer.content for answer in found]

    return Judge(
        name=name,
        kind="local",
        model=identity,
        template=template,
        complete=complete,
        parse=partial(weighted_preference, labels=labels),
        special=tuple(special_texts(tokenizer)),
        asked=asked,
    )
