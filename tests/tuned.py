"""Shared by tests that run the tuning script: its settings, inputs and command line."""

import json

from pipeline.files.storage import write_json, write_table
from pipeline.jobs.record import fingerprint
from pipeline.models.directories import save_model

TUNING = {
    "learning_rate": 5e-3, "batch_size": 3, "schedule": "cosine", "warmup": 0.1, "weight_decay": 0.01, "max_grad_norm": 1.0,
    "normalise_by": "example", "max_length": 200, "precision": "bfloat16", "saved_precision": "float32",
    "train_eos": True, "train_turn_newline": False, "too_long": "error", "method": "full", "lora": {"rank": 4, "alpha": 8.0, "dropout": 0.2},
}  # fmt: skip


class PowerCut(Exception):
    """A run is aborted."""


def save_base(model, tokenizer, folder):
    """A base model as the script expects it: in ``folder``, with the record that it is checked against."""
    save_model(model, tokenizer, folder / "model", card={}, chat=None)
    write_json({"outputs": {"model": {"sha256": fingerprint(folder / "model")}}}, folder / "record.json")


def save_conversations(items, path):
    """Items of a world as the script expects them."""
    rows = [
        {
            "id": str(i),
            "messages": [
                {"role": "user", "content": item.instruction},
                {"role": "assistant", "content": item.response},
            ],
            "source": "test",
        }
        for i, item in enumerate(items)
    ]
    write_table("conversations", rows, path)


def command_line(base, data, out, tuning, **options):
    """The script's arguments for the output of ``save_base`` and ``save_conversations``, in one process on a CPU."""
    settings = {
        "mode": "test", "user_turn": "shown", "seed": 5, "tuning": tuning,
        "chat": {"user_tag": "<|user|>", "assistant_tag": "<|assistant|>", "add_bos": True},
    }  # fmt: skip
    options = {
        "base": base / "model", "base-record": base / "record.json", "data": data, "model": out / "model",
        "record": out / "record.json", "checkpoints": out / "checkpoints", "settings": json.dumps(settings),
        "processes": 1, "device": "cpu", "batch": 200,
    } | options  # fmt: skip
    return [str(part) for option, value in options.items() for part in (f"--{option}", value)]
