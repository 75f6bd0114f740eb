"""The tiny world's judge: it knows the request, and compares how well two texts fulfil it."""

import json
import math

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


def prefer(quality_1: float, quality_2: float, temperature: float | None = None) -> float:
    """The preference from 1 (the first output) to 2: 1, 2 or a tie at 1.5; with a temperature, a probability plus 1."""
    if temperature is None:
        return 1.5 + 0.5 * ((quality_2 > quality_1) - (quality_2 < quality_1))
    return 1 + 1 / (1 + math.exp(min(700.0, (quality_1 - quality_2) / temperature)))  # beyond 709, exp overflows
