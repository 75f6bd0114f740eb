"""Misbehaving servers with scripted faults: what is retried, how often, what counts, and what is kept."""

import json
import socket
import struct
import time

import pytest
from judge_server import (
    KEY,
    REQUEST,
    TEMPLATE,
    Service,
    error,
    good,
    judged,
    reply,
    says,
    silent,
    some,
)

from implicit.judging.judge import IncompleteJudging, JudgeError
from implicit.servers.chat_client import ServerError, read_key
from implicit.servers.connections import is_local

pytestmark = pytest.mark.usefixtures("judge_key")
RIGHT = [2.0, 2.0, 2.0, 1.5] + [2.0] * 8


# --- faults, by script ----------------------------------------------------------------------------------------------


def reset(handler):
    """The connection is reset before any part of an answer."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


def endless(handler):
    """A space every few moments, indefinitely, as some proxies send while they wait for a model."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
    for _ in range(500):
        handler.wfile.write(b" ")
        time.sleep(0.02)


def broken_off(handler):
    """Fewer bytes than the header announces."""
    handler.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"choices": [')


def status(code, **headers):
    return lambda body: (code, {name.replace("_", "-"): value for name, value in headers.items()}, error("not now"))


def content(text):
    return lambda body: (200, {}, text)


def choice(**changed):
    return lambda body: (200, {}, reply(good(body)["choices"][0] | changed))


def truncated(body):
    return 200, {}, json.dumps(good(body))[:-25]


def relabelled(body):
    tops = [{"token": "X", "logprob": -0.1}, {"token": "Both", "logprob": -2.0}]
    return 200, {}, reply(says("X", logprobs={"content": [tops[0] | {"top_logprobs": tops}]}))


def echoed(body):
    return 200, {}, f"You sent Authorization: Bearer {KEY}"


RETRIED = {  # name: (what the server does, what the message says about it)
    "429 without Retry-After": (status(429), "status 429"),
    "429 with Retry-After": (status(429, Retry_After="0.05"), "status 429"),
    "429 with a date in the past": (status(429, Retry_After="Wed, 21 Oct 2015 07:28:00 GMT"), "status 429"),
    "429 with a Retry-After that is none": (status(429, Retry_After="soon"), "status 429"),
    "408": (status(408), "status 408"),
    "409": (status(409), "status 409"),
    "500": (status(500), "status 500"),
    "502, a proxy's page": (lambda body: (502, {"Content-Type": "text/html"}, "<html>Bad gateway"), "status 502"),
    "503": (status(503), "status 503"),
    "connection reset": (reset, "APIConnectionError"),
    "no word": (silent, "APITimeoutError"),
    "a body that never ends": (endless, "APITimeoutError"),
    "a body that breaks off": (broken_off, "APIConnectionError"),
    "truncated JSON": (truncated, "not a chat completion"),
    "an empty body": (content(""), "not a chat completion"),
    "a page with status 200": (content("<html>Please log in"), "not a chat completion: '<html>"),
    "JSON that is no object": (content("[]"), "not a chat completion"),
    "thousands of brackets": (content("[" * 100_000), "not a chat completion"),
    "no choices": (content({"choices": []}), "not a chat completion"),
    "a choice that is text": (content({"choices": ["m"]}), "not a chat completion"),
    "no message": (content({"choices": [{"index": 0}]}), "not a chat completion"),
    "empty text": (choice(**says("")), "no preference can be read"),
    "no text": (choice(**says(None)), "no preference can be read"),
    "missing logprobs": (choice(logprobs=None), "no preference can be read"),
    "logprobs of no token": (choice(logprobs={"content": []}), "no preference can be read"),
    "logprobs of another shape": (choice(logprobs=[1, 2]), "no preference can be read"),
    "a logprob that is no number": (
        choice(logprobs={"content": [{"top_logprobs": [{"token": "m", "logprob": float("nan")}]}]}),
        "no preference can be read",
    ),
    "a refusal": (choice(message={"role": "assistant", "content": None, "refusal": "No."}), "no preference can be read"),
    "a content filter": (choice(finish_reason="content_filter"), "no preference can be read"),
    "probabilities that sum to more than 1": (relabelled, "no preference can be read"),
    "the key, in the reply": (echoed, r"not a chat completion: 'You sent Authorization: Bearer \*\*\*'"),
}  # fmt: skip


def faulty(fault, times, *, of="Question 1?"):
    """A server that fails a given number of times on one question and answers all others."""
    left = [times]

    def before(number, body):
        if of not in body["messages"][0]["content"] or left[0] == 0:
            return None
        left[0] -= 1
        return fault if fault in (reset, silent, endless, broken_off) else fault(body)

    return Service(good, before=before)


@pytest.mark.parametrize("name", RETRIED)
def test_a_fault_that_may_pass_is_tried_again_and_then_named_with_its_row(pairs, tmp_path, name):
    """One of three rows fails: twice, and is then answered; or always, and then the next run asks only for it."""
    fault, why = RETRIED[name]
    # Only a hanging server gets a short timeout: on a busy machine, a good answer may take a second.
    timeout = 1.0 if fault in (silent, endless) else 20.0
    service = faulty(fault, 2)
    found, told = judged(service, some(pairs), None, timeout=timeout)
    assert len(service.bodies) == 3 + 2 and found.preferences == RIGHT[:3]

    path, log = tmp_path / "answers.jsonl", []
    service = faulty(fault, -1)
    with pytest.raises(
        IncompleteJudging, match=rf"(?s)1 of 3 comparisons .* rows \['r1'\]; reasons: .*{why}.*kept"
    ) as caught:
        judged(service, some(pairs), path, log=log, timeout=timeout)
    assert len(service.bodies) == 2 + 3  # exactly `attempts` times
    assert len(path.read_text().splitlines()) == 2
    assert KEY not in str(caught.value) + "".join(log) + path.read_text()

    service = Service(good)
    found, told = judged(service, some(pairs), path, timeout=timeout)
    assert len(service.bodies) == 1 and (told["calls"], told["cached"]) == (1, 2)
    assert found.preferences == RIGHT[:3]


@pytest.mark.parametrize(("status", "said", "check"), [
    (401, "Incorrect API key provided: " + KEY, "JUDGE_KEY"), (403, "forbidden", "JUDGE_KEY"),
    (404, "no model", "most end in /v1"), (400, "unknown field", "server.request"), (413, "too large", "server.request"),
    (429, "insufficient_quota", "credit"),
])  # fmt: skip
def test_what_trying_again_cannot_mend_is_one_message(pairs, tmp_path, status, said, check):
    log = []
    service = Service(None, before=lambda number, body: (status, {}, error(said, code=said)))
    with pytest.raises(
        ServerError, match=rf"http://127.0.0.1:\d+/v1 answers with status {status}: .*Check .*{check}"
    ) as caught:
        judged(service, pairs, tmp_path / "a.jsonl", log=log)
    assert len(service.bodies) <= 4 and (tmp_path / "a.jsonl").read_bytes() == b""
    assert KEY not in str(caught.value) + "".join(log)
    assert set(service.keys) == {f"Bearer {KEY}"}


def test_pauses_grow_and_a_server_may_ask_for_longer_ones(pairs):
    script = {1: status(429, Retry_After="0.6"), 2: status(500), 3: status(503), 4: status(429)}
    service = Service(good, before=lambda number, body: script[number](body) if number in script else None)
    judged(service, some(pairs, 1), None, attempts=6, pause=0.05)
    waited = [b - a for a, b in zip(service.times, service.times[1:], strict=False)]
    assert len(waited) == 4 and waited[0] >= 0.6 > waited[1]
    assert all(wait >= 0.05 * 2**i for i, wait in enumerate(waited))


def test_when_nothing_is_answered_the_rest_is_not_asked(pairs, tmp_path):
    log, service = [], Service(lambda body: reply(says("m")))
    with pytest.raises(IncompleteJudging, match=r"11 of 12 comparisons .* rows \['r0', 'r1', 'r2', 'r4'"):
        judged(service, pairs, tmp_path / "a.jsonl", log=log)
    assert (tmp_path / "a.jsonl").read_bytes() == b""
    # After ten consecutive questions without an answer, no more are asked; some were in flight.
    assert 30 <= len(service.bodies) <= 33 and any("the rest are not sent" in line for line in log)


# --- keys and settings ----------------------------------------------------------------------------------------------


def test_a_missing_key_is_said_before_anything_unless_the_server_is_local(pairs, monkeypatch):
    monkeypatch.delenv("JUDGE_KEY")
    service = Service(good)
    judged(service, some(pairs, 1), None)
    assert service.keys == ["Bearer none"]
    assert [is_local(f"http{s}://{h}/v1") for s, h in [("", "localhost:8000"), ("", "[::1]:1"), ("s", "api.openai.com"), ("", "10.0.0.1")]] == [True, True, False, False]  # fmt: skip
    with pytest.raises(
        ServerError, match=r"https://api.example.com/v1: .* JUDGE_KEY and JUDGE_KEY_FILE are both unset"
    ):
        read_key("https://api.example.com/v1", "JUDGE_KEY")


def test_a_key_may_lie_in_a_file_and_the_environment_goes_first(pairs, tmp_path, monkeypatch):
    (tmp_path / "key").write_text(f"{KEY}-of-a-file\n")
    monkeypatch.setenv("JUDGE_KEY_FILE", str(tmp_path / "key"))
    assert read_key("https://api.example.com/v1", "JUDGE_KEY") == KEY
    monkeypatch.delenv("JUDGE_KEY")
    judged(service := Service(good), some(pairs, 1), None)
    assert service.keys == [f"Bearer {KEY}-of-a-file"]
    for text, message in (
        ("", "which contains no key"),
        (f"A={KEY}\nB=2", "contains spaces"),
        ("schlüssel", "non-ASCII"),
    ):
        (tmp_path / "key").write_text(text)
        with pytest.raises(ServerError, match=message) as caught:
            read_key("http://localhost/v1", "JUDGE_KEY")
        assert KEY not in str(caught.value)
    monkeypatch.setenv("JUDGE_KEY_FILE", str(tmp_path / "nowhere"))
    with pytest.raises(ServerError, match=r"JUDGE_KEY_FILE names .*nowhere, which cannot be read"):
        read_key("http://localhost/v1", "JUDGE_KEY")


def test_settings_that_cannot_work_are_refused_before_anything(pairs):
    service = Service(good)
    with pytest.raises(JudgeError, match="needs `logprobs: true` and `top_logprobs`"):
        judged(service, pairs, None, request={"max_tokens": 1})
    with pytest.raises(ServerError, match="stream, n cannot be set there"):
        judged(service, pairs, None, request=REQUEST | {"n": 3, "stream": True})
    assert not service.bodies


def test_a_changed_judge_prompt_setting_or_text_is_asked_anew(pairs, tmp_path):
    path, one = tmp_path / "answers.jsonl", some(pairs, 1)
    calls = []
    for given in (
        {}, {}, {"model": "other"}, {"template": TEMPLATE + "!"}, {"request": REQUEST | {"temperature": 0}},
        {"requests": 1, "attempts": 2, "timeout": 9.0},
    ):  # fmt: skip
        service = Service(good)
        judged(service, one, path, **given)
        calls.append(len(service.bodies))
    one[1][0]["output"] += "!"
    judged(service := Service(good), one, path)
    assert calls == [1, 0, 1, 1, 1, 0] and len(service.bodies) == 1
