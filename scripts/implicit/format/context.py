"""A model's context length, whatever its architecture calls it."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

# Llama and most others; GPT-2; MPT and DBRX; Bloom; the rest: models with custom code.
NAMES = (
    "max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length", "max_seq_length",
    "seq_length", "seq_len", "model_max_length",
)  # fmt: skip


class ContextUnknown(ValueError):
    """A model's config does not state its context length."""


def stated_context(config: "PreTrainedConfig") -> int | None:
    """The context length in tokens from a model's config; None if it does not state one."""
    text_config = config.get_text_config()
    found = (getattr(text_config, name, None) for name in NAMES)
    return next((length for length in found if isinstance(length, int) and length > 0), None)


def context_length(config: "PreTrainedConfig") -> int:
    """The context length in tokens from a model's config. Raises ContextUnknown if it does not state one."""
    length = stated_context(config)
    if length is None:
        raise ContextUnknown(
            f"the config of this {config.model_type} model does not state its context length: add "
            "max_position_embeddings, the number of tokens that it was trained on, to its config.json"
        )
    return length
