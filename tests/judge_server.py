"""An OpenAI-compatible server on loopback, which answers and fails as a test specifies, and a judge that uses it."""

import http.server
import json
import threading
import time
from contextlib import contextmanager
from pathlib import Path

from implicit.judging.judge import judge_pairs
from implicit.judging.kinds import server_judge
from implicit.servers.answers import Answers
from implicit.servers.chat_client import ChatServer
from pipeline.files.storage import write_table

BUDGET = {"machine": {"tflops": 1.0, "bandwidth": 1.0, "utilisation": 1.0}}
ROOT = Path(__file__).parents[1]
KEY = "sk-very-secret-0123456789"
REQUEST = {"temperature": 1, "max_tokens": 1, "logprobs": True, "top_logprobs": 600}
TEMPLATE = "Which is better?\n{instruction}\n(m) {output_1}\n(M) {output_2}\n"


class Service:
    """An OpenAI-compatible server: ``before`` may answer instead, given (number of the request, its body).

    It returns status, headers and content, or a function that handles the connection itself.
    """

    def __init__(self, answer, before=None):
        self.answer, self.before = answer, before or (lambda number, body: None)
        self.bodies, self.keys, self.times, self.together, self.most = [], [], [], 0, 0
        self.lock = threading.Lock()

    def respond(self, body, headers):
        with self.lock:
            self.bodies.append(body)
            self.times.append(time.monotonic())
            self.keys.append(headers["Authorization"])
            number = len(self.bodies)
            self.together += 1
            self.most = max(self.most, self.together)
        try:
            return self.before(number, body) or (200, {}, self.answer(body))
        finally:
            with self.lock:
                self.together -= 1


@contextmanager
def served(service):
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            found = self.path == "/v1/chat/completions"
            answer = service.respond(body, self.headers) if found else (404, {}, error("no such path"))
            if callable(answer):
                self.close_connection = True
                answer(self)
                return
            status, headers, reply = answer
            said = reply.encode() if isinstance(reply, str) else json.dumps(reply).encode()
            self.send_response(status)
            for name, value in {
                "Content-Type": "application/json",
                "Content-Length": str(len(said)),
                **headers,
            }.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *args):
            pass

    class Server(http.server.ThreadingHTTPServer):
        request_queue_size = 50

        def handle_error(self, request, client_address):
            pass  # the client has disconnected

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()


def error(message, **more):
    return {"error": {"message": message, "type": "x", **more}}


def reply(choice, *, prompt_tokens=100, completion_tokens=1):
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    return {"id": "1", "object": "chat.completion", "created": 0, "model": "judge-0613", "usage": usage,
            "choices": [{"index": 0, "finish_reason": "length"} | choice]}  # fmt: skip


def says(text, **more):
    return {"message": {"role": "assistant", "content": text}, "logprobs": None} | more


def labelled(preferred="m"):
    """Always the same label, with certainty."""
    top = [{"token": preferred, "logprob": -0.01}]
    return lambda body: reply(says(preferred, logprobs={"content": [top[0] | {"top_logprobs": top}]}))


def asking(url, **changes):
    given = {"base_url": url, "model": "judge", "key_variable": "JUDGE_KEY", "request": REQUEST, "input_price": 10.0}
    return ChatServer(
        **given | {"output_price": 30.0, "requests": 4, "attempts": 3, "pause": 0.01, "timeout": 20.0} | changes
    )


def judged(
    service,
    pairs,
    path,
    *,
    log=None,
    both_orders=False,
    **changes,
):
    """What a server judge says of pairs; ``changes`` are of the judge, or of how the server is asked."""
    own = {name: changes.pop(name) for name in ("template", "answer", "budget", "floor") if name in changes}
    own = {"name": "judge", "template": TEMPLATE, "floor": 0.0} | own
    with served(service) as url, Answers(path, log=[].append if log is None else log.append) as answers:
        judge = server_judge(server=asking(url, **changes), answers=answers, **own)
        found = judge_pairs(*pairs, judge, seed=0, both_orders=both_orders)
    return found, judge.summary() | found.summary()


def write_files(folder, pairs):
    """An evaluation set and both sides' responses to it, as the script reads them."""
    rows = [
        {"id": row["id"], "index": i, "instruction": row["instruction"], "reference": row["output"], "request": None}
        | {"source": "x", "cluster": row["id"]}
        for i, row in enumerate(pairs[0])
    ]  # fmt: skip
    write_table("evaluation_set", rows, folder / "set.parquet")
    for name, side in zip(("it", "poem"), pairs, strict=True):
        rest = {"stopped": True, "tokens": 1, "cut": 0, "generator": name}
        write_table("responses", [row | {"index": i} | rest for i, row in enumerate(side)], folder / f"{name}.parquet")


def command_line(files, settings, **options):
    """The command line of ``judge_responses.py`` for the files in a folder."""
    given = {"set": "set.parquet", "responses": "poem.parquet", "opponent": "it.parquet", "output": "out.parquet"}
    line = [str(ROOT / "scripts" / "judge_responses.py")]
    for name, value in (given | {"summary": "out.json", "answers": "deep/answers.jsonl"} | options).items():
        line += [f"--{name}", str(files / value) if isinstance(value, str) else json.dumps(value)]
    common = {"name": "j", "seed": 0, "bootstrap": 20, "metric": "length_controlled_minimal", "both_orders": False}
    common["min_label_probability"] = 0.0
    return [*line, "--settings", json.dumps(common | settings)]


def good_and_bad(count):
    """Both sides of ``count`` pairs; the second side's output is better, except for one equal pair."""
    theirs = [{"id": f"r{i}", "instruction": f"Question {i}?", "output": f"bad answer {i}"} for i in range(count)]
    ours = [row | {"output": f"good answer {i}"} for i, row in enumerate(theirs)]
    ours[3]["output"] = theirs[3]["output"]  # equal: a tie, which is not sent to the judge
    return theirs, ours


def good(body):
    """The label of the good answer, with certainty."""
    first = body["messages"][0]["content"].split("(m) ")[1]
    return labelled("m" if first.startswith("good") else "M")(body)


def silent(handler):
    """Nothing is sent, and the connection stays open until the client gives up."""
    handler.connection.settimeout(5)
    handler.connection.recv(1)


def some(pairs, count=3):
    return pairs[0][:count], pairs[1][:count]
