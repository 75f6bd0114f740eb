"""Models on disk: directories that ``from_pretrained`` loads, written atomically, with a model card."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from implicit.format import context
from implicit.measuring.texts import one_line
from pipeline.files.storage import written_whole
from pipeline.jobs.command import InputError, say
from pipeline.jobs.record import commit
from pipeline.models.exported import NO_SETTING, SPECIAL, check_exported

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from implicit.format.render import Format


def pick_device(wanted: str) -> str:
    """The device to use; ``auto``: the GPU if there is one. Raises InputError for ``cuda`` without a GPU."""
    import torch

    if wanted == "cuda" and not torch.cuda.is_available():
        raise InputError("execution.device: is 'cuda', but torch finds no GPU; use 'auto' or 'cpu'")
    return ("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted


def pick_precision(wanted: str, device: str) -> str:
    """The precision to compute in; ``auto``: bfloat16 where the hardware has instructions for it, otherwise float32.

    Without them, processors and old GPUs imitate bfloat16 slowly, several times slower than they compute in float32.
    """
    import torch

    if wanted != "auto":
        return wanted
    if device != "cpu":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    found = torch.cpu.get_capabilities()
    return "bfloat16" if any(found.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16")) else "float32"


def load_model(
    path: Path | str,
    *,
    device: str,
    precision: str = "float32",
    revision: str | None = None,
    kind: str = "AutoModelForCausalLM",
    new_head: bool = False,
    **more: Any,
) -> "PreTrainedModel":
    """Load a model for inference, in a torch dtype given by name, or with ``own`` in that of its files.

    ``kind`` is a class of transformers that finds the model's own class. With ``new_head``, weights outside of the
    pre-trained part may be missing: they are drawn with torch's global seed.

    Code that comes with a model is never run, and weights are only read as safetensors, since a pickle can run code.
    Raises InputError for weights that the config needs and the files lack; transformers raises other errors.
    """
    import torch
    import transformers

    dtype = "auto" if precision == "own" else getattr(torch, precision)
    own = {"revision": revision or "main", "trust_remote_code": False, "use_safetensors": True}
    loading = getattr(transformers, kind).from_pretrained
    model, found = loading(path, dtype=dtype, output_loading_info=True, **own, **more)
    # transformers initialises such weights randomly, with only a warning.
    missing = sorted(found["missing_keys"])
    if new_head:
        part = f"{model.base_model_prefix}."
        missing = [key for key in missing if key.startswith(part) and ".pooler." not in key]
    if missing:
        raise InputError(
            f"{path}: {len(missing)} weights that config.json needs are in no safetensors file, such as "
            f"{', '.join(missing[:3])}: use weights and config of the same {type(model).__name__}"
        )
    unused = sorted(found["unexpected_keys"])
    if unused:
        say(f"{path}: {len(unused)} weights are not used by {type(model).__name__}, such as {', '.join(unused[:3])}")
    return model.to(device).eval()


@contextmanager
def loading(key: str, path: Path | str) -> Iterator[None]:
    """Raise InputError naming the config's ``key`` for any error of transformers while it loads what is at ``path``."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{key}: {error}") from None
    except Exception as error:  # invalid tokenizers and weights raise errors of any kind
        reason = f"{type(error).__name__}: {one_line(str(error))[:300]}"
        raise InputError(f"{key}: {path} cannot be loaded: {reason}") from None


def load_tokenizer(path: Path) -> "PreTrainedTokenizerBase":
    """Load a tokenizer. Raises InputError if it lacks a token that the renderer needs."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path)
    missing = [name for name in ("bos_token", "eos_token", "pad_token") if getattr(tokenizer, name) is None]
    if missing:
        raise InputError(f"the tokenizer in {path} has no {' and no '.join(missing)}")
    return tokenizer


def context_length(config: "PreTrainedConfig") -> int:
    """A model's context length in tokens, from its config. Raises InputError if the config does not state it."""
    try:
        return context.context_length(config)
    except context.ContextUnknown as error:
        raise InputError(f"models: {error}") from None


def stored_parameters(path: Path) -> int:
    """The number of parameters of a directory's weights, read from their headers only."""
    from safetensors import safe_open

    count = 0
    for file in Path(path).glob("*.safetensors"):
        with safe_open(file, framework="pt") as weights:
            count += sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    return count


def vocabulary_size(model: "PreTrainedModel") -> int:
    """The number of logits of a model, which may exceed its tokenizer's number of tokens."""
    return model.get_output_embeddings().weight.shape[0]


def name_special_tokens(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> list[str]:
    """Set BOS, EOS and pad in a model's configs to its tokenizer's, in place; return a line for each change.

    Everything else is removed from its generation config: it may ask for sampling, penalties, or stopping at further
    tokens (chat models of Llama-3 and Qwen), and responses elsewhere would differ from those measured here.
    """
    from transformers import GenerationConfig

    ids = {name: getattr(tokenizer, name) for name in SPECIAL}
    configs = {"config": model.config, "generation config": model.generation_config}
    done = [
        f"{name} {found} in the {place} replaced by the tokenizer's, {ids[name]}"
        for place, config in configs.items()
        for name in SPECIAL
        if (found := getattr(config, name, None)) not in (ids[name], None)
    ]
    others = {key: value for key, value in model.generation_config.to_diff_dict().items() if key not in NO_SETTING}
    if others:
        done.append(f"responses are greedy, so settings of the generation config are removed: {others}")
    for config in (model.config, model.config.get_text_config()):
        for name, token in ids.items():
            setattr(config, name, token)
    model.generation_config = GenerationConfig(**ids)
    return done


def save_model(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    path: Path,
    *,
    card: dict[str, Any],
    chat: "Format | None",
) -> None:
    """Save model, tokenizer and card atomically, as a directory that works elsewhere.

    The tokenizer's chat template must be that of ``chat``, or None if it has none. Raises InputError if a check in
    `pipeline.models.exported` fails.
    """
    lines = [f"- {name}: {value}" for name, value in (card | {"commit": commit()}).items()]
    with written_whole(path) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        check_exported(temporary, tokenizer, chat=chat)
        (temporary / "README.md").write_text("# Model card\n\n" + "\n".join(lines) + "\n", encoding="utf-8")
