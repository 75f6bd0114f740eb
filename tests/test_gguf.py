"""A GGUF file is a base model like any other: its weights are those that the gguf library gives."""

import json
import subprocess
import sys

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Tokenizer
from workflow import ROOT

from pipeline.files.storage import read_json

# Of a Qwen2 with untied embeddings and two layers: name in the file, name in transformers, shape.
HIDDEN, INNER, HEADS = 64, 96, 4
LAYER = {
    "attn_norm": ("input_layernorm", (HIDDEN,)),
    "attn_q": ("self_attn.q_proj", (HIDDEN, HIDDEN)),
    "attn_k": ("self_attn.k_proj", (HIDDEN // 2, HIDDEN)),
    "attn_v": ("self_attn.v_proj", (HIDDEN // 2, HIDDEN)),
    "attn_output": ("self_attn.o_proj", (HIDDEN, HIDDEN)),
    "ffn_norm": ("post_attention_layernorm", (HIDDEN,)),
    "ffn_gate": ("mlp.gate_proj", (INNER, HIDDEN)),
    "ffn_up": ("mlp.up_proj", (INNER, HIDDEN)),
    "ffn_down": ("mlp.down_proj", (HIDDEN, INNER)),
}
TYPES = {
    "F32": gguf.GGMLQuantizationType.F32,
    "F16": gguf.GGMLQuantizationType.F16,
    "Q8_0": gguf.GGMLQuantizationType.Q8_0,
}


def tensors(vocabulary):
    """Random weights: name in the file -> (name in transformers, array)."""
    draw = np.random.default_rng(0)
    shapes = {
        "token_embd.weight": ("model.embed_tokens.weight", (vocabulary, HIDDEN)),
        "output.weight": ("lm_head.weight", (vocabulary, HIDDEN)),
        "output_norm.weight": ("model.norm.weight", (HIDDEN,)),
    }
    for layer in range(2):
        for name, (other, shape) in LAYER.items():
            shapes[f"blk.{layer}.{name}.weight"] = (f"model.layers.{layer}.{other}.weight", shape)
            if name in ("attn_q", "attn_k", "attn_v"):
                shapes[f"blk.{layer}.{name}.bias"] = (f"model.layers.{layer}.{other}.bias", shape[:1])
    return {name: (other, draw.normal(0, 0.3, shape).astype(np.float32)) for name, (other, shape) in shapes.items()}


def write(path, tokenizer, kind, *, architecture="qwen2", pattern="qwen2"):
    """Write a small model; vectors stay in float32, as in real files. Returns its tensors as `tensors` gives them."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(256)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(2)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS // 2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    state = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pattern)
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    tokens[tokenizer.eos_token_id] = "<|endoftext|>"  # without which Qwen2's tokenizer would add it
    writer.add_token_list(tokens)
    writer.add_token_types([3 if i in tokenizer.all_special_ids else 1 for i in range(len(tokenizer))])
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in state["merges"]])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    made = tensors(len(tokenizer))
    for name, (_, array) in made.items():
        own = TYPES[kind] if array.ndim == 2 else TYPES["F32"]
        writer.add_tensor(name, gguf.quantize(array, own), raw_dtype=own)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return made


def run_import(folder, path):
    chat = {"user_tag": "<|user|>", "assistant_tag": "<|assistant|>", "add_bos": True}
    settings = {"path": str(path), "revision": None, "chat": chat}
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "import_model.py"), "--model", str(folder / "model")]
        + ["--record", str(folder / "record.json"), "--settings", json.dumps(settings)],
        text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(("kind", "given"), [("F32", "file"), ("F16", "folder"), ("Q8_0", "file")])
def test_the_weights_are_those_that_the_gguf_library_gives(tmp_path, tokenizer, kind, given):
    (tmp_path / "source").mkdir()
    file = tmp_path / "source" / "model.gguf"
    made = write(file, tokenizer, kind)
    done = run_import(tmp_path, file if given == "file" else file.parent)
    assert done.returncode == 0, done.stdout
    read = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    own = model.state_dict()
    for name, (other, array) in made.items():
        expected = gguf.dequantize(read[name].data, read[name].tensor_type).reshape(array.shape)
        assert np.array_equal(own.pop(other).numpy(), expected), name
        assert np.abs(expected - array).max() < 0.02, "the file holds the weights that were drawn"
    assert not own
    record = read_json(tmp_path / "record.json")
    matrices = sum(array.ndim == 2 for _, array in made.values())
    counted = {kind: matrices, "F32": len(made) - matrices} if kind != "F32" else {"F32": len(made)}
    assert record["dequantised_from"] == counted and f"tensors of {kind}" in done.stdout


TEXTS = ["List three fruits.", "é 日本\n<|user|>", "12 and 7", "def f(x):\n    return x"]


def test_texts_are_split_by_the_pattern_that_the_file_names(tmp_path, tokenizer):
    """Where the file is not enough, the original tokenizer stands in."""
    write(tmp_path / "model.gguf", tokenizer, "F16")
    assert run_import(tmp_path, tmp_path / "model.gguf").returncode == 0
    vocabulary = tokenizer.get_vocab()
    vocabulary["<|endoftext|>"] = vocabulary.pop(tokenizer.eos_token)
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    expected = Qwen2Tokenizer(vocab=vocabulary, merges=[tuple(merge) for merge in merges])
    imported = AutoTokenizer.from_pretrained(tmp_path / "model")
    ids = [imported(text, add_special_tokens=False).input_ids for text in TEXTS]
    assert ids == [expected(text, add_special_tokens=False).input_ids for text in TEXTS]
    assert ids != [tokenizer(text, add_special_tokens=False).input_ids for text in TEXTS], "they would prove nothing"

    (tmp_path / "other").mkdir()
    write(tmp_path / "other" / "model.gguf", tokenizer, "F16", pattern="llama-bpe")
    refused = run_import(tmp_path / "other", tmp_path / "other" / "model.gguf")
    assert refused.returncode == 1 and "names the split pattern 'llama-bpe' but does not contain it" in refused.stdout
    imported.save_pretrained(tmp_path / "other")
    done = run_import(tmp_path / "other", tmp_path / "other" / "model.gguf")
    assert done.returncode == 0, done.stdout
    imported = AutoTokenizer.from_pretrained(tmp_path / "other" / "model")
    assert ids == [imported(text, add_special_tokens=False).input_ids for text in TEXTS]


def unknown_type(file):
    """Give the last tensor a type that does not exist."""
    tensor = gguf.GGUFReader(file).tensors[-1]
    content = bytearray(file.read_bytes())
    place = content.index(tensor.name.encode()) + len(tensor.name) + 4 + 8 * len(tensor.shape)
    content[place : place + 4] = (999).to_bytes(4, "little")
    file.write_bytes(content)


@pytest.mark.parametrize("fault", ["type", "architecture", "cut", "several"])
def test_what_cannot_be_read_is_one_clear_line(tmp_path, tokenizer, fault):
    file = tmp_path / "model.gguf"
    write(file, tokenizer, "F16", architecture="strange" if fault == "architecture" else "qwen2")
    if fault == "type":
        unknown_type(file)
    if fault == "cut":
        file.write_bytes(file.read_bytes()[:300])
    if fault == "several":
        (tmp_path / "other.gguf").write_bytes(file.read_bytes())
    done = run_import(tmp_path, tmp_path if fault == "several" else file)
    assert done.returncode == 1 and "Traceback" not in done.stdout
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("error: ")]
    expected = {"type": "999", "architecture": "strange", "several": "contains 2 GGUF files", "cut": "cannot be read"}
    assert expected[fault] in line and str(tmp_path) in line and not (tmp_path / "model").exists()
