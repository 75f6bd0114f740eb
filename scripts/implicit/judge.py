"""Head-to-head judging through alpaca-eval's own annotator, with guards where it fails in silence.

A judge is a template, a function that completes prompts, and one that reads a preference from a completion; see
`implicit.judge_kinds` for the four kinds.
"""

import hashlib
import json
import logging
import math
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import alpaca_eval
import numpy as np
import yaml

from implicit.chat_client import Asked, choice_text

logging.getLogger().setLevel(logging.WARNING)  # importing alpaca_eval sets it to INFO: then every request is logged

MARK = "\x1e"  # between the parts of the oracle's prompt: no text holds it, see `protect`
LABELS = ("m", "M")  # of the output shown first and of the other, in AlpacaEval 2's prompt
PLACEHOLDERS = ("instruction", "output_1", "output_2")

# What a judge's prompt must not take from a judged text: the template's placeholders, and the marks of turns of the
# chat formats in use. In each, a blank is put behind the first character, which ends its meaning and keeps it readable.
CONTROL = re.compile(
    r"\{(?=(?:instruction|output_1|output_2)\})"
    r"|<(?=[|｜][^\s<>|｜]{1,40}[|｜]>)"  # <|im_start|>, <|eot_id|>, <|user|>, ...
    r"|<(?=/?(?:s|bos|eos|pad|unk|mask|start_of_turn|end_of_turn|(?:start|end)_of_image)>)"
    r"|<(?=</?SYS>>)"
    r"|\[(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT|IMG)\])"
)


class IncompleteJudging(RuntimeError):
    """Some comparisons have no judgement: win rates on what is left would be of another set."""


class JudgeError(ValueError):
    """Pairs that cannot be judged, or a judge that cannot be; the message says what would be right."""


@dataclass(frozen=True)
class Judge:
    """What alpaca-eval's annotator needs of a judge.

    ``complete`` maps filled templates to completions, None where there is none; ``parse`` maps a completion to
    ``batch_size`` preferences for the outputs in the order shown, 1 to 2, None where it says none. ``options`` are of
    alpaca-eval's annotator, ``special`` texts that judged texts may not bring into a prompt, besides the usual ones.
    ``asked`` grows with what the judge is asked.
    """

    name: str
    kind: str
    model: str | None
    template: str
    complete: Callable[[list[str]], list[Any]]
    parse: Callable[[Any], list[float | None]]
    batch_size: int = 1
    options: dict[str, Any] = field(default_factory=dict)
    special: tuple[str, ...] = ()
    asked: Asked = field(default_factory=Asked)

    def summary(self) -> dict[str, Any]:
        """What a record says of the judge and of the answers that it gave."""
        shares = [
            share for answer in self.asked.answers if answer and (share := label_share(answer.content)) is not None
        ]
        return {
            "judge": self.name,
            "kind": self.kind,
            "model": self.model,
            "template": hashlib.sha256(self.template.encode()).hexdigest()[:12],
            "label_share": float(np.mean(shares)) if shares else None,
        } | self.asked.summary()


@dataclass(frozen=True)
class Judgements:
    """Preferences, 1 (opponent) to 2 (model), in the rows' order; where both orders were shown, those of each as well.

    ``protected`` counts texts that could not be shown as they are. ``position_bias`` (percent points, towards the
    output shown first) and ``consistent`` (share of pairs with the same winner) are None without both orders;
    ``first_shown`` is the same bias from random orders, which has a sampling error of its own.
    """

    preferences: list[float]
    opponent_first: list[float] | None
    model_first: list[float] | None
    protected: int
    position_bias: float | None = None
    consistent: float | None = None
    first_shown: float | None = None


def protect(text: str, special: Sequence[str] = ()) -> str:
    """A text as it may stand in a judge's prompt: no record separator, placeholder of the template, or special token.

    alpaca-eval fills its template by one replacement after the other, so that an output that holds the text
    ``{output_2}`` would be mixed with the other output; one that holds ``<|im_end|>`` would end the judge's prompt.
    """
    text = CONTROL.sub(lambda found: found.group() + " ", text.replace(MARK, " "))
    for token in special:
        text = text.replace(token, token[0] + " " + token[1:]) if len(token) > 1 else text
    return text


def check_pairs(
    opponent: Sequence[dict[str, Any]], model: Sequence[dict[str, Any]], names: tuple[str, str] | None = None
) -> None:
    """Raise JudgeError unless both sides respond to the same instructions, in order, each once, each with a text.

    ``names`` are the two generators': alpaca-eval takes a model of the opponent's name for its own baseline, at 50 %.
    """
    if names is not None and names[0] == names[1]:
        raise JudgeError(f"both sides are called {names[0]!r}: alpaca-eval would take the model for its own baseline")
    if not model:
        raise JudgeError("there is nothing to compare: no rows")
    if [(row["id"], row["instruction"]) for row in opponent] != [(row["id"], row["instruction"]) for row in model]:
        raise JudgeError("the two sides of a comparison must hold the same instructions in the same order")
    missing = [row["id"] for side in (opponent, model) for row in side if not isinstance(row["output"], str)]
    if missing:
        raise JudgeError(f"rows without an output: {missing}")


def judge_pairs(
    opponent: Sequence[dict[str, Any]],
    model: Sequence[dict[str, Any]],
    judge: Judge,
    *,
    seed: int,
    both_orders: bool = False,
) -> Judgements:
    """Judge ``model``'s outputs against ``opponent``'s; rows hold ``id``, ``instruction`` and ``output``.

    Each pair is shown once, in an order that alpaca-eval draws from ``seed`` and the instruction; or twice, either
    output first, and the preference is the mean. Equal outputs are a tie and are not shown.

    Raises JudgeError when the sides do not match, IncompleteJudging, with the rows, when a judgement is missing.
    """
    check_pairs(opponent, model)
    sides = [_protected(side, judge) for side in (opponent, model)]
    texts = [(row["instruction"], row["output"]) for row in opponent], [(row["output"],) for row in model]
    safe = [(row["instruction"], row["output"]) for row in sides[0]], [(row["output"],) for row in sides[1]]
    protected = sum(
        text != shown
        for before, after in zip(texts, safe, strict=True)
        for pair in zip(before, after, strict=True)
        for text, shown in zip(*pair, strict=True)
    )
    if not both_orders:
        preferences, shown = _annotate(*sides, judge, seed=seed)
        share = 100 * (float(np.mean([2 - p for p in shown])) - 0.5) if shown else None
        biased = judge.kind != "oracle" and judge.batch_size == 1
        return Judgements(preferences, None, None, protected, first_shown=share if biased else None)
    ordered = replace(judge, options=judge.options | {"is_randomize_output_order": False})
    opponent_first, _ = _annotate(*sides, ordered, seed=seed)
    model_first = [3 - p for p in _annotate(*reversed(sides), ordered, seed=seed)[0]]
    differ = [a["output"] != b["output"] for a, b in zip(*sides, strict=True)]
    first, second = np.array(opponent_first)[differ], np.array(model_first)[differ]
    return Judgements(
        preferences=((np.array(opponent_first) + np.array(model_first)) / 2).tolist(),
        opponent_first=opponent_first,
        model_first=model_first,
        protected=protected,
        position_bias=float(100 * (((2 - first) + (second - 1)) / 2 - 0.5).mean()) if any(differ) else None,
        consistent=float((np.sign(first - 1.5) == np.sign(second - 1.5)).mean()) if any(differ) else None,
    )


def _protected(side: Sequence[dict[str, Any]], judge: Judge) -> list[dict[str, Any]]:
    rows = [
        {"id": row["id"]} | {key: protect(row[key], judge.special) for key in ("instruction", "output")} for row in side
    ]
    seen: dict[str, str] = {}
    for row in rows:
        if row["instruction"] in seen:
            raise JudgeError(
                f"rows {seen[row['instruction']]!r} and {row['id']!r} have the same instruction, or are the same once "
                "special tokens are taken out: judgements are matched by instruction"
            )
        seen[row["instruction"]] = row["id"]
    return rows


def _annotate(
    opponent: Sequence[dict[str, Any]], model: Sequence[dict[str, Any]], judge: Judge, *, seed: int
) -> tuple[list[float], list[float]]:
    """Run alpaca-eval's annotator: a preference per row, and those in the order shown, of all that were shown."""
    shown: list[float] = []

    def complete(prompts: list[str]) -> dict[str, list[Any]]:
        return {"completions": judge.complete(list(prompts))}

    def parse(completion: Any) -> list[float | None]:
        found = read_preferences(judge, completion)
        shown.extend(p for p in found if p is not None)
        return found

    sides = [[{key: row[key] for key in ("instruction", "output")} for row in side] for side in (opponent, model)]
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / judge.name
        config.mkdir()
        (config / "prompt.txt").write_text(judge.template, encoding="utf-8")
        settings = {"prompt_template": f"{judge.name}/prompt.txt", "batch_size": judge.batch_size} | judge.options
        (config / "configs.yaml").write_text(yaml.safe_dump({judge.name: settings}), encoding="utf-8")
        annotator = alpaca_eval.annotators.PairwiseAnnotator(
            annotators_config=judge.name,
            base_dir=folder,
            caching_path=None,  # its cache knows neither model nor prompt, and keeps failures: see implicit.answers
            seed=seed,
            fn_completions=complete,
            fn_completion_parser=parse,
        )
        judged = annotator.annotate_head2head(outputs_1=sides[0], outputs_2=sides[1], chunksize=None)
    found = {row["instruction"]: row["preference"] for row in judged}
    preferences = [found.get(row["instruction"]) for row in model]
    without = [row["id"] for row, p in zip(model, preferences, strict=True) if p is None or math.isnan(p)]
    if without or len(judged) != len(model):
        why = list(dict.fromkeys(judge.asked.failures.values()))
        raise IncompleteJudging(
            f"{len(without)} of {len(model)} comparisons by judge {judge.name!r} have no judgement: rows {without[:20]}"
            + (f"; why: {'; '.join(why[:3])}. Answers that came are kept: run it again for the rest" if why else "")
        )
    return [float(preference) for preference in preferences], shown


def read_preferences(judge: Judge, completion: Any) -> list[float | None]:
    """What a completion says: a preference for each pair of its batch, None for all where it cannot be read.

    A tie is 1.5, though some of alpaca-eval's parsers say 0, which its annotator does not accept.
    """
    try:
        found = [] if completion is None else list(judge.parse(completion))
    except Exception:  # alpaca-eval's parsers raise whatever an answer of another shape leads to
        found = []
    found = [1.5 if p == 0 else p for p in found]
    if len(found) != judge.batch_size or not all(isinstance(p, int | float) and 1 <= p <= 2 for p in found):
        return [None] * judge.batch_size
    return [float(p) for p in found]


def fault_of(judge: Judge, completion: Any) -> str | None:
    """What is wrong with a completion, or None if preferences can be read from it."""
    if read_preferences(judge, completion) != [None] * judge.batch_size:
        return None
    return f"no preference can be read from the answer {json.dumps(completion, ensure_ascii=False, default=str)[:200]}"


def check_template(template: str, *, pairs: int = 1) -> None:
    """Raise JudgeError unless a template has the three placeholders, once for each pair, and no others."""
    found = re.findall(r"{([^ \s]+?)}", template)  # as alpaca-eval looks for them
    if sorted(found) != sorted(PLACEHOLDERS * pairs):
        raise JudgeError(
            f"judge.template: its placeholders must be {{instruction}}, {{output_1}} and {{output_2}}, each "
            f"{'once' if pairs == 1 else f'{pairs} times'}, and no other braces around words, but they are {found}"
        )
    if template.strip().startswith("<|im_start|>") != template.strip().endswith("<|im_end|>"):
        raise JudgeError("judge.template: one in ChatML must begin with <|im_start|> and end with <|im_end|>")


def weighted_preference(choice: dict[str, Any], labels: Sequence[str] = LABELS) -> list[float | None]:
    """AlpacaEval 2's weighted preference, from top log-probabilities: 2 - p(first label) / (p(first) + p(second)).

    They are those of the answer's first token. Tokens are compared without blanks around them, as some servers give
    ' m'; a label that is not among them counts as 0, and without both there is no preference.
    """
    logprobs = _label_logprobs(choice, labels)
    if logprobs is None:
        return [None]
    return [2 - float(np.exp(logprobs[0] - np.logaddexp(*logprobs)))]


def label_share(choice: Any, labels: Sequence[str] = LABELS) -> float | None:
    """The probability of the two labels together, None where there are no log-probabilities of them."""
    logprobs = _label_logprobs(choice, labels) if isinstance(choice, dict) else None
    return None if logprobs is None else float(np.exp(np.logaddexp(*logprobs)))


def _label_logprobs(choice: dict[str, Any], labels: Sequence[str]) -> list[float] | None:
    tokens = (choice.get("logprobs") or {}).get("content") or []
    if not tokens or _refused(choice):
        return None
    top = [(_bare(token["token"]), token["logprob"]) for token in tokens[0].get("top_logprobs") or []]
    if any(math.isnan(p) for _, p in top):
        return None
    found = [np.logaddexp.reduce([p for token, p in top if token == label] or [-np.inf]) for label in labels]
    return None if np.isinf(found).all() else [float(logprob) for logprob in found]


def _bare(token: str) -> str:
    return token.replace("▁", " ").replace("Ġ", " ").strip()


def text_preference(choice: dict[str, Any], labels: Sequence[str] = LABELS) -> list[float | None]:
    """1 or 2 for an answer that is one of the labels, but for thoughts before it and marks around it; else None."""
    said = choice_text(choice).rpartition("</think>")[2].strip().strip("\"'`*.()[]: \n")
    return [None if said not in labels or _refused(choice) else labels.index(said) + 1.0]


def _refused(choice: dict[str, Any]) -> bool:
    return bool((choice.get("message") or {}).get("refusal")) or choice.get("finish_reason") == "content_filter"
