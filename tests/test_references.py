"""The judge that compares with references, and what the evaluation sets and precision that go with it do."""

import json
import subprocess
import sys

import pytest
import torch
from sacrebleu import sentence_chrf
from sources import conversations, evaluation_rows
from test_config_names import DEFAULT as RAW
from workflow import ROOT

from implicit.judging.references import MEASURES, similarity
from pipeline.config.check import ConfigError, check_config
from pipeline.files.storage import read_json, read_table, write_table
from pipeline.models.directories import pick_precision

REFERENCE = "The capital of France is Paris, on the Seine."
JUDGE = {"name": "chrf", "kind": "reference", "measure": "chrf", "seed": 0, "bootstrap": 10, "both_orders": False,
         "metric": "length_controlled_minimal", "min_label_probability": 0.5}  # fmt: skip


@pytest.mark.parametrize("measure", MEASURES)
def test_similarity_is_from_0_to_1_and_higher_for_what_is_nearer(measure):
    assert similarity(REFERENCE, [REFERENCE], measure) == pytest.approx(1)
    assert similarity("", [REFERENCE], measure) == similarity("zzz", [REFERENCE], measure) == 0
    near, far = (
        similarity(t, [REFERENCE], measure) for t in ("The capital of France is Lyon.", "The dog is on the sea.")
    )
    assert 0 < far < near < 1


def test_chrf_is_sacrebleus():
    text = "Paris is the capital of France."
    assert similarity(text, [REFERENCE], "chrf") == pytest.approx(sentence_chrf(text, [REFERENCE]).score / 100)


def written(folder, rows, outputs):
    """An evaluation set and the responses of two systems; returns the script's arguments."""
    write_table("evaluation_set", rows, folder / "set.parquet")
    for name, texts in outputs.items():
        table = [
            {"id": row["id"], "index": row["index"], "instruction": row["instruction"], "output": text, "stopped": True}
            | {"tokens": 3, "cut": 0, "generator": name}
            for row, text in zip(rows, texts, strict=True)
        ]
        write_table("responses", table, folder / f"{name}.parquet")
    words = {"set": "set.parquet", "responses": "model.parquet", "opponent": "opponent.parquet"}
    words |= {"output": "judged.parquet", "summary": "judged.json"}
    return [word for key, file in words.items() for word in (f"--{key}", str(folder / file))]


def judge(folder, rows, outputs):
    words = written(folder, rows, outputs)
    script = str(ROOT / "scripts" / "judge_responses.py")
    done = subprocess.run(
        [sys.executable, script, *words, "--settings", json.dumps(JUDGE)], capture_output=True, text=True
    )
    return done.returncode, done.stdout + done.stderr


def asked(count, reference=REFERENCE):
    return [
        {"id": f"a-{i}", "index": i, "instruction": f"Say {i}.", "reference": reference, "request": None}
        | {"cluster": f"a-{i}", "source": "here"}
        for i in range(count)
    ]


def test_the_response_nearer_to_the_reference_wins_and_equal_ones_tie(tmp_path):
    near, far = "The capital of France is Paris.", "A dog."
    outputs = {"model": [near, far, near, near], "opponent": [far, near, near, far]}
    code, said = judge(tmp_path, asked(4), outputs)
    assert code == 0, said
    rows, summary = read_table("judgements", tmp_path / "judged.parquet"), read_json(tmp_path / "judged.json")
    assert [row["preference"] for row in rows] == [2, 1, 1.5, 2]
    assert summary["win_rate"] == 62.5 and summary["kind"] == "reference" and summary["ties"] == 1
    assert rows[0]["quality_2"] == pytest.approx(similarity(near, [REFERENCE], "chrf"))
    assert not (tmp_path / "judged.answers.jsonl").exists()


def test_rows_without_a_reference_are_named(tmp_path):
    code, said = judge(tmp_path, asked(2, reference=None), {"model": ["a", "b"], "opponent": ["b", "a"]})
    assert code == 1 and "no reference in rows ['a-0', 'a-1']" in said and "Traceback" not in said


def with_judge(**more):
    own = {"name": "chrf", "kind": "reference", "measure": "chrf"}
    return RAW | {"judge": RAW["judge"] | own | more, "selection": RAW["selection"] | {"epochs": [1]}}


def test_the_config_accepts_it():
    assert check_config(with_judge()).judge.kind == "reference"


def test_it_cannot_choose_epochs():
    with pytest.raises(ConfigError, match=r"selection.epochs: .* cannot choose"):
        check_config(with_judge() | {"selection": RAW["selection"]})


def test_it_needs_a_measure_and_no_other_kind_has_one():
    with pytest.raises(ConfigError, match="'reference' needs 'measure'"):
        check_config(with_judge(measure=None))
    with pytest.raises(ConfigError, match="'oracle' has no 'measure'"):
        check_config(with_judge(kind="oracle"))


def test_the_set_that_is_judged_needs_references():
    sets = RAW["evaluation_sets"] | {"mine": {"hub": {"id": "a/b"}, "instruction": "{q}"}}
    changed = with_judge() | {"evaluation_sets": sets, "generation": RAW["generation"] | {"evaluation_set": "mine"}}
    with pytest.raises(ConfigError, match=r"generation.evaluation_set: evaluation_sets.mine has no 'reference'"):
        check_config(changed)


@pytest.mark.parametrize(
    ("checker", "message"),
    [
        ("ifeval", "needs evaluation_sets.mine.recipe: ifeval"),
        ("mbpp", "recipe: mbpp"),
        ("gsm8k", "has no 'reference'"),
    ],
)
def test_a_set_that_cannot_be_checked_is_refused_before_anything_runs(checker, message):
    sets = RAW["evaluation_sets"] | {"mine": {"hub": {"id": "a/b"}, "instruction": "{q}"}}
    with pytest.raises(ConfigError, match=f"checks.mine: .*{message}"):
        check_config(RAW | {"evaluation_sets": sets, "checks": {"mine": checker}})


@pytest.mark.parametrize(
    ("found", "precision"),
    [
        ({"avx512_bf16": True}, "bfloat16"),
        ({"amx_bf16": True}, "bfloat16"),
        ({"bf16": True}, "bfloat16"),
        ({"avx512_f": True, "avx512_bf16": False}, "float32"),
        ({}, "float32"),
    ],
)
def test_auto_is_bfloat16_where_the_processor_has_it(monkeypatch, found, precision):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    assert pick_precision("auto", "cpu") == precision
    assert [pick_precision(given, "cpu") for given in ("float32", "bfloat16", "float16")] == [
        "float32",
        "bfloat16",
        "float16",
    ]


@pytest.mark.parametrize(("has", "precision"), [(True, "bfloat16"), (False, "float32")])
def test_auto_is_bfloat16_on_a_gpu_that_does_not_imitate_it(monkeypatch, has, precision):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has or including_emulation)
    assert pick_precision("auto", "cuda") == precision


def test_long_rows_are_left_out_before_rows_are_counted(tmp_path, capsys):
    rows = [{"q": "a" * length, "a": "b"} for length in (3, 99, 4, 100, 5)]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {
        "file": str(tmp_path / "r.jsonl"),
        "user": "{q}",
        "assistant": "{a}",
        "max_characters": 100,
        "examples": 4,
    }
    taken = conversations("mine", source, None)
    assert [len(row["messages"][0]["content"]) for row in taken] == [3, 99, 4, 5]
    assert "1 rows of more than 100 characters: left out" in capsys.readouterr().out


def test_every_second_row_keeps_its_place(tmp_path):
    (tmp_path / "r.jsonl").write_text("".join(json.dumps({"q": f"q{i}"}) + "\n" for i in range(10)))
    source = {"file": str(tmp_path / "r.jsonl"), "instruction": "{q}", "rows": [3, 10], "every": 3}
    found = evaluation_rows("mine", source, None)
    assert [(row["index"], row["instruction"]) for row in found] == [(3, "q3"), (6, "q6"), (9, "q9")]
