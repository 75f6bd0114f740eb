"""Every supported architecture, with its tokenizer's peculiarities: docs/models.md."""

import json
import os
import subprocess
import sys
from pathlib import Path

import architectures
import pytest
import torch
import yaml
from snakemake.utils import update_config
from transformers import AutoModelForCausalLM, AutoTokenizer

from implicit.format.render import USER_TURNS, Format, encode_response, render, render_prompt
from implicit.generation.generate import Limits, generate
from implicit.generation.rules import UnresolvedToken, resolve_tokens
from implicit.scoring.rank import score_responses
from implicit.tuning.tune import Execution, Tuning, tune
from import_model import check_head, prepare_tokens
from pipeline.config.check import check_config
from pipeline.jobs.command import InputError
from pipeline.models.directories import context_length

ROOT = Path(__file__).parents[1]
NAMES = list(architectures.ARCHITECTURES)
TURNS = [
    {"role": "user", "content": "What is <s>this</s>?\n"},
    {"role": "assistant", "content": " The first.\n\n- one\n- two"},
    {"role": "user", "content": "And then: I should <|endoftext|> say é?"},
    {"role": "assistant", "content": "We will."},
]


@pytest.fixture(scope="module", params=NAMES)
def imported(request, tmp_path_factory):
    """(name, model, tokenizer) after import."""
    path = architectures.save(request.param, tmp_path_factory.mktemp(request.param))
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(path)
    check_head(model)
    prepare_tokens(model, tokenizer)
    return request.param, model, tokenizer


@pytest.fixture
def chat(request, chat):
    """The chat format of the architecture under test."""
    imported = "imported" in request.fixturenames
    return architectures.CHATS.get(request.getfixturevalue("imported")[0], chat) if imported else chat


def whole_text(turns, chat, eos):
    """The conversation as one text, as the authors' script builds it."""
    text = ""
    for turn in turns:
        content = turn["content"].strip()
        text += f"{chat.user_tag}\n{content}\n" if turn["role"] == "user" else f"{chat.assistant_tag}\n{content}{eos}\n"
    return text.strip()


@pytest.mark.parametrize("train_eos", [True, False])
@pytest.mark.parametrize("user_turn", USER_TURNS)
def test_segments_encode_as_the_whole_text_does(imported, chat, user_turn, train_eos):
    """With plain text that contains no names of special tokens, which encoding the whole text would convert."""
    _, _, tokenizer = imported
    turns = [
        {**turn, "content": turn["content"].replace("<|endoftext|>", "").replace("</s>", "").replace("<s>", "")}
        for turn in TURNS
    ]
    turns = USER_TURNS[user_turn](turns)
    rendered = render(turns, tokenizer, chat, train_eos=train_eos)
    text = whole_text(turns, chat, tokenizer.eos_token)
    assert rendered.ids == [tokenizer.bos_token_id] + tokenizer(text, add_special_tokens=False)["input_ids"]
    if user_turn != "removed":
        prompt = render_prompt(turns[0]["content"], tokenizer, chat)
        assert rendered.ids[: len(prompt)] == prompt
    trained = [i for i, yes in zip(rendered.ids, rendered.trained, strict=True) if yes]
    said = "".join(turn["content"].strip() for turn in turns if turn["role"] == "assistant")
    assert tokenizer.decode([i for i in trained if i != tokenizer.eos_token_id]).strip() == said
    assert trained.count(tokenizer.eos_token_id) == (2 if train_eos else 0)


def test_names_of_special_tokens_in_a_text_are_no_special_tokens(imported, chat):
    _, _, tokenizer = imported
    ids = render(TURNS, tokenizer, chat).ids
    assert ids.count(tokenizer.eos_token_id) == 2 + (tokenizer.eos_token_id == tokenizer.bos_token_id)


def test_the_pad_token_is_its_own_and_its_embedding_is_never_chosen(imported):
    name, model, tokenizer = imported
    assert tokenizer.pad_token_id not in (tokenizer.eos_token_id, tokenizer.bos_token_id, None)
    assert (
        len(tokenizer) <= model.get_input_embeddings().weight.shape[0] == model.get_output_embeddings().weight.shape[0]
    )
    head = model.get_output_embeddings().weight
    if name in ("llama-2", "llama-3"):  # those without a spare row
        assert model.config.vocab_size == len(tokenizer) == tokenizer.pad_token_id + 1
        hidden = torch.randn(50, head.shape[1])
        logits = hidden @ head.T
        assert (logits[:, tokenizer.pad_token_id] < logits.max(dim=1).values).all()


def test_batched_generation_equals_transformers_own(imported, chat):
    _, model, tokenizer = imported
    prompts = [
        render_prompt(text, tokenizer, chat) for text in ("Hi", "What is the capital of Puven, and why?", "a b c")
    ]
    limits = Limits(tokenizer.eos_token_id, tokenizer.pad_token_id, max_new_tokens=24, context=512)
    found = generate(model, prompts, limits, batch_size=3)
    for prompt, response in zip(prompts, found, strict=True):
        ids = model.generate(
            torch.tensor([prompt]),
            do_sample=False,
            max_new_tokens=24,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )[0, len(prompt) :].tolist()
        assert response.ids == [i for i in ids if i != tokenizer.eos_token_id]
    assert len({tuple(response.ids) for response in found}) > 1, "all the same would prove little"


def test_scores_equal_those_of_the_plain_forward(imported, chat):
    _, model, tokenizer = imported
    prompt, responses = (
        render_prompt("Hi", tokenizer, chat),
        [encode_response(tokenizer, text) for text in ("One.", "Two or three.")],
    )
    scores = score_responses(model, [(prompt, r) for r in responses], pad=tokenizer.pad_token_id, batch_tokens=4096)
    for response, score in zip(responses, scores, strict=True):
        with torch.inference_mode():
            logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1].log_softmax(dim=-1)
        naive = logits[range(len(response)), response].sum().item()
        assert score.logprob == pytest.approx(naive, rel=1e-4)


def test_every_architecture_learns(imported, chat):
    _, model, tokenizer = imported
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    rows = [
        render(
            [{"role": "user", "content": "Say it."}, {"role": "assistant", "content": f"It is {n}."}], tokenizer, chat
        )
        for n in range(4)
    ]
    settings = Tuning(epochs=5, learning_rate=3e-3, batch_size=2, schedule="constant", warmup=0.0, weight_decay=0.0, max_grad_norm=1.0,
                      normalise_by="example", seed=1)  # fmt: skip
    steps = tune(model, rows, settings, Execution(tokenizer.pad_token_id, precision=torch.float32))
    assert steps[-1].loss < 0.7 * steps[0].loss
    model.load_state_dict(before)


RAW = yaml.safe_load((ROOT / "config.yaml").read_text())
update_config(RAW, yaml.safe_load((ROOT / "experiments" / "paper.yaml").read_text()))
PAPER = check_config(RAW).rules.scores()


def test_the_papers_fifteen_tokens_resolve_with_their_blanks(imported):
    _, _, tokenizer = imported
    assert len(PAPER) == 15
    found = resolve_tokens(PAPER, tokenizer)
    assert list(found.values()) == list(PAPER.values())  # so that no two are the same token
    for i, text in zip(found, PAPER, strict=True):
        # Decoded in mid-text, where no decoder strips spaces.
        around = encode_response(tokenizer, "a")
        assert tokenizer.decode([*around, i, *around]) == f"a{text}a"


def test_a_token_that_is_none_is_named_with_its_near_candidates(imported):
    _, _, tokenizer = imported
    with pytest.raises(UnresolvedToken) as error:
        resolve_tokens({"SHOULD": 1.0, "\n": 1.0, " capital of": 2.0}, tokenizer)
    assert "'SHOULD' (similar: " in str(error.value) and "' should'" in str(error.value)
    assert "' capital of' (it is split into [" in str(error.value) and "'\\n'" not in str(error.value)


def test_a_model_that_caps_its_logits_is_refused():
    from transformers import Gemma2Config, Gemma2ForCausalLM

    small = {**architectures.SMALL, "vocab_size": 64, "final_logit_softcapping": 0.01}
    with pytest.raises(InputError, match="Gemma2ForCausalLM changes its logits"):
        check_head(Gemma2ForCausalLM(Gemma2Config(**small)).eval())


def test_import_writes_a_directory_that_needs_nothing_more(tmp_path, chat):
    """From the shell, in the model's own precision; importing an imported model changes nothing."""
    path = architectures.save("llama-2", tmp_path / "llama", context=128)
    AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).save_pretrained(path)
    for source, target in ((path, "first"), (tmp_path / "first" / "model", "second")):
        done = import_from(source, tmp_path / target, chat)
        assert done.returncode == 0, done.stdout
        assert ("added the pad token" in done.stdout) == (target == "first")
    states = [
        AutoModelForCausalLM.from_pretrained(tmp_path / target / "model").state_dict() for target in ("first", "second")
    ]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "second" / "model")
    assert model.dtype == torch.bfloat16 and context_length(model.config) == 128
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "second" / "model")
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    assert tokenizer.apply_chat_template(turns, tokenize=False) == "<s> <|user|>\nHi\n<|assistant|>\nHo</s>"


def test_a_bos_is_left_out_where_the_config_says_so(imported):
    _, _, tokenizer = imported
    chat = Format(user_tag="<|A|>", assistant_tag="<|B|>", add_bos=False)
    prompt = render_prompt("Hi", tokenizer, chat)
    assert tokenizer.decode(prompt) == "<|A|>\nHi\n<|B|>\n" and tokenizer.bos_token_id not in prompt


def import_from(path, target, chat, *, revision=None, **environment):
    """Run the import from the shell: the finished process."""
    settings = json.dumps({"path": str(path), "revision": revision, "chat": chat.__dict__})
    command = [sys.executable, ROOT / "scripts" / "import_model.py", "--model", target / "model"]
    command += ["--record", target / "record.json", "--settings", settings]
    return subprocess.run(
        command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=os.environ | environment, check=False
    )


def test_a_hub_id_at_a_revision_is_taken_from_the_cache_when_offline(tmp_path, chat):
    """Two commits of a repository are in the hub cache: the requested one is imported and recorded."""
    cache = tmp_path / "hub" / "models--org--small"
    commits = {"a" * 40: 0, "b" * 40: 1}
    for commit, seed in commits.items():
        architectures.save("gpt-neox", cache / "snapshots" / commit, context=64, seed=seed)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("a" * 40)
    offline = {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    done = import_from("org/small", tmp_path / "out", chat, revision="b" * 40, **offline)
    assert done.returncode == 0, done.stdout
    assert json.loads((tmp_path / "out" / "record.json").read_text())["commit_on_hub"] == "b" * 40
    found, wanted, other = (
        AutoModelForCausalLM.from_pretrained(path).state_dict()["gpt_neox.embed_in.weight"]
        for path in (tmp_path / "out" / "model", *(cache / "snapshots" / commit for commit in ("b" * 40, "a" * 40)))
    )
    assert torch.equal(found[: len(wanted)], wanted) and not torch.equal(wanted, other)
    missing = import_from("org/none", tmp_path / "none", chat, **offline)
    assert (
        missing.returncode == 1
        and "error: model org/none, revision " not in missing.stdout
        and "error: model org/none" in missing.stdout
    )
    assert not list((tmp_path / "none").rglob("*"))


def test_code_that_comes_with_a_model_is_not_run(tmp_path, chat):
    path = architectures.save("gpt-neox", tmp_path / "model", context=64)
    proof = tmp_path / "it_ran"
    (path / "evil.py").write_text(f"open({str(proof)!r}, 'w').close()\nclass Evil: pass\nclass EvilConfig: pass\n")
    file = path / "config.json"
    config = json.loads(file.read_text()) | {
        "auto_map": {"AutoConfig": "evil.EvilConfig", "AutoModelForCausalLM": "evil.Evil"}
    }
    file.write_text(json.dumps(config))
    assert import_from(path, tmp_path / "known", chat).returncode == 0  # by our own code for its architecture
    file.write_text(json.dumps(config | {"model_type": "evil"}))
    done = import_from(path, tmp_path / "unknown", chat)
    assert done.returncode == 1 and "error: model " in done.stdout and not list((tmp_path / "unknown").rglob("*"))
    assert not proof.exists()
