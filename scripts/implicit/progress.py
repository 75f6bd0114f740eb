"""Progress of a long loop: items done, their total, the rate and the time left."""

import time
from collections.abc import Callable


class Progress:
    """Logs the progress of a loop: after its first batch, then at most every ``every`` seconds.

    The last line of a finished loop is left to the caller, who knows the outcome. Lines end in ``N s left``, which the
    run's display reads.
    """

    def __init__(
        self,
        total: int,
        unit: str,
        *,
        log: Callable[[str], None],
        every: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``unit`` is the plural of the items counted, such as ``pairs``; ``clock`` returns seconds."""
        self.total, self.unit, self.log, self.every, self.clock = total, unit, log, every, clock
        self.done = 0
        self.started = clock()
        self.logged = float("-inf")

    def advance(self, count: int = 1) -> None:
        """Count ``count`` more items as done and log a line if one is due."""
        self.done += count
        now = self.clock()
        if self.done >= self.total or now - self.logged < self.every:
            return
        self.logged = now
        seconds = now - self.started
        rate = self.done / seconds if seconds > 0 else 0.0
        left = f", {(self.total - self.done) / rate:.0f} s left" if rate else ""
        self.log(f"{self.done:,}/{self.total:,} {self.unit}, {rate:.3g} {self.unit}/s{left}")


def step_line(*, step: int, steps: int, loss: float, learning_rate: float, tokens: int, seconds: float) -> str:
    """The log line of optimizer step ``step`` of ``steps``; tokens and seconds count from the start."""
    rate = tokens / seconds if seconds else 0.0
    left = seconds / step * (steps - step)
    return f"step {step}/{steps}  loss {loss:.4f}  lr {learning_rate:.2e}  {rate:,.0f} tokens/s  {left:.0f} s left"
