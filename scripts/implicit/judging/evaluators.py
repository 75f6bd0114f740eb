"""Judges as alpaca-eval defines them: a config with a template, a completions function, a parser and their settings."""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from alpaca_eval import completion_parsers
from alpaca_eval.decoders import get_fn_completions
from alpaca_eval.decoders.openai import _get_price_per_token, _requires_chatml
from alpaca_eval.utils import get_module_attribute

from implicit.judging.judge import Judge, fault_of
from implicit.judging.kinds import EVALUATORS, complete_by_server
from implicit.judging.preferences import LabelShare, parser_share
from implicit.judging.template import JudgeError, check_template, read_template
from implicit.progress import Progress
from implicit.servers.answers import Answer, Answers, answer_key
from implicit.servers.chat_client import (
    Asked,
    BudgetGuard,
    ChatServer,
    ServerError,
    estimate_tokens,
    is_kept,
    unknown_price,
    utc_now,
)
from implicit.servers.replies import choice_text

OPENAI = "https://api.openai.com/v1"
# What alpaca-eval's own OpenAI function sets if a config does not, and settings that are not sent to the server.
OPENAI_DEFAULTS = {"max_tokens": 2048, "top_p": 1.0, "temperature": 0.7}
NOT_SENT = ("model_name", "price_per_token", "num_procs", "batch_size", "is_strip", "n_retries", "sleep_time")
NOT_SUPPORTED = ("tokens_to_favor", "tokens_to_avoid", "client_config_path", "openai_api_keys", "openai_api_base")
CHUNK = 8  # prompts per call of alpaca-eval's completions functions; their answers are kept after each call

# Completions functions that run models on this machine, at no price.
WITHOUT_PRICE = ("test_completions", "huggingface_local_completions", "vllm_local_completions")


@dataclass(frozen=True)
class Evaluator:
    """The contents of an alpaca-eval config, parsed and checked."""

    name: str
    template: str
    function: str  # alpaca-eval's name for the completions function
    given: dict[str, Any]  # the arguments of that function
    key: str  # of the entry in its results that is parsed
    parse: Callable[[Any], list[float | None]]
    share: Callable[[Any], LabelShare | None]
    batch_size: int
    options: dict[str, Any]

    def price_per_token(self) -> float | None:
        """The price of a token, from the config or from alpaca-eval; None if neither has it. Raises JudgeError."""
        price = self.given.get("price_per_token")
        if price is None and self.function in WITHOUT_PRICE:
            return 0.0
        if price is None and self.function == "openai_completions":
            price = _get_price_per_token(self.given.get("model_name") or "")
            return None if math.isnan(price) else float(price)
        try:
            number = None if price is None else float(price)  # may be text: YAML does not read 8e-6 as a number
        except (TypeError, ValueError):
            number = math.nan
        if number is not None and not 0 <= number < math.inf:
            raise JudgeError(f"judge.evaluator: {self.name}: price_per_token must be a number >= 0, not {price!r}")
        return number


def load_evaluator(evaluator: str) -> Evaluator:
    """Load an evaluator as alpaca-eval defines it: one that it ships, by name, or the user's folder or YAML file.

    Raises JudgeError for a config that cannot be used.
    """
    settings, template = read_evaluator(evaluator)
    batch_size = settings.pop("batch_size", 1)
    check_template(template, pairs=batch_size)
    parser = settings.pop("fn_completion_parser", "regex_parser")
    parser_settings = settings.pop("completion_parser_kwargs", None) or {}
    parse = partial(get_module_attribute(completion_parsers, parser), **parser_settings)
    share = _share_of(parser, parser_settings)
    loaded = Evaluator(
        name=evaluator,
        template=template,
        function=settings.pop("fn_completions", "openai_completions"),
        given=settings.pop("completions_kwargs", None) or {},
        key=settings.pop("completion_key", "completions"),
        parse=parse if share is None else partial(_parse_logprobs, parse, share),
        share=_no_share if share is None else share,
        batch_size=batch_size,
        options={option: value for option, value in settings.items() if option not in ("pretty_name", "link")},
    )
    if loaded.function == "openai_completions":
        openai_server(loaded)
    loaded.price_per_token()
    return loaded


def _share_of(parser: str, settings: dict[str, Any]) -> Callable[[Any], LabelShare | None] | None:
    """A function for the labels' share of a completion if the parser reads log-probabilities; otherwise None."""
    if parser == "logprob_parser":
        return partial(parser_share, **settings)
    if parser == "pipeline_meta_parser":  # applies several parsers in turn
        within = settings.get("parsers_to_kwargs") or {}
        return next((found for name, own in within.items() if (found := _share_of(name, own or {}))), None)
    return None


def _no_share(completion: Any) -> None:
    return None


def _parse_logprobs(
    parse: Callable[[Any], list[float | None]], share: Callable[[Any], LabelShare | None], completion: Any
) -> list[float | None]:
    """Apply alpaca-eval's parser only to valid log-probabilities: it also accepts other numbers, and refusals."""
    return [] if share(completion) is None else parse(completion)


def evaluator_judge(
    *,
    name: str,
    evaluator: str,
    answers: Answers,
    floor: float,
    budget: BudgetGuard | None = None,
    **asking: Any,
) -> Judge:
    """A judge defined by an alpaca-eval config (see `load_evaluator`), with its template, parser and settings.

    If it uses OpenAI completions, our client sends the requests to OPENAI_BASE_URL with OPENAI_API_KEY, so that answers
    are kept and failures retried; ``asking`` holds further fields of ChatServer. Other functions are called as they
    are, a few prompts at a time. ``floor`` is the minimum probability of the labels if log-probabilities are read.
    """
    loaded = load_evaluator(evaluator)
    judge = Judge(
        name=name,
        kind="evaluator",
        model=loaded.given.get("model_name"),
        template=loaded.template,
        complete=lambda prompts: [],
        parse=loaded.parse,
        batch_size=loaded.batch_size,
        options=loaded.options,
        share=loaded.share,
        floor=floor,
    )
    if loaded.function == "openai_completions":
        server = openai_server(loaded, **asking)
        present = choice_text if loaded.key == "completions" else _with_text
        complete = partial(complete_by_server, judge, server, answers, present, budget)
    else:
        complete = partial(_complete_by_function, judge, loaded, answers, budget)
    return replace(judge, complete=complete)


def read_evaluator(evaluator: str) -> tuple[dict[str, Any], str]:
    """Read an evaluator's settings, without its template's name, and its template. Raises JudgeError."""
    path = Path(evaluator) if Path(evaluator).exists() else EVALUATORS / evaluator
    path = path / "configs.yaml" if path.is_dir() else path
    if not path.is_file():
        shipped = ", ".join(sorted(folder.parent.name for folder in EVALUATORS.glob("*/configs.yaml")))
        raise JudgeError(
            f"judge.evaluator: {evaluator!r} is not a folder, a file or an evaluator of alpaca-eval, which ships "
            f"{shipped}"
        )
    try:
        config = yaml.safe_load(read_template(path, key="judge.evaluator"))
    except yaml.YAMLError as error:
        raise JudgeError(f"judge.evaluator: {path} is not YAML: {error}") from None
    if not isinstance(config, dict) or len(config) != 1:
        raise JudgeError(f"judge.evaluator: {path} must define exactly one annotator, by name")
    settings = next(iter(config.values()))
    if not isinstance(settings, dict):
        raise JudgeError(f"judge.evaluator: {path}: its annotator must be a mapping of settings, not {settings!r:.60}")
    settings = dict(settings)
    template = path.resolve().parents[1] / settings.pop("prompt_template", "")
    if not template.is_file():
        raise JudgeError(f"judge.evaluator: {path}: its prompt_template {template} is not a file")
    return settings, read_template(template, key="judge.evaluator")


def openai_server(loaded: Evaluator, **asking: Any) -> ChatServer:
    """The server that alpaca-eval's function would ask with an evaluator's OpenAI settings. Raises JudgeError."""
    evaluator, given = loaded.name, loaded.given
    model = given.get("model_name")
    if not model:
        raise JudgeError(f"judge.evaluator: {evaluator}: completions_kwargs needs a model_name")
    unsupported = [name for name in NOT_SUPPORTED if given.get(name) is not None]
    if unsupported:
        raise JudgeError(f"judge.evaluator: {evaluator}: remove {', '.join(unsupported)}, which cannot be used here")
    if not given.get("is_chat", given.get("requires_chatml", _requires_chatml(model))):
        raise JudgeError(f"judge.evaluator: {evaluator}: only chat models are supported, and {model!r} is not one")
    kept = {name: value for name, value in given.items() if name not in (*NOT_SENT, "is_chat", "requires_chatml")}
    client = kept.pop("client_kwargs", None) or {}
    per_token = loaded.price_per_token()
    price = None if per_token is None else per_token * 1e6
    return ChatServer(
        base_url=os.environ.get("OPENAI_BASE_URL") or client.get("base_url") or OPENAI,
        model=model,
        key_variable="OPENAI_API_KEY",
        request={name: value for name, value in (OPENAI_DEFAULTS | kept).items() if value is not None},
        input_price=price,
        output_price=price,
        **asking,
    )


def _with_text(choice: dict[str, Any]) -> dict[str, Any]:
    """A choice in the form of alpaca-eval's ``completions_all``."""
    return choice | {"text": choice_text(choice)}


def _complete_by_function(
    judge: Judge,
    loaded: Evaluator,
    answers: Answers,
    budget: BudgetGuard | None,
    prompts: list[str],
) -> list[Any]:
    """Answer prompts with one of alpaca-eval's other completions functions, and keep the answers that can be read."""
    try:
        complete = get_fn_completions(loaded.function)
    except (ImportError, ValueError) as error:
        raise JudgeError(f"judge.evaluator: its fn_completions {loaded.function} cannot be used: {error}") from None
    model, per_token = str(judge.model), loaded.price_per_token()
    if budget is not None and per_token is None:
        raise ServerError(unknown_price(f"judge.evaluator: {loaded.name}"))
    request = {"function": loaded.function} | loaded.given
    keys = [answer_key(judge.kind, model, prompt, request) for prompt in prompts]
    held = {k: answers.get(k) for k in keys}
    pending = [i for i, k in enumerate(keys) if held[k] is None or fault_of(judge, held[k].content) is not None]
    known = len(prompts) - len(pending)
    answers.log(f"{model}: {len(prompts)} prompts, {known} already answered; {len(pending)} to ask")
    asked = Asked(calls=len(pending), cached=known)
    estimates = {i: estimate_tokens(len(prompts[i])) * (per_token or 0.0) for i in pending}
    if budget is not None:
        budget.begin(sum(estimates.values()))
    progress = Progress(len(pending), "prompts", log=answers.log)
    for start in range(0, len(pending), CHUNK):
        chunk = pending[start : start + CHUNK]
        if budget is not None:
            budget.spend(sum(estimates[i] for i in chunk))
        result = complete(prompts=[prompts[i] for i in chunk], **loaded.given)
        prices = result.get("price_per_example") or [None] * len(chunk)
        for i, content, price in zip(chunk, result[loaded.key], prices, strict=True):
            stated = price is not None and not math.isnan(price)
            price = float(price) if stated else 0.0 if per_token == 0 else None
            asked.spent += price or 0.0
            asked.unpriced += price is None
            wrong = fault_of(judge, content)
            if is_kept(wrong):
                answers.add(Answer(keys[i], model, content, 0, 0, price, utc_now()))
            if wrong is not None:
                asked.failures[i] = wrong
            if budget is not None and price is not None:
                budget.correct(price - estimates[i])
        progress.advance(len(chunk))
    answers.log(f"{len(pending):,} prompts, {len(pending) - len(asked.failures):,} answered")
    asked.answers = [answers.get(k) if is_kept(asked.failures.get(i)) else None for i, k in enumerate(keys)]
    judge.asked.add(asked)
    return [None if answer is None else answer.content for answer in asked.answers]
