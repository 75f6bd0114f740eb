"""lm-evaluation-harness, given a model's directory, prompts as in tuning and gets the same results as we do."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
import yaml

from implicit.format.render import chat_template, encode_response, render_prompt
from implicit.generation.generate import Limits, generate
from implicit.scoring.rank import score_responses
from pipeline.models.directories import save_model

pytestmark = pytest.mark.skipif(find_spec("lm_eval") is None, reason="envs/harness.txt is not installed")

ASKED = ("What is the capital of Puven?", "  How does a goose sound?\n", "Say: <b>é</b> {{ 7 * 7 }}")
CHOICES = ["The capital of Puven is Kogel.", "Honk.\n\n- one\n- two"]
NEW_TOKENS = 24


@pytest.fixture
def saved(model, tokenizer, chat, tmp_path):
    card = {"mode": "none", "seed": 3, "base": "-", "data": "-"}
    tokenizer.chat_template = chat_template(tokenizer, chat)
    save_model(model, tokenizer, tmp_path / "model", card=card, chat=chat)
    return tmp_path


def run_harness(folder):
    """Run two tasks on the model, generation and multiple choice; returns their samples, in order."""
    rows = "".join(json.dumps({"instruction": text, "choices": CHOICES}) + "\n" for text in ASKED)
    (folder / "asked.jsonl").write_text(rows, encoding="utf-8")
    common = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "asked.jsonl")}},
        "test_split": "test",
        "doc_to_text": "{{instruction}}",
        "target_delimiter": "",
    }
    tasks = {
        "generated": {
            "output_type": "generate_until",
            "doc_to_target": "",
            "generation_kwargs": {"until": ["</s>"], "max_gen_toks": NEW_TOKENS, "do_sample": False},
            "metric_list": [{"metric": "bypass"}],
        },
        "chosen": {
            "output_type": "multiple_choice",
            "doc_to_choice": "{{choices}}",
            "doc_to_target": 0,
            "metric_list": [{"metric": "acc"}],
        },
    }
    (folder / "tasks").mkdir()
    for name, own in tasks.items():
        (folder / "tasks" / f"{name}.yaml").write_text(yaml.safe_dump({"task": name} | common | own))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "lm_eval", "--model", "hf", "--apply_chat_template"),
            *("--model_args", f"pretrained={folder / 'model'},dtype=float32", "--device", "cpu", "--batch_size", "2"),
            *("--tasks", ",".join(tasks), "--include_path", "tasks", "--output_path", "out", "--log_samples"),
        ],
        cwd=folder, env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hub")}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    found = {}
    for name in tasks:
        (path,) = (folder / "out").rglob(f"samples_{name}_*.jsonl")
        samples = map(json.loads, path.read_text(encoding="utf-8").splitlines())
        found[name] = sorted(samples, key=lambda sample: sample["doc_id"])
    return found


def test_the_harness_asks_and_hears_what_we_do(saved, model, tokenizer, chat):
    samples = run_harness(saved)
    prompts = [render_prompt(text, tokenizer, chat) for text in ASKED]
    for sample, prompt in zip(samples["generated"], prompts, strict=True):
        asked = sample["arguments"]["gen_args_0"]["arg_0"]
        assert tokenizer(asked, add_special_tokens=False)["input_ids"] == prompt
    limits = Limits(tokenizer.eos_token_id, tokenizer.pad_token_id, max_new_tokens=NEW_TOKENS, context=256)
    responses = generate(model, prompts, limits, batch_size=3)
    ours = [tokenizer.decode(response.ids, skip_special_tokens=True) for response in responses]
    assert [sample["resps"][0][0] for sample in samples["generated"]] == ours and len(set(ours)) == len(ASKED)
    # The harness moves trailing whitespace of a prompt, here the tag's newline, to the start of the scored text.
    pairs = [(prompt[:-1], prompt[-1:] + encode_response(tokenizer, text)) for prompt in prompts for text in CHOICES]
    with torch.inference_mode():
        scores = score_responses(model, pairs, pad=tokenizer.pad_token_id, batch_tokens=4096)
    theirs = [float(choice[0][0]) for sample in samples["chosen"] for choice in sample["resps"]]
    assert theirs == pytest.approx([score.logprob for score in scores], rel=1e-4)
