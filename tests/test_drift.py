"""The cost of tuning: equivalences of the measurement, its questions and text, and the harness's command."""

import json
import math
import shutil
import sys

import pytest
import torch
from workflow import ROOT

from implicit.format.render import encode, encode_after
from implicit.scoring.drift import measure_drift, recalled, summarise
from implicit.world.recall import FactQuestion, fact_questions
from implicit.world.sets import World
from measure_drift import Settings as DriftSettings
from measure_drift import encoded, read_documents
from pipeline.jobs.command import InputError
from run_harness import Settings as HarnessSettings
from run_harness import figures, harness_command, run_harness


@pytest.fixture
def tuned(clear_cut):
    """Another model of the same architecture."""
    return clear_cut(4)


@pytest.fixture
def documents(world, tokenizer):
    texts = world.held_out(12)
    return [[tokenizer.bos_token_id, *encode(tokenizer, text)][:256] for text in texts] + [[5], [5, 7]]


def close(one, other):
    for a, b in zip(one, other, strict=True):
        assert a.tokens == b.tokens
        for name in ("base_logprob", "tuned_logprob", "kl"):
            assert getattr(a, name) == pytest.approx(getattr(b, name), abs=2e-3)


@pytest.mark.parametrize("batch_tokens", [1, 700, 100_000])
def test_drift_equals_a_plain_loop_over_documents(model, tuned, documents, tokenizer, batch_tokens):
    found = measure_drift(model, tuned, documents, pad=tokenizer.pad_token_id, batch_tokens=batch_tokens)
    for ids, drift in zip(documents, found, strict=True):
        with torch.inference_mode():
            p, q = (m(torch.tensor([ids])).logits[0, :-1].double().log_softmax(dim=-1) for m in (model, tuned))
        target = torch.tensor(ids[1:], dtype=torch.int64)[:, None]
        assert drift.tokens == len(ids) - 1
        assert drift.base_logprob == pytest.approx(float(p.gather(1, target).sum()), abs=2e-3)
        assert drift.tuned_logprob == pytest.approx(float(q.gather(1, target).sum()), abs=2e-3)
        assert drift.kl == pytest.approx(float((p.exp() * (p - q)).sum()), abs=2e-3)


def test_parts_of_the_positions_are_the_whole(model, tuned, documents, tokenizer, monkeypatch):
    computing = {"pad": tokenizer.pad_token_id, "batch_tokens": 100_000}
    whole = measure_drift(model, tuned, documents, **computing)
    monkeypatch.setattr("implicit.scoring.likelihood.AT_A_TIME", 7000)  # a few positions at a time
    close(measure_drift(model, tuned, documents, **computing), whole)


def test_a_model_has_not_gone_from_itself(model, tuned, documents, tokenizer):
    computing = {"pad": tokenizer.pad_token_id, "batch_tokens": 700}
    same = measure_drift(model, model, documents, **computing)
    assert all(drift.kl == 0 and drift.base_logprob == drift.tuned_logprob for drift in same)
    forth, back = (
        measure_drift(model, tuned, documents, **computing),
        measure_drift(tuned, model, documents, **computing),
    )
    assert all(drift.kl > 0 for drift in forth if drift.tokens)
    assert [d.base_logprob for d in forth] == pytest.approx([d.tuned_logprob for d in back], abs=2e-3)
    rows = [vars(drift) | {"cut": 0} for drift in forth]
    assert sum(d.kl for d in forth) != pytest.approx(sum(d.kl for d in back))  # KL is not symmetric
    told = summarise(rows, [])
    tokens = sum(len(ids) - 1 for ids in documents)
    assert told["tokens"] == tokens and told["recall"] == {}
    assert told["base_perplexity"] == pytest.approx(math.exp(-sum(d.base_logprob for d in forth) / tokens))
    with pytest.raises(ValueError, match="no document has more than one token"):
        summarise([{"tokens": 0, "cut": 0, "base_logprob": 0.0, "tuned_logprob": 0.0, "kl": 0.0}], [])


def test_the_questions_are_forms_of_the_corpus_and_the_right_value_follows(world):
    """Prompts with their values occur in the corpus itself, for each kind and form."""
    text = "\n\n".join(world.corpus(20_000))
    questions = fact_questions(world.facts)
    assert len(questions) == 2 * 3 * 36
    for form in ("statements", "questions"):
        for fact in ("capital", "sound", "colour"):
            own = [q for q in questions if (q.form, q.fact) == (form, fact)]
            read = [q.prompt + q.continuation(q.right) in text for q in own]
            assert sum(read) >= 10, (form, fact, sum(read))
            assert all(q.right in q.values and len(set(q.values)) == len(q.values) > 5 for q in own)
            assert all(getattr(world.facts, fact)[q.key] == q.right for q in own)


def test_the_most_likely_value_is_that_of_a_plain_loop(model, world, tokenizer):
    questions = fact_questions(world.facts)[::9]
    asked = encoded(questions, tokenizer, [tokenizer.bos_token_id])
    found = recalled(model, asked, pad=tokenizer.pad_token_id, batch_tokens=2000)
    for question, place in zip(questions, found, strict=True):
        prompt = [tokenizer.bos_token_id, *encode(tokenizer, question.prompt)]
        scores = []
        for value in question.values:
            ids = encode_after(tokenizer, FactQuestion.continuation(value), before=question.prompt)
            with torch.inference_mode():
                logprobs = model(torch.tensor([[*prompt, *ids]])).logits[0].log_softmax(dim=-1)
            scores.append(sum(float(logprobs[len(prompt) + i - 1, token]) for i, token in enumerate(ids)))
        assert scores[place] == pytest.approx(max(scores), abs=1e-3)


def test_held_out_text_is_of_the_world_and_not_of_its_corpus():
    held_out, read = World(3).held_out(300), set(World(3).corpus(3000))
    assert held_out == World(3).held_out(300) != World(4).held_out(300)
    assert sum(text in read for text in held_out) < 10  # short ones may occur again
    assert sum(name in "\n".join(held_out) for name in World(3).facts.capital) > 30


def test_text_of_ones_own_is_read_and_what_is_wrong_with_it_is_named(tmp_path):
    path = tmp_path / "texts.jsonl"

    def read(*rows, documents=2):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return read_documents(DriftSettings.model_construct(file=str(path), documents=documents))

    assert read({"text": "One."}, {"text": " "}, {"text": None}, {"text": "Two."}, {"text": "Three."}) == [
        "One.",
        "Two.",
    ]
    for rows, fault in (
        ([{"text": "One."}], r"drift.documents: 2, but the rows give only 1"),
        ([{"txt": "One."}], r"texts.jsonl, line 1: no column 'text': did you mean 'txt'"),
        (
            [{"text": float("nan")}],
            r"texts.jsonl, line 1: column 'text' must be text or a finite number, but it is nan",
        ),
    ):
        with pytest.raises(InputError, match=fault):
            read(*rows)


# --- lm-evaluation-harness ------------------------------------------------------------------------------------------

HARNESS = HarnessSettings(command="lm_eval", tasks=["arc_easy", "piqa"], options=["--limit", "9"], precision="bfloat16")


def test_the_harness_is_asked_for_all_tasks_of_a_models_directory(tmp_path):
    words = harness_command(HARNESS, model=tmp_path / "model", output=tmp_path / "out", device="cpu", batch=4)
    told = dict(zip(words[1::2], words[2::2], strict=True))
    assert words[0] == "lm_eval" and told == {
        "--model": "hf", "--model_args": f"pretrained={tmp_path / 'model'},dtype=bfloat16", "--tasks": "arc_easy,piqa",
        "--device": "cpu", "--batch_size": "4", "--output_path": str(tmp_path / "out"), "--limit": "9",
    }  # fmt: skip


def test_a_harness_that_is_not_there_or_fails_is_named(tmp_path):
    with pytest.raises(InputError, match="'no-such-harness' is not found: install lm-evaluation-harness"):
        run_harness(["no-such-harness"], tmp_path)
    with pytest.raises(InputError, match="exited with status 3 and wrote 0 results files"):
        run_harness([sys.executable, "-c", "raise SystemExit(3)"], tmp_path)


def test_figures_are_the_metrics_without_their_errors():
    found = {
        "arc_easy": {"alias": "arc_easy", "acc,none": 0.25, "acc_stderr,none": 0.01, "acc_norm,none": 0.3},
        "group": {"alias": "group", " ": " "},
        "gsm8k": {"exact_match,strict-match": 0.0, "exact_match_stderr,strict-match": "N/A", "sample_len": 9},
    }
    assert figures({"results": found}) == {
        "arc_easy": {"acc,none": 0.25, "acc_norm,none": 0.3}, "gsm8k": {"exact_match,strict-match": 0.0},
    }  # fmt: skip


def test_the_real_harness_answers_two_questions(model, tokenizer, tmp_path):
    """If lm-evaluation-harness is installed: a custom task, without network access."""
    command = shutil.which("lm_eval") or shutil.which(str(ROOT / ".venv-peers" / "bin" / "lm_eval"))
    if command is None:
        pytest.skip("lm-evaluation-harness is not installed (make bench puts it into .venv-peers)")
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    rows = [{"q": "What is hot?", "right": "fire"}, {"q": "What is cold?", "right": "snow"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "task": "two", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}},
        "test_split": "test", "output_type": "multiple_choice", "doc_to_text": "{{q}}", "doc_to_choice": ["fire", "snow"],
        "doc_to_target": "right", "metric_list": [{"metric": "acc"}],
    }  # fmt: skip
    (tmp_path / "two.yaml").write_text(json.dumps(task))
    settings = HarnessSettings(
        command=command, tasks=["two"], options=["--include_path", str(tmp_path)], precision="float32"
    )
    words = harness_command(settings, model=tmp_path / "model", output=tmp_path / "out", device="cpu", batch=2)
    done = figures(run_harness(words, tmp_path / "out"))
    assert set(done) == {"two"} and done["two"]["acc,none"] in (0.0, 0.5, 1.0)
