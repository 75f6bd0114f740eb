"""The shape of a config. Its check is in ``stage.check``.

Identity (what is computed) and execution (on what, how fast) are kept apart: only ``execution`` may
change without changing a result's meaning.
"""

import re
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, Strict, model_validator

from implicit.chat_client import OURS, completion_limit
from stage.config_types import (
    Count,
    Distinct,
    Draws,
    Flag,
    JsonObject,
    Line,
    LocalFile,
    LocalPath,
    Name,
    NotNegative,
    Number,
    OneOrMore,
    Positive,
    Seed,
    Share,
    no_boolean,
)
from stage.hub import ORIGINS

Precision = Literal["float32", "bfloat16", "float16"]
RULES = ("eos", "uniform", "diversity")  # of the rule adapter, in the paper's order
BASE_LABEL = "base"  # the base model, as tables and figures name it

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
    """A part of the config: a key that is not named in it is an error.

    A key that ``config.yaml`` does not explain has a text below it instead. docs/config.md is made of both.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Run(Section):
    models: OneOrMore[Name]
    """By their names in `models`."""
    modes: OneOrMore[Name]
    """By their names in `modes`, in the order of the tables."""
    test_seeds: OneOrMore[Seed]


class Architecture(Section):
    hidden_size: Count
    """An even multiple of `heads`."""
    layers: Count
    """Transformer blocks."""
    heads: Count
    """Of each layer's attention."""
    context: Count
    """The most tokens that the model can read."""

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
            raise ValueError(f"'snapshots' is {self.snapshots}, but there are {steps} steps after which to keep one")
        return self


class Model(Section):
    world: Seed | None = None
    pretrain: Pretrain | None = None
    snapshot: Count | None = None
    """Of `pretrain.snapshots`, the one that is taken, from 1; `null`: the model at the end."""
    path: LocalPath | None = None
    """An existing model, in place of `pretrain`: a hub id, or a directory. `.`, `/` or `~` begins a directory."""
    revision: Line | None = None
    """The commit, tag or branch of the hub."""
    gated: Flag = False
    """The hub wants a token; it is asked for before anything runs."""
    parameters: Positive | None = None
    """In billions: for the plan, and for the memory that is asked of a cluster."""
    test_seeds: OneOrMore[Seed] | None = None
    """In place of the run's."""
    validation_seed: Seed | None = None
    """In place of the selection's."""
    tuning: dict[str, Any] = {}
    """Laid over the common `tuning`."""
    chat: dict[str, Any] = {}
    """Laid over the common `chat`."""
    rules: Flag = True
    """`false`: no rule adapter for this model."""
    epochs: dict[str, Count] = {}
    """An epoch count by mode, fixed, with nothing to choose."""

    @model_validator(mode="after")
    def one_source(self) -> Self:
        if (self.pretrain is None) == (self.path is None):
            raise ValueError("give either 'pretrain' or 'path', not both and not neither")
        if self.pretrain and self.world is None:
            raise ValueError("'pretrain' needs a 'world' whose corpus is read")
        kept = self.pretrain.snapshots if self.pretrain else 0
        if self.snapshot and self.snapshot > kept:
            raise ValueError(f"'snapshot' is {self.snapshot}, but 'pretrain.snapshots' keeps {kept}")
        return self


class Hub(Section):
    """Rows on a dataset hub: read through `datasets`, or a single `file` of the repository."""

    id: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
    """Such as `openai/gsm8k`."""
    revision: Line | None = None
    """The commit, tag or branch."""
    config: Line | None = None
    """Of several configurations, the one that is read."""
    split: Line = "train"
    """Of the rows."""
    file: Line | None = None
    """A single file of the repository, read as a local one would be."""
    gated: Flag = False
    """The hub wants a token; it is asked for before anything runs."""


class Source(Section):
    """Where rows come from: a part of the model's world, a hub, or a file. A later one stands in for an earlier."""

    file: LocalFile | None = None
    """A local file, or the URL of one: .json, .jsonl, .csv, .txt or .parquet, also with .gz."""
    hub: Hub | None = None
    """A dataset on a hub."""
    rows: Annotated[list[Annotated[int, Strict(), Field(ge=0)]], Field(min_length=2, max_length=2)] | None = None
    """From the first of these rows, counted from 0, to before the second."""
    templates: LocalFile | None = None
    """With the recipe `alpaca`: a file of prompt templates, which are read and never executed."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """What the rows that come out must have; each run prints it."""

    @property
    def origin(self) -> str | None:
        """What the rows are read from, where several are given."""
        return next((kind for kind in ORIGINS if getattr(self, kind) is not None), None)

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
    """The part of the model's world that is drawn."""
    rewrite: str | None = None
    """Another dataset, whose responses are rewritten by `rewriting`."""
    alter: str | None = None
    """Another dataset, all of whose rows are taken and altered: for controls."""
    how: Literal["shuffle_instructions", "random_instructions", "cut_responses", "other_responses"] | None = None
    """Instructions change places, or become as many random words; responses end early, or are another dataset's."""
    responses_of: str | None = None
    """For `other_responses`: the dataset that gives the responses, row by row."""
    recipe: Literal["lima", "poetry", "recipes", "chess"] | None = None
    """How the paper's sets come from their raw rows (sections 3 to 5)."""
    examples: Count | None = None
    """The first so many; of a world, how many are drawn."""
    user: str | None = None
    """A template for the instruction, with columns in braces: `"{question}"`."""
    assistant: str | None = None
    """A template for the response, likewise."""
    messages: str | None = None
    """The column of whole conversations, a list of `role` and `content` each."""

    @model_validator(mode="after")
    def mapped(self) -> Self:
        if self.origin == "world" and self.examples is None:
            raise ValueError("a dataset of the world needs 'examples'")
        ways = [self.recipe, self.messages, None if self.user is None or self.assistant is None else self.user]
        if self.origin in ("file", "hub") and sum(way is not None for way in ways) != 1:
            raise ValueError("a dataset from a file or a hub needs one of 'user' and 'assistant', 'messages', 'recipe'")
        return self

    @model_validator(mode="after")
    def altered(self) -> Self:
        if (self.alter is None) != (self.how is None):
            raise ValueError("'alter', a dataset, and 'how' go together")
        if (self.how == "other_responses") != (self.responses_of is not None):
            raise ValueError("'responses_of' goes with 'how: other_responses', which needs it")
        extra = [key for key in ("rewrite", "rows", "examples") if self.alter and getattr(self, key) is not None]
        if extra:
            raise ValueError(f"{extra[0]!r} does not go with 'alter', by which a dataset has the rows of the other")
        return self

    @property
    def made_of(self) -> list[str]:
        """The datasets that this one is made of: the one that gives its rows first."""
        named = {"alter": [self.alter, self.responses_of], "rewrite": [self.rewrite]}.get(self.origin, [])
        return [name for name in named if name is not None]


class EvaluationSet(Source):
    world: Literal["validation", "test"] | None = None
    """The part of the model's world that is drawn."""
    alter: None = None
    rewrite: None = None
    recipe: Literal["alpaca"] | None = None
    """Stanford's Alpaca in the authors' prompt templates (section 4)."""
    instructions: Count | None = None
    """The first so many; of a world, how many are drawn."""
    instruction: str | None = None
    """A template for the instruction, with columns in braces."""
    reference: str | None = None
    """A template for the reference response."""

    @model_validator(mode="after")
    def mapped(self) -> Self:
        if self.origin == "world" and self.instructions is None:
            raise ValueError("an evaluation set of the world needs 'instructions'")
        if self.origin in ("file", "hub") and (self.instruction is None) == (self.recipe is None):
            raise ValueError("an evaluation set from a file or a hub needs 'instruction', or a 'recipe'")
        return self


class Lora(Section):
    rank: Count
    """Of the two matrices that each layer gets."""
    alpha: Positive
    """Their product is scaled by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1), no_boolean]
    """Of what goes into them, while tuning."""


class Tuning(Section):
    learning_rate: Positive
    batch_size: Count
    schedule: Literal["cosine", "linear", "constant"]
    warmup: Share
    weight_decay: NotNegative
    """AdamW's; the paper does not say, the scripts: 0."""
    max_grad_norm: Positive
    """Gradients beyond it are scaled down to it; scripts: 1."""
    normalise_by: Literal["example", "token"]
    max_length: Count
    precision: Literal["bfloat16", "float32"]
    stored_as: Literal["bfloat16", "float16", "float32"]
    train_eos: Flag
    train_turn_newline: Flag
    too_long: Literal["error", "cut"]
    method: Literal["full", "lora", "qlora"]
    lora: Lora


class Mode(Section):
    dataset: str
    """What is tuned on, by its name in `datasets`."""
    user_turn: Literal["shown", "empty", "removed"] = "shown"
    """`empty`: without its text, which is response tuning (equation 2); `removed`: without its tag, too."""
    label: Line
    """The name in tables and figures."""
    published: Line | None = None
    """The paper's row that stands beside it."""
    tuning: dict[str, Any] = {}
    """Laid over the common `tuning`, and over the model's own."""


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


class Selection(Section):
    epochs: OneOrMore[Count]
    seed: Seed
    evaluation_set: str
    """A set with references, by its name in `evaluation_sets`."""


class Generation(Section):
    evaluation_set: str
    """What is responded to, by its name in `evaluation_sets`."""
    max_new_tokens: Count
    precision: Precision


class Variant(Section):
    use: OneOrMore[Literal["eos", "uniform", "diversity"]]
    """The rules that are used."""
    max_new_tokens: Count | None = None
    """In place of the generation's."""

    @property
    def label(self) -> str:
        """The base model under these rules, as tables and figures name it."""
        left_out = [rule for rule in RULES if rule not in self.use]
        return BASE_LABEL + " + rules" + (f" without {' and '.join(left_out)}" if left_out else "")


class Rules(Section):
    eos_bonus: Number
    eos_ramp: Count
    after_ramp: Literal["hold", "none"]
    token_scores: dict[str, Number | None]
    diversity_penalty: Number
    diversity_scope: Literal["response", "prompt_and_response"]
    variants: dict[Name, Variant | None]

    def used(self) -> dict[str, Variant]:
        """The variants that are not taken out with null."""
        return {name: variant for name, variant in self.variants.items() if variant is not None}

    def scores(self) -> dict[str, float]:
        """The scores of the tokens that are not taken out with null."""
        return {text: score for text, score in self.token_scores.items() if score is not None}


class Ranking(Section):
    precision: Precision
    evaluation_set: str
    instructions: Count
    others: Count
    negatives: OneOrMore[Literal["any", "same_kind", "same_format"]]
    seed: Seed
    """Of the draw of other responses, and of the bootstrap."""
    modes: Distinct[str]
    bootstrap: Draws

    @model_validator(mode="after")
    def enough_others(self) -> Self:
        if self.others >= self.instructions:
            raise ValueError(f"'others' is {self.others}: it must be smaller than 'instructions', {self.instructions}")
        if "any" not in self.negatives:
            raise ValueError(f"'negatives' is {self.negatives}: it must contain 'any', which table 2 is of")
        return self


class Price(Section):
    """Of a million tokens, in whatever currency the ceilings are in."""

    input: NotNegative
    """Of a million tokens that are sent."""
    output: NotNegative
    """Of a million tokens that come back."""


class Server(Section):
    """An OpenAI-compatible server. The key is read from the environment variable that `key_variable` names."""

    base_url: Annotated[str, Field(pattern=r"^https?://")]
    """Such as `http://localhost:8000/v1`, without user, password or query."""
    model: Line
    """The name that the server knows it by."""
    key_variable: str = "OPENAI_API_KEY"
    """The environment variable that holds the key, never the key itself."""
    request: JsonObject = {}
    """Goes into every request as it is: temperature, max_tokens, logprobs."""
    price: Price | None
    """In the currency of `ceilings.price`; `null`: not known, which no `ceilings.price` allows."""

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
    """One of the four above; docs/judges.md tells more of them."""
    evaluator: LocalPath | None = None
    """For the kind `evaluator`: a name of alpaca-eval's, or the path of a folder or YAML file."""
    server: Server | None = None
    """For the kind `server`."""
    path: LocalPath | None = None
    """For the kind `local`: a directory or a hub id."""
    revision: Line | None = None
    """For the kind `local`: the commit, tag or branch."""
    precision: Precision = "float32"
    """For the kind `local`: of weights and arithmetic."""
    template: LocalFile | None = None
    """A file with `{instruction}`, `{output_1}` and `{output_2}`; `null` is that of AlpacaEval 2."""
    answer: Literal["logprobs", "text"] = "logprobs"
    """`logprobs`: the weighted preference of AlpacaEval 2; `text`: the label itself."""
    min_label_probability: Share
    reference_mode: str
    seed: Seed
    bootstrap: Draws
    metric: Literal["length_controlled_minimal", "length_controlled_v1"]
    gamed_table: LocalFile | None = None
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
        if self.server and self.answer == "text" and completion_limit(self.server.request) < 2:
            raise ValueError(
                "'answer' is text: max_tokens in 'server.request' must be 2 or more; what is cut off is not read"
            )
        return self


class Rewriting(Section):
    """The no-rephrase ablation (paper, appendix C): which responses restate their instruction, and without that."""

    server: Server
    """What is asked."""
    detect: str
    """Asks whether a response restates, with `{instruction}` and `{response}`; ends in "#### YES" or "#### NO"."""
    rewrite: str
    """The request to write it without that, likewise."""


class Similarity(Section):
    encoder: LocalPath
    """A sentence encoder: a hub id or a directory. The paper's is `nomic-ai/nomic-embed-text-v1`."""
    revision: Line | None = None
    """The commit, tag or branch."""
    modes: OneOrMore[str]
    """The modes whose responses are compared with their own data."""
    baseline: str
    """The dataset that stands for no particular style, LIMA in the paper."""
    seed: Seed
    """Of the models; a test seed of each model that is run."""


class Conditions(Section):
    model: str
    """The model that is varied, by its name in `models`; it needs a `pretrain`."""
    worlds: OneOrMore[Seed]
    """Each is the seed of a world, its corpus and the weights. Means and intervals are over them."""
    axis: Line
    """What the conditions are, with a unit: the title of the figure's axis."""
    values: Annotated[dict[Name, dict[str, Any] | None], Field(min_length=1)]
    """What is laid over the model, by the condition's name, in order; `null` takes out one of another file's."""

    def models(self) -> dict[str, tuple[str, int]]:
        """The models that come of it, by name: condition and world."""
        named = [name for name, changes in self.values.items() if changes is not None]
        return {f"{name}-world{world}": (name, world) for name in named for world in self.worlds}


class Harness(Section):
    """lm-evaluation-harness, run as a program on the base model and every tuned one."""

    command: LocalPath = "lm_eval"
    """Its name on the PATH, or its path: it may have an environment of its own."""
    tasks: OneOrMore[Line]
    """Tasks that it knows, such as `arc_easy`."""
    options: list[str] = []
    """Further words of its command, such as `["--limit", "100"]`."""


class Drift(Section):
    documents: Count
    """How many texts are read by the base model and by each tuned one."""
    file: LocalFile | None = None
    """Texts, in a column `text`: .json, .jsonl, .csv, .txt (one a line) or .parquet; `null`: of the model's world."""
    precision: Precision = "float32"
    """Of the models' weights and arithmetic."""
    harness: Harness | None = None
    """Benchmarks besides, for real models."""

    @model_validator(mode="after")
    def of_a_known_kind(self) -> Self:
        if self.file is not None and not self.file.endswith(FILE_ENDINGS):
            raise ValueError(f"'file' is {self.file!r}: it must end in one of {', '.join(FILE_ENDINGS)}")
        return self


class Ceilings(Section):
    gpu_hours: NotNegative | None = None
    """Of all jobs together, those before included."""
    price: NotNegative | None = None
    """Of all questions together, in the currency of the server's price."""


class Plan(Section):
    gpu: str
    utilisation: Annotated[float, Field(gt=0, le=1), no_boolean]
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
    compile: Flag
    checkpoint_steps: Count
    backend: Literal["transformers", "vllm"]
    keep_candidates: Flag
    tracking: Literal["wandb", "trackio"] | None
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
    conditions: Conditions | None
    drift: Drift | None
    ceilings: Ceilings
    plan: Plan
    execution: Execution
    note: str | None = None
    """A sentence that stands under every table and in the report."""

    def ancestry(self, dataset: str) -> list[str]:
        """A dataset's name, then those of all that it is made of, and they in turn; without those not defined."""
        found = [dataset] if dataset in self.datasets else []
        for name in found:  # which grows
            found += [one for one in self.datasets[name].made_of if one in self.datasets and one not in found]
        return found

    def mode_tuning(self, model: str, mode: str) -> Tuning:
        """How a model is tuned in a mode: the common values, over them the model's own, over them the mode's own."""
        return Tuning.model_validate(
            merged(self.tuning.model_dump(), self.models[model].tuning, self.modes[mode].tuning)
        )

    def model_chat(self, model: str) -> Chat:
        """The chat format of a model: the common values, with the model's own laid over them."""
        return Chat.model_validate(merged(self.chat.model_dump(), self.models[model].chat))

    def whole_datasets(self, model: str) -> list[str]:
        """The datasets whose responses must fit in a model's context: those of its modes with ``too_long: error``."""
        strict = [mode for mode in self.run.modes if self.mode_tuning(model, mode).too_long == "error"]
        return list(dict.fromkeys(self.modes[mode].dataset for mode in strict))

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
