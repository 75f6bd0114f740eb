"""Models in a GGUF file, as most local models are: transformers reads them, with all weights dequantised to float32."""

from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from pipeline.jobs.command import InputError
from pipeline.models.directories import load_model

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Supported split patterns of byte-level BPE -> the class in transformers that knows the pattern; None: GPT-2's own.
PATTERNS = {"gpt-2": None, "qwen2": "Qwen2Tokenizer"}


def gguf_in(path: str) -> Path | None:
    """The GGUF file that a path names, or that a directory contains; None for a model in another format.

    Raises InputError for a directory with several, such as the parts of a split model.
    """
    if path.endswith(".gguf"):
        return Path(path)
    found = sorted(Path(path).glob("*.gguf")) if Path(path).is_dir() else []
    if not found or (Path(path) / "config.json").is_file():
        return None
    if len(found) > 1:
        raise InputError(f"models: {path} contains {len(found)} GGUF files: give the path of one, such as {found[0]}")
    return found[0]


def load_gguf(file: Path) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase, dict[str, int]]":
    """The model of a GGUF file in float32, its tokenizer, and how many of its tensors have each type, by name.

    Raises InputError for a file that cannot be read.
    """
    from gguf import GGUFReader
    from transformers.utils.quantization_config import GgufConfig

    with _explained(file):
        content = GGUFReader(file)  # once, as a large vocabulary takes ten seconds
        types = dict(sorted(Counter(tensor.tensor_type.name for tensor in content.tensors).items()))
        fields = [content.fields.get(f"tokenizer.ggml.{key}") for key in ("model", "pre")]
        kind, pattern = (field and field.contents() for field in fields)
        tokenizer = _tokenizer(file, pattern if kind == "gpt2" else None)
        dequantised = {"gguf_file": file.name, "quantization_config": GgufConfig(dequantize=True)}
        return load_model(file.parent, device="cpu", **dequantised), tokenizer, types


def _tokenizer(file: Path, pattern: str | None) -> "PreTrainedTokenizerBase":
    """The tokenizer next to a GGUF file, if there is a ``tokenizer.json``; otherwise the one in the file.

    Byte-level BPE first splits a text by a ``pattern``, which a GGUF file names but does not contain. transformers uses
    GPT-2's for all of them, unless a tokenizer class knows its own and is loaded again. Raises InputError for others.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    own = file.with_name("tokenizer.json").is_file()
    if not own and pattern is not None and pattern not in PATTERNS:
        raise InputError(
            f"models: {file} names the split pattern {pattern!r} but does not contain it: put the original model's "
            "tokenizer.json and tokenizer_config.json next to the file"
        )
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    if own:
        original = PreTrainedTokenizerFast.from_pretrained(file.parent)
        for name in ("bos_token", "eos_token", "pad_token"):
            if getattr(original, name) is None:
                setattr(original, name, getattr(tokenizer, name))
        return original
    if PATTERNS.get(pattern) == type(tokenizer).__name__:
        with TemporaryDirectory() as folder:
            tokenizer.save_pretrained(folder)
            return type(tokenizer).from_pretrained(folder)
    return tokenizer


@contextmanager
def _explained(file: Path) -> "Iterator[None]":
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # damaged files and unknown types raise errors of any kind
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise InputError(f"models: {file} cannot be read as a GGUF model: {reason}") from None
