"""Head-to-head judging with alpaca-eval's own annotator, with checks where it fails silently.

A judge is a template, a function that completes prompts, and one that reads a preference from a completion; see
`kinds` and `evaluators` for the kinds, `preferences` for how completions are read.
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

from implicit.judging.preferences import LabelShare, cut_off, text_preference
from implicit.judging.template import JudgeError
from implicit.servers.chat_client import Asked, LastingFault

logging.getLogger().setLevel(logging.WARNING)  # importing alpaca_eval sets it to INFO, which logs every request

MARK = "\x1e"  # separates the parts of the oracle's prompt; no text contains it, see `protect`
BY_QUALITY = ("oracle", "reference", "reward")  # kinds that compare two numbers: the order of outputs cannot matter
FLOOR = "judge.min_label_probability"  # the key of the config
# What the user can do, by kind of judge, if the labels have too little of the probability.
REMEDIES = {
    "server": "Set judge.answer: text, with enough max_tokens in judge.server.request for a whole answer; or turn off "
    "thinking there, as by chat_template_kwargs: {enable_thinking: false}",
    "evaluator": "Choose another judge.evaluator: one that reads the answer's text, or one whose model does not think "
    "first",
    "local": "Choose a judge.path that answers with the label at once: a model tuned to follow instructions, without "
    "thinking",
}

# What a judged text must not bring into a judge's prompt: the template's placeholders, and the turn markers of common
# chat formats. A space is inserted after the first character of each, which disables it and keeps it readable.
CONTROL = re.compile(
    r"\{(?=(?:instruction|output_1|output_2)\})"
    r"|<(?=[|｜][^\s<>|｜]{1,40}[|｜]>)"  # <|im_start|>, <|eot_id|>, <|user|>, ...
    r"|<(?=/?(?:s|bos|eos|pad|unk|mask|start_of_turn|end_of_turn|(?:start|end)_of_image)>)"
    r"|<(?=</?SYS>>)"
    r"|\[(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT|IMG)\])"
)


class IncompleteJudging(RuntimeError):
    """Some comparisons have no judgement: win rates on the rest would describe a different set.

    ``reasons`` are the distinct ones, without what to do.
    """

    def __init__(self, told: str, reasons: Sequence[str] = ()) -> None:
        super().__init__(told)
        self.reasons = list(reasons)


@dataclass(frozen=True)
class Judge:
    """What alpaca-eval's annotator needs from a judge.

    ``complete`` maps filled templates to completions, None for a missing one; ``parse`` maps a completion to
    ``batch_size`` preferences for the outputs in the order shown, 1 to 2, None if it states none. ``options`` are those
    of alpaca-eval's annotator; ``special`` lists texts that judged texts may not bring into a prompt, besides the usual
    ones. ``asked`` accumulates the requests to the judge.

    ``share`` gives the labels' share of a completion's probability, None for judges that do not use it. A completion
    whose share is below ``floor`` has no preference.
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
    share: Callable[[Any], LabelShare | None] = lambda completion: None
    floor: float = 0.0

    def summary(self) -> dict[str, Any]:
        """The record's entries about the judge and its answers."""
        return {
            "judge": self.name,
            "kind": self.kind,
            "model": self.model,
            "template": hashlib.sha256(self.template.encode()).hexdigest()[:12],
        } | self.asked.summary()


@dataclass(frozen=True)
class Judgements:
    """Preferences, 1 (opponent) to 2 (model), in the rows' order; if both orders were shown, also those for each order.

    ``protected`` counts texts that had to be modified to be shown. ``position_bias`` (percentage points, towards the
    output shown first) and ``consistent`` (share of pairs with the same winner) are None without both orders;
    ``first_shown`` is the same bias from random orders, which has a sampling error of its own. ``label_shares`` holds
    for each row the lowest share of the labels among its answers, None if none was read.
    """

    preferences: list[float]
    opponent_first: list[float] | None
    model_first: list[float] | None
    protected: int
    position_bias: float | None = None
    consistent: float | None = None
    first_shown: float | None = None
    label_shares: list[float | None] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """The record's entries about the judgements."""
        shares = [share for share in self.label_shares if share is not None]
        return {
            "protected": self.protected,
            "position_bias": self.position_bias,
            "consistent": self.consistent,
            "first_shown": self.first_shown,
            "label_share": float(np.mean(shares)) if shares else None,
            "label_share_minimum": min(shares, default=None),
        }


def protect(text: str, special: Sequence[str] = ()) -> str:
    """Make a text safe for a judge's prompt: no record separator, template placeholder or special token.

    alpaca-eval fills its template by successive replacements, so an output containing the text ``{output_2}`` would be
    mixed with the other output; one containing ``<|im_end|>`` would end the judge's prompt.
    """
    text = CONTROL.sub(lambda found: found.group() + " ", text.replace(MARK, " "))
    for token in special:
        text = text.replace(token, token[0] + " " + token[1:]) if len(token) > 1 else text
    return text


def check_pairs(
    opponent: Sequence[dict[str, Any]], model: Sequence[dict[str, Any]], names: tuple[str, str] | None = None
) -> None:
    """Raise JudgeError unless both sides respond to the same instructions, in order, once each, with a text.

    ``names`` are the two generators' names: alpaca-eval treats a model with the opponent's name as the baseline, at
    50 %.
    """
    if names is not None and names[0] == names[1]:
        raise JudgeError(f"both sides are called {names[0]!r}: alpaca-eval would treat the model as its own baseline")
    if not model:
        raise JudgeError("there is nothing to compare: no rows")
    if [(row["id"], row["instruction"]) for row in opponent] != [(row["id"], row["instruction"]) for row in model]:
        raise JudgeError("the two sides of a comparison must have the same instructions in the same order")
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

    Each pair is shown once, in an order that alpaca-eval draws from ``seed`` and the instruction; or twice, once in
    each order, and the preference is the mean. Identical outputs are a tie and are not shown.

    Raises JudgeError if the sides do not match, and IncompleteJudging, with the rows, if a judgement is missing.
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
        preferences, shown, shares = _annotate(*sides, judge, seed=seed)
        first = 100 * (float(np.mean([2 - p for p in shown])) - 0.5) if shown else None
        biased = judge.kind not in BY_QUALITY and judge.batch_size == 1
        first_shown = first if biased else None
        return Judgements(preferences, None, None, protected, first_shown=first_shown, label_shares=shares)
    ordered = replace(judge, options=judge.options | {"is_randomize_output_order": False})
    opponent_first, _, shares = _annotate(*sides, ordered, seed=seed)
    reversed_preferences, _, other_shares = _annotate(*reversed(sides), ordered, seed=seed)
    model_first = [3 - p for p in reversed_preferences]
    differ = [a["output"] != b["output"] for a, b in zip(*sides, strict=True)]
    first, second = np.array(opponent_first)[differ], np.array(model_first)[differ]
    return Judgements(
        preferences=((np.array(opponent_first) + np.array(model_first)) / 2).tolist(),
        opponent_first=opponent_first,
        model_first=model_first,
        protected=protected,
        position_bias=float(100 * (((2 - first) + (second - 1)) / 2 - 0.5).mean()) if any(differ) else None,
        consistent=float((np.sign(first - 1.5) == np.sign(second - 1.5)).mean()) if any(differ) else None,
        label_shares=[
            min((share for share in of_row if share is not None), default=None)
            for of_row in zip(shares, other_shares, strict=True)
        ],
    )


def _protected(side: Sequence[dict[str, Any]], judge: Judge) -> list[dict[str, Any]]:
    rows = [
        {"id": row["id"]} | {key: protect(row[key], judge.special) for key in ("instruction", "output")} for row in side
    ]
    seen: dict[str, str] = {}
    for row in rows:
        if row["instruction"] in seen:
            raise JudgeError(
                f"rows {seen[row['instruction']]!r} and {row['id']!r} have the same instruction, at least once special "
                "tokens are removed: judgements are matched by instruction"
            )
        seen[row["instruction"]] = row["id"]
    return rows


def _annotate(
    opponent: Sequence[dict[str, Any]], model: Sequence[dict[str, Any]], judge: Judge, *, seed: int
) -> tuple[list[float], list[float], list[float | None]]:
    """Run alpaca-eval's annotator: preferences by row; preferences in the order shown, for pairs shown; shares."""
    shown: list[float] = []
    asked: list[str] = []
    read: list[Any] = []  # completions, in the order of the prompts

    def complete(prompts: list[str]) -> dict[str, list[Any]]:
        asked.extend(prompts)
        return {"completions": judge.complete(list(prompts))}

    def parse(completion: Any) -> list[float | None]:
        read.append(completion)
        found = read_preferences(judge, completion)
        shown.extend(p for p in found if p is not None)
        return found

    sides = [[{key: row[key] for key in ("instruction", "output")} for row in side] for side in (opponent, model)]
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / judge.name
        config.mkdir()
        (config / "prompt.txt").touch()  # alpaca-eval would read it in the locale's encoding, so the text is set below
        settings = {"prompt_template": f"{judge.name}/prompt.txt", "batch_size": judge.batch_size} | judge.options
        (config / "configs.yaml").write_text(yaml.safe_dump({judge.name: settings}), encoding="utf-8")
        annotator = alpaca_eval.annotators.PairwiseAnnotator(
            annotators_config=judge.name,
            base_dir=folder,
            caching_path=None,  # alpaca-eval's cache ignores model and prompt, and keeps failures
            seed=seed,
            fn_completions=complete,
            fn_completion_parser=parse,
        )
        annotator.annotators[judge.name].prompt_template = judge.template
        judged = annotator.annotate_head2head(outputs_1=sides[0], outputs_2=sides[1], chunksize=None)
    found = {row["instruction"]: row for row in judged}
    preferences = [found.get(row["instruction"], {}).get("preference") for row in model]
    without = [row["id"] for row, p in zip(model, preferences, strict=True) if p is None or math.isnan(p)]
    if without or len(judged) != len(model):
        low = [
            (prompt, share)
            for prompt, completion in zip(asked, read, strict=True)
            if (share := shortfall(judge, completion)) is not None
        ]
        named = [(_row_of(prompt, opponent, model, judge), share) for prompt, share in low]
        reasons = dict.fromkeys([*(str(share) for _, share in low), *judge.asked.failures.values()])
        raise IncompleteJudging(_incomplete(judge, without, len(model), named), list(reasons))
    shares = [judge.share(found[row["instruction"]].get(annotator.completion_key)) for row in model]
    kept = [None if share is None else share.probability for share in shares]
    return [float(preference) for preference in preferences], shown, kept


def _row_of(
    prompt: str, opponent: Sequence[dict[str, Any]], model: Sequence[dict[str, Any]], judge: Judge
) -> str | None:
    """The id of the row that a prompt shows; None if it shows several."""
    for theirs, ours in zip(opponent, model, strict=True):
        for first, second in ((theirs, ours), (ours, theirs)):
            texts = {"instruction": ours["instruction"], "output_1": first["output"], "output_2": second["output"]}
            filled = judge.template
            for name, text in texts.items():  # no text contains a placeholder, see `protect`
                filled = filled.replace(f"{{{name}}}", text)
            if filled == prompt:
                return ours["id"]
    return None


def _incomplete(judge: Judge, without: list[str], count: int, low: list[tuple[str | None, LabelShare]]) -> str:
    """The error message: what is missing, why, and what can be done."""
    lines = [f"{len(without)} of {count} comparisons by judge {judge.name!r} have no judgement: rows {without[:20]}"]
    if low:
        row, share = low[0]
        where = "" if row is None else f"row {row!r}, "
        lines.append(
            f"{len(low)} because the probability of their labels is below {FLOOR} = {judge.floor:g}: for example, "
            f"{where}where {share}. {REMEDIES.get(judge.kind, 'Choose another judge')}; or lower {FLOOR}, which reuses "
            "the stored answers without asking again"
        )
    why = list(dict.fromkeys(why for why in judge.asked.failures.values() if not isinstance(why, LastingFault)))
    if why:
        reasons = "; ".join(why[:3])
        lines.append(f"reasons: {reasons}. Answers received so far are kept: run the command again for the rest")
    return "; ".join(lines)


def read_preferences(judge: Judge, completion: Any) -> list[float | None]:
    """Read a completion: a preference for each pair of its batch, or None for all if it cannot be read.

    They are also None if the labels' probability is below the judge's floor. A tie is 1.5, though some of alpaca-eval's
    parsers return 0, which its annotator does not accept.
    """
    try:
        found = [] if completion is None or shortfall(judge, completion) else list(judge.parse(completion))
    except Exception:  # alpaca-eval's parsers raise all kinds of errors for malformed answers
        found = []
    found = [1.5 if p == 0 else p for p in found]
    if len(found) != judge.batch_size or not all(isinstance(p, int | float) and 1 <= p <= 2 for p in found):
        return [None] * judge.batch_size
    return [float(p) for p in found]


def shortfall(judge: Judge, completion: Any) -> LabelShare | None:
    """The labels' share of a completion's probability if it is 0 or below the judge's floor; otherwise None."""
    share = None if completion is None else judge.share(completion)
    return share if share is not None and (share.probability < judge.floor or share.probability == 0) else None


def fault_of(judge: Judge, completion: Any) -> str | None:
    """What is wrong with a completion, or None if preferences can be read from it."""
    if read_preferences(judge, completion) != [None] * judge.batch_size:
        return None
    share = shortfall(judge, completion)
    if share is not None:
        return LastingFault(str(share))
    if judge.parse is text_preference and cut_off(completion):
        return "the answer is cut off: raise max_tokens in judge.server.request"
    return f"no preference can be read from the answer {json.dumps(completion, ensure_ascii=False, default=str)[:200]}"
