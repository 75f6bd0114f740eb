"""Models on disk: directories that ``from_pretrained`` loads, written whole, with a card that says what they are."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from stage.command import InputError
from stage.record import commit
from stage.storage import written_whole

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def pick_device(wanted: str) -> str:
    """``auto``: the GPU where there is one. Raises InputError when one is asked for and there is none."""
    import torch

    if wanted == "cuda" and not torch.cuda.is_available():
        raise InputError("execution.device: 'cuda' was asked for, but torch sees no GPU; use 'auto' or 'cpu'")
    return ("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted


def load_model(path: Path, *, device: str) -> "PreTrainedModel":
    """Load a model in float32, ready for inference. Code that comes with a model is never run."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).to(device).eval()


def load_tokenizer(path: Path) -> "PreTrainedTokenizerBase":
    """Load a tokenizer. Raises InputError when it lacks a token that the renderer needs."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path)
    missing = [name for name in ("bos_token", "eos_token", "pad_token") if getattr(tokenizer, name) is None]
    if missing:
        raise InputError(f"the tokenizer in {path} has no {' and no '.join(missing)}")
    return tokenizer


def save_model(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", path: Path, *, card: dict[str, Any]
) -> None:
    """Save model, tokenizer and card as a directory, whole or not at all."""
    lines = [f"- {name}: {value}" for name, value in (card | {"commit": commit()}).items()]
    with written_whole(path) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        (temporary / "README.md").write_text("# Model card\n\n" + "\n".join(lines) + "\n", encoding="utf-8")
