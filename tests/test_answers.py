"""The file that stores a judge's answers."""

import os
import threading
import time

import pytest

from implicit.servers.answers import Answer, Answers, AnswersError, answer_key


def answer(key="a" * 64, **changes):
    given = {"key": key, "model": "m", "content": {"message": {"content": "é\u2028"}}, "prompt_tokens": 3}
    return Answer(**given | {"completion_tokens": 1, "price": 0.5, "time": "2026-11-22T10:00:00+00:00"} | changes)


def test_answers_are_read_back_as_they_were_and_a_torn_line_is_dropped(tmp_path, monkeypatch):
    path, log = tmp_path / "deep" / "answers.jsonl", []
    synced, sync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(file) or sync(file))
    with Answers(path) as answers:
        answers.add(answer("a"))
        answers.add(answer("b", price=None))
        assert len(synced) == 2
        assert len(path.read_bytes().split(b"\n")) == 3  # on disk before the file is closed
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:40])
    with Answers(path, log=log.append) as answers:
        assert (answers.get("a"), answers.get("b"), len(answers)) == (answer("a"), answer("b", price=None), 2)
        assert answers.paid() == 0.5
        answers.add(answer("c"))
    assert len(log) == 1 and "dropped an incomplete last line (40 bytes)" in log[0]
    with Answers(path, log=log.append) as answers:
        assert answers.get("c") == answer("c") and len(log) == 1


def test_a_damaged_file_of_answers_is_named_and_left_as_it_is(tmp_path):
    path = tmp_path / "answers.jsonl"
    with Answers(path) as answers:
        answers.add(answer("a"))
    path.write_bytes(damaged := path.read_bytes() + b'{"key": 1}\n')
    with pytest.raises(AnswersError, match=r"answers.jsonl, line 2: not an answer"), Answers(path):
        pass
    assert path.read_bytes() == damaged


def test_of_two_at_a_time_one_waits_for_the_other_and_has_its_answers(tmp_path):
    path, said, found = tmp_path / "answers.jsonl", [], []

    def second():
        with Answers(path, log=said.append) as answers:
            found.append(len(answers))

    waiting = threading.Thread(target=second)
    with Answers(path) as answers:
        waiting.start()
        while not said:
            time.sleep(0.01)
        answers.add(answer())
        assert waiting.is_alive() and not found
    waiting.join(timeout=10)
    assert found == [1] and "is in use by another process; waiting for it" in said[0]


def test_a_key_is_of_everything_that_an_answer_depends_on():
    prompt = [{"role": "user", "content": "x"}]
    keys = [
        answer_key("server", "a", prompt, {"temperature": 0}), answer_key("local", "a", prompt, {"temperature": 0}),
        answer_key("server", "b", prompt, {"temperature": 0}), answer_key("server", "a", prompt, {"temperature": 1}),
        answer_key("server", "a", [{"role": "user", "content": "y"}], {"temperature": 0}),
    ]  # fmt: skip
    assert len(set(keys)) == 5
    assert answer_key("s", "a", prompt, {"x": 1, "y": 2}) == answer_key("s", "a", prompt, {"y": 2, "x": 1})


# --- win rates ------------------------------------------------------------------------------------------------------
