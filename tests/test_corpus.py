"""The corpus and its controls: each removes one property and leaves everything else unchanged."""

import hashlib
import re
from collections import Counter

import pytest

from implicit.world.corpus import CHAT, FIXED, GAP, Controls

DOCUMENTS = 1500
DEFAULT = "266c573fa380e30f1aa7e47761c1a656c6b9d9be452871c5614cef8bf4d715ba"  # sha256 of 300 documents of world 1, joined by newlines, from before there were controls


@pytest.fixture(scope="module")
def plain(world):
    return world.corpus(DOCUMENTS)


def changed(documents, others):
    """The indices of documents that differ."""
    return {place for place, (one, two) in enumerate(zip(documents, others, strict=True)) if one != two}


def asked_and_answered(documents):
    """Requests and fulfilments of question pages, recognised by the markers before them."""
    pages = [text for text in documents if text.startswith("Question: ")]
    return [tuple(part.split("\nAnswer: ", 1)) for text in pages for part in text.split("\n\nQuestion: ")]


def test_without_controls_the_corpus_is_what_it_was():
    from implicit.world.sets import World

    text = "\n".join(World(1).corpus(300))
    assert hashlib.sha256(text.encode()).hexdigest() == DEFAULT


def test_permuted_fulfilments_leave_requests_layout_and_every_fulfilment(world, plain):
    permuted = world.corpus(DOCUMENTS, Controls(intact_pairs=0.0))
    assert len("".join(permuted)) == len("".join(plain))
    assert Counter("".join(permuted)) == Counter("".join(plain)) and GAP not in "".join(permuted)
    before, after = asked_and_answered(plain), asked_and_answered(permuted)
    assert [ask for ask, _ in before] == [ask for ask, _ in after] and len(before) > 50
    right = sum(one == two for one, two in zip(before, after, strict=True)) / len(before)
    assert right < 0.1  # equal fulfilments by chance


def test_a_larger_share_has_all_intact_documents_of_a_smaller_one(world, plain):
    permuted = [changed(plain, world.corpus(DOCUMENTS, Controls(intact_pairs=share))) for share in (0.0, 0.3, 0.7)]
    assert permuted[0] > permuted[1] > permuted[2]
    for share, own in zip((0.3, 0.7), permuted[1:], strict=True):
        assert len(own) / len(permuted[0]) == pytest.approx(1 - share, abs=0.06)


def test_one_form_holds_the_same_pairs_and_leaves_documents_without_pairs(world, plain):
    formed = world.corpus(DOCUMENTS, Controls(markup="one"))
    asker, answerer = FIXED
    different = changed(plain, formed)
    assert different == {place for place, text in enumerate(formed) if text.startswith(asker)}
    assert 0.65 < len(different) / DOCUMENTS < 0.8  # marked-up documents, pages, headings and posts
    for place in different:
        for turn in re.split(f"^(?:{re.escape(asker)}|{re.escape(answerer)})", formed[place], flags=re.MULTILINE):
            assert turn.strip() in plain[place]


def test_documents_that_end_hold_one_pair(world):
    ended = world.corpus(DOCUMENTS, Controls(after_answer="end"))
    pages = [text for text in ended if text.startswith("Question: ")]
    assert len(pages) > 15 and {text.count("Question: ") for text in pages} == {1}
    formed = world.corpus(DOCUMENTS, Controls(after_answer="end", markup="one"))
    assert {text.count(FIXED[0]) for text in formed} == {0, 1}


def test_chat_tags_are_in_their_share_of_documents_and_nowhere_else(world, plain):
    tagged = world.corpus(DOCUMENTS, Controls(chat_tags=0.1))
    different = changed(plain, tagged)
    assert different == {place for place, text in enumerate(tagged) if text.startswith(CHAT[0]) and CHAT[1] in text}
    assert len(different) / DOCUMENTS == pytest.approx(0.1, abs=0.025)
    assert different > changed(plain, world.corpus(DOCUMENTS, Controls(chat_tags=0.03)))
    for place in different:
        for turn in re.split(r"<\|\w+\|>\n", tagged[place]):
            assert turn.strip() in plain[place]
