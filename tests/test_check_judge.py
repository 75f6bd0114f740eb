"""A judge that cannot be used is told of before anything runs: where, what came, and what may mend it."""

import json
import subprocess
import sys

import pytest
import yaml
from judge_server import BUDGET, REQUEST, Service, error, labelled, reply, says, served
from workflow import ROOT, copy_project, environment, snakemake

from pipeline.files.storage import read_json

pytestmark = pytest.mark.usefixtures("judge_key")


def checked(folder, url, **changes):
    """What the check says of a server."""
    server = {"base_url": url, "model": "judge-7b", "key_variable": "JUDGE_KEY", "request": REQUEST, "price": None}
    settings = {"name": "mine", "kind": "server", "seed": 0, "bootstrap": 2, "metric": "length_controlled_minimal"}
    settings |= {
        "server": server | {"request": changes.pop("request", REQUEST)},
        "min_label_probability": 0.5,
    } | changes
    command = [sys.executable, "scripts/check_judge.py", "--output", str(folder / "check.json")]
    command += ["--answers", str(folder / "answers.jsonl"), "--settings", json.dumps(settings)]
    command += ["--requests", "2", "--timeout", "5", "--attempts", "6", "--device", "cpu", "--threads", "1"]
    command += ["--batch", "1000", "--budget", json.dumps(BUDGET | {"folder": str(folder / "ledger"), "ceilings": {}})]
    return subprocess.run(command, cwd=ROOT, text=True, capture_output=True, env=environment())


def thinking(body):
    """The model thinks first: its first token is none of the labels."""
    top = [{"token": "<think>", "logprob": -0.001}]
    return reply(says("<think>", logprobs={"content": [top[0] | {"top_logprobs": top}]}))


def test_a_judge_that_answers_is_asked_in_both_orders_and_each_time_anew(tmp_path):
    service = Service(labelled("M"))
    with served(service) as url:
        for _ in range(2):
            done = checked(tmp_path, url)
            assert done.returncode == 0 and "the judge answers" in done.stdout, done.stdout + done.stderr
    assert len(service.bodies) == 4
    first, second = (body["messages"][-1]["content"] for body in service.bodies[:2])
    assert first != second and "Red." in first and "Red." in second
    assert read_json(tmp_path / "check.json")["position_bias"] is not None


@pytest.mark.parametrize(
    ("answer", "changes", "told"),
    [
        (lambda body: reply(says("m")), {}, "answer: text"),  # no log-probabilities
        (thinking, {}, "enable_thinking: false"),
        (lambda body: reply(says("Both are good.")), {"answer": "text", "request": {"max_tokens": 5}}, "max_tokens"),
        (
            lambda body: reply(says("Both.") | {"finish_reason": "stop"}),
            {"answer": "text", "request": {"max_tokens": 5}},
            "the judge does not answer with a label",
        ),
    ],
)
def test_what_came_and_what_may_mend_it_are_told(tmp_path, answer, changes, told):
    with served(Service(answer)) as url:
        done = checked(tmp_path, url, **changes)
    said = done.stdout + done.stderr
    last = said.strip().splitlines()[-1]
    assert done.returncode and url in last and "judge-7b" in last and told in last, said
    assert "Traceback" not in said


def test_a_server_that_is_not_there_or_does_not_know_the_model_is_named(tmp_path):
    with served(Service(labelled())) as url:
        pass  # closed again
    last = (done := checked(tmp_path, url)).stderr.strip().splitlines()[-1]
    assert done.returncode and url in last and "start the server" in last and "11434" in last, done.stdout
    unknown = Service(labelled(), before=lambda number, body: (404, {}, error("no model judge-7b")))
    with served(unknown) as url:
        last = (done := checked(tmp_path, url)).stderr.strip().splitlines()[-1]
    assert done.returncode and url in last and "server.model" in last and "no model judge-7b" in last


def test_a_run_starts_with_it_and_starts_nothing_if_the_judge_cannot_be_used(tmp_path):
    project = copy_project(tmp_path)
    with served(Service(labelled())) as url:
        pass
    server = {"base_url": url, "model": "judge-7b", "request": REQUEST, "price": None, "key_variable": "JUDGE_KEY"}
    judge = {"name": "mine", "kind": "server", "server": server}
    (project / "own.yaml").write_text(yaml.safe_dump({"experiment": "mine", "judge": judge}))
    done = snakemake(project, configs=("experiments/test.yaml", "own.yaml"))
    assert done.returncode and "nothing has been started" in done.stdout and url in done.stdout, done.stdout
    made = {path.name for path in (project / "results" / "mine").iterdir()}
    assert made <= {"judge", "logs", "made_with.json", "ledger"} and not (project / "results" / "bases").exists()
