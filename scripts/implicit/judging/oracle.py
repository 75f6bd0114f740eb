"""The tiny world's judge: it knows the request, and compares how well two texts fulfil it."""

import json
from collections.abc import Sequence
from typing import Any

from implicit.world.kinds import Kind, Parts, Request, parts
from implicit.world.sets import Item, World


def describe(item: Item, world: int) -> str:
    """What the oracle needs to know about an instruction, as JSON, to be stored with it."""
    request = item.request
    return json.dumps({"world": world, "kind": request.kind, "key": request.key, "detail": request.detail})


class Oracle:
    """Judges responses by their quality in [0, 1]; see `implicit.world.kinds.parts`."""

    def __init__(self) -> None:
        self._kinds: dict[int, dict[str, Kind]] = {}

    def parts(self, description: str, text: str, *, stopped: bool) -> Parts:
        """The parts of the quality of a response to the instruction described by ``description``."""
        described = json.loads(description)
        world = described["world"]
        if world not in self._kinds:
            self._kinds[world] = World(world).kinds
        request = Request(described["kind"], tuple(described["key"]), tuple(described["detail"]))
        return parts(self._kinds[world][request.kind], request, text, stopped=stopped)

    def quality(self, description: str, text: str, *, stopped: bool) -> float:
        """The quality of a response to the instruction described by ``description``."""
        return self.parts(description, text, stopped=stopped).quality

    def kind(self, description: str) -> str:
        """The kind of request."""
        return json.loads(description)["kind"]


def prefer(quality_1: float, quality_2: float) -> str:
    """The oracle's answer: the better output, or a tie if the qualities are equal."""
    if quality_1 == quality_2:
        return "tie"
    return "output_1" if quality_1 > quality_2 else "output_2"


def answer_prompts(prompts: Sequence[str], qualities: dict[tuple[str, str], float], mark: str) -> dict[str, Any]:
    """The oracle as a completions function for alpaca-eval: one answer per prompt.

    A prompt is ``instruction``, first and second output, separated by ``mark``; ``qualities`` is keyed by
    (instruction, output), as alpaca-eval may have swapped the outputs.
    """
    answers = []
    for prompt in prompts:
        instruction, first, second = prompt.split(mark)
        answers.append(prefer(qualities[instruction, first], qualities[instruction, second]))
    return {
        "completions": answers,
        "price_per_example": [0.0] * len(answers),
        "time_per_example": [0.0] * len(answers),
    }
