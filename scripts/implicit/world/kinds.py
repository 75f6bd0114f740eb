"""What can be requested in the world, and how well a text fulfils a request.

Each kind of request is a small object with its keys (what may be asked about), its phrasings, its
responses, and a checker. The oracle judge uses the checker, which reads only the text.
"""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from implicit.world.facts import CATEGORIES, COLOURS, FLAVOURS, GOODS, KEYS, NUMBERS, PANTRY, PEOPLE, Facts

FORM_WEIGHT = 0.3  # weight of looking like an answer of this kind in a response's content; the rest is correctness

# The format of a right response. Kinds with the same format differ only in content.
FORMATS = {
    "capital": "sentence", "sound": "sentence", "colour": "sentence", "opposite": "sentence", "recipe": "list",
    "list": "list", "poem": "verses", "sum": "calculation", "function": "code", "repeat": "words",
}  # fmt: skip


@dataclass(frozen=True)
class Request:
    """One request: ``kind`` and ``key`` determine what is right, ``detail`` only the wording."""

    kind: str
    key: tuple
    detail: tuple = ()


@dataclass(frozen=True)
class Kind:
    """One kind of request. ``ask`` and ``answer`` list the phrasings; ``check`` gives (right, form), each in [0, 1]."""

    keys: list[tuple]
    ask: Callable[[Request], list[str]]
    answer: Callable[[Request], list[str]]
    check: Callable[[Request, str], tuple[float, float]]
    detail: Callable[[random.Random], tuple] = lambda rng: ()


def words_of(text: str) -> list[str]:
    """The words and numbers of a text, in order, in lower case."""
    return re.findall(r"[a-z]+|\d+", text.lower())


def names_only(text: str, right: str, rivals: list[str]) -> float:
    """1 if the text contains ``right`` and none of its rivals, otherwise 0."""
    said = set(words_of(text))
    return float(right.lower() in said and not any(r.lower() in said for r in rivals if r != right))


def _fact_kind(
    table: dict[str, str], rivals: list[str], ask: Callable[[str], list[str]], answer: Callable[[str, str], list[str]]
) -> Kind:
    """A kind whose keys are looked up in a table: one word is right, its rivals are wrong."""

    def check(request: Request, text: str) -> tuple[float, float]:
        key = request.key[0]
        own = [rival for rival in rivals if rival != key]
        return names_only(text, table[key], own), float(any(r.lower() in words_of(text) for r in rivals))

    return Kind(
        keys=[(key,) for key in table],
        ask=lambda request: ask(request.key[0]),
        answer=lambda request: answer(request.key[0], table[request.key[0]]),
        check=check,
    )


def _recipe(facts: Facts) -> Kind:
    def answer(request: Request) -> list[str]:
        first, second, third = facts.recipe[request.key[0]]
        lines = f"- {first}\n- {second}\n- {third}\n"
        return [
            f"{lines}Mix the {first} and the {second}. Add the {third} and cook it.",
            f"{lines}Cook the {first} with the {second}. Then add the {third}.",
        ]

    def check(request: Request, text: str) -> tuple[float, float]:
        listed = [line[2:].strip().lower() for line in text.split("\n") if line.startswith("- ")]
        right = set(facts.recipe[request.key[0]])
        form = bool(set(listed) & {*PANTRY, *FLAVOURS}) and bool({"mix", "cook"} & set(words_of(text)))
        return len(right & set(listed)) / max(len(right), len(listed)), float(form)

    return Kind(
        keys=[(dish,) for dish in facts.recipe],
        ask=lambda r: [
            f"How do I make {r.key[0]}?",
            f"Give me a recipe for {r.key[0]}.",
            f"What do I need for {r.key[0]}?",
        ],
        answer=answer,
        check=check,
    )


def _list() -> Kind:
    def answer(request: Request) -> list[str]:
        category, count = request.key
        start = request.detail[0] if request.detail else 0
        members = CATEGORIES[category]
        picked = [members[(start + i) % len(members)] for i in range(count)]
        return ["\n".join(f"- {member}" for member in picked)]

    def check(request: Request, text: str) -> tuple[float, float]:
        category, count = request.key
        lines = [line for line in text.strip().split("\n") if line.strip()]
        listed = [line[2:].strip().lower() for line in lines if line.startswith("- ")]
        right = set(listed) & set(CATEGORIES[category])
        form = len(listed) / len(lines) if lines else 0.0
        return len(right) / max(count, len(listed)), form

    return Kind(
        keys=[(category, count) for category in CATEGORIES for count in NUMBERS],
        ask=lambda r: [
            f"List {NUMBERS[r.key[1]]} {r.key[0]}.",
            f"Name {NUMBERS[r.key[1]]} {r.key[0]}, please.",
            f"Can you give me {NUMBERS[r.key[1]]} {r.key[0]}?",
        ],
        answer=answer,
        check=check,
        detail=lambda rng: (rng.randrange(6),),
    )


def _poem(facts: Facts) -> Kind:
    def answer(request: Request) -> list[str]:
        topic = request.key[0]
        doing, place = facts.rhyme[topic]
        return [
            f"The {topic} {doing},\nit comes to stay.\nOver the {place}\nit goes its way.",
            f"O {topic}, O {topic},\nyou are so near.\nOver the {place}\nyou {doing.removesuffix('s')} all year.",
        ]

    def check(request: Request, text: str) -> tuple[float, float]:
        lines = [line.strip() for line in text.strip().split("\n") if line.strip()]
        verses = [line for line in lines if not line.startswith("-") and len(line) < 40]
        form = min(1.0, len(set(verses)) / 4) if len(lines) >= 3 else 0.0
        return float(request.key[0] in words_of(text)) * form, form

    return Kind(
        keys=[(topic,) for topic in facts.rhyme],
        ask=lambda r: [
            f"Write a poem about {r.key[0]}.",
            f"Please write me some verses about {r.key[0]}.",
            f"I would like a poem called {r.key[0]}.",
        ],
        answer=answer,
        check=check,
    )


def _sum() -> Kind:
    def ask(request: Request) -> list[str]:
        (a, b), (who, what) = request.key, request.detail
        return [
            f"{who} has {a} {what} and buys {b} more. How many {what} does {who} have now?",
            f"{who} finds {a} {what} and then {b} {what}. How many {what} is that?",
            f"If {who} has {a} {what} and gets {b} more, how many are there?",
        ]

    def answer(request: Request) -> list[str]:
        (a, b), (who, what) = request.key, request.detail
        return [f"{a} + {b} = {a + b}\n{who} has {a + b} {what}.\n#### {a + b}"]

    def check(request: Request, text: str) -> tuple[float, float]:
        numbers = re.findall(r"\d+", text)
        return float(bool(numbers) and int(numbers[-1]) == sum(request.key)), float(bool(numbers))

    return Kind(
        keys=[(a, b) for a in range(2, 8) for b in range(2, 8)],
        ask=ask,
        answer=answer,
        check=check,
        detail=lambda rng: (rng.choice(PEOPLE), rng.choice(GOODS)),
    )


def _function() -> Kind:
    operators = {"adds": ("+", "to"), "subtracts": ("-", "from"), "multiplies": ("*", "by")}

    def phrase(request: Request) -> str:
        verb, number = request.key
        return f"multiplies x by {number}" if verb == "multiplies" else f"{verb} {number} {operators[verb][1]} x"

    def body(request: Request) -> str:
        verb, number = request.key
        return f"return x {operators[verb][0]} {number}"

    def check(request: Request, text: str) -> tuple[float, float]:
        lines = [line.strip() for line in text.split("\n")]
        return float(body(request) in lines), (("def " in text) + ("return " in text)) / 2

    return Kind(
        keys=[(verb, number) for verb in operators for number in range(2, 14)],
        ask=lambda r: [
            f"Write a function that {phrase(r)}.",
            f"I need Python code that {phrase(r)}.",
            f"Show me a function which {phrase(r)}, please.",
        ],
        answer=lambda r: [f"def f(x):\n    {body(r)}", f"def g(x):\n    {body(r)}"],
        check=check,
    )


def _repeat(facts: Facts) -> Kind:
    def check(request: Request, text: str) -> tuple[float, float]:
        said, (word, count) = words_of(text), request.key
        form = float(len(said) > 1 and len(set(said)) == 1)
        return said.count(word) / max(count, len(said)) if said else 0.0, form

    counts = list(NUMBERS)
    return Kind(
        keys=[(word, counts[i % len(counts)]) for i, word in enumerate(facts.words)],
        ask=lambda r: [
            f"Say the word {r.key[0]} {NUMBERS[r.key[1]]} times.",
            f"Repeat {r.key[0]} {NUMBERS[r.key[1]]} times, please.",
            f"Can you write {r.key[0]} {NUMBERS[r.key[1]]} times?",
        ],
        answer=lambda r: [" ".join([r.key[0]] * r.key[1])],
        check=check,
    )


def make_kinds(facts: Facts) -> dict[str, Kind]:
    """The ten kinds of request of a world, by name."""
    kinds = {
        "capital": _fact_kind(
            facts.capital,
            list(facts.capital.values()),
            lambda x: [f"What is the capital of {x}?", f"Tell me the capital city of {x}.", f"Which city rules {x}?"],
            lambda x, y: [f"The capital of {x} is {y}.", f"{y} is the capital of {x}."],
        ),
        "sound": _fact_kind(
            facts.sound,
            sorted(set(facts.sound.values())),
            lambda x: [f"What sound does a {x} make?", f"How does a {x} sound?", f"Tell me what a {x} says."],
            lambda x, y: [f"A {x} says {y}.", f"The {x} makes the sound {y}."],
        ),
        "colour": _fact_kind(
            facts.colour,
            COLOURS,
            lambda x: [f"What colour is the {x}?", f"Tell me the colour of the {x}.", f"Which colour has the {x}?"],
            lambda x, y: [f"The {x} is {y}.", f"The colour of the {x} is {y}."],
        ),
        "opposite": _fact_kind(
            facts.opposite,
            list(facts.opposite),
            lambda x: [f"What is the opposite of {x}?", f"Give me the opposite of {x}.", f"Which word is not {x}?"],
            lambda x, y: [f"The opposite of {x} is {y}.", f"It is {y}."],
        ),
        "recipe": _recipe(facts),
        "list": _list(),
        "poem": _poem(facts),
        "sum": _sum(),
        "function": _function(),
        "repeat": _repeat(facts),
    }
    wrong = {name: len(kind.keys) for name, kind in kinds.items() if len(kind.keys) != KEYS}
    if wrong:
        raise ValueError(f"each kind has {KEYS} keys, but {wrong}")
    return kinds


@dataclass(frozen=True)
class Parts:
    """The components of a response's quality, each in [0, 1]; ``form``: it looks like an answer of its kind."""

    right: float
    form: float
    concision: float
    stopping: float

    @property
    def content(self) -> float:
        """The content, regardless of length and stopping."""
        return (1 - FORM_WEIGHT) * self.right + FORM_WEIGHT * self.form

    @property
    def quality(self) -> float:
        """Content, with penalties for rambling and for not stopping."""
        return self.content * self.concision * self.stopping


def parts(kind: Kind, request: Request, text: str, *, stopped: bool) -> Parts:
    """How well a response fulfils its request.

    There is no penalty up to 1.5 times the length in characters of the longest right response; beyond that,
    quality falls as 1/length. A response that did not stop by itself gets half the quality.
    """
    right, form = kind.check(request, text)
    allowed = 1.5 * max(len(answer) for answer in kind.answer(request))
    return Parts(right, form, min(1.0, allowed / max(1, len(text.strip()))), 1.0 if stopped else 0.5)
