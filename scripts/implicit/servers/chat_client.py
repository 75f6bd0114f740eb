"""Questions to an OpenAI-compatible server: many in parallel, retried with growing pauses, every answer kept.

An answer that cannot be read (empty, refused, or without the requested log-probabilities) counts as missing: it is
requested again, never kept, and reported at the end. One that would be the same if requested again also counts as
missing, but is kept. An error that retrying cannot fix, such as a wrong key, stops everything at once with one message.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol, Self

from implicit.progress import Progress
from implicit.servers.answers import Answer, Answers, answer_key
from implicit.servers.connections import ServerError, connect, read_key, without_key
from implicit.servers.replies import may_pass, pause_asked_for, read_completion, tokens_used

if TYPE_CHECKING:
    import openai

LONGEST_PAUSE = 60.0  # seconds, for our own pauses
STOP_AFTER = 10  # consecutive questions without an answer after which the rest are not sent
UNLIMITED_TOKENS = 256  # assumed length of an answer if the request sets no limit; only for the estimate
OURS = ("model", "messages", "stream", "n", "api_key", "extra_headers")  # keys that a request may not set


class LastingFault(str):
    """A fault of an answer that can be read but would be the same if requested again, such as a low label share."""


@dataclass(frozen=True)
class ChatServer:
    """A server and how to send it requests. ``request`` is included unchanged in every request.

    Prices are per million tokens, None if unknown; ``timeout`` and ``pause`` are in seconds.
    """

    base_url: str
    model: str
    key_variable: str
    request: dict[str, Any] = field(default_factory=dict)
    input_price: float | None = 0.0
    output_price: float | None = 0.0
    requests: int = 8
    timeout: float = 120.0
    attempts: int = 6
    pause: float = 1.0  # before the second attempt; doubled before each later one

    @classmethod
    def from_settings(cls, settings: dict[str, Any], **asking: Any) -> Self:
        """Create a server from a section of the config, whose `price` is null if it is unknown."""
        given = {key: value for key, value in settings.items() if key != "price"}
        price = settings["price"] or {"input": None, "output": None}
        return cls(**given, input_price=price["input"], output_price=price["output"], **asking)

    def price(self, prompt_tokens: float, completion_tokens: float) -> float | None:
        """The price of this many tokens."""
        if self.input_price is None or self.output_price is None:
            return None
        return (prompt_tokens * self.input_price + completion_tokens * self.output_price) / 1e6


@dataclass(frozen=True)
class Question:
    """Messages for the server, and the numbers of tokens that the request is estimated to use."""

    messages: list[dict[str, str]]
    prompt_tokens: float
    completion_tokens: float


@dataclass
class Asked:
    """The results of asking questions, in their order; more results can be added.

    ``failures`` gives the reason for each index without an answer, or whose answer has a LastingFault. ``calls``,
    ``spent`` and ``unpriced`` (the number of calls of unknown price) cover this run, including answers that could not
    be read; the tokens and the price in the summary cover the answers used, whenever they were requested.
    """

    answers: list[Answer | None] = field(default_factory=list)
    failures: dict[int, str] = field(default_factory=dict)
    calls: int = 0
    cached: int = 0
    spent: float = 0.0
    unpriced: int = 0

    def add(self, other: "Asked") -> None:
        """Append the results of another round of questions."""
        self.failures |= {len(self.answers) + place: reason for place, reason in other.failures.items()}
        self.answers += other.answers
        self.calls += other.calls
        self.cached += other.cached
        self.spent += other.spent
        self.unpriced += other.unpriced

    def summary(self) -> dict[str, Any]:
        """Calls, tokens and price for a record; the date is the UTC day of the newest answer."""
        used = [answer for answer in self.answers if answer is not None]
        return {
            "date": max((answer.time[:10] for answer in used), default=None),
            "calls": self.calls,
            "cached": self.cached,
            "prompt_tokens": sum(answer.prompt_tokens for answer in used),
            "completion_tokens": sum(answer.completion_tokens for answer in used),
            "price": _sum([answer.price for answer in used]),
            "price_now": None if self.unpriced else self.spent,
            "unpriced_calls": sum(answer.price is None for answer in used),
        }


class BudgetGuard(Protocol):
    """Enforces a ceiling: each method raises an error if it would be exceeded, which stops the requests."""

    def begin(self, price: float) -> None:
        """Reserve the estimated price of all questions together, before the first is sent."""

    def spend(self, price: float) -> None:
        """Count the estimated price of one request before it is sent; never called concurrently."""

    def correct(self, difference: float) -> None:
        """Count by how much an answer's price differs from its estimate, once the answer is kept."""


def estimate_tokens(characters: float, *, alpaca_eval_2: bool = False) -> float:
    """Estimate the number of tokens in a prompt.

    In general, a quarter of its characters. For AlpacaEval 2's prompt, ``characters`` counts only the instruction and
    both outputs: 312 + 0.2 * characters, a fit to 40,931 judgements of the public leaderboard, within 2 % in total.
    """
    return 312 + 0.2 * characters if alpaca_eval_2 else characters / 4


def completion_limit(request: dict[str, Any]) -> float:
    """The maximum number of tokens in an answer under a request's settings, or a guess if they set no limit."""
    return request.get("max_completion_tokens") or request.get("max_tokens") or UNLIMITED_TOKENS


def is_kept(fault: str | None) -> bool:
    """Whether an answer with this fault (None if it has none) is kept."""
    return fault is None or isinstance(fault, LastingFault)


def unknown_price(what: str) -> str:
    """The error message if there is a ceiling and the price of requests is unknown."""
    return (
        f"{what}: ceilings.price is set, but the price is not known. Give the price ({{input, output}} of a server, "
        "price_per_token in an evaluator's completions_kwargs), or set ceilings.price: null"
    )


def utc_now() -> str:
    """The current time, in the format stored with an answer."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def check_request(request: dict[str, Any]) -> None:
    """Raise ServerError if a request's settings contain keys that they may not set."""
    wrong = [name for name in OURS if name in request]
    if wrong:
        raise ServerError(f"server.request: {', '.join(wrong)} cannot be set there")


def ask(
    questions: Sequence[Question],
    *,
    kind: str,
    server: ChatServer,
    answers: Answers,
    fault: Callable[[dict[str, Any]], str | None],
    budget: BudgetGuard | None = None,
) -> Asked:
    """Ask every question that is not in ``answers``; each answer is kept there at once.

    An answer's content is the first choice of the server's reply, unchanged. ``fault`` says what is wrong with it, or
    None. A faulty answer is requested again; with a LastingFault it is kept, and only another run asks again. Errors
    that ``budget`` raises stop everything. Progress is written to the log of ``answers``.

    Raises ServerError if retrying cannot help. Answers that arrive while the requests are being stopped are kept too.
    """
    check_request(server.request)
    keys = [answer_key(kind, server.model, question.messages, server.request) for question in questions]
    held = {key: answers.get(key) for key in keys}
    known = {key for key, answer in held.items() if answer is not None and fault(answer.content) is None}
    pending = {key: question for key, question in zip(keys, questions, strict=True) if key not in known}
    tokens = [sum(q.prompt_tokens for q in pending.values()), sum(q.completion_tokens for q in pending.values())]
    price = server.price(*tokens)
    answers.log(
        f"{server.model}: {len(questions)} questions, {len(questions) - len(pending)} already answered; {len(pending)} "
        f"to ask: about {sum(tokens):,.0f} tokens, price {'unknown' if price is None else f'{price:,.4f}'}"
    )
    if pending and budget is not None:
        if price is None:
            raise ServerError(unknown_price(server.model))
        budget.begin(price)
    asking = _Asking(server, answers, fault, budget)
    reasons = asking.run(pending) if pending else {}
    return Asked(
        answers=[answers.get(key) if is_kept(reasons.get(key)) else None for key in keys],
        failures={place: reasons[key] for place, key in enumerate(keys) if key in reasons},
        calls=asking.calls,
        cached=sum(key in known for key in keys),
        spent=asking.spent,
        unpriced=asking.unpriced,
    )


class _Asking:
    """One round of questions: the state that its threads share."""

    def __init__(
        self,
        server: ChatServer,
        answers: Answers,
        fault: Callable[[dict[str, Any]], str | None],
        budget: BudgetGuard | None,
    ) -> None:
        self.server, self.answers, self.fault, self.budget = server, answers, fault, budget
        self.calls, self.spent, self.unpriced = 0, 0.0, 0
        self.lock, self.stop = threading.Lock(), threading.Event()

    def run(self, pending: dict[str, Question]) -> dict[str, str]:
        """Ask all of ``pending``; returns the reason for each key that has no answer."""
        self.key = read_key(self.server.base_url, self.server.key_variable)
        client = connect(self.server.base_url, self.key, timeout=self.server.timeout)
        reasons: dict[str, str] = {}
        without = done = 0
        progress = Progress(len(pending), "questions", log=self.answers.log)
        with client, ThreadPoolExecutor(max_workers=self.server.requests) as pool:
            futures = {pool.submit(self.ask_one, client, key, question): key for key, question in pending.items()}
            try:
                for future in as_completed(futures):
                    reason = future.result()
                    done += 1
                    without = 0 if reason is None else without + 1
                    if reason is not None:
                        reasons[futures[future]] = reason
                        if not self.stop.is_set():
                            often = 1 if isinstance(reason, LastingFault) else self.server.attempts
                            self.answers.log(f"no answer after {often} attempts: {reason}")
                    if without == STOP_AFTER and done < len(pending) and not self.stop.is_set():
                        self.answers.log(f"{STOP_AFTER} questions in a row have no answer: the rest are not sent")
                        self.stop.set()
                    progress.advance()
            finally:  # threads that are pausing or waiting end; those with a request in progress finish it
                self.stop.set()
        self.answers.log(f"{len(pending):,} questions, {len(pending) - len(reasons):,} answered")
        return reasons

    def ask_one(self, client: "openai.OpenAI", key: str, question: Question) -> str | None:
        """Ask one question until its answer can be read and is kept. Returns what is wrong with it, or None."""
        import openai

        try:
            reason, asked_pause = "", None
            for attempt in range(self.server.attempts):
                if attempt:
                    pause = min(self.server.pause * 2 ** (attempt - 1), LONGEST_PAUSE)
                    self.stop.wait(pause if asked_pause is None else max(pause, asked_pause))
                with self.lock:
                    if self.stop.is_set():
                        return reason or "not sent"
                    if self.budget is not None:
                        self.budget.spend(self.server.price(question.prompt_tokens, question.completion_tokens))
                asked_pause = None
                try:
                    reply = client.chat.completions.with_raw_response.create(
                        model=self.server.model, messages=question.messages, extra_body=self.server.request
                    )
                except openai.APIStatusError as error:
                    if not may_pass(error):
                        raise ServerError(self.explain(error)) from None
                    reason, asked_pause = f"status {error.status_code}", pause_asked_for(error)
                    continue
                except openai.APIConnectionError as error:  # includes timeouts
                    reason = f"{type(error).__name__}: {error}"
                    continue
                reason = self.keep(key, question, without_key(reply.text, self.key))
                if not reason or isinstance(reason, LastingFault):
                    return reason or None
            return reason
        except BaseException:
            self.stop.set()
            raise

    def keep(self, key: str, question: Question, text: str) -> str:
        """Keep the answer in a reply. Returns what is wrong with it, and does not keep it if that may be temporary."""
        reply = read_completion(text)
        if reply is None:
            return f"the reply is not a chat completion: {text[:200]!r}"
        choice = reply["choices"][0]
        tokens = [
            tokens_used(reply, "prompt_tokens", question.prompt_tokens),
            tokens_used(reply, "completion_tokens", question.completion_tokens),
        ]
        price = self.server.price(*tokens)
        wrong = self.fault(choice)
        if is_kept(wrong):
            model = str(reply.get("model") or self.server.model)
            self.answers.add(Answer(key, model, choice, *tokens, price, utc_now()))
        with self.lock:
            self.calls += 1
            self.spent += price or 0.0
            self.unpriced += price is None
            if self.budget is not None:
                self.budget.correct(price - self.server.price(question.prompt_tokens, question.completion_tokens))
        return wrong or ""

    def explain(self, error: "openai.APIStatusError") -> str:
        """The error message: the server, the status, the server's own message, and what to check."""
        check = {
            400: "the settings in server.request, and that the prompts fit the model's context",
            401: f"the key in the environment variable {self.server.key_variable}",
            403: f"the key in the environment variable {self.server.key_variable}, and its permissions",
            404: f"server.base_url (most end in /v1) and server.model, here {self.server.model!r}",
            429: "the account's credit",
        }.get(error.status_code, "server.base_url, server.model and server.request")
        message = " ".join(without_key(str(error.message), self.key).split())[:300]
        return f"{self.server.base_url} answers with status {error.status_code}: {message}. Check {check}"


def _sum(prices: Sequence[float | None]) -> float | None:
    """The sum, or None if a price is unknown."""
    return None if any(price is None for price in prices) else float(sum(prices))
