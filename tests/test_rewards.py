"""Reward models as judges: a score for each response, whatever else is in its batch."""

import json
import math

import pytest
import torch
from reward_models import CAUSAL, ENCODER, run_script, save_reward_model
from test_references import JUDGE, asked, written
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from implicit.judging.judge import judge_pairs
from implicit.judging.kinds import quality_judge
from implicit.judging.oracle import prefer
from implicit.judging.rewards import RewardError, RewardModel
from judge_outputs import pairs_of
from pipeline.files.storage import read_json, read_table
from pipeline.jobs.command import InputError

PAIRS = [("Say one.", "One."), ("What is the capital of Puven?", "It is far away, and old, and it is said to be " * 3), ("", "Yes."),
         ("Say two.", "Two three four."), ("List three fruits.", "- an apple\n- a pear\n- a plum")]  # fmt: skip


@pytest.fixture(scope="module", params=[*CAUSAL, ENCODER])
def folder(request, tmp_path_factory):
    return save_reward_model(request.param, tmp_path_factory.mktemp(request.param))


def load(folder, **more):
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    return RewardModel(model, AutoTokenizer.from_pretrained(folder), "small", **more)


def test_batched_scores_are_those_of_one_at_a_time_in_any_order(folder):
    reward = load(folder)
    alone = [load(folder).scores([pair])[0] for pair in PAIRS]
    assert max(alone) - min(alone) > 0.01
    for pairs, expected in ((PAIRS, alone), (PAIRS[::-1], alone[::-1])):
        assert reward.scores(pairs) == pytest.approx(expected, abs=1e-4)
    assert load(folder, batch_tokens=1).scores(PAIRS) == pytest.approx(alone, abs=1e-4)


def test_a_score_is_the_models_own_logit(folder):
    reward = load(folder)
    for pair, score in zip(PAIRS, reward.scores(PAIRS), strict=True):
        row = reward.encode(*pair)
        given = {"input_ids": torch.tensor([row.ids])}
        given |= {"token_type_ids": torch.tensor([row.types])} if row.types else {}
        plain = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        assert score == pytest.approx(plain(**given).logits.item(), abs=1e-4)


def test_a_long_text_is_cut_and_keeps_its_instruction(folder):
    reward = load(folder)
    assert reward.limit == 128
    whole = reward.encode("Say one.", "One.")
    assert not whole.cut and len(whole.ids) < 128
    for instruction, response in (("Say one.", "word " * 400), ("word " * 400, "One."), ("a b " * 300, "c d " * 300)):
        row = reward.encode(instruction, response)
        assert row.cut and len(row.ids) <= 128 and (row.types is None or len(row.types) == len(row.ids))
        assert reward.tokenizer.decode(row.ids).count("word") <= 128
    longer = reward.tokenizer.decode(reward.encode("Say one.", "word " * 400).ids)
    assert "one" in longer.casefold()
    both = reward.tokenizer.decode(reward.encode("a b " * 300, "c d " * 300).ids)
    assert both.count("a") > 20 and both.count("c") > 20
    reward.scores([("Say one.", "word " * 400), ("Say one.", "One.")])
    assert reward.cut == 1


@pytest.mark.parametrize("text", ["word " * 400, "日本語のテキスト、" * 60, "🦆🐍💡" * 90, "naïve “é” " * 90])
def test_what_surrounds_the_texts_is_never_cut(folder, text):
    """The score is read at the end: of the template, or of the pair."""
    reward = load(folder)
    whole = reward.encode("Say one.", "One.").ids
    end = (
        1
        if reward.tokenizer.chat_template is None
        else len(reward._tokens(reward.tokenizer.eos_token + "\n").input_ids)
    )
    for instruction, response in (("Say one.", text), (text, "One."), (text, text), (text, "")):
        if len(reward._written(instruction, response).ids) <= 128:  # an unknown word is one token of BERT's
            continue
        row = reward.encode(instruction, response)
        assert row.cut and 100 < len(row.ids) <= 128 and row.ids[-end:] == whole[-end:]
        assert row.types is None or (len(row.types) == len(row.ids) and row.ids.count(whole[-1]) == 2)


def test_a_causal_model_without_a_chat_template_is_refused(tmp_path):
    from architectures import change

    folder = save_reward_model("llama-3", tmp_path / "model")
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    change(folder / "tokenizer_config.json", chat_template=None)
    with pytest.raises(RewardError, match="no chat template"):
        load(folder)


def test_close_scores_in_bfloat16_do_not_tie(tmp_path):
    folder = save_reward_model("llama-3", tmp_path / "model")
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.bfloat16).eval()
    with torch.no_grad():
        model.score.weight.mul_(40)
    reward = RewardModel(model, AutoTokenizer.from_pretrained(folder), "small")
    found = reward.scores([("Say it.", f"It is {i}.") for i in range(30)])
    assert len({score for score in found if score != float(torch.tensor(score).bfloat16())}) > 20


def test_a_text_cannot_bring_special_tokens(folder):
    reward = load(folder)
    marks = sorted(token for token in reward.special if token.strip())
    assert marks
    plain = reward.encode("Say one.", "One. Two.").ids
    for mark in marks:
        ids = reward.encode("Say one.", f"One.{mark} Two.").ids
        special = reward.tokenizer.convert_tokens_to_ids(mark)
        assert ids.count(special) == plain.count(special)


def test_a_preference_is_the_logistic_function_of_the_difference(sides):
    one, two = ([row | {"quality": i / 7 - 2} for i, row in enumerate(side)] for side in sides)
    for temperature in (1.0, 0.25):
        judge = quality_judge(two, one, kind="reward", temperature=temperature)
        found = judge_pairs(two, one, judge, seed=1).preferences
        expected = [
            1.5 if a["output"] == b["output"] else 1 + 1 / (1 + math.exp((a["quality"] - b["quality"]) / temperature))
            for a, b in zip(two, one, strict=True)
        ]
        assert found == pytest.approx(expected)
    assert prefer(0.0, 1e6, 1e-3) == 2 and prefer(1e6, 0.0, 1e-3) == pytest.approx(1) and prefer(3.0, 3.0, 1.0) == 1.5


def test_the_order_of_sides_does_not_matter_and_equal_texts_tie(sides):
    one, two = ([row | {"quality": i / 7 - 2} for i, row in enumerate(side)] for side in sides)
    there = judge_pairs(one, two, quality_judge(one, two, kind="reward", temperature=1.0), seed=1, both_orders=True)
    back = judge_pairs(two, one, quality_judge(two, one, kind="reward", temperature=1.0), seed=2, both_orders=True)
    assert there.preferences == pytest.approx([3 - p for p in back.preferences])
    assert there.position_bias == pytest.approx(0, abs=1e-9)


def test_a_classifier_of_several_kinds_is_no_reward_model(tmp_path):
    folder = save_reward_model("llama-3", tmp_path / "model", labels=3)
    with pytest.raises(RewardError, match="has 3 outputs"):
        load(folder)


REWARD = JUDGE | {"name": "scores", "kind": "reward", "measure": None}


@pytest.mark.parametrize("folder", ["gemma-3", ENCODER], indirect=True)
def test_responses_are_judged_by_a_directory(folder, tmp_path):
    outputs = {"model": [text for _, text in PAIRS], "opponent": [text for _, text in PAIRS[1:]] + ["One."]}
    words = written(tmp_path, asked(len(PAIRS)), outputs)
    code, said = run_script("judge_responses", words, REWARD | {"path": str(folder)})
    assert code == 0, said
    rows, record = read_table("judgements", tmp_path / "judged.parquet"), read_json(tmp_path / "judged.json")
    reward = load(folder)
    for row in rows:
        scores = reward.scores([(row["instruction"], row[f"output_{side}"]) for side in (1, 2)])
        assert [row["quality_1"], row["quality_2"]] == pytest.approx(scores, abs=1e-4)
        assert row["preference"] == pytest.approx(prefer(*scores, 1.0), abs=1e-4)
    assert record["model"].startswith(f"{folder}@") and record["kind"] == "reward" and record["quality_1"] is None
    assert not (tmp_path / "judged.answers.jsonl").exists()


def test_a_language_model_without_a_score_is_refused_in_one_line(tmp_path):
    from architectures import save

    folder = save("llama-3", tmp_path / "causal")
    words = written(tmp_path, asked(2), {"model": ["a", "b"], "opponent": ["b", "a"]})
    code, said = run_script("judge_responses", words, REWARD | {"path": str(folder)})
    assert code == 1 and "judge.path" in said and "score.weight" in said and "Traceback" not in said


def outputs(path, rows):
    path.write_text(json.dumps([{"instruction": q, "output": a, "generator": path.stem} for q, a in rows]))
    return path


def test_two_files_of_outputs_are_compared_outside_of_an_experiment(tmp_path):
    folder = save_reward_model("llama-3", tmp_path / "model")
    ours = [("Say one.", "One."), ("Say two.", "Two."), ("Say three.", "Three."), ("Say four.", "same")]
    theirs = [("Say two.", "No."), ("Say one.", "I shall not."), ("Say four.", "same"), ("Say three.", "Four.")]
    words = ["--judge", folder, "--output", tmp_path / "out.json"]
    words += [
        "--responses",
        outputs(tmp_path / "ours.json", ours),
        "--opponent",
        outputs(tmp_path / "theirs.json", theirs),
    ]
    code, said = run_script("judge_outputs", words, {})
    assert code == 0, said
    found = read_json(tmp_path / "out.json")
    assert [(row["instruction"], row["output_2"]) for row in found] == ours
    assert {row["instruction"]: row["output_1"] for row in found} == dict(theirs)
    reward = load(folder)
    for row in found:
        scores = reward.scores([(row["instruction"], row[f"output_{side}"]) for side in (1, 2)])
        assert row["preference"] == pytest.approx(prefer(*scores, 1.0), abs=1e-4)
    assert found[3]["preference"] == 1.5


@pytest.mark.parametrize(
    ("judge", "message"),
    [
        ([], "give the directory of a reward model with --judge"),
        (["--judge", "none"], "--judge: no such directory: none"),
    ],
)
def test_without_a_judge_the_command_says_what_to_give(tmp_path, judge, message):
    ours = outputs(tmp_path / "ours.json", [("Say one.", "One.")])
    words = [*judge, "--responses", ours, "--opponent", ours, "--output", tmp_path / "out.json"]
    code, said = run_script("judge_outputs", words, {})
    assert code == 1 and message in said and "Traceback" not in said and not (tmp_path / "out.json").exists()


def test_files_with_other_instructions_are_refused(tmp_path):
    ours = outputs(tmp_path / "ours.json", [("Say one.", "One."), ("Say one.", "1"), ("Say two.", "Two.")])
    for rows, message in (
        ([("Say one.", "x"), ("Say two.", "y")], "must have the same instructions"),
        ([("Say one.", "x"), ("Say one.", "y"), ("Say three.", "z")], "must have the same instructions"),
        ([("Say two.", "x"), ("Say one.", "y"), ("Say one.", "z")], "an instruction occurs twice"),
    ):
        with pytest.raises(InputError, match=message):
            pairs_of(ours, outputs(tmp_path / "theirs.json", rows))
    assert len(pairs_of(ours, ours)) == 3
