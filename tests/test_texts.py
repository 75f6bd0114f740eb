"""Measures of responses that need no judge."""

import pytest

from implicit.measuring.texts import distinct_bigrams, repeats_instruction


@pytest.mark.parametrize(
    ("instruction", "response", "repeated"),
    [
        ("Name a fruit.", "An apple.", False),
        ("Name a fruit.", "name a\n FRUIT. An apple.", True),
        ("Name a fruit.", "Name a fruit", False),  # the whole instruction, its full stop included
        (" ", "An apple.", False),
    ],
)
def test_a_repeated_instruction_is_found_whatever_its_case_and_white_space(instruction, response, repeated):
    assert repeats_instruction(instruction, response) == repeated


def test_a_loop_has_few_distinct_pairs_of_words():
    assert distinct_bigrams("one two three four") == 1
    assert distinct_bigrams("one two One\n two one two") == 2 / 5  # (one, two) three times, (two, one) twice
    assert distinct_bigrams("go on " * 100) == 2 / 199
    assert distinct_bigrams("word") is distinct_bigrams(" ") is None
