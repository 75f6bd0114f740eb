"""The shape of a config, and its check: once, before any job starts, with every fault named.

Identity (what is computed) and execution (on what, how fast) are kept apart: only ``execution`` may
change without changing a result's meaning.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, Strict, ValidationError, model_validator

Integer = Annotated[int, Strict()]
Count = Annotated[int, Strict(), Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Flag = Annotated[bool, Strict()]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]

FILE_ENDINGS = (".json", ".jsonl", ".parquet", ".json.gz", ".jsonl.gz")


class Section(BaseModel):
    """A part of the config: a key that is not named in it is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Run(Section):
    models: Annotated[list[Name], Field(min_length=1)]
    modes: Annotated[list[Name], Field(min_length=1)]
    test_seeds: Annotated[list[Integer], Field(min_length=1)]


class Architecture(Section):
    hidden_size: Count
    layers: Count
    heads: Count
    context: Count


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


class Model(Section):
    world: Integer | None = None
    pretrain: Pretrain | None = None
    path: str | None = None
    test_seeds: Annotated[list[Integer], Field(min_length=1)] | None = None
    validation_seed: Integer | None = None

    @model_validator(mode="after")
    def one_source(self) -> Self:
        if (self.pretrain is None) == (self.path is None):
            raise ValueError("give either 'pretrain' or 'path', not both and not neither")
        if self.pretrain and self.world is None:
            raise ValueError("'pretrain' needs a 'world' whose corpus is read")
        return self


class Source(Section):
    """Where rows come from: a part of the model's world, or a local file."""

    file: str | None = None
    rows: Annotated[list[Annotated[int, Strict(), Field(ge=0)]], Field(min_length=2, max_length=2)] | None = None

    @model_validator(mode="after")
    def one_source(self) -> Self:
        if (self.world is None) == (self.file is None):  # type: ignore[attr-defined]
            raise ValueError("give either 'world' or 'file', not both and not neither")
        if self.file is not None and not self.file.endswith(FILE_ENDINGS):
            raise ValueError(f"'file' is {self.file!r}: it must end in one of {', '.join(FILE_ENDINGS)}")
        if self.rows and self.rows[0] >= self.rows[1]:
            raise ValueError(f"'rows' is {self.rows}: the first must be smaller than the second")
        return self


class Dataset(Source):
    world: Literal["instructions", "arithmetic", "code", "poem", "recipe", "chess"] | None = None
    examples: Count | None = None
    user: str | None = None
    assistant: str | None = None
    messages: str | None = None

    @model_validator(mode="after")
    def mapped(self) -> Self:
        if self.world is not None and self.examples is None:
            raise ValueError("a dataset of the world needs 'examples'")
        if self.file is not None and (self.messages is None) == (self.user is None or self.assistant is None):
            raise ValueError("a dataset from a file needs either 'user' and 'assistant', or 'messages'")
        return self


class EvaluationSet(Source):
    world: Literal["validation", "test"] | None = None
    instructions: Count | None = None
    instruction: str | None = None
    reference: str | None = None

    @model_validator(mode="after")
    def mapped(self) -> Self:
        if self.world is not None and self.instructions is None:
            raise ValueError("an evaluation set of the world needs 'instructions'")
        if self.file is not None and self.instruction is None:
            raise ValueError("an evaluation set from a file needs 'instruction'")
        return self


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


class Selection(Section):
    epochs: Annotated[list[Count], Field(min_length=1)]
    seed: Integer
    evaluation_set: str


class Generation(Section):
    evaluation_set: str
    max_new_tokens: Count


class Rules(Section):
    eos_bonus: float
    eos_ramp: Count
    after_ramp: Literal["hold", "none"]
    token_scores: dict[str, float]
    diversity_penalty: float
    diversity_scope: Literal["response", "prompt_and_response"]
    variants: dict[Name, list[Literal["eos", "uniform", "diversity"]] | None]


class Ranking(Section):
    evaluation_set: str
    instructions: Count
    others: Count
    seed: Integer
    modes: list[str]
    bootstrap: Count


class Judge(Section):
    name: Name
    kind: Literal["oracle"]
    reference_mode: str
    seed: Integer
    bootstrap: Count


class Execution(Section):
    device: Literal["auto", "cpu", "cuda"]
    micro_batch_tokens: Count
    generation_batch_size: Count
    ranking_batch_tokens: Count
    pretrain_threads: Count
    threads: Count


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
    execution: Execution
    note: str | None = None

    def mode_tuning(self, mode: str) -> Tuning:
        """The tuning of a mode: the common values, with the mode's own laid over them."""
        return Tuning.model_validate(self.tuning.model_dump() | self.modes[mode].tuning)

    def test_seeds(self, model: str) -> list[int]:
        """The seeds whose results are reported for a model."""
        return self.models[model].test_seeds or self.run.test_seeds

    def validation_seed(self, model: str) -> int:
        """The seed of the runs among which the epoch count is chosen."""
        own = self.models[model].validation_seed
        return self.selection.seed if own is None else own

    def ranked_modes(self) -> list[str]:
        """The modes whose models rank responses, in the order in which they are run."""
        return [mode for mode in self.run.modes if self.ranking and mode in self.ranking.modes]


class ConfigError(ValueError):
    """One or more faults of a config, a line each."""


def check_config(raw: dict[str, Any]) -> Config:
    """Check a config as Snakemake read it. Raises ConfigError that lists every fault by key and value."""
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(fault) for fault in error.errors())) from None
    faults = [*_unknown_names(config), *_bad_values(config), *_missing_files(config)]
    if faults:
        raise ConfigError("\n".join(faults))
    return config


def _explain(fault: Any) -> str:
    key = ".".join(str(part) for part in fault["loc"]) or "config"
    if fault["type"] == "extra_forbidden":
        known = _keys_at(fault["loc"][:-1])
        return f"{key}: unknown key" + (f"; known keys here are {', '.join(known)}" if known else "")
    if fault["type"] == "missing":
        return f"{key}: missing"
    message = fault["msg"].removeprefix("Value error, ")
    return f"{key}: {message}" + ("" if fault["type"] == "value_error" else f", but it is {fault['input']!r}")


def _keys_at(location: tuple) -> list[str]:
    """The keys that the section at a location knows, as far as it can be followed."""
    section: Any = Config
    for part in location:
        fields = getattr(section, "model_fields", None)
        annotation = fields[part].annotation if fields and part in fields else section
        sections = [a for a in _types_in(annotation) if isinstance(a, type) and issubclass(a, BaseModel)]
        if not sections:
            return []
        section = sections[0]
    return list(section.model_fields)


def _types_in(annotation: Any) -> list[Any]:
    inner = getattr(annotation, "__args__", ())
    return [annotation, *(t for arg in inner for t in _types_in(arg))]


def _unknown_names(config: Config) -> list[str]:
    """References from one section to a name that another does not define."""
    datasets, sets, modes = list(config.datasets), list(config.evaluation_sets), list(config.modes)
    references = [("run.models", name, list(config.models)) for name in config.run.models]
    references += [("run.modes", name, modes) for name in config.run.modes]
    references += [(f"modes.{name}.dataset", mode.dataset, datasets) for name, mode in config.modes.items()]
    references += [("generation.evaluation_set", config.generation.evaluation_set, sets)]
    if len(config.selection.epochs) > 1:
        references += [("selection.evaluation_set", config.selection.evaluation_set, sets)]
    if config.ranking:
        references += [("ranking.evaluation_set", config.ranking.evaluation_set, sets)]
        references += [("ranking.modes", name, modes) for name in config.ranking.modes]
    if config.judge:
        references += [("judge.reference_mode", config.judge.reference_mode, config.run.modes)]
    return [
        f"{key}: {name!r} is not defined; defined are {', '.join(known)}"
        for key, name, known in references
        if name not in known
    ]


def _bad_values(config: Config) -> list[str]:
    """Values that are right by themselves and wrong together."""
    faults: list[str] = []
    for name, mode in config.modes.items():
        try:
            Tuning.model_validate(config.tuning.model_dump() | mode.tuning)
        except ValidationError as error:
            faults += [f"modes.{name}.tuning.{_explain(fault)}" for fault in error.errors()]
    for key, values in (("run.test_seeds", config.run.test_seeds), ("selection.epochs", config.selection.epochs)):
        if len(set(values)) != len(values):
            faults.append(f"{key}: {values} holds a value twice")
    if not config.judge and len(config.selection.epochs) > 1:
        faults.append(f"selection.epochs: {config.selection.epochs} cannot be chosen from without a judge; give one")
    for name in config.run.models:
        model = config.models.get(name)
        if model and model.pretrain:
            context = model.pretrain.architecture.context
            for key, length in (
                ("tuning.max_length", config.tuning.max_length),
                (f"models.{name}.pretrain.sequence_length", model.pretrain.sequence_length),
                ("generation.max_new_tokens", config.generation.max_new_tokens),
            ):
                if length > context:
                    faults.append(f"{key}: {length} tokens, but the context of model {name!r} is {context}")
        if model and model.world is None and any(d.world for d in _used_sources(config)):
            faults.append(f"models.{name}.world: missing, but a set in use is drawn from the model's world")
    return faults


def _used_sources(config: Config) -> list[Source]:
    """The datasets and evaluation sets that this run reads."""
    names = {config.modes[mode].dataset for mode in config.run.modes if mode in config.modes}
    sets = {config.generation.evaluation_set}
    sets |= {config.ranking.evaluation_set} if config.ranking else set()
    sets |= {config.selection.evaluation_set} if len(config.selection.epochs) > 1 else set()
    used = [config.datasets[name] for name in sorted(names) if name in config.datasets]
    return used + [config.evaluation_sets[name] for name in sorted(sets) if name in config.evaluation_sets]


def _missing_files(config: Config) -> list[str]:
    """Local files and model directories that are not there, or not what they should be."""
    faults: list[str] = []
    for source in _used_sources(config):
        if source.file and not Path(source.file).is_file():
            faults.append(f"file {source.file}: not found from {Path.cwd()}")
    for name in config.run.models:
        path = config.models[name].path if name in config.models else None
        if path is None or not (Path(path).exists() or path.startswith((".", "/"))):
            continue  # a hub id, such as org/name
        for needed in (["config.json"], ["tokenizer.json", "tokenizer.model", "vocab.json"]):
            if not any((Path(path) / file).is_file() for file in needed):
                faults.append(f"models.{name}.path: the directory {path} holds no {' or '.join(needed)}")
    return faults
