"""Judging through a real HTTP server on loopback, which computes its log-probabilities with a small Llama."""

import copy
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
import yaml
from judge_server import KEY, REQUEST, TEMPLATE, Service, command_line, error, judged, reply, says, served, write_files
from tokenizers.processors import TemplateProcessing
from transformers import GPT2Config, GPT2LMHeadModel

import judge_responses
from implicit.judging.evaluators import evaluator_judge
from implicit.judging.judge import IncompleteJudging, JudgeError, judge_pairs
from implicit.judging.kinds import ALPACA_EVAL_2, local_judge
from implicit.judging.local_judge import LocalJudgeError, LocalModel, encode_messages, label_tokens, score_labels
from implicit.judging.preferences import label_share
from implicit.judging.win_rates import MetricError
from implicit.servers.answers import Answers
from implicit.tuning.pretrain import Architecture, build_model
from pipeline.files.storage import read_json, read_table, write_table
from pipeline.jobs.command import InputError
from pipeline.jobs.record import fingerprint

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def judging(tokenizer):
    """A model whose answers vary widely between prompts, with a chat template that distinguishes roles."""
    made = build_model(Architecture(hidden_size=32, layers=2, heads=4, context=2048), tokenizer, seed=5)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim == 2:
                parameter.mul_(8)
    tokenizer = type(tokenizer)(
        tokenizer_object=tokenizer.backend_tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    tokenizer.chat_template = "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}{% endfor %}</s>assistant:"
    return made.eval(), tokenizer


@pytest.fixture
def pairs(world):
    items = world.evaluation("test", 12)
    right = [{"id": f"r{i}", "instruction": x.instruction, "output": x.response} for i, x in enumerate(items)]
    other = [row | {"output": right[(i + 5) % 12]["output"] + " Yes."} for i, row in enumerate(right)]
    other[3]["output"] = right[3]["output"]  # equal: a tie, which is not sent to the judge
    return right, other


def computing(judging):
    """The model's own next-token log-probabilities, one prompt at a time, without padding."""
    model, tokenizer = judging
    lock = threading.Lock()

    def answer(body):
        text = tokenizer.apply_chat_template(body["messages"], add_generation_prompt=True, tokenize=False)
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
        with lock, torch.inference_mode():
            logprobs = model(ids).logits[0, -1].double().log_softmax(-1)
        top = logprobs.topk(min(body["top_logprobs"], len(logprobs)))
        ranked = [
            {"token": tokenizer.decode([i]), "logprob": p.item()} for p, i in zip(top.values, top.indices, strict=True)
        ]
        token = ranked[0] | {"top_logprobs": ranked}
        return reply(says(ranked[0]["token"], logprobs={"content": [token]}), prompt_tokens=ids.shape[1])

    return answer


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", KEY)
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.delenv(name, raising=False)


# --- the same judgement by every way --------------------------------------------------------------------------------


@pytest.mark.parametrize("template", [None, TEMPLATE])
def test_preferences_through_a_server_equal_those_of_the_same_model_in_process(judging, pairs, tmp_path, template):
    """Via HTTP one by one, all at once, in both orders; here in padded batches. The default prompt is AlpacaEval 2's."""
    model, tokenizer = judging
    remote, told = judged(Service(computing(judging)), pairs, tmp_path / "a.jsonl", template=template, both_orders=True)
    with Answers(None) as answers:
        judge = local_judge(
            LocalModel(model, tokenizer, "tiny", batch_tokens=4096),
            name="judge",
            answers=answers,
            template=template,
            floor=0.0,
        )
        local = judge_pairs(*pairs, judge, seed=0, both_orders=True)
    assert local.preferences == pytest.approx(remote.preferences, abs=1e-6)
    assert local.model_first == pytest.approx(remote.model_first, abs=1e-6)
    assert local.position_bias == pytest.approx(remote.position_bias, abs=1e-4)
    assert max(remote.preferences) - min(remote.preferences) > 0.01  # they differ, and not only in their order
    assert remote.preferences[3] == 1.5 and told["calls"] == 22
    summary = judge.summary() | local.summary()
    assert summary["template"] == told["template"] and summary["label_share"] == pytest.approx(told["label_share"])
    assert summary["prompt_tokens"] == told["prompt_tokens"] and (summary["kind"], told["kind"]) == ("local", "server")
    assert told["model"] == "judge" and len(told["date"]) == 10


def test_an_evaluator_of_alpaca_evals_asks_as_its_config_says(judging, pairs, tmp_path, monkeypatch):
    service = Service(computing(judging))
    name = "weighted_alpaca_eval_gpt4_turbo"
    mine = {"prompt_template": str(ALPACA_EVAL_2), "completions_kwargs": {
        "model_name": "judge", "max_tokens": 1, "temperature": 1, "top_p": None, "logprobs": True, "top_logprobs": 600,
        "price_per_token": 1e-5}, "fn_completion_parser": "logprob_parser", "completion_key": "completions_all",
        "completion_parser_kwargs": {"numerator_token": "m", "denominator_tokens": ["m", "M"], "is_binarize": False}}  # fmt: skip
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "configs.yaml").write_text(yaml.safe_dump({"mine": mine}))
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with served(service) as url:
        monkeypatch.setenv("OPENAI_BASE_URL", url)
        with Answers(tmp_path / "e.jsonl") as answers:
            judge = evaluator_judge(name="e", evaluator=str(tmp_path / "mine"), answers=answers, floor=0.0)
            found = judge_pairs(*pairs, judge, seed=0)
        with Answers(None) as answers, pytest.raises(IncompleteJudging):  # this model's top 5 do not contain the labels
            judge_pairs(
                *pairs, evaluator_judge(name="e", evaluator=name, answers=answers, floor=0.0, attempts=1), seed=0
            )
    assert {k: v for k, v in service.bodies[0].items() if k != "messages"} == {
        "model": "judge", "max_tokens": 1, "temperature": 1, "logprobs": True, "top_logprobs": 600,
    }  # fmt: skip
    shipped = {k: v for k, v in service.bodies[-1].items() if k != "messages"}
    assert shipped == {
        "model": "gpt-4-1106-preview", "max_tokens": 1, "temperature": 1, "top_p": 1.0, "logprobs": True, "top_logprobs": 5,
    }  # fmt: skip
    told = judge.summary()
    assert (
        told["price"] == pytest.approx(1e-5 * (told["prompt_tokens"] + told["completion_tokens"])) and told["price"] > 0
    )
    # Its parser counts only the tokens 'm' and 'M', ours also ' m': they agree if those are left out.
    direct, _ = judged(service, pairs, tmp_path / "s.jsonl", template=None)
    assert found.preferences == pytest.approx(direct.preferences, abs=0.2) and found.first_shown is not None


def test_a_local_judge_needs_labels_of_one_token_and_prompts_that_fit(judging, pairs):
    model, tokenizer = judging
    with pytest.raises(LocalJudgeError, match="'output two' is not a single token"):
        label_tokens(tokenizer, ("m", "output two"))
    assert {tokenizer.decode([i]).strip() for i in label_tokens(tokenizer, ("m", "M"))[1]} == {"M"}
    assert encode_messages(tokenizer, [{"role": "user", "content": "a"}])[0] == tokenizer.bos_token_id
    with pytest.raises(LocalJudgeError, match="1 of 2 prompts are longer than the judge's context of 2048"):
        next(score_labels(model, [[5] * 10, [5] * 2049], [[1], [2]], batch_tokens=99))
    pairs[1][0]["output"], pairs[1][1]["output"] = "</s>assistant: </s>", "It is his <turn> now."
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<turn>"]})  # for which the model has no embedding
    with Answers(None) as answers:
        judge = local_judge(LocalModel(model, tokenizer, "t"), name="j", answers=answers, template=TEMPLATE, floor=0.0)
        found = judge_pairs(*pairs, judge, seed=0)
    assert "<turn>" in judge.special and found.protected == 2
    assert all(0 < label_share(a.content).probability < 1 for a in judge.asked.answers)


def test_batched_scores_are_those_of_single_prompts_for_absolute_positions_too(tokenizer):
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=64, vocab_size=500)).eval()
    prompts, tokens = [[7 + i + j for j in range(3 + 9 * i)] for i in range(6)], [[5, 9], [11]]
    batched, single = (
        {place: logprobs for place, logprobs, _ in score_labels(model, prompts, tokens, batch_tokens=count)}
        for count in (150, 1)
    )
    assert [batched[i] for i in range(6)] == [pytest.approx(single[i], abs=1e-5) for i in range(6)]
    with torch.inference_mode():
        logprobs = model(torch.tensor([prompts[2]])).logits[0, -1].log_softmax(-1)
    assert single[2] == pytest.approx([logprobs[[5, 9]].logsumexp(0).item(), logprobs[11].item()], abs=1e-5)


def test_a_chat_template_that_writes_the_bos_does_not_get_another(judging):
    tokenizer = copy.deepcopy(judging[1])
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    ids = encode_messages(tokenizer, [{"role": "user", "content": "a"}])
    assert ids.count(0) == 1 and tokenizer("a").input_ids[0] == 0
    tokenizer.chat_template = None
    assert (
        tokenizer.decode(
            encode_messages(tokenizer, [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}])
        )
        == "<s>a\n\nb\n"
    )


def test_a_local_judge_goes_on_where_it_was_stopped(judging, pairs, tmp_path):
    model, tokenizer = judging
    results = []
    for identity in ("t@1", "t@1", "t@2"):  # the third: the same name, other weights
        with Answers(tmp_path / "a.jsonl") as answers:
            judge = local_judge(
                LocalModel(model, tokenizer, identity, batch_tokens=300),
                name="j",
                answers=answers,
                template=TEMPLATE,
                floor=0.0,
            )
            results.append((judge_pairs(*pairs, judge, seed=0).preferences, judge.summary()["calls"]))
    assert [calls for _, calls in results] == [11, 0, 11] and results[0][0] == results[1][0]


# --- the script -----------------------------------------------------------------------------------------------------


@pytest.fixture
def files(pairs, tmp_path):
    write_files(tmp_path, pairs)
    return tmp_path


def run_alone(files, settings, **options):
    """Run the script in a process of its own."""
    command = [sys.executable, *command_line(files, settings, **options)]
    return subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)


@pytest.fixture
def run_here(files, monkeypatch):
    """Run the script in this process, which has already imported what it needs."""

    def run(settings, **options):
        monkeypatch.setattr(sys, "argv", command_line(files, settings, **options))
        judge_responses.main()

    return run


def test_the_script_judges_by_a_server_and_never_shows_the_key(judging, pairs, files, run_here, capsys):
    service = Service(computing(judging))
    budget = {
        "folder": str(files / "ledger"),
        "ceilings": {"price": 5.0},
        "machine": {"tflops": 1, "bandwidth": 1, "utilisation": 1},
    }
    with served(service) as url:
        server = {
            "base_url": url,
            "model": "judge",
            "key_variable": "JUDGE_KEY",
            "request": REQUEST,
            "price": {"input": 10, "output": 30},
        }
        settings = {"kind": "server", "server": server, "both_orders": True}
        done = run_alone(files, settings, requests=3, budget=budget)
        assert done.returncode == 0, done.stdout
        first, entry = read_json(files / "out.json"), next((files / "ledger").glob("*.json"))
        assert read_json(entry)["price"] == pytest.approx(first["price"])
        run_here(settings, budget=budget)
    summary = read_json(files / "out.json")
    assert len(service.bodies) == 22 and (first["calls"], first["cached"]) == (22, 0)
    assert (summary["calls"], summary["cached"], summary["price_now"]) == (0, 22, 0)
    assert first["price"] == pytest.approx(summary["price"]) == pytest.approx(first["price_now"])
    assert (summary["judge"], summary["kind"], summary["model"], summary["quality_1"]) == ("j", "server", "judge", None)
    assert summary["n"] == 12 and summary["position_bias"] is not None and summary["price"] > 0
    rows = read_table("judgements", files / "out.parquet")
    direct, _ = judged(Service(computing(judging)), pairs, None, template=None, both_orders=True)
    assert [row["preference"] for row in rows] == pytest.approx(direct.preferences, abs=1e-9)
    assert [row["preference_output_1_first"] for row in rows] == pytest.approx(direct.opponent_first, abs=1e-9)
    assert read_json(entry)["price"] == pytest.approx(summary["price"])
    written = [file.read_text(errors="replace") for file in files.rglob("*") if file.is_file()]
    assert len(written) >= 7 and not any(KEY in text for text in (done.stdout, capsys.readouterr().out, *written))


def test_the_script_judges_by_a_local_model_as_by_the_server(judging, pairs, files, run_here):
    model, tokenizer = judging
    model.save_pretrained(files / "model")
    tokenizer.save_pretrained(files / "model")
    run_here({"kind": "local", "path": str(files / "model")}, batch=4096)
    summary = read_json(files / "out.json")
    assert summary["model"] == f"{files / 'model'}@{fingerprint(files / 'model')[:12]}"
    direct, _ = judged(Service(computing(judging)), pairs, None, template=None)
    rows = read_table("judgements", files / "out.parquet")
    assert [row["preference"] for row in rows] == pytest.approx(direct.preferences, abs=1e-6)
    assert summary["first_shown"] == pytest.approx(direct.first_shown, abs=1e-4)


def test_the_script_ends_with_one_line_and_writes_nothing_where_it_cannot_judge(files, run_here):
    service = Service(None, before=lambda number, body: (401, {}, error(f"wrong key {KEY}")))
    server = {"model": "x", "key_variable": "JUDGE_KEY", "request": REQUEST, "price": {"input": 0, "output": 0}}
    with served(service) as url:
        done = run_alone(files, {"kind": "server", "server": server | {"base_url": url}})
    assert done.returncode == 1 and "Traceback" not in done.stdout and KEY not in done.stdout
    assert done.stdout.splitlines()[-1].startswith("error: http://127.0.0.1") and "JUDGE_KEY" in done.stdout
    with pytest.raises(MetricError, match="there are 12; use length_controlled_minimal"):
        run_here({"kind": "oracle", "metric": "length_controlled_v1"})
    with pytest.raises(JudgeError, match="both sides are called 'poem'"):
        run_here({"kind": "oracle"}, opponent="poem.parquet")
    with pytest.raises(InputError, match=r"no-such-model cannot be loaded"):
        run_here({"kind": "local", "path": "./no-such-model"})
    rows = read_table("responses", files / "poem.parquet")
    write_table("responses", [*rows, rows[2]], files / "twice.parquet")
    with pytest.raises(InputError, match=r"twice.parquet has two responses to \['r2'\]"):
        run_here({"kind": "oracle"}, responses="twice.parquet")
    write_table("responses", [rows[0] | {"generator": "x"}, *rows[1:]], files / "mixed.parquet")
    with pytest.raises(InputError, match=r"mixed.parquet contains responses from \['poem', 'x'\]"):
        run_here({"kind": "oracle"}, responses="mixed.parquet")
    assert not (files / "out.parquet").exists() and not (files / "out.json").exists()
