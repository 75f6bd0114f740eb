"""The same pairs under other judges: how much is due to length and stopping, and how much to being right?"""

import random

import pytest

from implicit.judging.artefacts import judged_otherwise
from implicit.judging.oracle import Oracle, describe, prefer
from implicit.measuring import recount
from implicit.world.kinds import FORMATS, Request
from implicit.world.sets import World


@pytest.fixture
def judged(world):
    """A function that judges texts against others with the real oracle: (rows, requests)."""
    items, oracle = world.evaluation("test", 60), Oracle()
    requests = {str(i): describe(item, world.seed) for i, item in enumerate(items)}

    def judge(ours, theirs, *, stopped=True):
        rows = []
        for i, item in enumerate(items):
            one, two = theirs(i, item), ours(i, item)
            qualities = [
                oracle.quality(requests[str(i)], text, stopped=ended) for text, ended in ((one, True), (two, stopped))
            ]
            rows.append({"id": str(i), "output_1": one, "output_2": two, "preference": prefer(*qualities)})
        return rows, requests

    return judge


def right(i, item):
    return item.response


def test_who_is_right_and_rambles_on_loses_to_length_and_stopping_alone(judged):
    rows, requests = judged(lambda i, item: item.response + "\nand so on" * 40, right, stopped=False)
    found = judged_otherwise(rows, requests, Oracle())
    assert found["judged"].win_rate == 0 and found["judged"].n == 60
    assert found["right"].win_rate > 30  # for most kinds, the right word counts whatever the text around it
    assert found["similar_length"].n == 0 and found["similar_length"].win_rate is None


def test_equal_outputs_tie_under_every_judge(judged):
    rows, requests = judged(right, right)
    for outcome in judged_otherwise(rows, requests, Oracle()).values():
        assert (outcome.n, outcome.win_rate, outcome.ties) == (60, 50.0, 100.0)


@pytest.mark.parametrize("seed", range(3))
def test_other_judges_are_recounted_by_other_code(judged, world, seed):
    draw = random.Random(seed)

    def mixed(i, item):
        other = world.evaluation("test", 60)[draw.randrange(60)].response
        return draw.choice([item.response, other, "", "I do not know.", f"{item.response} and {other}"])

    rows, requests = judged(mixed, mixed, stopped=False)
    found = judged_otherwise(rows, requests, Oracle())
    for row in rows:
        item = world.evaluation("test", 60)[int(row["id"])]
        kind = world.kinds[item.request.kind]
        request = Request(item.request.kind, item.request.key, item.request.detail)
        for side in ("1", "2"):
            row[f"checked_{side}"] = kind.check(request, row[f"output_{side}"])
    again = recount.artefacts(rows)
    for name, outcome in found.items():
        told = again[name]
        assert (told["n"], told["win_rate"], told["ties"]) == pytest.approx((outcome.n, outcome.win_rate, outcome.ties))
    assert 0 < found["similar_length"].n < 60


def test_every_kind_has_a_format_and_right_responses_of_one_look_alike():
    world = World(5)
    assert set(FORMATS) == set(world.kinds)
    for item in world.evaluation("test", 200):
        text, format_ = item.response, FORMATS[item.request.kind]
        assert ("\n" in text) == (format_ not in ("sentence", "words")) and (text.startswith("- ")) == (
            format_ == "list"
        )
