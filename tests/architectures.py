"""Small models with random weights, for each architecture and with each tokenizer's peculiarities, as directories."""

import json
from functools import cache

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from implicit.format.render import Format
from implicit.world.sets import World

# Texts used by the paper's rules, so that they are single tokens of the trained vocabularies.
MARKS = ["a < b | c", "<", "|", "I", "We", "What", "! yes", "* one", "- two", "# A", "## B", "f(x)\n    return\n   x", "What I should do",
         "- We should", "* I know", "x # y ## z"]  # fmt: skip
GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
}

# Options that a model type does not have or names differently.
NOT_KNOWN = {
    "gpt_neox": {"head_dim", "num_key_value_heads"},
    "gpt2": {"head_dim", "num_key_value_heads", "intermediate_size"},
    "opt": {"head_dim", "num_key_value_heads", "intermediate_size"},
    "bloom": {"head_dim", "num_key_value_heads", "intermediate_size", "max_position_embeddings"},
}
# The classes named in the published directories, which rebuild the tokenizer in their own way.
CLASSES = {
    "sentencepiece": "LlamaTokenizer",
    "gpt-neox": "GPTNeoXTokenizer",
    "gemma": "GemmaTokenizer",
    "gpt-2": "GPT2Tokenizer",
}
# Special tokens that absorb the spaces after them. The text after them gets a space of its own, so they cannot be used
# as tags.
TAGS = {"phi-3": ["<|user|>", "<|assistant|>", "<|end|>"]}
CHATS = {"phi-3": Format("<|A|>", "<|B|>", add_bos=True)}

# name: (model type, further config, tokenizer, special tokens, spare rows of the embeddings, ...)
ARCHITECTURES = {
    "llama-2": ("llama", {"num_key_value_heads": 4}, "sentencepiece", {"bos": "<s>", "eos": "</s>"}, 0),
    "llama-3": ("llama", {}, "llama-3", {"bos": "<|begin_of_text|>", "eos": "<|end_of_text|>"}, 0),
    "qwen-3": ("qwen3", {"tie_word_embeddings": True}, "llama-3", {"eos": "<|endoftext|>", "pad": "<|endoftext|>"}, 24),
    "gemma-3": ("gemma3_text", {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]}, "gemma",
                {"bos": "<bos>", "eos": "<eos>", "pad": "<pad>"}, 0),
    "olmo": ("olmo", {"num_key_value_heads": 4, "clip_qkv": None}, "gpt-neox", {"eos": "<|endoftext|>", "pad": "<|padding|>"}, 8),
    "olmo-2": ("olmo2", {}, "llama-3", {"bos": "<|endoftext|>", "eos": "<|endoftext|>", "pad": "<|pad|>"}, 8),
    "olmo-3": ("olmo3", {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]}, "llama-3",
               {"bos": "<|endoftext|>", "eos": "<|endoftext|>", "pad": "<|pad|>"}, 8),
    "gpt-neox": ("gpt_neox", {}, "gpt-neox", {"bos": "<|endoftext|>", "eos": "<|endoftext|>"}, 8),
    "mistral": ("mistral", {"sliding_window": None}, "sentencepiece of no class", {"bos": "<s>", "eos": "</s>"}, 0),
    "phi-3": ("phi3", {"sliding_window": None}, "sentencepiece", {"bos": "<s>", "eos": "<|endoftext|>", "pad": "<|endoftext|>"}, 8),
    "gpt-2": ("gpt2", {}, "gpt-2", {"bos": "<|endoftext|>", "eos": "<|endoftext|>"}, 0),
    "bloom": ("bloom", {}, "gpt-2 of no class", {"bos": "<s>", "eos": "</s>", "pad": "<pad>"}, 8),
    "opt": ("opt", {"ffn_dim": 64, "word_embed_proj_dim": 32}, "gpt-2", {"bos": "</s>", "eos": "</s>", "pad": "<pad>"}, 8),
}  # fmt: skip


@cache
def train(kind):
    """A tokenizer of the given kind, without special tokens, trained on a world's texts."""
    if kind.endswith(" of no class"):
        return train(kind.removesuffix(" of no class"))
    texts = [text for text in World(7).corpus(300)] + 40 * MARKS
    if kind in ("sentencepiece", "gemma"):
        tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
        blank = normalizers.Replace(" ", "▁")
        prepended = kind == "sentencepiece"
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), blank]) if prepended else blank
        # Real SentencePiece merges within words; this is only needed for training.
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n|▁*[^▁\n]+|▁+"), "isolated")
        tokens = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁▁▁", "▁▁"]
        trainer = trainers.BpeTrainer(vocab_size=900 - (not prepended), special_tokens=tokens, show_progress=False)
        tokenizer.train_from_iterator([text.replace("\n", " ") for text in texts], trainer)
        state = json.loads(tokenizer.to_str())
        state["added_tokens"] = [entry for entry in state["added_tokens"] if entry["content"] == "<unk>"]
        state["model"]["merges"] += [["▁", "▁"], ["▁▁", "▁"]]
        if prepended:  # Llama-2 also has it without a preceding space
            state["model"]["vocab"]["What"] = len(state["model"]["vocab"])
            state["model"]["merges"].append(["W", "hat"])
        else:  # Gemma has the character that stands for a space in byte-level vocabularies
            state["model"]["vocab"]["Ġ"] = len(state["model"]["vocab"])
        state["pre_tokenizer"] = None
        tokenizer = Tokenizer.from_str(json.dumps(state))
        decoder = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        tokenizer.decoder = decoders.Sequence(decoder + ([decoders.Strip(" ", 1, 0)] if prepended else []))
        return tokenizer.to_str()
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(GPT2 if kind in ("gpt-neox", "gpt-2") else LLAMA3), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=900, initial_alphabet=alphabet, show_progress=False)
    blanks = 40 * ["x    y"] if kind == "gpt-2" else []  # three form one token
    tokenizer.train_from_iterator(texts + blanks, trainer)
    if kind == "gpt-neox":
        tokenizer.add_tokens([AddedToken(" " * count, normalized=True) for count in range(8, 1, -1)])
    return tokenizer.to_str()


def change(file, **values):
    """Change values at the top level of a JSON file; None removes a key."""
    content = json.loads(file.read_text(encoding="utf-8")) | values
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}), encoding="utf-8")


def save(name, folder, *, context=512, seed=0):
    """Save a model of an architecture with its tokenizer as a directory; returns the path."""
    model_type, further, kind, special, spare = ARCHITECTURES[name]
    backend = Tokenizer.from_str(train(kind))
    if kind == "gpt-neox":
        backend.normalizer = normalizers.NFC()
    backend.add_special_tokens([AddedToken(tag, rstrip=True, normalized=False) for tag in TAGS.get(name, [])])
    tokens = {f"{key}_token": token for key, token in special.items()}
    if kind.startswith(("sentencepiece", "gemma")):
        tokens["unk_token"] = "<unk>"
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=context, **tokens)
    tokenizer.save_pretrained(folder)
    change(folder / "tokenizer_config.json", tokenizer_class=CLASSES.get(kind, "PreTrainedTokenizerFast"))
    ids = {f"{key}_token_id": tokenizer.convert_tokens_to_ids(token) for key, token in special.items()}
    given = SMALL | {"max_position_embeddings": context} | further | ids | {"vocab_size": len(tokenizer) + spare}
    not_known = NOT_KNOWN.get(model_type, set())
    config = AutoConfig.for_model(model_type, **{key: value for key, value in given.items() if key not in not_known})
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:  # unambiguous and varied greedy choices
                parameter.mul_(8)
    model.save_pretrained(folder)
    return folder
