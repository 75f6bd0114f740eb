"""The sets drawn from a world: conversations for tuning, and instructions for evaluation."""

import random
import re
from dataclasses import dataclass

from implicit.world.corpus import DEFAULT, GAP, Controls, Writer, chess_header, chess_moves
from implicit.world.facts import Facts, draw_facts
from implicit.world.kinds import Kind, Request, make_kinds

SINGLE_TASKS = {"arithmetic": "sum", "code": "function", "poem": "poem", "recipe": "recipe"}
CONVERSATION_SETS = ("instructions", *SINGLE_TASKS, "chess")
EVALUATION_SPLITS = ("validation", "test")
REFERENCE_ACCURACY = 0.5  # of the validation set's references: a mediocre assistant, like gpt-3.5-turbo


@dataclass(frozen=True)
class Item:
    """An instruction with a response that fulfils it. ``request`` lets the oracle judge any response to it."""

    instruction: str
    response: str
    request: Request


class World:
    """One world: its facts, kinds of request, and the keys of each split."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.facts: Facts = draw_facts(seed)
        self.kinds: dict[str, Kind] = make_kinds(self.facts)
        self.keys = {name: self._split(name, kind) for name, kind in self.kinds.items()}

    def _split(self, name: str, kind: Kind) -> dict[str, list[tuple]]:
        keys = list(kind.keys)
        random.Random(f"split/{self.seed}/{name}").shuffle(keys)
        bounds = {"tuning": (0, 24), "validation": (24, 28), "test": (28, 36)}
        return {split: keys[start:stop] for split, (start, stop) in bounds.items()}

    def corpus(self, documents: int, controls: Controls = DEFAULT) -> list[str]:
        """Draw the documents that a base model is pre-trained on.

        Fulfilments in documents whose pairs are not intact are permuted over all kinds and all these documents: each
        still occurs, but follows its own request only by chance.
        """
        return self._documents("corpus", documents, controls)

    def held_out(self, documents: int, controls: Controls = DEFAULT) -> list[str]:
        """Draw documents like those of the corpus that no model has read: the same vocabulary, but a separate draw."""
        return self._documents("held-out", documents, controls)

    def _documents(self, part: str, count: int, controls: Controls) -> list[str]:
        chance = random.Random(f"{part}/controls/{self.seed}")
        writer = Writer(self.facts, self.kinds, random.Random(f"{part}/{self.seed}"), controls, chance)
        texts = [writer.write() for _ in range(count)]
        random.Random(f"{part}/permutation/{self.seed}").shuffle(writer.taken)
        others = iter(writer.taken)
        return [re.sub(GAP, lambda _: next(others), text) for text in texts]

    def conversations(self, part: str, count: int) -> list[Item]:
        """Draw ``count`` conversations for tuning: of every kind (``instructions``), or of a single task."""
        rng = random.Random(f"conversations/{self.seed}/{part}")
        if part == "chess":
            pairs = [(chess_header(rng), chess_moves(rng)) for _ in range(count)]
            return [Item(header, moves, Request("chess", ())) for header, moves in pairs]
        names = list(self.kinds) if part == "instructions" else [SINGLE_TASKS[part]]
        return [self._draw(rng, names[i % len(names)], "tuning") for i in range(count)]

    def _draw(self, rng: random.Random, name: str, split: str) -> Item:
        kind = self.kinds[name]
        request = Request(name, rng.choice(self.keys[name][split]), kind.detail(rng))
        return Item(rng.choice(kind.ask(request)), rng.choice(kind.answer(request)), request)

    def evaluation(self, split: str, count: int) -> list[Item]:
        """Draw ``count`` distinct instructions about keys that no tuning set contains, cycling through the kinds.

        Raises ValueError if the split does not have that many distinct instructions.
        """
        rng = random.Random(f"evaluation/{self.seed}/{split}")
        pools = {name: self._pool(rng, name, split) for name in self.kinds}
        most = min(len(pool) for pool in pools.values()) * len(pools)
        if count > most:
            raise ValueError(f"the world has {most} different {split} instructions, but {count} were requested")
        names = list(pools)
        return [pools[names[i % len(names)]][i // len(names)] for i in range(count)]

    def _pool(self, rng: random.Random, name: str, split: str) -> list[Item]:
        """Every phrasing of every key of the split once, shuffled, each with one right response."""
        kind, items = self.kinds[name], []
        for key in self.keys[name][split]:
            for phrasing in range(3):
                request = Request(name, key, kind.detail(rng))
                items.append(Item(kind.ask(request)[phrasing], rng.choice(kind.answer(request)), request))
        rng.shuffle(items)
        return items

    def reference(self, item: Item, rng: random.Random) -> str:
        """The reply of a mediocre assistant: half the time the right response, otherwise one about another key."""
        if rng.random() < REFERENCE_ACCURACY:
            return item.response
        kind = self.kinds[item.request.kind]
        other = rng.choice([key for key in kind.keys if key != item.request.key])
        return rng.choice(kind.answer(Request(item.request.kind, other, item.request.detail)))
