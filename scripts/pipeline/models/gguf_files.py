"""Models in a GGUF file, as most local models are: read by transformers, every weight dequantised to float32."""

from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from pipeline.jobs.command import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Patterns of byte-level BPE that can be had, and the class of transformers that knows each; None: it is GPT-2's own.
PATTERNS = {"gpt-2": None, "qwen2": "Qwen2Tokenizer"}


def gguf_in(path: str) -> Path | None:
    """The GGUF file that a model's path names or whose directory holds it; None for a model of another kind.

    Raises InputError for a directory with several, such as the parts of a split model.
    """
    if path.endswith(".gguf"):
        return Path(path)
    found = sorted(Path(path).glob("*.gguf")) if Path(path).is_dir() else []
    if not found or (Path(path) / "config.json").is_file():
        return None
    if len(found) > 1:
        raise InputError(f"models: {path} holds {len(found)} GGUF files: give the path of one, such as {found[0]}")
    return found[0]


def load_gguf(file: Path) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """The model of a GGUF file in float32, and its tokenizer. Raises InputError for what cannot be read."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils.quantization_config import GgufConfig

    with _explained(file):
        tokenizer = load_tokenizer(file)
        model, found = AutoModelForCausalLM.from_pretrained(
            file.parent,
            gguf_file=file.name,
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),
            output_loading_info=True,
        )
    lacking = sorted(found["missing_keys"])
    if lacking:
        raise InputError(f"{file}: {len(lacking)} weights of a {type(model).__name__} are missing: {lacking[:3]}")
    return model.eval(), tokenizer


def tensor_types(file: Path) -> dict[str, int]:
    """How many tensors of each type a GGUF file has, by the type's name. Raises InputError for what cannot be read."""
    from gguf import GGUFReader

    with _explained(file):
        return dict(sorted(Counter(tensor.tensor_type.name for tensor in GGUFReader(file).tensors).items()))


def load_tokenizer(file: Path) -> "PreTrainedTokenizerBase":
    """The tokenizer beside a GGUF file, if there is a ``tokenizer.json``, or else the one that is in the file.

    A GGUF file names the pattern by which byte-level BPE splits a text first, and does not hold it; transformers takes
    GPT-2's for all, except where it rebuilds a class that knows its own. Raises InputError for any other.
    """
    from gguf import GGUFReader
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    fields = GGUFReader(file).fields
    named = [fields.get(f"tokenizer.ggml.{key}") for key in ("model", "pre")]
    kind, pattern = (field and field.contents() for field in named)
    own = file.with_name("tokenizer.json").is_file()
    if not own and kind == "gpt2" and pattern not in PATTERNS:
        raise InputError(
            f"models: {file} splits texts by the pattern {pattern!r}, which it does not hold: put the original model's "
            "tokenizer.json (and tokenizer_config.json) beside it"
        )
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    if own:
        from_file = PreTrainedTokenizerFast.from_pretrained(file.parent)
        for name in ("bos_token", "eos_token", "pad_token"):
            if getattr(from_file, name) is None:
                setattr(from_file, name, getattr(tokenizer, name))
        return from_file
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
    except Exception as error:  # what is damaged or unknown leads to errors of any kind
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise InputError(f"models: {file} cannot be read as a GGUF model: {reason}") from None
