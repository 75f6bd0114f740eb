"""How the metrics of checks are taken: by the way of checking, such as strict and loose."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace

from implicit.measuring.intervals import mean_interval
from reporting.page.content import Content, Number

CHECK_DRAWS = 1000  # of the bootstrap for intervals


def ways(content: Content) -> list[str]:
    """The ways in which a checker checks, such as strict and loose."""
    return list(dict.fromkeys(row["way"] for row in content.rows))


def in_way(content: Content, way: str, value: float, n: int) -> Number:
    """A number of one evaluation set and way of checking."""
    return Number(value, n, slice=content.result.set, part=way)


def by_prompt(content: Content, way: str) -> dict[str, list[bool]]:
    """The outcomes of each response's checks, by the cluster of its prompt."""
    found: dict[str, list[bool]] = {}
    for row in content.rows:
        if row["way"] == way:
            found.setdefault(row["cluster"], []).append(row["passed"])
    return found


def prompts_passed(content: Content) -> list[Number]:
    """The percentage of responses that pass all of their checks."""
    found = {way: by_prompt(content, way).values() for way in ways(content)}
    return [in_way(content, way, 100 * statistics.fmean(map(all, own)), len(own)) for way, own in found.items()]


def checks_passed(content: Content) -> list[Number]:
    """The percentage of single checks that pass."""
    found = {way: [passed for own in by_prompt(content, way).values() for passed in own] for way in ways(content)}
    return [in_way(content, way, 100 * statistics.fmean(own), len(own)) for way, own in found.items()]


def passed_over_seeds(prompts: bool) -> Callable[[Sequence[Content]], list[Number]]:
    """The mean over seeds of the percentage of prompts, or of checks, with its 95 % interval over seeds and prompts."""

    def pool(contents: Sequence[Content]) -> list[Number]:
        numbers = []
        for way in ways(contents[0]):
            seeds = [by_prompt(content, way) for content in contents]
            own = [list(found.values()) for found in seeds]
            above = [[100.0 * (all(one) if prompts else sum(one)) for one in found] for found in own]
            below = [[1.0 if prompts else float(len(one)) for one in found] for found in own]
            low, high = mean_interval(above, below, list(seeds[0]), draws=CHECK_DRAWS, seed=0)
            value = statistics.fmean(sum(up) / sum(down) for up, down in zip(above, below, strict=True))
            numbers.append(replace(in_way(contents[0], way, value, int(sum(below[0]))), low=low, high=high))
        return numbers

    return pool
