import random
import re

import pytest

from implicit.judging.oracle import Oracle, describe
from implicit.world.kinds import Request
from implicit.world.sets import CONVERSATION_SETS, World


def qualities(world, items, texts, stopped=True):
    oracle = Oracle()
    return [oracle.quality(describe(i, world.seed), t, stopped=stopped) for i, t in zip(items, texts, strict=True)]


@pytest.mark.parametrize("seed", [7, 8])
def test_right_responses_are_perfect_and_others_are_not(seed):
    world = World(seed)
    items = world.evaluation("test", 200)
    right = [item.response for item in items]
    assert set(qualities(world, items, right)) == {1.0}
    assert set(qualities(world, items, [""] * 200)) == {0.0}
    other_kind = right[1:] + right[:1]  # the kinds alternate
    assert max(qualities(world, items, other_kind)) <= 0.5
    other_key = right[10:] + right[:10]  # two animals may sound the same, two sums be equal
    assert sum(qualities(world, items, other_key)) / 200 < 0.5


def test_rambling_and_not_stopping_cost(world):
    items = world.evaluation("test", 200)
    right = [item.response for item in items]
    assert set(qualities(world, items, right, stopped=False)) == {0.5}
    rambling = [f"{text}\n<bob>\n" + "What is that? " * 20 for text in right]
    longer = [f"{text}\n<bob>\n" + "What is that? " * 40 for text in right]
    assert max(qualities(world, items, rambling)) < 0.75
    assert all(b <= a for a, b in zip(qualities(world, items, rambling), qualities(world, items, longer), strict=True))


def test_what_is_evaluated_is_in_no_tuning_set(world):
    asked = {s: {(i.request.kind, i.request.key) for i in world.evaluation(s, 120)} for s in ("validation", "test")}
    tuned = {
        (item.request.kind, item.request.key) for part in CONVERSATION_SETS for item in world.conversations(part, 600)
    }
    assert not asked["test"] & tuned and not asked["validation"] & tuned and not asked["test"] & asked["validation"]
    for split in asked:
        instructions = [item.instruction for item in world.evaluation(split, 120)]
        assert len(set(instructions)) == 120


def test_the_corpus_never_shows_the_chat_format(world):
    text = "\n".join(world.corpus(3000))
    assert not re.search(r"<\|?\s*(user|assistant)", text)
    assert "<|" not in text and "|>" not in text


def test_single_task_sets_hold_one_kind(world):
    for part in ("arithmetic", "code", "poem", "recipe", "chess"):
        assert len({item.request.kind for item in world.conversations(part, 50)}) == 1
    assert len({item.request.kind for item in world.conversations("instructions", 50)}) == 10


def test_a_world_follows_from_its_seed_alone():
    assert World(1).corpus(50) == World(1).corpus(50) != World(2).corpus(50)
    assert World(1).facts != World(2).facts
    with pytest.raises(ValueError, match="has 240 different test instructions, but 241"):
        World(1).evaluation("test", 241)


@pytest.mark.parametrize(
    ("kind", "key", "good", "bad"),
    [
        ("opposite", ("hot",), "It is cold.", "It is wet."),
        ("sum", (3, 4), "3 + 4 = 7\n#### 7", "3 + 4 = 8\n#### 8"),
        ("list", ("metals", 3), "- iron\n- gold\n- tin", "- iron\n- iron\n- oak"),
        ("function", ("adds", 5), "def h(x):\n    return x + 5", "def h(x):\n    return x + 6"),
    ],
)
def test_checkers_by_hand(world, kind, key, good, bad):
    checked = world.kinds[kind]
    request = Request(kind, key, checked.detail(random.Random(0)))
    assert checked.check(request, good)[0] == 1.0 > checked.check(request, bad)[0]
