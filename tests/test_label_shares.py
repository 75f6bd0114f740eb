"""A preference is read only if the labels have enough probability: the floor, for every kind of judge."""

import json
import math

import pytest
import yaml
from judge_server import (
    KEY,
    REQUEST,
    TEMPLATE,
    Service,
    asking,
    command_line,
    good_and_bad,
    judged,
    reply,
    says,
    served,
    write_files,
)

import judge_responses
from implicit.judging.evaluators import evaluator_judge
from implicit.judging.judge import IncompleteJudging, judge_pairs
from implicit.judging.kinds import local_judge, server_judge
from implicit.judging.local_judge import LocalModel
from implicit.judging.preferences import label_share, parser_share, text_preference, weighted_preference
from implicit.servers.answers import Answers
from implicit.tuning.pretrain import Architecture, build_model
from pipeline.files.storage import read_json, read_table, write_json
from pipeline.identity.systems import Experiment, Result, System
from reporting.metrics.collect import collect
from reporting.metrics.recounts import Recount
from reporting.metrics.view import View
from reporting.tables.tables import make_table
from verify import by_key, check_recounted

THINKING = {"<think>": -0.0004, "The": -8.1, "M": -14.2, "m": -16.9}


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture
def pairs():
    return good_and_bad(14)


def choice(*tops, **more):
    """An answer with one token per argument, each with its alternatives: a mapping, or a list of pairs."""
    content = [
        {"top_logprobs": [{"token": t, "logprob": p} for t, p in (top.items() if isinstance(top, dict) else top)]}
        for top in tops
    ]
    return says("x", logprobs={"content": content}) | more


def sure(body, probability=0.98):
    """The good answer's label with a given probability, the other's with a hundredth of it."""
    first = body["messages"][0]["content"].split("(m) ")[1].startswith("good")
    label, other = ("m", "M") if first else ("M", "m")
    top = {label: math.log(probability), other: math.log(probability / 100), "The": math.log(0.99 - probability)}
    return reply(choice(top))


def unsure_of(questions, top=THINKING):
    """A server whose labels have almost no probability for some questions."""
    return Service(
        lambda body: reply(choice(top)) if any(q in body["messages"][0]["content"] for q in questions) else sure(body)
    )


# --- what is read of an answer --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("top", "share"), [
    ({"m": math.log(0.7), "M": math.log(0.2)}, 0.9),
    ({" m": math.log(0.3), "m": math.log(0.3), "▁M": math.log(0.2)}, 0.8),  # both forms count
    ([("m", math.log(0.45)), ("m", math.log(0.45)), ("M", math.log(0.1))], 0.55),  # the sampled token, once more
    ({"M": -math.inf, "m": math.log(0.6)}, 0.6),
    ({"M": -9999.0, "m": -9999.0, "x": 0.0}, 0.0),  # what some servers return for no probability
    ({"ｍ": -0.01, "М": -6.0}, 0.0),  # a full-width m and a Cyrillic М are not labels
    ({"\n": -0.01, "m": math.log(0.005)}, 0.005),
    (THINKING, math.exp(-14.2) + math.exp(-16.9)),
])  # fmt: skip
def test_the_share_of_the_labels_is_their_probability_together(top, share):
    assert label_share(choice(top)).probability == pytest.approx(share)


@pytest.mark.parametrize("top", [
    {"m": 0.7, "M": 0.2},  # probabilities instead of log-probabilities
    {"m": -0.1, "M": -0.2},  # with a sum above 1
    {"m": -0.1, "M": math.nan}, {"m": -0.1, "M": None}, {"m": -0.1, "M": "-3"}, {"m": True}, {"m": math.inf}, {},
])  # fmt: skip
def test_what_are_no_log_probabilities_give_no_preference(top):
    assert weighted_preference(choice(top)) == [None] and label_share(choice(top)) is None


def test_alpaca_evals_parser_is_followed_to_the_tokens_that_it_reads():
    settings = {"numerator_token": "A", "denominator_tokens": ["A", "B"]}
    answer = choice({"A": math.log(0.9)}, {" A": math.log(0.7), "B": math.log(0.2)})
    assert parser_share(answer, **settings, log_prob_index=0).probability == pytest.approx(0.9)
    assert parser_share(answer, **settings, log_prob_index=-1).probability == pytest.approx(0.2)  # ' A' is not a label
    assert parser_share(answer, **settings).probability == pytest.approx(0.2)  # the lowest of all
    assert parser_share(answer, **settings, log_prob_index=5) is None and parser_share("A", **settings) is None


@pytest.mark.parametrize(("text", "more"), [
    ("m or M", {}), ("Output (m)", {}), ("neither", {}), ("<think>I find M", {"finish_reason": "length"}),
    ("M", {"finish_reason": "length"}),  # of "Model m"?
    ("m", {"finish_reason": "content_filter"}), ("m", {"message": {"content": "m", "refusal": "No."}}), ("ｍ", {}),
])  # fmt: skip
def test_a_text_that_is_not_one_whole_label_gives_no_preference(text, more):
    assert text_preference(says(text) | more) == [None]


# --- a server -------------------------------------------------------------------------------------------------------


def test_labels_of_next_to_no_probability_are_no_preference(pairs, tmp_path):
    """One question of thirteen is asked once and reported with its row and tokens, and its answer is kept."""
    path, service = tmp_path / "a.jsonl", unsure_of(["Question 5?"])
    with pytest.raises(
        IncompleteJudging,
        match=r"(?s)1 of 14 comparisons .* rows \['r5'\]; 1 .*judge.min_label_probability = 0.5: .*row 'r5'.*7.3e-07"
        r'.*"<think>" 0.9996, "The" 0.0003.*judge.answer: text.*enable_thinking: false.*judge.min_label_probability',
    ):
        judged(service, pairs, path, floor=0.5)
    assert len(service.bodies) == 13 and len(path.read_text().splitlines()) == 13
    # A lower floor uses the stored answers; once the server is fixed, only that question is asked again.
    found, told = judged(silent := Service(None), pairs, path, floor=1e-9)
    assert not silent.bodies and told["label_share_minimum"] == pytest.approx(math.exp(-14.2) + math.exp(-16.9))
    found, told = judged(again := Service(sure), pairs, path, floor=0.5)
    assert len(again.bodies) == 1 and found.preferences[5] == pytest.approx(2 - 1 / 101)
    assert told["label_share"] == pytest.approx(0.98 * 1.01) and found.label_shares[3] is None


@pytest.mark.parametrize(
    "top", [THINKING, {"<think>": -0.001, "The": -7.5}, {'"': -0.01, "m": -5.0}, {"": -0.01, "M": -5.0}]
)
def test_a_judge_that_never_answers_with_a_label_is_asked_no_further(pairs, tmp_path, top):
    service, log = Service(lambda body: reply(choice(top))), []
    with pytest.raises(IncompleteJudging, match=r"13 of 14 comparisons .*judge.min_label_probability"):
        judged(service, pairs, tmp_path / "a.jsonl", floor=0.5, requests=1, log=log)
    assert len(service.bodies) <= 12 and any("the rest are not sent" in line for line in log)


def test_the_lower_share_of_both_orders_counts_and_is_reported(pairs):
    shares = iter([0.9, 0.6] * 13)
    found, told = judged(
        Service(lambda body: sure(body, next(shares))), pairs, None, floor=0.5, both_orders=True, requests=1
    )
    known = [share for share in found.label_shares if share is not None]
    assert len(known) == 13 and min(known) == told["label_share_minimum"] == pytest.approx(0.6 * 1.01)
    assert told["label_share"] == pytest.approx(sum(known) / 13)


def test_a_text_judge_has_no_shares_and_its_cut_answers_are_named(pairs):
    stop = {"finish_reason": "stop"}
    _, told = judged(Service(lambda body: reply(says("m") | stop)), pairs, None, answer="text", floor=0.5)
    assert told["label_share"] is None and told["first_shown"] == 50
    with pytest.raises(IncompleteJudging, match="cut off: raise max_tokens"):
        judged(Service(lambda body: reply(says("<think>Well, m"))), pairs, None, answer="text", floor=0.5)


def test_the_script_writes_shares_and_says_what_it_lacks(pairs, tmp_path, monkeypatch):
    write_files(tmp_path, pairs)
    (tmp_path / "t.txt").write_bytes(b"\xef\xbb\xbf" + TEMPLATE.replace("\n", "\r\n").encode())
    with served(service := Service(sure)) as url:
        server = {"base_url": url, "model": "j", "key_variable": "JUDGE_KEY", "request": REQUEST, "price": None}
        settings = {
            "kind": "server",
            "server": server,
            "min_label_probability": 0.5,
            "template": str(tmp_path / "t.txt"),
        }
        budget = {"folder": str(tmp_path / "ledger"), "ceilings": {"price": None, "gpu_hours": None},
                  "machine": {"tflops": 1.0, "bandwidth": 1.0, "utilisation": 1.0}}  # fmt: skip
        monkeypatch.setattr("sys.argv", command_line(tmp_path, settings, budget=budget))
        judge_responses.main()
        rows, summary = read_table("judgements", tmp_path / "out.parquet"), read_json(tmp_path / "out.json")
        assert [row["label_share"] is None for row in rows] == [i == 3 for i in range(14)]
        assert summary["label_share"] == pytest.approx(0.98 * 1.01) and summary["price"] is None
        assert summary["unpriced_calls"] == 13
        assert read_json(next((tmp_path / "ledger").glob("*.json")))["unpriced_calls"] == 13
        # Prompts contain neither the byte order mark nor Windows line ends.
        prompts = {body["messages"][0]["content"] for body in service.bodies}
        texts = TEMPLATE.replace("{instruction}", "Question 0?").strip()
        orders = [("bad answer 0", "good answer 0"), ("good answer 0", "bad answer 0")]
        assert prompts & {texts.replace("{output_1}", a).replace("{output_2}", b) for a, b in orders}


def test_tables_and_footnotes_say_what_the_judgements_hold(pairs, tmp_path, monkeypatch):
    """Verification recomputes shares from the judgements, and detects one that was changed in the summary."""
    write_files(tmp_path, pairs)
    shares = iter([0.6, 0.7, 0.9] * 5)
    with served(Service(lambda body: sure(body, next(shares)))) as url:
        server = {"base_url": url, "model": "j", "key_variable": "JUDGE_KEY", "request": REQUEST, "price": None}
        (tmp_path / "t.txt").write_text(TEMPLATE)
        settings = {
            "kind": "server",
            "server": server,
            "min_label_probability": 0.5,
            "template": str(tmp_path / "t.txt"),
        }
        monkeypatch.setattr("sys.argv", command_line(tmp_path, settings))
        judge_responses.main()
    poem = System("tuned", "poem", "poem", seed=1, turn="shown")
    judged_pairs = Result("judge", str(tmp_path / "out.json"), "tiny", poem, "test", "it/chosen/seed1", 1)
    experiment = Experiment([("tiny", "", None)], [judged_pairs], {})
    metrics = collect(experiment)
    assert check_recounted(by_key(metrics), Recount(experiment)) == []
    assert set(metrics[metrics["metric"].str.startswith("label_share")]["n"]) == {
        13
    }  # the tie is not sent to the judge
    made = make_table("table3", View(metrics))
    (cells,) = [line.cells for line in made.lines]
    assert cells["label share, minimum"] == "0.606" and 0.7 < float(cells["label share"]) < 0.8
    assert [note for note in made.notes if note.startswith("Low probability of the labels") and "poem" in note]
    summary = read_json(tmp_path / "out.json")
    write_json(summary | {"label_share_minimum": 0.9}, tmp_path / "out.json")
    (fault,) = check_recounted(by_key(collect(experiment)), Recount(experiment))
    assert "label_share_minimum, value is 0.9" in fault


# --- evaluators and local judges ------------------------------------------------------------------------------------


def evaluator(folder, **settings):
    (folder / "mine").mkdir()
    (folder / "mine" / "prompt.txt").write_bytes(b"\xef\xbb\xbf" + TEMPLATE.encode())  # with a byte order mark
    parser = {"numerator_token": "m", "denominator_tokens": ["m", "M"], "is_binarize": False}
    config = {"prompt_template": "mine/prompt.txt", "completion_key": "completions_all", "batch_size": 1,
              "completions_kwargs": {"model_name": "judge", "logprobs": True, "top_logprobs": 5, "price_per_token": 1e-6},
              "fn_completion_parser": "logprob_parser", "completion_parser_kwargs": parser}  # fmt: skip
    (folder / "mine" / "configs.yaml").write_text(yaml.safe_dump({"mine": config | settings}))
    return str(folder / "mine")


def test_alpaca_evals_own_parser_is_held_to_the_floor(pairs, tmp_path, monkeypatch):
    name, service = evaluator(tmp_path), unsure_of(["Question 5?"])
    with served(service) as url, Answers(None) as answers:
        monkeypatch.setenv("OPENAI_BASE_URL", url)
        judge = evaluator_judge(name="e", evaluator=name, answers=answers, floor=0.5, pause=0.01)
        with pytest.raises(IncompleteJudging, match=r'rows \[.r5.\].*"<think>" 0.9996.*judge.evaluator'):
            judge_pairs(*pairs, judge, seed=0)
        assert len(service.bodies) == 13
        low = evaluator_judge(name="e", evaluator=name, answers=answers, floor=0.0)
        found = judge_pairs(*pairs, low, seed=0)
    assert len(service.bodies) == 13 and found.summary()["label_share_minimum"] < 1e-6
    assert all(body["messages"][0]["content"].startswith("Which") for body in service.bodies)


def test_a_local_judge_is_held_to_the_floor_and_names_what_it_would_say(pairs, tokenizer):
    """An untrained model spreads its probability over the whole vocabulary: the first ten prompts are enough."""
    model = build_model(Architecture(hidden_size=32, layers=1, heads=2, context=512), tokenizer, seed=1).eval()
    log, results = [], []
    for floor in (0.5, 0.0):
        with Answers(None, log=log.append) as answers:
            judge = local_judge(
                LocalModel(model, tokenizer, "t"), name="j", answers=answers, floor=floor, template=TEMPLATE
            )
            if floor:
                with pytest.raises(IncompleteJudging, match=r"13 of 14 .*likely tokens are \".*judge.path.*") as caught:
                    judge_pairs(*pairs, judge, seed=0)
                assert len(answers) == 10 and "server.request" not in str(caught.value)
            else:
                results = judge_pairs(*pairs, judge, seed=0).label_shares
    assert sum(share is None for share in results) == 1
    assert all(0 < share < 0.1 for share in results if share is not None)


def test_a_long_judging_says_how_far_it_is(pairs):
    log = []
    judged(Service(sure), pairs, None, log=log, floor=0.5)
    assert any("/13 questions, " in line and line.endswith("s left") for line in log)
    assert log[-1] == "13 questions, 13 answered"


def test_weights_that_are_broken_are_named(pairs, tokenizer):
    import torch

    from implicit.judging.local_judge import LocalJudgeError

    model = build_model(Architecture(hidden_size=32, layers=1, heads=2, context=512), tokenizer, seed=1).eval()
    torch.nn.init.constant_(model.lm_head.weight, math.nan)
    with Answers(None) as answers, pytest.raises(LocalJudgeError, match="not finite"):
        judge = local_judge(LocalModel(model, tokenizer, "t"), name="j", answers=answers, floor=0.0, template=TEMPLATE)
        judge_pairs(*pairs, judge, seed=0)


def test_an_answer_that_is_asked_for_twice_is_paid_for_twice(pairs, tmp_path):
    """A run with the same floor asks again for answers below it: both count against a ceiling."""
    path, service = tmp_path / "a.jsonl", unsure_of(["Question 5?"])
    for _ in range(2):
        with pytest.raises(IncompleteJudging):
            judged(service, pairs, path, floor=0.5)
    prices = [json.loads(line)["price"] for line in path.read_text().splitlines()]
    with Answers(path) as answers:
        assert len(prices) == 14 and len(answers) == 13 and answers.paid() == pytest.approx(sum(prices))


def test_a_server_judge_reads_what_alpaca_eval_reads(pairs):
    """If the labels have all of the probability, the floor changes nothing."""
    with served(Service(sure)) as url, Answers(None) as answers:
        found = [
            judge_pairs(
                *pairs,
                server_judge(name="j", server=asking(url), answers=answers, template=TEMPLATE, floor=floor),
                seed=0,
            ).preferences
            for floor in (0.0, 0.5)
        ]
    assert found[0] == found[1]
