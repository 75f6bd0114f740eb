"""Shared by pre-training and tuning: the learning rate schedule, the log of a step, the check of the loss."""

import math
from dataclasses import asdict, dataclass
from typing import Literal

from implicit.progress import step_line

Schedule = Literal["cosine", "linear", "constant"]


def learning_rate_factor(schedule: Schedule, step: int, *, steps: int, warmup: float) -> float:
    """The factor on the peak learning rate at ``step`` (0-based) of ``steps``.

    Linear warm-up over the fraction ``warmup`` of the steps, then cosine or linear decay to 0, or constant
    (paper, appendix A: cosine, 10 %; the authors' scripts: linear, 3 %). As in transformers'
    schedulers, the first step has factor 0 if there is a warm-up.
    """
    warm = math.ceil(warmup * steps)
    if step < warm:
        return step / warm
    progress = (step - warm) / max(1, steps - warm)
    return {"cosine": 0.5 * (1 + math.cos(math.pi * progress)), "linear": 1 - progress, "constant": 1.0}[schedule]


class NonFiniteLoss(RuntimeError):
    """The loss of a step is NaN or infinite: training must not continue."""

    def __init__(self, *, step: int, learning_rate: float, loss: float) -> None:
        super().__init__(
            f"the loss at step {step + 1} is {loss}, at learning rate {learning_rate:.3g}: "
            "lower the learning rate, or look for a bad row in the data"
        )


@dataclass(frozen=True)
class StepLog:
    """Statistics after an optimizer step. ``tokens`` and ``seconds`` count from the start."""

    step: int
    steps: int
    loss: float
    learning_rate: float
    tokens: int
    seconds: float

    def __str__(self) -> str:
        return step_line(**asdict(self))
