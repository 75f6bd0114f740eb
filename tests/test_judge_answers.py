"""Which answer belongs to which question, and that a crash loses none and pays for none twice."""

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from judge_server import (
    BUDGET,
    REQUEST,
    TEMPLATE,
    Service,
    asking,
    command_line,
    good,
    judged,
    reply,
    says,
    served,
    silent,
    some,
    write_files,
)

import judge_responses
from implicit.servers.answers import Answers, AnswersError
from implicit.servers.chat_client import Question, ask
from pipeline.files.storage import read_json
from pipeline.jobs.ledger import spent

pytestmark = pytest.mark.usefixtures("judge_key")
RIGHT = [2.0, 2.0, 2.0]


# --- which answer is whose ------------------------------------------------------------------------------------------


def named(body):
    return reply(says(f"answer to {body['messages'][0]['content']}"))


def numbered(service, count=12, **changes):
    """The texts returned for ``count`` questions."""
    with served(service) as url, Answers(None) as answers:
        questions = [Question([{"role": "user", "content": f"q{i}"}], 10.0, 1.0) for i in range(count)]
        server = asking(url, request={}, **changes)
        asked = ask(questions, kind="x", server=server, answers=answers, fault=lambda choice: None)
    return [answer.content["message"]["content"] for answer in asked.answers]


def test_answers_that_overtake_each_other_stay_with_their_questions():
    def before(number, body):
        time.sleep(0.25 - 0.02 * int(body["messages"][0]["content"][1:]))

    service = Service(named, before=before)
    assert numbered(service, requests=12) == [f"answer to q{i}" for i in range(12)]
    assert service.most > 6  # at the same time


def test_an_answer_that_comes_twice_is_not_taken_for_the_next_one():
    """On a persistent connection, the second copy would be read as the answer to the next question."""

    def twice(body):
        said = json.dumps(named(body)).encode()
        message = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
            len(said),
            said,
        )

        def write(handler):
            handler.wfile.write(message + message)
            handler.close_connection = False

        return write

    service = Service(None, before=lambda number, body: twice(body))
    assert numbered(service, requests=1) == [f"answer to q{i}" for i in range(12)]
    assert len(service.bodies) == 12


def test_a_question_that_stands_twice_is_asked_once_and_a_second_choice_is_not_read(tmp_path):
    def two(body):
        first = named(body)
        return first | {"choices": [*first["choices"], says("another")]}

    service = Service(two)
    with served(service) as url, Answers(tmp_path / "a.jsonl") as answers:
        questions = [Question([{"role": "user", "content": text}], 10.0, 1.0) for text in "abab"]
        asked = ask(questions, kind="x", server=asking(url, request={}), answers=answers, fault=lambda choice: None)
    assert [a.content["message"]["content"][-1] for a in asked.answers] == list("abab")
    assert len(service.bodies) == 2 == len((tmp_path / "a.jsonl").read_text().splitlines())


@pytest.mark.parametrize("usage", [None, [], "many", {"prompt_tokens": None}, {"prompt_tokens": -5, "completion_tokens": "1"}])  # fmt: skip
def test_where_a_server_does_not_say_what_it_used_the_estimate_counts(pairs, usage):
    found, told = judged(Service(lambda body: good(body) | {"usage": usage}), some(pairs), None)
    assert found.preferences == RIGHT[:3]
    assert 0 < told["prompt_tokens"] < 100 and told["completion_tokens"] == 3 and told["price"] > 0


# --- crashes --------------------------------------------------------------------------------------------------------


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.02)


def test_a_run_that_is_killed_loses_no_answer_and_pays_for_none_twice(pairs, tmp_path, monkeypatch):
    """SIGKILL while three unanswered requests are in flight; the server counts its answers."""
    write_files(tmp_path, pairs)
    path, answered = tmp_path / "deep" / "answers.jsonl", []

    def answer(body):
        answered.append(body["messages"][0]["content"])
        return good(body)

    service = Service(answer, before=lambda number, body: silent if number > 5 and len(answered) >= 5 else None)
    with served(service) as url:
        server = {"base_url": url, "model": "judge", "key_variable": "JUDGE_KEY", "request": REQUEST, "price": {"input": 10, "output": 30}}  # fmt: skip
        (tmp_path / "template.txt").write_text(TEMPLATE)
        settings = {"kind": "server", "server": server, "template": str(tmp_path / "template.txt")}
        budget = {"folder": str(tmp_path / "ledger"), "ceilings": {"price": 5.0}} | BUDGET
        words = command_line(tmp_path, settings, budget=budget, requests=1)
        process = subprocess.Popen(
            [sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        wait_for(lambda: len(service.bodies) > 5 or process.poll() is not None)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, process.stdout.read()
        process.stdout.close()
        assert len(answered) == 5 == len(path.read_text().splitlines()) and not (tmp_path / "out.json").exists()
        reserved = spent(tmp_path / "ledger")["price"]
        assert reserved > 5 * 0.0001  # the reservation of a killed job is kept until it runs again
        service.before = lambda number, body: None
        monkeypatch.setattr(sys, "argv", words)
        judge_responses.main()
    assert len(answered) == 11 and set(Counter(answered).values()) == {1}
    summary = read_json(tmp_path / "out.json")
    assert (summary["calls"], summary["cached"], summary["wins"], summary["ties"]) == (6, 5, 11, 1)
    assert summary["price"] == pytest.approx(11 * (100 * 10 + 30) / 1e6)
    assert spent(tmp_path / "ledger")["price"] == pytest.approx(summary["price"])


def test_an_answer_that_cannot_be_written_leaves_the_file_whole(tmp_path):
    """A file size limit stands in for a full disk: the line that exceeds it is partially written."""
    path = tmp_path / "answers.jsonl"
    code = f"""
import resource, signal, sys
sys.path.insert(0, "scripts")
from implicit.servers.answers import Answer, Answers, AnswersError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with Answers({str(path)!r}) as answers:
    answers.add(Answer("a", "m", "x" * 100, 1, 1, 0.0, "now"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))
    try:
        answers.add(Answer("b", "m", "x" * 1000, 1, 1, 0.0, "now"))
    except AnswersError as error:
        print(error)
    answers.add(Answer("c", "m", "", 1, 1, 0.0, "now"))
"""
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert "answers.jsonl cannot be written: File too large; it is unchanged" in done.stdout
    with Answers(path) as answers:
        assert len(answers) == 2 and answers.get("b") is None


@pytest.mark.parametrize("line", ["{}", "[1]", "no json", '{"key": 1, "model": "m", "content": 1, "prompt_tokens": 1, "completion_tokens": 1, "price": 0, "time": "x"}'])  # fmt: skip
def test_a_kept_line_that_is_no_answer_is_named(tmp_path, line):
    (tmp_path / "a.jsonl").write_text(f"{line}\n")
    with pytest.raises(AnswersError, match=r"a.jsonl, line 1: not an answer; fix or delete that line"), Answers(tmp_path / "a.jsonl"):  # fmt: skip
        pass
    assert (tmp_path / "a.jsonl").read_text() == f"{line}\n"
