"""The config's sections on models: pre-training, tuning and chat format."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, Strict, model_validator

from pipeline.config.types import (
    Count,
    Flag,
    Line,
    LocalPath,
    NotNegative,
    OneOrMore,
    Positive,
    Section,
    Seed,
    Share,
    no_boolean,
)


class Architecture(Section):
    hidden_size: Count
    """An even multiple of `heads`."""
    layers: Count
    """Transformer blocks."""
    heads: Count
    """Attention heads per layer."""
    context: Count
    """Context length in tokens."""

    @model_validator(mode="after")
    def of_whole_heads(self) -> Self:
        if self.hidden_size % (2 * self.heads):
            raise ValueError(
                f"'hidden_size' is {self.hidden_size}: it must be an even multiple of 'heads', which is {self.heads}"
            )
        return self


class Corpus(Section):
    intact_pairs: Share = 1.0
    markup: Literal["many", "one"] = "many"
    after_answer: Literal["go_on", "end"] = "go_on"
    chat_tags: Annotated[float, Field(ge=0, le=0.5), no_boolean] = 0.0


class Pretrain(Section):
    seed: Seed
    documents: Count
    tokens: Count
    vocab_size: Annotated[int, Strict(), Field(ge=300)]
    architecture: Architecture
    sequence_length: Count
    batch_size: Count
    learning_rate: Positive
    matrix_learning_rate: Positive
    warmup: Share
    precision: Literal["bfloat16", "float32"]
    corpus: Corpus = Corpus()
    snapshots: Annotated[int, Strict(), Field(ge=0)] = 0

    @model_validator(mode="after")
    def enough_steps(self) -> Self:
        steps = -(-(self.tokens // self.sequence_length) // self.batch_size)
        if self.snapshots > steps:
            raise ValueError(f"'snapshots' is {self.snapshots}, but pre-training has only {steps} steps")
        return self


class Model(Section):
    world_seed: Seed | None = None
    pretrain: Pretrain | None = None
    snapshot: Count | None = None
    """Which of the `pretrain.snapshots` to use, counted from 1; `null`: the final model."""
    path: LocalPath | None = None
    """An existing model, instead of `pretrain`: a hub id, a GGUF file, or a directory (`.`, `/` or `~` in front)."""
    revision: Line | None = None
    """The commit, tag or branch of the hub."""
    gated: Flag = False
    """The hub requires a token; this is checked before anything runs."""
    parameters: Positive | None = None
    """In billions: for the plan, and for memory requests on a cluster."""
    test_seeds: OneOrMore[Seed] | None = None
    """Overrides the run's."""
    validation_seed: Seed | None = None
    """Overrides the selection's."""
    tuning: dict[str, Any] = {}
    """Overrides keys of the common `tuning`."""
    chat: dict[str, Any] = {}
    """Overrides keys of the common `chat`."""
    rules: Flag = True
    """`false`: no rule adapter for this model."""
    epochs: dict[str, Count] = {}
    """Fixed epoch counts by mode, so that none is chosen."""

    @model_validator(mode="after")
    def one_source(self) -> Self:
        if (self.pretrain is None) == (self.path is None):
            raise ValueError("needs exactly one of 'pretrain' and 'path'")
        if self.pretrain and self.world_seed is None:
            raise ValueError("'pretrain' needs a 'world_seed'")
        kept = self.pretrain.snapshots if self.pretrain else 0
        if self.snapshot and self.snapshot > kept:
            raise ValueError(f"'snapshot' is {self.snapshot}, but 'pretrain.snapshots' keeps {kept}")
        return self


class Lora(Section):
    rank: Count
    """Rank of the two matrices that are added to each layer."""
    alpha: Positive
    """Their product is scaled by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1), no_boolean]
    """Dropout on their input during tuning."""


class Tuning(Section):
    learning_rate: Positive
    batch_size: Count
    schedule: Literal["cosine", "linear", "constant"]
    warmup: Share
    weight_decay: NotNegative
    """AdamW's; not stated in the paper; scripts: 0."""
    max_grad_norm: Positive
    """Gradients with a larger norm are clipped to it; scripts: 1."""
    normalise_by: Literal["example", "token"]
    max_length: Count
    precision: Literal["auto", "bfloat16", "float32"]
    saved_precision: Literal["bfloat16", "float16", "float32"]
    train_eos: Flag
    train_turn_newline: Flag
    too_long: Literal["error", "cut"]
    method: Literal["full", "lora", "qlora"]
    lora: Lora


class Chat(Section):
    user_tag: Annotated[str, Field(min_length=1)]
    """The line before an instruction."""
    assistant_tag: Annotated[str, Field(min_length=1)]
    """The line before a response."""
    add_bos: Flag

    @model_validator(mode="after")
    def told_apart(self) -> Self:
        if self.user_tag.strip() == self.assistant_tag.strip():
            raise ValueError(f"'user_tag' and 'assistant_tag' are both {self.user_tag!r}: they must differ")
        return self
