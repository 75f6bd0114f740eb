"""The shape of a config. Its check is in ``stage.check``.

Identity (what is computed) and execution (on what, how fast) are kept apart: only ``execution`` may
change without changing a result's meaning.
"""

import re
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, Strict, model_validator

from implicit.chat_client import OURS

Integer = Annotated[int, Strict()]
Count = Annotated[int, Strict(), Field(ge=1)]
Draws = Annotated[int, Strict(), Field(ge=2)]  # of a bootstrap: one has no standard deviation
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Flag = Annotated[bool, Strict()]
Precision = Literal["float32", "bfloat16", "float16"]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]

# Peak bfloat16 matrix TFLOP/s (dense) and memory bandwidth in TB/s, from the makers' data sheets: for the plan.
GPUS = {
    "A100-80GB": (312.0, 2.0),
    "H100": (989.0, 3.35),
    "H200": (989.0, 4.8),
    "A6000": (155.0, 0.768),
    "L40S": (362.0, 0.864),
    "RTX-4090": (165.0, 1.0),
}

FILE_ENDINGS = tuple(
    f".{kind}{packed}" for kind in ("json", "jsonl", "csv", "txt", "parquet") for packed in ("", ".gz")
)


class Section(BaseModel):
    """A part of the config: a key that is not named in it is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Run(Section):
    models: Annotated[list[Name], Field(min_length=1)]
    modes: Annotated[list[Name], Field(min_length=1)]
    test_seeds: Annotated[list[Integer], Field(min_length=1)]


class Architecture(Section):
    hidden_size: Count
    layers: Count
    heads: Count
    context: Count

    @model_validator(mode="after")
    def of_whole_heads(self) -> Self:
        if self.hidden_size % (2 * self.heads):
            raise ValueError(
                f"'hidden_size' is {self.hidden_size}: it must be an even multiple of 'heads', which is {self.heads}"
            )
        return self


class Pretrain(Section):
    seed: Integer
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


class Model(Section):
    world: Integer | None = None
    pretrain: Pretrain | None = None
    path: str | None = None
    revision: str | None = None
    gated: Flag = False
    parameters: Positive | None = None
    test_seeds: Annotated[list[Integer], Field(min_length=1)] | None = None
    validation_seed: Integer | None = None
    tuning: dict[str, Any] = {}
    chat: dict[str, Any] = {}
    rules: Flag = True
    epochs: dict[str, Count] = {}

    @model_validator(mode="after")
    def one_source(self) -> Self:
        if (self.pretrain is None) == (self.path is None):
            raise ValueError("give either 'pretrain' or 'path', not both and not neither")
        if self.pretrain and self.world is None:
            raise ValueError("'pretrain' needs a 'world' whose corpus is read")
        return self


class Hub(Section):
    """Rows on a dataset hub: read through `datasets`, or a single `file` of the repository."""

    id: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
    revision: str | None = None
    config: str | None = None
    split: str = "train"
    file: str | None = None
    gated: Flag = False


class Source(Section):
    """Where rows come from: a part of the model's world, a hub, or a file. A later one stands in for an earlier."""

    file: str | None = None
    hub: Hub | None = None
    rows: Annotated[list[Annotated[int, Strict(), Field(ge=0)]], Field(min_length=2, max_length=2)] | None = None
    templates: str | None = None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None

    @property
    def origin(self) -> Literal["rewrite", "file", "hub", "world"] | None:
        """What the rows are read from, where several are given."""
        return next((kind for kind in ("rewrite", "file", "hub", "world") if getattr(self, kind) is not None), None)

    @model_validator(mode="after")
    def one_source(self) -> Self:
        if self.origin is None:
            raise ValueError("give where its rows come from: 'world', 'hub' or 'file'")
        if self.file is not None and not self.file.endswith(FILE_ENDINGS):
            raise ValueError(f"'file' is {self.file!r}: it must end in one of {', '.join(FILE_ENDINGS)}")
        if self.rows and self.rows[0] >= self.rows[1]:
            raise ValueError(f"'rows' is {self.rows}: the first must be smaller than the second")
        if (self.recipe == "alpaca") != (self.templates is not None):  # type: ignore[attr-defined]
            raise ValueError("'templates' goes with the recipe 'alpaca', and that recipe needs it")
        return self


class Dataset(Source):
    world: Literal["instructions", "arithmetic", "code", "poem", "recipe", "chess"] | None = None
    rewrite: str | None = None
    recipe: Literal["lima", "poetry", "recipes", "chess"] | None = None
    examples: Count | None = None
    user: str | None = None
    assistant: str | None = None
    messages: str | None = None

    @model_validator(mode="after")
    def mapped(self) -> Self:
        if self.origin == "world" and self.examples is None:
            raise ValueError("a dataset of the world needs 'examples'")
        ways = [self.recipe, self.messages, None if self.user is None or self.assistant is None else self.user]
        if self.origin in ("file", "hub") and sum(way is not None for way in ways) != 1:
            raise ValueError("a dataset from a file or a hub needs one of 'user' and 'assistant', 'messages', 'recipe'")
        return self


class EvaluationSet(Source):
    world: Literal["validation", "test"] | None = None
    rewrite: None = None
    recipe: Literal["alpaca"] | None = None
    instructions: Count | None = None
    instruction: str | None = None
    reference: str | None = None

    @model_validator(mode="after")
    def mapped(self) -> Self:
        if self.origin == "world" and self.instructions is None:
            raise ValueError("an evaluation set of the world needs 'instructions'")
        if self.origin in ("file", "hub") and (self.instruction is None) == (self.recipe is None):
            raise ValueError("an evaluation set from a file or a hub needs 'instruction', or a 'recipe'")
        return self


class Lora(Section):
    rank: Count
    alpha: Positive
    dropout: Annotated[float, Field(ge=0, lt=1)]


class Tuning(Section):
    learning_rate: Positive
    batch_size: Count
    schedule: Literal["cosine", "linear", "constant"]
    warmup: Share
    weight_decay: Annotated[float, Field(ge=0)]
    max_grad_norm: Positive
    normalise_by: Literal["example", "token"]
    max_length: Count
    precision: Literal["bfloat16", "float32"]
    stored_as: Literal["bfloat16", "float16", "float32"]
    train_turn_newline: Flag
    too_long: Literal["error", "cut"]
    method: Literal["full", "lora", "qlora"]
    lora: Lora


class Mode(Section):
    dataset: str
    show_instruction: Flag = True
    label: str
    published: str | None = None
    tuning: dict[str, Any] = {}


class Chat(Section):
    user_tag: Annotated[str, Field(min_length=1)]
    assistant_tag: Annotated[str, Field(min_length=1)]
    add_bos: Flag

    @model_validator(mode="after")
    def told_apart(self) -> Self:
        if self.user_tag.strip() == self.assistant_tag.strip():
            raise ValueError(f"'user_tag' and 'assistant_tag' are both {self.user_tag!r}: they must differ")
        return self


class Selection(Section):
    epochs: Annotated[list[Count], Field(min_length=1)]
    seed: Integer
    evaluation_set: str


class Generation(Section):
    evaluation_set: str
    max_new_tokens: Count
    precision: Precision


class Variant(Section):
    use: list[Literal["eos", "uniform", "diversity"]]
    max_new_tokens: Count | None = None


class Rules(Section):
    eos_bonus: float
    eos_ramp: Count
    after_ramp: Literal["hold", "none"]
    token_scores: dict[str, float | None]
    diversity_penalty: float
    diversity_scope: Literal["response", "prompt_and_response"]
    variants: dict[Name, Variant | None]

    def scores(self) -> dict[str, float]:
        """The scores of the tokens that are not taken out with null."""
        return {text: score for text, score in self.token_scores.items() if score is not None}


class Ranking(Section):
    precision: Precision
    evaluation_set: str
    instructions: Count
    others: Count
    seed: Integer
    modes: list[str]
    bootstrap: Draws

    @model_validator(mode="after")
    def enough_others(self) -> Self:
        if self.others >= self.instructions:
            raise ValueError(f"'others' is {self.others}: it must be smaller than 'instructions', {self.instructions}")
        return self


class Price(Section):
    """Of a million tokens, in whatever currency the ceilings are in."""

    input: Annotated[float, Field(ge=0)]
    output: Annotated[float, Field(ge=0)]


class Server(Section):
    """An OpenAI-compatible server. The key is read from the environment variable that `key_variable` names."""

    base_url: Annotated[str, Field(pattern=r"^https?://")]
    model: Annotated[str, Field(min_length=1)]
    key_variable: str = "OPENAI_API_KEY"
    request: dict[str, Any] = {}
    price: Price

    @model_validator(mode="after")
    def without_secrets(self) -> Self:
        """What stands in a config stands in records, too. The messages do not repeat what may be a key."""
        parts = urlsplit(self.base_url)
        if parts.username or parts.password or parts.query:
            raise ValueError("'base_url' must hold no user, password or query; keys come from the environment")
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.key_variable):
            raise ValueError("'key_variable' must be the name of an environment variable, not the key itself")
        wrong = [name for name in OURS if name in self.request]
        if wrong:
            raise ValueError(f"'request' must not hold {', '.join(wrong)}: each is set elsewhere, or cannot be set")
        return self


class Judge(Section):
    name: Name
    kind: Literal["oracle", "evaluator", "server", "local"]
    evaluator: str | None = None
    server: Server | None = None
    path: str | None = None
    revision: str | None = None
    precision: Precision = "float32"
    template: str | None = None
    answer: Literal["logprobs", "text"] = "logprobs"
    reference_mode: str
    seed: Integer
    bootstrap: Draws
    metric: Literal["length_controlled_minimal", "length_controlled_v1"]
    gamed_table: str | None = None
    both_orders: Flag

    @model_validator(mode="after")
    def of_its_kind(self) -> Self:
        needed = {"oracle": [], "evaluator": ["evaluator"], "server": ["server"], "local": ["path"]}[self.kind]
        for key in ("evaluator", "server", "path"):
            if (getattr(self, key) is not None) != (key in needed):
                raise ValueError(f"a judge of kind {self.kind!r} {'needs' if key in needed else 'has no'} {key!r}")
        request = self.server.request if self.server and self.answer == "logprobs" else None
        if request is not None and not (request.get("logprobs") and request.get("top_logprobs")):
            raise ValueError("'answer' is logprobs: 'server.request' needs logprobs: true and top_logprobs: 2 or more")
        return self


class Rewriting(Section):
    """The no-rephrase ablation (paper, appendix C): which responses restate their instruction, and without that."""

    server: Server
    detect: str
    rewrite: str


class Similarity(Section):
    encoder: str
    revision: str | None = None
    modes: list[str]
    baseline: str
    seed: Integer


class Ceilings(Section):
    gpu_hours: Annotated[float, Field(ge=0)] | None = None
    price: Annotated[float, Field(ge=0)] | None = None


class Plan(Section):
    gpu: str
    utilisation: Annotated[float, Field(gt=0, le=1)]
    tokens: dict[str, Count] = {}
    response_tokens: Count


class Execution(Section):
    device: Literal["auto", "cpu", "cuda"]
    micro_batch_tokens: Count
    generation_batch_size: Count
    ranking_batch_tokens: Count
    pretrain_threads: Count
    threads: Count
    processes: Count
    gradient_checkpointing: Flag
    checkpoint_steps: Count
    backend: Literal["transformers", "vllm"]
    keep_candidates: Flag
    requests: Count
    timeout: Positive
    attempts: Count


class Config(Section):
    """A whole experiment. Every key is explained in ``config.yaml``."""

    experiment: Name
    run: Run
    models: dict[Name, Model]
    datasets: dict[Name, Dataset]
    evaluation_sets: dict[Name, EvaluationSet]
    modes: dict[Name, Mode]
    chat: Chat
    tuning: Tuning
    selection: Selection
    generation: Generation
    rules: Rules | None
    ranking: Ranking | None
    judge: Judge | None
    rewriting: Rewriting | None
    similarity: Similarity | None
    ceilings: Ceilings
    plan: Plan
    execution: Execution
    note: str | None = None

    def mode_tuning(self, model: str, mode: str) -> Tuning:
        """How a model is tuned in a mode: the common values, over them the model's own, over them the mode's own."""
        return Tuning.model_validate(
            merged(self.tuning.model_dump(), self.models[model].tuning, self.modes[mode].tuning)
        )

    def model_chat(self, model: str) -> Chat:
        """The chat format of a model: the common values, with the model's own laid over them."""
        return Chat.model_validate(merged(self.chat.model_dump(), self.models[model].chat))

    def epoch_grid(self, model: str, mode: str) -> list[int]:
        """The epoch counts that are chosen from: a single one where the model gives it."""
        return [self.models[model].epochs[mode]] if mode in self.models[model].epochs else self.selection.epochs

    def test_seeds(self, model: str) -> list[int]:
        """The seeds whose results are reported for a model."""
        return self.models[model].test_seeds or self.run.test_seeds

    def validation_seed(self, model: str) -> int:
        """The seed of the runs among which the epoch count is chosen."""
        own = self.models[model].validation_seed
        return self.selection.seed if own is None else own

    def selects(self) -> bool:
        """Whether any model and mode has epoch counts to choose from."""
        return any(
            len(self.epoch_grid(model, mode)) > 1
            for model in self.run.models
            for mode in self.run.modes
            if model in self.models
        )

    def ranked_modes(self) -> list[str]:
        """The modes whose models rank responses, in the order in which they are run."""
        return [mode for mode in self.run.modes if self.ranking and mode in self.ranking.modes]


def merged(*layers: dict[str, Any]) -> dict[str, Any]:
    """Mappings laid over one another, nested ones likewise."""
    result: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            nested = isinstance(value, dict) and isinstance(result.get(key), dict)
            result[key] = merged(result[key], value) if nested else value
    return result
