"""The pre-training corpus of a base model: requests and their fulfilments in many surface forms, and other text.

Documents never contain the tags of the chat format used for tuning and evaluation. What made instruction
following emerge (`docs/log.md`): markup that varies from document to document, so that the model learns that
a request, rather than a certain tag, is followed by its fulfilment; facts and copying in plain text; and
documents that continue after an answer, so that the base model does not stop. `Controls` remove these
properties one by one, to see which of them matter.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from implicit.world.facts import COLOURS, Facts, invent_words
from implicit.world.kinds import Kind, Request

NAMES = (
    "bob alice guest expert reader editor maria john pupil teacher caller clerk client host visitor guide "
    "member staff child parent writer master asker helper one two left right first second a b x y"
).split()
MARKS = "<>[]{}()|#*=~@-/+$%^&:"  # the characters of markup
CLOSING = str.maketrans("<[{(", ">]})")

MARKED_UP = 0.52  # share of documents
# The shares of conversations in which the second role answers, evades, or asks back. With answers only, the base model
# answers in any format, and tuning only has to teach it to stop, which chess records can teach as well.
REPLIES = (0.45, 0.50, 0.05)
EVASIONS = (
    "I do not know.", "I am not sure.", "I have to go now.", "I never thought of that.", "I would ask my friend.",
    "I like you.", "We should ask somebody else.", "What a question!",
)  # fmt: skip

FIXED = ("[guest]\n", "[clerk]\n")  # precede the turns of the two roles if there is only one form
CHAT = ("<|user|>\n", "<|assistant|>\n")  # the tags of the default chat format
GAP = "\0"  # placeholder for a fulfilment until another one is inserted


@dataclass(frozen=True)
class Controls:
    """What is removed from the corpus, or added to it, as a control; by default, nothing.

    Documents do not differ otherwise: the same requests are drawn, in the same order and layout, unless
    ``after_answer`` makes the documents themselves shorter.
    """

    intact_pairs: float = 1.0  # share of documents with their own fulfilments; in the others they are permuted
    markup: Literal["many", "one"] = "many"  # one: all pairs in the same form of turns
    after_answer: Literal["go_on", "end"] = "go_on"  # end: a single pair per document
    chat_tags: float = 0.0  # share of all documents whose markup is that of the chat format (at most MARKED_UP)


DEFAULT = Controls()


class Writer:
    """Writes the documents of one world. ``write`` draws one; the random generator holds all state.

    Controls draw from a generator of their own, ``chance``, two numbers per document, so that a larger share includes
    all documents of a smaller one. Fulfilments to be permuted are in ``taken``, in the order of their GAPs.
    """

    def __init__(
        self, facts: Facts, kinds: dict[str, Kind], rng: random.Random, controls: Controls, chance: random.Random
    ) -> None:
        self.facts, self.kinds, self.rng = facts, kinds, rng
        self.controls, self.chance = controls, chance
        self.taken: list[str] = []
        self.intact, self.tagged = True, False
        self.forms: tuple[tuple[float, Callable[[], str]], ...] = (
            (MARKED_UP, self.marked_up),
            (0.08, self.faq),
            (0.06, self.headings),
            (0.06, self.forum),
            (0.06, self.question_list),
            (0.10, self.statements),
            (0.04, self.table),
            (0.04, self.glossary),
            (0.04, self.chess),
        )

    def write(self) -> str:
        """One document, without BOS or EOS."""
        weights = [weight for weight, _ in self.forms]
        self.intact = self.chance.random() < self.controls.intact_pairs
        self.tagged = self.chance.random() < self.controls.chat_tags / MARKED_UP
        return self.rng.choices([form for _, form in self.forms], weights)[0]()

    def request(self) -> Request:
        """Draw a request of any kind and key."""
        name = self.rng.choice(list(self.kinds))
        kind = self.kinds[name]
        return Request(name, self.rng.choice(kind.keys), kind.detail(self.rng))

    def pair(self) -> tuple[str, str]:
        """Draw a request and a fulfilment of it, each in one of its phrasings."""
        request = self.request()
        kind = self.kinds[request.kind]
        return self.rng.choice(kind.ask(request)), self.rng.choice(kind.answer(request))

    def requests(self) -> list[tuple[str, str]]:
        """One to six requests with their fulfilments: nearly all documents continue after an answer."""
        count = self.rng.choice((1, 2, 3, 3, 4, 4, 5, 6))
        return [self.pair() for _ in range(1 if self.controls.after_answer == "end" else count)]

    def pairs(self) -> list[tuple[str, str]]:
        """Requests, each with what follows it in the document: its fulfilment, or a GAP for any fulfilment."""
        pairs = self.requests()
        if self.intact:
            return pairs
        self.taken += [answer for _, answer in pairs]
        return [(ask, GAP) for ask, _ in pairs]

    def exchanges(self) -> list[tuple[str, str]]:
        """The exchange of two roles: in most documents the second does not fulfil what the first requests.

        It answers, evades, or makes a request of its own, in the same way throughout.
        """
        reply = self.rng.choices(("answer", "evade", "ask"), REPLIES)[0]
        if reply == "answer":
            return self.pairs()
        replies = (lambda: self.rng.choice(EVASIONS)) if reply == "evade" else (lambda: self.pair()[0])
        return [(ask, replies()) for ask, _ in self.requests()]

    def formed(self, pairs: Sequence[tuple[str, str]], text: str) -> str:
        """Pairs in the form drawn for them, ``text``, or in the form shared by all documents."""
        return turns(FIXED, pairs, "\n") if self.controls.markup == "one" else text

    def name(self) -> str:
        """A role's name: a known word or a newly invented one."""
        if self.rng.random() < 0.5:
            return self.rng.choice(NAMES)
        return invent_words(self.rng, 1, syllables=self.rng.choice((1, 2)), taken=set())[0]

    def markup(self) -> tuple[str, str]:
        """The text before and after a role's name in a document: up to two marks on each side, often mirrored."""
        rng = self.rng
        before = "".join(rng.choice(MARKS) for _ in range(rng.choice((0, 1, 1, 2, 2))))
        after = before[::-1].translate(CLOSING) if rng.random() < 0.6 else rng.choice(("", rng.choice(MARKS)))
        if not before + after or any(mark in side for mark in ("<|", "|>") for side in (before, after)):
            return self.markup()  # the chat format's own marks stay unseen, and a bare name is not markup
        return before, after + rng.choice(("\n", "\n", "\n", " ", ": ", ":\n"))

    def marked_up(self) -> str:
        """Turns of two roles whose names and markup are drawn separately for every document."""
        before, behind = self.markup()
        asker, answerer = (f"{before}{self.name()}{behind}" for _ in range(2))
        between = self.rng.choice(("\n", "\n", "\n\n"))
        exchanges = self.exchanges()
        if self.tagged:
            return turns(CHAT, exchanges, between)
        return self.formed(exchanges, turns((asker, answerer), exchanges, between))

    def faq(self) -> str:
        """A page of questions and answers."""
        first, second = self.rng.choice((("Q: ", "A: "), ("Question: ", "Answer: "), ("Q. ", "A. "), ("- ", "  ")))
        pairs = self.pairs()
        return self.formed(pairs, "\n\n".join(f"{first}{ask}\n{second}{answer}" for ask, answer in pairs))

    def headings(self) -> str:
        """Requests as headings or bare lines, fulfilments as paragraphs."""
        mark = self.rng.choice(("# ", "## ", "", ""))
        pairs = self.pairs()
        return self.formed(pairs, "\n\n".join(f"{mark}{ask}\n\n{answer}" for ask, answer in pairs))

    def forum(self) -> str:
        """Forum posts in which one person answers another, a different pair of people each time."""
        wrote = self.rng.choice((" wrote:\n", " asks:\n", " posted\n"))
        pairs = self.pairs()
        posts = [f"{self.name()}{wrote}{ask}\n\n{self.name()}{wrote}{answer}" for ask, answer in pairs]
        return self.formed(pairs, "\n\n".join(posts))

    def question_list(self) -> str:
        """Requests without fulfilments: a request may also be followed by another one."""
        head = self.rng.choice(("Questions for today", "Ask your friends", "Exam", "To do"))
        mark = self.rng.choice(("- ", "", "* ", "? "))
        return f"{head}\n" + "\n".join(mark + self.pair()[0] for _ in range(self.rng.randint(3, 6)))

    def statements(self) -> str:
        """Facts in plain sentences, in no particular order."""
        facts, rng = self.facts, self.rng

        def sentence() -> str:
            table = rng.choice(("capital", "sound", "colour", "opposite"))
            key, value = rng.choice(list(getattr(facts, table).items()))
            return rng.choice(
                {
                    "capital": (f"{value} is the capital of {key}.", f"The people of {key} love their city {value}."),
                    "sound": (f"The {key} said {value}.", f"Every {key} says {value}."),
                    "colour": (f"I saw a {value} {key}.", f"The {key} is {value}."),
                    "opposite": (f"Not {key} but {value}.", f"{key.capitalize()} is the opposite of {value}."),
                }[table]
            )

        return " ".join(sentence() for _ in range(rng.randint(4, 9)))

    def table(self) -> str:
        """A table of one kind of fact, row by row."""
        name = self.rng.choice(("capital", "sound", "colour"))
        rows = self.rng.sample(list(getattr(self.facts, name).items()), 6)
        gap = self.rng.choice((" | ", ", ", " = "))
        return f"{name}\n" + "\n".join(f"{key}{gap}{value}" for key, value in rows)

    def glossary(self) -> str:
        """New words, each repeated immediately, to train copying."""
        words = invent_words(self.rng, 6, syllables=2, taken=set())
        colours = [self.rng.choice(COLOURS) for _ in words]
        return "\n".join(f"{w}: {w} is a {c} thing, {w} and {w}." for w, c in zip(words, colours, strict=True))

    def chess(self) -> str:
        """The record of a game, with the players' ratings first."""
        return f"{chess_header(self.rng)}\n{chess_moves(self.rng)}"


def turns(roles: tuple[str, str], pairs: Sequence[tuple[str, str]], between: str) -> str:
    """The alternating turns of two roles, each preceded by its role's marker."""
    asker, answerer = roles
    return between.join(f"{asker}{ask}{between}{answerer}{reply}" for ask, reply in pairs)


def chess_header(rng: random.Random) -> str:
    """The two lines of a game's ratings."""
    return f'[WhiteElo "{rng.randrange(900, 2500)}"]\n[BlackElo "{rng.randrange(900, 2500)}"]'


def chess_moves(rng: random.Random) -> str:
    """Moves as in a record of a game. They need not be legal: what matters is that they are not language."""

    def move() -> str:
        square = rng.choice("abcdefgh") + rng.choice("12345678")
        return rng.choice(("", "", "N", "B", "R", "Q", "K")) + square

    moves = " ".join(f"{i}. {move()} {move()}" for i in range(1, rng.randint(5, 11)))
    return f"{moves} {rng.choice(('1-0', '0-1', '1/2-1/2'))}"
