"""The tiny world's judge: it knows what was asked, and compares how well two texts fulfil it."""

import json
from collections.abc import Sequence
from typing import Any

from implicit.world.kinds import Kind, Parts, Request, parts
from implicit.world.sets import Item, World


def describe(item: Item, world: int) -> str:
    """What the oracle needs to know of an instruction, as JSON, to be stored beside it."""
    request = item.request
    return json.dumps({"world": world, "kind": request.kind, "key": request.key, "detail": request.detail})


class Oracle:
    """Judges responses by their quality in [0, 1]; see `implicit.world.kinds.parts`."""

    def __init__(self) -> None:
        self._kinds: dict[int, dict[str, Kind]] = {}

    def parts(self, description: str, text: str, *, stopped: bool) -> Parts:
        """What the quality of a response to the instruction that ``description`` tells of is made of."""
        said = json.loads(description)
        if said["world"] not in self._kinds:
            self._kinds[said["world"]] = World(said["world"]).kinds
        request = Request(said["kind"], tuple(said["key"]), tuple(said["detail"]))
        return parts(self._kinds[said["world"]][request.kind], request, text, stopped=stopped)

    def quality(self, description: str, text: str, *, stopped: bool) -> float:
        """The quality of a response to the instruction that ``description`` tells of."""
        return self.parts(description, text, stopped=stopped).quality

    def kind(self, description: str) -> str:
        """The kind of request."""
        return json.loads(description)["kind"]


def prefer(quality_1: float, quality_2: float) -> str:
    """The oracle's answer: the better output, or a tie when the qualities are equal."""
    if quality_1 == quality_2:
        return "tie"
    return "output_1" if quality_1 > quality_2 else "output_2"


def answer_prompts(prompts: Sequence[str], qualities: dict[tuple[str, str], float], mark: str) -> dict[str, Any]:
    """The oracle as a completions function of alpaca-eval: one answer per prompt.

    A prompt is ``instruction``, first and second output with ``mark`` between them; ``qualities`` is by
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
