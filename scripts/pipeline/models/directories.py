"""Models on disk: directories that ``from_pretrained`` loads, written whole, with a card that says what they are."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from implicit.format import context
from pipeline.files.storage import written_whole
from pipeline.jobs.command import InputError, say
from pipeline.jobs.record import commit
from pipeline.models.exported import NO_SETTING, SPECIAL, check_exported

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from implicit.format.render import Format


def pick_device(wanted: str) -> str:
    """``auto``: the GPU where there is one. Raises InputError when one is asked for and there is none."""
    import torch

    if wanted == "cuda" and not torch.cuda.is_available():
        raise InputError("execution.device: 'cuda' was asked for, but torch sees no GPU; use 'auto' or 'cpu'")
    return ("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted


def load_model(
    path: Path | str, *, device: str, precision: str = "float32", revision: str | None = None
) -> "PreTrainedModel":
    """Load a model, ready for inference, in a torch dtype by name or ``auto``, its own.

    Code that comes with a model is never run, and weights are read as safetensors alone: a pickle can run code, too.
    Raises InputError for weights that the config asks for and the files lack; what else is wrong, transformers raises.
    """
    import torch
    from transformers import AutoModelForCausalLM

    dtype = precision if precision == "auto" else getattr(torch, precision)
    own = {"revision": revision or "main", "trust_remote_code": False, "use_safetensors": True}
    model, found = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, output_loading_info=True, **own)
    # transformers draws such weights at random, with a warning only.
    if found["missing_keys"]:
        missing = sorted(found["missing_keys"])
        raise InputError(
            f"{path}: {len(missing)} weights that config.json asks for are in no safetensors file, such as "
            f"{', '.join(missing[:3])}: give weights and config of the same {type(model).__name__}"
        )
    unused = sorted(found["unexpected_keys"])
    if unused:
        say(f"{path}: {len(unused)} weights are not used by a {type(model).__name__}, such as {', '.join(unused[:3])}")
    return model.to(device).eval()


def load_tokenizer(path: Path) -> "PreTrainedTokenizerBase":
    """Load a tokenizer. Raises InputError when it lacks a token that the renderer needs."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path)
    missing = [name for name in ("bos_token", "eos_token", "pad_token") if getattr(tokenizer, name) is None]
    if missing:
        raise InputError(f"the tokenizer in {path} has no {' and no '.join(missing)}")
    return tokenizer


def context_length(config: "PreTrainedConfig") -> int:
    """How many tokens a model can attend to, by its config. Raises InputError where it does not say."""
    try:
        return context.context_length(config)
    except context.ContextUnknown as error:
        raise InputError(f"models: {error}") from None


def stored_parameters(path: Path) -> int:
    """How many parameters a directory's weights have, read from their headers only."""
    from safetensors import safe_open

    count = 0
    for file in Path(path).glob("*.safetensors"):
        with safe_open(file, framework="pt") as weights:
            count += sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    return count


def vocabulary_size(model: "PreTrainedModel") -> int:
    """How many logits a model gives: some have more than their tokenizer has tokens."""
    return model.get_output_embeddings().weight.shape[0]


def name_special_tokens(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> list[str]:
    """Make a model's configs name its tokenizer's BOS, EOS and pad, in place; returns what was changed, a line each.

    Its generation config says nothing else then: what comes with a model may sample, penalise, or stop at further
    tokens (chat models of Llama-3 and Qwen), and its responses elsewhere would not be those that are measured here.
    """
    from transformers import GenerationConfig

    ids = {name: getattr(tokenizer, name) for name in SPECIAL}
    configs = {"config": model.config, "generation config": model.generation_config}
    done = [
        f"{name} {found} of the {place} replaced by the tokenizer's, {ids[name]}"
        for place, config in configs.items()
        for name in SPECIAL
        if (found := getattr(config, name, None)) not in (ids[name], None)
    ]
    others = {key: value for key, value in model.generation_config.to_diff_dict().items() if key not in NO_SETTING}
    if others:
        done.append(f"responses are greedy, so settings of the generation config are left out: {others}")
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
    """Save model, tokenizer and card as a directory that works elsewhere, whole or not at all.

    The tokenizer's chat template must be that of ``chat``, None where it has none. Raises InputError where a check of
    `pipeline.models.exported` fails.
    """
    lines = [f"- {name}: {value}" for name, value in (card | {"commit": commit()}).items()]
    with written_whole(path) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        check_exported(temporary, tokenizer, chat=chat)
        (temporary / "README.md").write_text("# Model card\n\n" + "\n".join(lines) + "\n", encoding="utf-8")
