"""The progress lines that a long loop logs."""

from implicit.progress import Progress


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_a_loop_says_how_far_it_is_at_what_rate_and_how_long_it_will_take():
    lines, clock = [], Clock()
    progress = Progress(1000, "pairs", log=lines.append, every=10.0, clock=clock)
    for _ in range(100):
        clock.now += 1.0
        progress.advance(10)
    assert lines[0] == "10/1,000 pairs, 10 pairs/s, 99 s left"
    assert len(lines) == 10, "the first batch, then one every ten seconds"
    assert lines[-1].endswith(" s left")


def test_a_loop_that_is_over_at_once_says_nothing():
    lines = []
    Progress(3, "prompts", log=lines.append).advance(3)
    assert lines == []
