"""Training a reward model on known judgements: the split, the loss, early stopping, resuming, and what comes out."""

import json
import random

import pytest
import torch
from reward_models import run_script, save_encoder, save_reward_model
from safetensors.torch import load_file
from test_config_names import DEFAULT as RAW
from test_references import with_judge
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from tuned import PowerCut

import train_judge as script
from implicit.judging.degenerate import degenerate_pairs
from implicit.judging.rewards import RewardModel
from implicit.judging.training import Pair, Trained, Training, key_of, losses, plan, split
from pipeline.config.check import ConfigError, check_config
from pipeline.files.storage import read_json, write_table

MODELS, INSTRUCTIONS = 8, 30
TRAIN = {"base": "x/y", "annotations": ["mine"], "held_out": {"models": 0.25, "instructions": 0.2}, "validation": 0.3, "epochs": 2,
         "pairs": 4, "batch_size": 8, "learning_rate": 5e-3, "max_length": 64, "evaluations": 4, "precision": "float32", "seed": 3}  # fmt: skip


def judged(count=INSTRUCTIONS):
    """Known judgements: of two responses, the one that says 'indeed' is better; half of the models say it."""
    rng = random.Random(0)
    rows = []
    for i in range(count):
        for m in range(MODELS):
            good = rng.random() < m / (MODELS - 1)
            text = f"It is {rng.choice(['far', 'near', 'old', 'new'])}" + (" indeed." if good else ".")
            rows.append({
                "id": f"{i}-{m}", "cluster": str(i), "instruction": f"What is item {i}?", "model_1": "base", "model_2": f"m{m}",
                "output_1": "It is here.", "output_2": text, "annotators": [1.0], "annotation": 1.9 if good else 1.2,
            })  # fmt: skip
    return rows


def of_set(rows):
    return [row | {"set": "mine"} for row in rows]


def test_models_and_instructions_are_split_apart():
    rows = of_set(judged())
    never = {key_of("What is item 3?")}
    found = split(rows, models=0.25, instructions=0.2, never=never, validation=0.3, seed=1)
    parts = [
        ({row["model_2"] for row in part}, {row["instruction"] for row in part})
        for part in (found.training, found.validation)
    ]
    (models, asked), (models_validated, asked_validated) = parts
    assert not models & models_validated and not asked & asked_validated
    assert len(models) == 4 and len(models_validated) == 2  # of eight, two are held out
    assert {key_of(text) for text in asked | asked_validated} == set(found.instructions) and not never & set(
        found.instructions
    )
    assert sorted(models | models_validated | {"base"}) == found.models
    assert len(found.instructions) == 23  # of 29, six are held out
    assert len(found.training) == len(models) * len(asked)
    assert split(rows, models=0.25, instructions=0.2, never=never, validation=0.3, seed=1) == found
    assert split(rows, models=0.25, instructions=0.2, never=never, validation=0.3, seed=2) != found


def test_a_common_opponent_is_told_by_set():
    """In one set all are compared with `base`, which is one of those compared in the other."""
    rows = of_set(judged()) + [
        row | {"set": "other", "model_1": "rival", "model_2": "base", "id": f"o{row['id']}"} for row in judged()
    ]
    found = split(rows, models=0.5, instructions=0.0, never=set(), validation=0.2, seed=1)
    assert {"base", "rival"} <= set(found.models) and {row["set"] for row in found.training} == {"mine", "other"}
    turned = [row | {"model_1": row["model_2"], "model_2": "base"} for row in of_set(judged())]
    again = split(turned, models=0.25, instructions=0.2, never=set(), validation=0.3, seed=1)
    assert len(again.training) == len(
        split(of_set(judged()), models=0.25, instructions=0.2, never=set(), validation=0.3, seed=1).training
    )


def test_a_degenerate_response_repeats_the_instruction_or_itself_or_answers_another():
    rows = of_set(judged())
    empty = rows[0] | {"output_1": " ", "annotation": 1.0, "instruction": "Say nothing."}
    found = degenerate_pairs([*rows, empty], count=90, seed=1)
    better = {(row["instruction"], row["output_1" if row["annotation"] < 1.5 else "output_2"]) for row in rows}
    assert len(found) == 90 and all((row["instruction"], row["output_1"]) in better for row in found)
    assert {row["annotation"] for row in found} == {1.0}
    for number, row in enumerate(found):
        asked, good, bad = row["instruction"], row["output_1"], row["output_2"]
        beginnings = [" ".join(good.split()[:count]) for count in range(1, 17)]
        of_kind = (
            f"{asked}\n{asked}\n{asked}\n{asked}".startswith(bad) and bad.startswith(asked),
            any("\n".join([own] * 9).startswith(bad) and bad.startswith(own) for own in beginnings),
            any(bad == text for other, text in better if other != asked) or bad.startswith(asked),
        )
        assert of_kind[number % 3], row
    assert degenerate_pairs(rows, count=90, seed=1) != degenerate_pairs(rows, count=90, seed=2)
    assert degenerate_pairs([empty], count=3, seed=1) == [] == degenerate_pairs(rows, count=0, seed=1)


def settings(**more):
    given = {key: TRAIN[key] for key in ("epochs", "pairs", "batch_size", "learning_rate", "evaluations", "seed")}
    return Training(
        **given | {"warmup": 0.1, "weight_decay": 0.0, "batch_tokens": 200, "precision": torch.float32} | more
    )


def test_every_pair_is_once_in_every_epoch_and_groups_are_of_one_instruction():
    clusters = [str(i // 7) for i in range(60)]
    steps = plan(clusters, settings())
    places = [place for step in steps for group in step for place in group]
    assert sorted(places) == sorted([*range(60)] * 2)
    assert all(len(group) <= 4 and len({clusters[place] for place in group}) == 1 for step in steps for group in step)
    sizes = [sum(map(len, step)) for step in steps]
    assert steps == plan(clusters, settings()) != plan(clusters, settings(seed=4))
    assert all(
        8 <= size < 12 for number, size in enumerate(sizes) if number not in (len(steps) // 2 - 1, len(steps) - 1)
    )
    alone = plan([str(i) for i in range(64)], settings(epochs=1))
    assert [sum(map(len, step)) for step in alone] == [8] * 8  # as many pairs where each instruction has one


@pytest.fixture(scope="module")
def reward(tmp_path_factory):
    folder = save_reward_model("qwen-3", tmp_path_factory.mktemp("reward"))
    return RewardModel(
        AutoModelForSequenceClassification.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder), "x"
    )


def test_the_loss_is_bradley_terrys_and_a_shared_text_is_read_once(reward, monkeypatch):
    texts = [reward.encode("Say it.", text) for text in ("One.", "Two three four five six.", "Seven.")]
    pairs = [Pair(0, 1, 0.9), Pair(0, 2, 0.25), Pair(2, 1, 0.5)]
    scores = torch.tensor(reward.scores([("Say it.", text) for text in ("One.", "Two three four five six.", "Seven.")]))
    expected = []
    for first, second, wanted in pairs:
        probability = torch.sigmoid(scores[second] - scores[first])
        expected.append(-(wanted * probability.log() + (1 - wanted) * (1 - probability).log()))
    import implicit.judging.rewards as rewards

    read = []
    monkeypatch.setattr(rewards, "score", lambda model, rows, own=rewards.score: read.extend(rows) or own(model, rows))
    found, difference = losses(reward.model, texts, pairs, settings())
    assert found.tolist() == pytest.approx(torch.stack(expected).tolist(), abs=1e-4) and len(read) == 3
    assert difference.tolist() == pytest.approx([(scores[b] - scores[a]).item() for a, b, _ in pairs], abs=1e-4)


def test_the_best_weights_are_kept_not_the_last(reward):
    own = Trained(reward.model, 3)
    weight = own.own[0]
    for place, (value, loss) in enumerate([(1.0, 0.5), (2.0, 0.3), (3.0, 0.4)]):
        with torch.no_grad():
            weight.fill_(value)
        own.keep(place, (place + 1, 10 * (place + 1), loss, 70.0))
    own.restore()
    assert weight.unique().item() == 2.0
    assert [each["loss"] for each in own.evaluations()] == [0.5, 0.3, 0.4] and own.evaluations()[0]["pairs"] == 10


def words(folder, base, name, *more):
    write_table("annotations", judged(), folder / "mine.parquet")
    options = {"base": base, "annotations": folder / "mine.parquet", "model": folder / name / "model", "batch": 200,
               "record": folder / name / "record.json", "checkpoints": folder / name / "checkpoints", "checkpoint-steps": 3}  # fmt: skip
    return [str(part) for key, value in options.items() for part in (f"--{key}", value)] + list(more)


def train_here(monkeypatch, folder, base, name, **more):
    """Train in this process; gives the record and the weights."""
    monkeypatch.setattr(
        "sys.argv", ["train_judge.py", *words(folder, base, name), "--settings", json.dumps(TRAIN | more)]
    )
    script.main()
    return read_json(folder / name / "record.json"), load_file(folder / name / "model" / "model.safetensors")


def judge_in(folder):
    """The judge in a directory, as transformers loads it."""
    model, tokenizer = (kind.from_pretrained(folder) for kind in (AutoModelForSequenceClassification, AutoTokenizer))
    return RewardModel(model.eval(), tokenizer, "x")


@pytest.fixture
def base(tmp_path):
    """A language model of Gemma's architecture, without a score head."""
    from architectures import save

    return save("gemma-3", tmp_path / "base", context=128)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_judge_learns_what_its_annotators_prefer_and_loads_elsewhere(method, base, tmp_path, monkeypatch):
    record, _ = train_here(monkeypatch, tmp_path, base, "own", method=method, epochs=4)
    folder = tmp_path / "own" / "model"
    reward = judge_in(folder)
    seen = read_json(folder / "seen.json")
    held_out = [
        row
        for row in judged()
        if row["model_2"] not in seen["models"] and key_of(row["instruction"]) not in seen["instructions"]
    ]
    asked = [(row["instruction"], row["output_2"]) for row in held_out]
    right = [
        (score > 0)
        for score in map(float.__sub__, reward.scores(asked), reward.scores([(q, "It is here.") for q, _ in asked]))
    ]
    wanted = [row["annotation"] > 1.5 for row in held_out]
    assert len(wanted) == 12 and sum(a == b for a, b in zip(right, wanted, strict=True)) >= 11
    assert reward.limit == 64 and record["evaluations"][-1]["pairs"] == 4 * record["pairs"]
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "mine (annotator and licence not stated)" in card
    assert all(f"{each['pairs']:,} pairs: {each['agreement']:.1f} %" in card for each in record["evaluations"])
    assert min(each["loss"] for each in record["evaluations"]) < 0.5  # fmt: skip


def test_a_judge_learns_that_a_repetition_loses(base, tmp_path, monkeypatch):
    """No annotator was shown one."""

    def losing(name, **more):
        record, _ = train_here(monkeypatch, tmp_path, base, name, epochs=4, **more)
        reward = judge_in(tmp_path / name / "model")
        asked = [f"What is item {i}?" for i in range(100, 120)]
        good = reward.scores([(q, "It is near.") for q in asked])
        bad = reward.scores([(q, f"{q}\n{q}") for q in asked])
        return record, sum(one < other for one, other in zip(bad, good, strict=True))

    record, count = losing("with", degenerate=1.0)
    without, fewer = losing("without")
    assert count == 20 > fewer
    assert record["pairs"] == record["degenerate_pairs"] == without["pairs"] and not without["degenerate_pairs"]


def test_a_cut_run_goes_on_without_a_seam(base, tmp_path, monkeypatch):
    straight, weights = train_here(monkeypatch, tmp_path, base, "straight")

    def say_and_fail(line):
        if str(line).startswith("step 11/"):
            raise PowerCut

    monkeypatch.setattr(script, "say", say_and_fail)
    with pytest.raises(PowerCut):
        train_here(monkeypatch, tmp_path, base, "cut")
    monkeypatch.setattr(script, "say", lambda line: None)
    resumed, again = train_here(monkeypatch, tmp_path, base, "cut")
    assert resumed["resumed_at"] == [9] and straight["losses"] == resumed["losses"]
    assert straight["evaluations"] == resumed["evaluations"]
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    assert not (tmp_path / "cut" / "checkpoints").exists()


def test_an_encoder_of_sentences_can_be_the_base(tmp_path, monkeypatch):
    base = save_encoder(tmp_path / "base", head=False)
    record, weights = train_here(monkeypatch, tmp_path, base, "own", method="full")
    assert "classifier.weight" in weights and record["pairs"] > 0


def test_too_little_to_validate_on_is_one_line(tmp_path, base):
    code, said = run_script("train_judge", words(tmp_path, base, "own"), TRAIN | {"validation": 0.01})
    assert code == 1 and "too few models or instructions" in said and "Traceback" not in said


@pytest.mark.parametrize("kind", ["missing", "gguf", "no tokenizer"])
def test_a_base_that_cannot_be_loaded_is_one_line(kind, tmp_path, base):
    if kind == "no tokenizer":
        for file in base.glob("tokenizer*"):
            file.unlink()
    path = {"missing": tmp_path / "none", "gguf": tmp_path / "x.gguf", "no tokenizer": base}[kind]
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    code, said = run_script("train_judge", words(tmp_path, path, "own"), TRAIN)
    assert code == 1 and "Traceback" not in said and ("judge.train.base" in said or "no such file" in said)


def test_held_out_tables_are_never_trained_on(tmp_path, base):
    write_table("annotations", judged(20), tmp_path / "held.parquet")
    more = words(tmp_path, base, "own", "--held-out", str(tmp_path / "held.parquet"))
    code, said = run_script("train_judge", more, TRAIN | {"epochs": 1, "held_out": {"instructions": 0.0}})
    assert code == 0, said
    seen = read_json(tmp_path / "own" / "model" / "seen.json")["instructions"]
    assert sorted(seen) == sorted(key_of(f"What is item {i}?") for i in range(20, INSTRUCTIONS))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"train": TRAIN}, r"judge.train.annotations: 'mine' is not defined"),
        ({"train": TRAIN, "path": "a/b"}, "needs 'path' or 'train'"),
        ({}, "needs 'path' or 'train'"),
        ({"train": TRAIN | {"annotations": ["known"], "held_out": {"sets": ["none"]}}}, r"judge.train.held_out.sets: 'none' is not"),
        ({"train": TRAIN | {"annotations": ["known"], "base": "./none"}}, r"judge.train.base: no such directory"),
        ({"train": TRAIN | {"annotations": ["known"], "base": "some.gguf"}}, r"judge.train.base: some.gguf: a GGUF file cannot"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_training_is_named(more, message):
    annotations = {"known": {"hub": {"id": "a/b"}}}
    with pytest.raises(ConfigError, match=message):
        check_config(with_judge(kind="reward", measure=None, **more) | {"annotations": annotations})


def test_a_judge_trained_from_a_model_of_the_experiment_is_valid():
    annotations = {"known": {"hub": {"id": "a/b"}}}
    train = TRAIN | {
        "annotations": ["known"],
        "base": next(iter(RAW["models"])),
        "held_out": {"sets": ["test", "known"]},
    }
    config = check_config(with_judge(kind="reward", measure=None, train=train) | {"annotations": annotations})
    assert config.judge_sets() == ["test"] and config.annotations_used() == ["known"] and config.judge.computes()
