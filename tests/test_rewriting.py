import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_judge_server import KEY, Service, error, reply, says, served

import rewrite_dataset
from implicit.data.rewriting import (
    IncompleteRewriting,
    RewritingError,
    Turn,
    fill,
    find_turns,
    restates,
    rewrite,
)
from implicit.servers.answers import Answers
from implicit.servers.chat_client import ChatServer
from pipeline.files.storage import read_json, read_table, write_table
from pipeline.jobs.ledger import unpriced_calls

ROOT = Path(__file__).parents[1]
DETECT = "Does it restate? I: {instruction} R: {response} Say #### YES or #### NO."
REWRITE = "Take out the restatement. I: {instruction} R: {response}"


def conversation(number, *texts):
    messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
    return {"id": f"lima-{number}", "messages": messages, "source": "lima"}


@pytest.fixture
def rows():
    """Three of five rows restate, one of them in its second turn. The first does, as the authors' lost row might."""
    made = [
        conversation(0, "Name a colour", "Sure, here is a colour: red"),
        conversation(1, "Say {response}", "{instruction} it is"),
        conversation(2, "One", "1", "Name a city", "Sure, here is a city: Rome", "And?", "Nothing"),
        conversation(3, "Hello?", "Hi"),
        conversation(4, "A tree", "Sure, here is a tree: oak"),
    ]
    made[3]["messages"].insert(0, {"role": "system", "content": "Be kind."})
    return made


def language_model(body):
    """Detects and removes text up to the colon in responses that begin with 'Sure'."""
    prompt = body["messages"][0]["content"]
    response = prompt.split(" R: ", 1)[1].removesuffix(" Say #### YES or #### NO.")
    if prompt.startswith("Does"):
        return reply(
            says("<think>#### NO?</think>\n#### YES." if response.startswith("Sure") else "#### NO"), prompt_tokens=50
        )
    return reply(
        says(f"<think>So.</think>\n\n {response.split(': ', 1)[1]}\n", finish_reason="stop"),
        prompt_tokens=70,
        completion_tokens=4,
    )


def run(service, rows, path=None, *, log=None, **changes):
    given = {"model": "gpt", "key_variable": "REWRITE_KEY", "input_price": 10.0, "output_price": 30.0}
    with served(service) as url, Answers(path, log=[].append if log is None else log.append) as answers:
        server = ChatServer(
            **given | {"base_url": url, "requests": 3, "attempts": 2, "pause": 0.01, "timeout": 20.0} | changes
        )
        return rewrite(rows, detect=DETECT, rewrite=REWRITE, server=server, answers=answers)


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("REWRITE_KEY", KEY)


def test_every_answer_to_a_user_is_a_turn(rows):
    turns = find_turns(rows)
    assert [(turn.row, turn.place) for turn in turns] == [(0, 1), (1, 1), (2, 1), (2, 3), (2, 5), (3, 2), (4, 1)]
    greeting = {"messages": [{"role": r, "content": r} for r in ("system", "assistant", "assistant", "user")]}
    assert find_turns([greeting]) == []
    assert turns[3] == Turn(2, 3, "Name a city", "Sure, here is a city: Rome")


def test_a_template_is_filled_at_once():
    assert (
        fill("{response}|{instruction}|{x}", Turn(0, 1, "{response}", "{instruction}"))
        == "{instruction}|{response}|{x}"
    )


@pytest.mark.parametrize(("said", "verdict"), [
    ("#### YES", True), ("#### YES.", True), ("It does.\n#### YES", True), ("#### NO", False), ("####NO.\n", False),
    ("YES", None), ("", None), ("#### YES or #### NO?", None), ("#### YESTERDAY", None), ("#### maybe", None),
])  # fmt: skip
def test_a_verdict_is_one_of_two(said, verdict):
    assert restates(said) is verdict


def test_restating_responses_are_rewritten_and_all_rows_are_kept(rows):
    log, service = [], Service(language_model)
    before = json.dumps(rows)
    done = run(service, rows, log=log)
    expected = json.loads(re.sub(r"Sure, here is a \w+: ", "", before))
    assert done.rows == expected and json.dumps(rows) == before
    assert (done.turns, done.flagged, len(service.bodies)) == (7, 3, 10)
    assert done.kept_characters == pytest.approx((3 + 4 + 3) / (27 + 26 + 25))
    assert done.detected.summary()["price"] == pytest.approx(7 * (50 * 10 + 30) / 1e6)
    assert done.rewritten.summary()["price"] == pytest.approx(3 * (70 * 10 + 4 * 30) / 1e6)
    assert "7 to ask: about" in log[0] and "3 of 7 responses restate" in " ".join(log)


def test_rewriting_that_was_stopped_goes_on_where_it_was(rows, tmp_path):
    path = tmp_path / "answers.jsonl"
    straight = run(Service(language_model), rows)
    for good in (4, 4):  # from the first round, then from the rest of it and from the second
        service = Service(
            language_model, before=lambda n, body, good=good: (500, {}, error("down")) if n > good else None
        )
        with pytest.raises(
            IncompleteRewriting, match=r"turns have no answer to `(detect|rewrite)`: rows \['lima-\d'.*500"
        ):
            run(service, rows, path)
    assert len(path.read_text().splitlines()) == 8
    last = Service(language_model)
    assert run(last, rows, path).rows == straight.rows and len(last.bodies) == 2
    idle = Service(lambda body: pytest.fail("asked again"))
    assert run(idle, rows, path).rewritten.summary()["cached"] == 3


@pytest.mark.parametrize(("bad", "why"), [
    (says(" \n", finish_reason="stop"), "is empty"), (says(None, finish_reason="stop"), "is empty"),
    (says("oa", finish_reason="length"), "cut off: raise max_tokens"),
])  # fmt: skip
def test_an_empty_or_cut_off_response_is_asked_for_again_and_then_fails(rows, tmp_path, bad, why):
    def answer(body):
        found = language_model(body)
        return reply(bad) if body["messages"][0]["content"].startswith("Take") and "tree" in str(body) else found

    service = Service(answer)
    with pytest.raises(
        IncompleteRewriting, match=rf"1 of 3 turns have no answer to `rewrite`: rows \['lima-4'\]; .*{why}"
    ):
        run(service, rows, tmp_path / "a.jsonl")
    assert len(service.bodies) == 7 + 2 + 2 and len((tmp_path / "a.jsonl").read_text().splitlines()) == 9


def test_a_verdict_that_is_none_is_asked_for_again_and_then_fails(rows):
    service = Service(lambda body: reply(says("Perhaps.")) if "tree" in str(body) else language_model(body))
    with pytest.raises(
        IncompleteRewriting, match=r"1 of 7 turns have no answer to `detect`: rows \['lima-4'\]; .*'Perhaps.'"
    ):
        run(service, rows)
    assert len(service.bodies) == 6 + 2


def test_a_template_without_its_placeholders_is_refused(rows):
    with (
        pytest.raises(RewritingError, match=r"rewriting.rewrite: the template lacks \{response\}"),
        Answers(None) as answers,
    ):
        server = ChatServer("http://127.0.0.1:1/v1", "gpt", "REWRITE_KEY")
        rewrite(rows, detect=DETECT, rewrite="{instruction}", server=server, answers=answers)


def test_the_script_rewrites_a_dataset_and_says_what_it_took(rows, tmp_path, monkeypatch, capsys):
    write_table("conversations", rows, tmp_path / "lima.parquet")
    service = Service(language_model)
    with served(service) as url:
        server = {
            "base_url": url,
            "model": "gpt",
            "key_variable": "REWRITE_KEY",
            "request": {},
            "price": {"input": 10, "output": 30},
        }
        line = [str(ROOT / "scripts" / "rewrite_dataset.py"), "--data", str(tmp_path / "lima.parquet")]
        line += ["--output", str(tmp_path / "new.parquet"), "--answers", str(tmp_path / "deep" / "a.jsonl")]
        line += ["--settings", json.dumps({"server": server, "detect": DETECT, "rewrite": REWRITE}), "--requests", "2"]
        line += ["--timeout", "20", "--attempts", "1", "--record", str(tmp_path / "record.json")]
        done = subprocess.run(
            [sys.executable, *line], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
        assert done.returncode == 0, done.stdout
        assert "3 of 7 responses in 5 conversations rewritten, to 13 % of their characters; 10 calls now" in done.stdout
        assert "560 + 19 tokens, price 0.0062" in done.stdout and KEY not in done.stdout
        monkeypatch.setattr(sys, "argv", line)
        rewrite_dataset.main()
        unpriced = json.dumps({"server": server | {"price": None}, "detect": DETECT, "rewrite": REWRITE})
        budget = {
            "folder": str(tmp_path / "ledger"),
            "ceilings": {},
            "machine": {"tflops": 1, "bandwidth": 1, "utilisation": 1},
        }
        again = [*line, "--settings", unpriced, "--answers", str(tmp_path / "b.jsonl"), "--budget", json.dumps(budget)]
        again[again.index("--output") + 1] = str(tmp_path / "unpriced.parquet")
        with monkeypatch.context() as patched:
            said = []
            patched.setattr("pipeline.jobs.job.say", said.append)
            patched.setattr(sys, "argv", [*again, "--record", str(tmp_path / "unpriced.json")])
            rewrite_dataset.main()
        assert said[-1].endswith("price unknown") and read_json(tmp_path / "unpriced.json")["price"] is None
        assert unpriced_calls(tmp_path / "ledger") == read_json(tmp_path / "unpriced.json")["unpriced_calls"] == 10
        del service.bodies[10:]
    assert len(service.bodies) == 10 and "0 calls now, 10 answers of before" in capsys.readouterr().out
    assert read_table("conversations", tmp_path / "new.parquet") == run(service, rows).rows
    record = read_json(tmp_path / "record.json")
    assert (record["turns"], record["flagged"], record["rows"], record["cached"]) == (7, 3, 5, 10)
    assert not any(KEY.encode() in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
