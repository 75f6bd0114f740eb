"""Small reward models with random weights, as directories, and a script run on files."""

import json
import subprocess
import sys

import torch
from architectures import save
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, BertConfig, BertTokenizerFast
from workflow import ROOT

from implicit.world.sets import World

TEMPLATE = "{% for turn in messages %}<|{{ turn.role }}|>\n{{ turn.content }}{{ eos_token }}\n{% endfor %}"
CAUSAL = ("llama-3", "qwen-3", "gemma-3", "gpt-neox")  # Qwen's padding is its EOS, which ends every turn
ENCODER = "bert"


def varied(model):
    """The model with larger weights, so that scores differ clearly."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4)
    return model


def save_reward_model(name, folder, *, labels=1, context=128, seed=0):
    """Save a reward model of an architecture as a directory; returns the path."""
    if name == ENCODER:
        return save_encoder(folder, labels=labels, context=context, seed=seed)
    save(name, folder, context=context, seed=seed)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    config = AutoConfig.from_pretrained(folder, num_labels=labels)
    varied(AutoModelForSequenceClassification.from_config(config)).save_pretrained(folder)
    return folder


def save_encoder(folder, *, labels=1, context=128, seed=0, head=True):
    """Save a small BERT; without ``head``, as an encoder of sentences is published."""
    own = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    own.normalizer = normalizers.BertNormalizer()
    own.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    own.train_from_iterator(World(7).corpus(300), trainers.WordPieceTrainer(vocab_size=500, special_tokens=special))
    own.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer = BertTokenizerFast(tokenizer_object=own, model_max_length=context)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = BertConfig(vocab_size=500, max_position_embeddings=context, num_labels=labels, **shape)
    model = varied(AutoModelForSequenceClassification.from_config(config))
    (model if head else model.bert).save_pretrained(folder)
    return folder


def run_script(name, words, settings):
    """Run a script; returns its exit status and all that it printed."""
    command = [sys.executable, str(ROOT / "scripts" / f"{name}.py"), *map(str, words), "--settings"]
    done = subprocess.run([*command, json.dumps(settings)], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr
