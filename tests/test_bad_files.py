"""Faulty model directories, tokenizers, judge files and truncated tables: each gives one message and no output."""

import json
import shutil
import sys
from pathlib import Path

import architectures
import pytest
import yaml
from broken_models import FILES, halve, set_json, wrong
from judge_server import REQUEST, command_line, write_files

import judge_responses
import resolve_rules
from implicit.generation.rules import UnresolvedToken
from implicit.judging.judge import JudgeError
from implicit.judging.local_judge import LocalJudgeError
from implicit.judging.win_rates import MetricError
from implicit.servers.answers import AnswersError
from implicit.servers.chat_client import ServerError
from pipeline.files.storage import read_table, write_table
from pipeline.jobs.command import InputError

CHAT = {"user_tag": "<|user|>", "assistant_tag": "<|assistant|>", "add_bos": True}
REFUSED = (
    InputError, AnswersError, JudgeError, LocalJudgeError, MetricError, ServerError, UnresolvedToken,
)  # fmt: skip
SERVER = {
    "base_url": "http://127.0.0.1:9/v1",
    "model": "x",
    "price": {"input": 0, "output": 0},
    "request": REQUEST,
    "key_variable": "NO_KEY",
}
# --- what a judge reads ---------------------------------------------------------------------------------------------

ORACLE = {"kind": "oracle"}


def responses(folder, **changes):
    rows = read_table("responses", folder / "poem.parquet")
    write_table("responses", [row | {k: f(i, row) for k, f in changes.items()} for i, row in enumerate(rows)], folder / "poem.parquet")  # fmt: skip


@wrong(judge_responses, r"poem.parquet has two responses to \['r2'\]", **ORACLE)
def an_instruction_that_is_answered_twice(folder):
    rows = read_table("responses", folder / "poem.parquet")
    write_table("responses", [*rows, rows[2]], folder / "poem.parquet")


@wrong(judge_responses, r"poem.parquet must have exactly one response to each instruction", **ORACLE)
def an_instruction_that_is_not_answered(folder):
    write_table("responses", read_table("responses", folder / "poem.parquet")[1:], folder / "poem.parquet")


@wrong(judge_responses, r"poem.parquet contains responses from \['poem', 'x'\], but only one generator", **ORACLE)
def two_generators_in_one_file(folder):
    responses(folder, generator=lambda i, row: "x" if i else "poem")


@wrong(judge_responses, r"both sides are called 'it'", **ORACLE)
def two_sides_of_one_name(folder):
    responses(folder, generator=lambda i, row: "it")


@wrong(judge_responses, r"rows without an output: \['r0'\]", **ORACLE)
def a_response_that_is_null(folder):
    responses(folder, output=lambda i, row: row["output"] if i else None)


@wrong(
    judge_responses, r"judge.kind: the oracle only supports instructions of the tiny world, not \['r0', 'r1'", **ORACLE
)
def an_oracle_for_other_instructions(folder):
    pass


@wrong(judge_responses, r"judge.metric: length_controlled_v1 .* there are 4; use length_controlled_minimal", **ORACLE | {"metric": "length_controlled_v1"})  # fmt: skip
def a_metric_of_another_set(folder):
    pass


@wrong(judge_responses, r"judge.template: its placeholders must be .*but they are \['instruction'\]", kind="server", server=SERVER, template="t.txt")  # fmt: skip
def a_template_without_its_placeholders(folder):
    (folder / "t.txt").write_text("{instruction}")


@wrong(judge_responses, r"judge.template: .*t.txt is not UTF-8 text", kind="server", server=SERVER, template="t.txt")
def a_template_that_is_no_text(folder):
    (folder / "t.txt").write_bytes(b"\xff\xfe{instruction}")


@wrong(judge_responses, r"judge.template: .* must begin with <\|im_start\|> and end", kind="server", server=SERVER, template="t.txt")  # fmt: skip
def a_template_that_ends_no_turn(folder):
    (folder / "t.txt").write_text("<|im_start|>{instruction} {output_1} {output_2}")


@wrong(judge_responses, r"https://api.example.com/v1: the environment variables NO_KEY and NO_KEY_FILE are both unset",
       kind="server", server=SERVER | {"base_url": "https://api.example.com/v1"})  # fmt: skip
def a_server_without_a_key(folder):
    pass


@wrong(judge_responses, r"answers.jsonl, line 2: not an answer; fix or delete that line", kind="server", server=SERVER)
def kept_answers_that_were_changed(folder):
    (folder / "deep").mkdir()
    line = {"key": "a", "model": "m", "content": 1, "prompt_tokens": 1, "completion_tokens": 1, "price": 0, "time": "t"}
    (folder / "deep" / "answers.jsonl").write_text(f"{json.dumps(line)}\n{json.dumps(line | {'price': 'free'})}\n")


@wrong(judge_responses, r"judge.evaluator: 'nobody' is not a folder, a file or an evaluator of alpaca-eval, which ships ", kind="evaluator", evaluator="nobody")  # fmt: skip
def an_evaluator_that_nobody_ships(folder):
    pass


@wrong(judge_responses, r"judge.evaluator: .*e.yaml is not YAML", kind="evaluator", evaluator="e.yaml")
def an_evaluator_that_is_no_yaml(folder):
    (folder / "e.yaml").write_text("a: [")


@wrong(judge_responses, r"judge.evaluator: .*e.yaml must define exactly one annotator", kind="evaluator", evaluator="e.yaml")  # fmt: skip
def an_evaluator_of_two(folder):
    (folder / "e.yaml").write_text("a: {}\nb: {}")


@wrong(judge_responses, r"judge.evaluator: .*e.yaml: its annotator must be a mapping of settings", kind="evaluator", evaluator="e.yaml")  # fmt: skip
def an_evaluator_without_settings(folder):
    (folder / "e.yaml").write_text("a: text")


@wrong(judge_responses, r"judge.evaluator: .*: its prompt_template .*none.txt is not a file", kind="evaluator", evaluator="e.yaml")  # fmt: skip
def an_evaluator_without_its_template(folder):
    (folder / "e.yaml").write_text("a: {prompt_template: none.txt}")


@wrong(judge_responses, r"judge.evaluator: .*'davinci'", kind="evaluator", evaluator="e.yaml")
def an_evaluator_that_is_no_chat_model(folder):
    (folder / "t.txt").write_text("{instruction} {output_1} {output_2}")
    settings = {
        "prompt_template": str(folder / "t.txt"),
        "completions_kwargs": {"model_name": "davinci", "is_chat": False},
    }
    (folder / "e.yaml").write_text(yaml.safe_dump({"a": settings}))


@wrong(judge_responses, r"judge.evaluator: .*: completions_kwargs needs a model_name", kind="evaluator", evaluator="e.yaml")  # fmt: skip
def an_evaluator_that_names_no_model(folder):
    (folder / "t.txt").write_text("{instruction} {output_1} {output_2}")
    (folder / "e.yaml").write_text(yaml.safe_dump({"a": {"prompt_template": str(folder / "t.txt")}}))


@wrong(judge_responses, r"judge.path: .*model cannot be loaded: .*SafetensorError", kind="local", path="model")
def a_local_judge_of_half_its_weights(folder):
    halve(folder / "model" / "model.safetensors")


@wrong(judge_responses, r"judge.path: .*nowhere cannot be loaded", kind="local", path="nowhere")
def a_local_judge_that_is_not_there(folder):
    pass


# --- tables that were written in part -------------------------------------------------------------------------------


@wrong(judge_responses, r"set.parquet", **ORACLE)
def half_of_an_evaluation_set(folder):
    halve(folder / "set.parquet")


@wrong(judge_responses, r"poem.parquet", **ORACLE)
def half_of_the_responses(folder):
    halve(folder / "poem.parquet")


@wrong(judge_responses, r"poem.parquet", **ORACLE)
def responses_of_no_bytes(folder):
    (folder / "poem.parquet").write_bytes(b"")


@wrong(judge_responses, r"poem.parquet is not a table of responses: its columns are \['id', 'index'", **ORACLE)
def another_kind_of_table(folder):
    shutil.copy(folder / "set.parquet", folder / "poem.parquet")


# --- the suite ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def right(tmp_path_factory):
    """A folder in which all files are valid."""
    folder = tmp_path_factory.mktemp("right")
    architectures.save("llama-2", folder / "model")
    sides = [
        [{"id": f"r{i}", "instruction": f"Question {i}?", "output": f"{answer} {i}"} for i in range(4)]
        for answer in ("one", "another")
    ]
    write_files(folder, sides)
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    write_table("conversations", [{"id": "d-0", "messages": turns, "source": "here"}], folder / "rows.parquet")
    return folder


def words_of(script, folder, given):
    """The command line of a script for the files in a folder; its output goes to ``out``."""
    out = folder / "out"
    if script is judge_responses:
        paths = {"template": str(folder / given["template"])} if "template" in given else {}
        paths |= {
            key: str(folder / given[key]) for key in ("path", "evaluator") if given.get(key) not in (None, "nobody")
        }
        return command_line(folder, given | paths, output="out/judgements.parquet", summary="out/judgements.json")
    if script is resolve_rules:
        settings = {"token_scores": {"!": 1.0, "Supercali": 1.0}}
        return ["x", "--model", str(folder / "model"), "--output", str(out / "x"), "--settings", json.dumps(settings)]
    settings = {"path": str(folder / "model"), "revision": None, "chat": CHAT}
    words = [
        "x",
        "--model",
        str(out / "model"),
        "--record",
        str(out / "record.json"),
        "--settings",
        json.dumps(settings),
    ]
    return [*words, "--conversations", str(folder / "rows.parquet")]


@pytest.mark.parametrize(("script", "change", "given", "message"), FILES, ids=[case[1].__name__ for case in FILES])
def test_files_that_cannot_be_used_are_named_and_nothing_is_written(
    right, tmp_path, monkeypatch, script, change, given, message
):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    folder = tmp_path / "files"
    shutil.copytree(right, folder)
    if script is resolve_rules:
        with_pad(folder)
    change(folder)
    monkeypatch.setattr(sys, "argv", words_of(script, folder, given))
    # The table of another stage is refused by the reader, with the same errors as any invalid value.
    with pytest.raises((*REFUSED, ValueError) if ".parquet" in message else REFUSED, match=f"(?s){message}"):
        script.main()
    assert not list((folder / "out").rglob("*"))
    assert not [path for path in Path(folder).rglob(".*")]  # no temporary file


def with_pad(folder):
    """The tokenizer, with everything that importing adds."""
    set_json(folder / "model" / "tokenizer_config.json", pad_token="<unk>")
