"""Exported models work elsewhere: the checks of every import and save, and that plain transformers agrees."""

import json
import subprocess
import sys

import architectures
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

import import_model
import take_base
from implicit.format.render import Format, chat_template, encode_response, render, render_prompt, render_request
from implicit.generation.generate import Limits, generate
from implicit.judging.local_judge import LocalJudgeError, score_labels
from pipeline.files.storage import read_json, write_json, write_table
from pipeline.jobs.command import InputError
from pipeline.jobs.record import fingerprint
from pipeline.models import exported
from pipeline.models.directories import context_length, save_model
from pipeline.models.exported import check_template, check_token_ids, check_tokenizer, check_weights, stored_weights
from pipeline.models.fit import check_datasets

# Does not use this project: for each directory, how it renders conversations and what it generates.
ELSEWHERE = """
import json, sys
from transformers import AutoModelForCausalLM, AutoTokenizer

given, found = json.load(sys.stdin), []
for path in given["paths"]:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    ids = []
    for messages, prompt in given["conversations"]:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
        ids.append([
            tokenizer.apply_chat_template(messages, add_generation_prompt=prompt)["input_ids"],
            tokenizer(text, add_special_tokens=False)["input_ids"],
        ])
    question = [{"role": "user", "content": "Hi"}]
    inputs = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**inputs, max_new_tokens=24)[0, inputs["input_ids"].shape[1]:].tolist()
    found.append({"ids": ids, "answer": answer})
json.dump(found, sys.stdout)
"""
TURNS = [
    {"role": "user", "content": " What is 'this' \\ \"that\"?\n"},
    {"role": "assistant", "content": " The {{ first }}.\n\n- one\n- {% two %}"},
    {"role": "user", "content": "And é 日本 🙂?\t"},
    {"role": "assistant", "content": "We will."},
]
CONVERSATIONS = [(TURNS[:2], False), (TURNS[:1], True), (TURNS, False), (TURNS[:3], True), (TURNS, True)]
# Like the published configs of some models, or worse: other EOS tokens, several, none, sampling, penalties.
CONFIGS = {
    "llama-2": ({"eos_token_id": 7, "pad_token_id": -1}, {"eos_token_id": 7, "temperature": 0.6, "top_p": 0.9}),
    "llama-3": ({"eos_token_id": [7, 8]}, {"eos_token_id": [7, 8], "do_sample": True, "temperature": 0.6}),
    "qwen-3": ({}, {"eos_token_id": [7, 900], "do_sample": True, "top_k": 20, "repetition_penalty": 1.5}),
    "gpt-2": ({"eos_token_id": None, "bos_token_id": None}, {"eos_token_id": None, "suppress_tokens": [900]}),
    "opt": ({"eos_token_id": 9}, None),
}


def import_in_this_process(source, out, chat, monkeypatch, conversations=(), **more):
    """Import a directory, with ``more`` settings; returns the model's directory."""
    settings = {"path": str(source), "revision": None, "chat": chat.__dict__} | more
    words = ["import_model.py", "--model", out / "model", "--record", out / "record.json"]
    words += ["--settings", json.dumps(settings), "--conversations", *conversations]
    monkeypatch.setattr(sys, "argv", [str(word) for word in words])
    import_model.main()
    return out / "model"


def let_it_stop(path, chat):
    """Change a model's weights so that its response to "Hi" ends after a few tokens with EOS as the likeliest token."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    prompt = render_prompt("Hi", tokenizer, chat)
    model.generation_config = GenerationConfig()
    with torch.no_grad():
        said = model.generate(torch.tensor([prompt]), max_new_tokens=24, eos_token_id=-1, pad_token_id=0)
        said = said[0, len(prompt) :].tolist()
        logits = model(torch.tensor([prompt + said])).logits[0, len(prompt) - 1 :]
        place = next(i for i in range(3, 24) if said[i] not in said[:i] and logits[i, said[i]] > 0)
        head = model.get_output_embeddings().weight
        head[tokenizer.eos_token_id] = head[said[place]] * 1.001
    model.save_pretrained(path)


@pytest.fixture(scope="module")
def models(tmp_path_factory, chat):
    """Imported models of every architecture: name -> (directory, format)."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        for name in architectures.ARCHITECTURES:
            folder = tmp_path_factory.mktemp(name)
            # If EOS is BOS and embeddings are tied, changing the weights of EOS would change a prompt with BOS.
            format_ = architectures.CHATS.get(name, chat)
            if name in ("qwen-3", "gpt-2", "opt"):
                format_ = Format(format_.user_tag, format_.assistant_tag, add_bos=False)
            source = architectures.save(name, folder / "source")
            let_it_stop(source, format_)
            config, generation = CONFIGS.get(name, ({}, {}))
            architectures.change(source / "config.json", **config)
            if generation is None:
                (source / "generation_config.json").unlink()
            else:
                architectures.change(source / "generation_config.json", **generation)
            found[name] = (import_in_this_process(source, folder, format_, patch), format_)
    return found


@pytest.fixture(scope="module")
def elsewhere(models):
    """What a program that does not use this project finds in the directories."""
    given = {"paths": [str(path) for path, _ in models.values()], "conversations": CONVERSATIONS}
    command = [sys.executable, "-c", ELSEWHERE]
    done = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(zip(models, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("name", architectures.ARCHITECTURES)
def test_plain_transformers_asks_in_the_tokens_that_are_tuned_on(models, elsewhere, name):
    path, chat = models[name]
    tokenizer = AutoTokenizer.from_pretrained(path)
    for (messages, prompt), given in zip(CONVERSATIONS, elsewhere[name]["ids"], strict=True):
        expected = render_request(messages, tokenizer, chat) if prompt else render(messages, tokenizer, chat).ids
        assert given == [expected, expected]


@pytest.mark.parametrize("name", architectures.ARCHITECTURES)
def test_plain_transformers_generates_and_stops_as_here(models, elsewhere, name):
    path, chat = models[name]
    model, tokenizer = AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    limits = Limits(tokenizer.eos_token_id, tokenizer.pad_token_id, max_new_tokens=24, context=512)
    (here,) = generate(model.eval(), [render_prompt("Hi", tokenizer, chat)], limits, batch_size=1)
    assert here.stopped and here.ids
    assert elsewhere[name]["answer"] == [*here.ids, tokenizer.eos_token_id]


@pytest.fixture
def saved(model, tokenizer, chat, tmp_path):
    """A model's directory as it is saved here."""
    tokenizer.chat_template = chat_template(tokenizer, chat)
    save_model(model, tokenizer, tmp_path / "saved", card={}, chat=chat)
    return tmp_path / "saved"


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("config.json", {"eos_token_id": 7}, "eos_token_id is 7 in config.json, but 1"),
        ("config.json", {"bos_token_id": None}, "bos_token_id is 1 in config.json, but 0"),
        ("generation_config.json", {"eos_token_id": [1, 7]}, r"eos_token_id is \[1, 7\] in generation_config.json"),
        ("generation_config.json", {"pad_token_id": None}, "pad_token_id is None in generation_config.json, but 2"),
        ("generation_config.json", {"repetition_penalty": 1.2}, "generation_config.json sets repetition_penalty"),
    ],
)
def test_configs_that_do_not_agree_with_the_tokenizer_are_refused(saved, file, values, message):
    tokenizer = AutoTokenizer.from_pretrained(saved)
    check_token_ids(saved, tokenizer)
    architectures.change(saved / file, **values)
    with pytest.raises(InputError, match=message):
        check_token_ids(saved, tokenizer)


def test_nothing_is_saved_that_does_not_pass(model, tokenizer, chat, tmp_path):
    model.config.eos_token_id = 7
    with pytest.raises(InputError, match="eos_token_id is 7"):
        save_model(model, tokenizer, tmp_path / "model", card={}, chat=chat)
    model.config.eos_token_id = tokenizer.eos_token_id
    with torch.no_grad():
        model.get_input_embeddings().weight[-1, -1] = float("inf")
    with pytest.raises(InputError, match=r"weight tensors contain NaN or infinite values, such as model\.embed_tokens"):
        save_model(model, tokenizer, tmp_path / "model", card={}, chat=chat)
    with torch.no_grad():
        model.get_input_embeddings().weight[-1, -1] = 0.0
    tokenizer.chat_template = chat_template(tokenizer, Format("<other>", "<tags>", add_bos=True))
    with pytest.raises(InputError, match="a chat template gives other tokens"):
        save_model(model, tokenizer, tmp_path / "model", card={}, chat=chat)
    assert list(tmp_path.iterdir()) == []


def test_a_tokenizer_that_another_class_would_load_otherwise_is_refused(tmp_path):
    saved = architectures.save("llama-3", tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(saved)
    architectures.change(saved / "tokenizer_config.json", tokenizer_class="GPT2Tokenizer")
    with pytest.raises(InputError, match="tokenizer_class"):
        check_tokenizer(saved, tokenizer, AutoTokenizer.from_pretrained(saved))


def test_an_imported_tokenizer_encodes_as_its_own_file_does(tmp_path, chat, monkeypatch, capsys):
    """A Llama-3 tokenizer that names GPT-2's class, which splits texts differently."""
    source = architectures.save("llama-3", tmp_path / "source")
    architectures.change(source / "tokenizer_config.json", tokenizer_class="GPT2Tokenizer")
    own = Tokenizer.from_file(str(source / "tokenizer.json"))
    text = "def f(x):\n    return 1984"
    ids = own.encode(text, add_special_tokens=False).ids
    assert AutoTokenizer.from_pretrained(source)(text, add_special_tokens=False)["input_ids"] != ids
    path = import_in_this_process(source, tmp_path, chat, monkeypatch)
    assert AutoTokenizer.from_pretrained(path)(text, add_special_tokens=False)["input_ids"] == ids
    assert "differently than tokenizer.json" in capsys.readouterr().out


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_not_finite_are_named_at_import(tmp_path, chat, monkeypatch, value):
    source = architectures.save("gpt-neox", tmp_path / "source")
    weights = load_file(source / "model.safetensors")
    weights["gpt_neox.layers.1.attention.dense.weight"][-1, -1] = value
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        InputError, match=r"NaN or infinite values, such as gpt_neox\.layers\.1\.attention\.dense\.weight"
    ):
        import_in_this_process(source, tmp_path, chat, monkeypatch)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("part", [1, 7, 64, 10**6])
def test_weights_are_read_in_parts_which_are_the_whole(tmp_path, monkeypatch, part):
    monkeypatch.setattr(exported, "PART", part)
    tensors = {"a": torch.randn(5, 3, 4), "b": torch.randn(11), "c": torch.tensor(1.0), "d": torch.zeros(0, 3)}
    save_file(tensors | {"e": torch.arange(3)}, tmp_path / "model.safetensors")
    parts = {}
    for name, values in stored_weights(tmp_path):
        assert values.numel() <= max(part, 12)
        parts.setdefault(name, []).append(values)
    assert all(torch.equal(torch.cat(parts[name]), tensors[name]) for name in ("a", "b"))
    check_weights(stored_weights(tmp_path))
    tensors["a"][4, 2, 3] = float("nan")
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="such as a:"):
        check_weights(stored_weights(tmp_path))


def test_a_context_length_is_found_whatever_it_is_called(tmp_path, chat, monkeypatch, models):
    assert {context_length(AutoModelForCausalLM.from_pretrained(path).config) for path, _ in models.values()} == {512}
    source = architectures.save("bloom", tmp_path / "source")
    architectures.change(source / "config.json", seq_length=300)  # as Bloom's published configs have it
    path = import_in_this_process(source, tmp_path, chat, monkeypatch)
    assert context_length(AutoModelForCausalLM.from_pretrained(path).config) == 300
    source = architectures.save("bloom", tmp_path / "unknown")
    architectures.change(source / "tokenizer_config.json", model_max_length=None)
    with pytest.raises(InputError, match=r"bloom model does not state its context length: .*max_position_embeddings"):
        import_in_this_process(source, tmp_path / "out", chat, monkeypatch)
    model = AutoModelForCausalLM.from_pretrained(source)
    with pytest.raises(LocalJudgeError, match="max_position_embeddings"):
        list(score_labels(model, [[1]], [[1], [2]], batch_tokens=9))


def test_tags_that_a_template_cannot_give_are_refused(tmp_path, chat, monkeypatch):
    """After a special token, Phi-3's tokenizer puts an extra space before the response, unlike for any other text."""
    source = architectures.save("phi-3", tmp_path / "source")
    with pytest.raises(InputError, match=r"chat\.user_tag '<\|user\|>'.*choose other tags for this model"):
        import_in_this_process(source, tmp_path, chat, monkeypatch)
    assert not (tmp_path / "model").exists()


@pytest.fixture
def joining(tmp_path):
    """A model whose tokenizer merges a newline and a T."""
    source = architectures.save("llama-3", tmp_path / "joining")
    state = read_json(source / "tokenizer.json")
    state["pre_tokenizer"] = json.loads(
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).__getstate__()
    )
    for place, token in enumerate(["Ċ", "T"]):
        assert token in state["model"]["vocab"], place
    freed = max(state["model"]["vocab"], key=state["model"]["vocab"].get)  # the last merge gives its place
    state["model"]["vocab"]["ĊT"] = state["model"]["vocab"].pop(freed)
    state["model"]["merges"] = [["Ċ", "T"]] + [pair for pair in state["model"]["merges"] if "".join(pair) != freed]
    write_json(state, source / "tokenizer.json")
    return source


def test_a_response_that_the_tokenizer_joins_to_the_tag_is_named(tmp_path, chat, monkeypatch, joining):
    """Also with ``too_long: cut``: names the row and what to do."""
    rows = [
        {"id": f"row-{i}", "source": "own.csv", "messages": [{"role": "user", "content": "T"}, {"role": "assistant", "content": text}]}
        for i, text in enumerate(["It is.", "To be."])
    ]  # fmt: skip
    write_table("conversations", rows, tmp_path / "rows.parquet")
    write_table("conversations", rows[:1], tmp_path / "right.parquet")
    tokenizer = AutoTokenizer.from_pretrained(joining)
    with pytest.raises(ValueError, match="into one token"):
        encode_response(tokenizer, "To be.")
    check_datasets([tmp_path / "right.parquet"], tokenizer, context=None)
    with pytest.raises(InputError, match=r"row row-1 \(own\.csv\).*remove the row"):
        import_in_this_process(joining, tmp_path, chat, monkeypatch, [tmp_path / "rows.parquet"])
    assert import_in_this_process(joining, tmp_path, chat, monkeypatch, [tmp_path / "right.parquet"]).exists()


def test_rows_longer_than_an_imported_models_context_are_refused_at_import(tmp_path, chat, monkeypatch, joining):
    context = AutoConfig.from_pretrained(joining).max_position_embeddings
    with pytest.raises(InputError, match=f"tuning.max_length: {context + 1} tokens.* {context}"):
        import_in_this_process(joining, tmp_path, chat, monkeypatch, max_length=context + 1)
    assert import_in_this_process(joining, tmp_path, chat, monkeypatch, max_length=context).exists()


def test_a_base_model_that_is_taken_is_checked_with_its_own_tags(model, tokenizer, tmp_path, monkeypatch):
    tokenizer.chat_template = None
    save_model(model, tokenizer, tmp_path / "shared", card={}, chat=None)
    assert not (tmp_path / "shared" / "chat_template.jinja").exists()
    write_json({"outputs": {"shared": {"sha256": fingerprint(tmp_path / "shared")}}}, tmp_path / "shared.json")
    chat = Format('### User\'s "request" {{ x }}:', "\\n</s>\n🙂", add_bos=True)
    words = ["take_base.py", "--shared", tmp_path / "shared", "--shared-record", tmp_path / "shared.json", "--model"]
    words += [tmp_path / "model", "--record", tmp_path / "record.json", "--conversations", "--settings"]
    words.append(json.dumps({"chat": chat.__dict__}))
    monkeypatch.setattr(sys, "argv", [str(word) for word in words])
    take_base.main()
    check_template(AutoTokenizer.from_pretrained(tmp_path / "model"), chat)
