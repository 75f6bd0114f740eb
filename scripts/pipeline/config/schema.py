"""The schema of a config. Its check is in ``pipeline.config.check``.

Identity (what is computed) and execution (on which hardware, how fast) are separate: only ``execution`` can
change without changing the meaning of a result.
"""

from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, model_validator

from pipeline.config.datasets import FILE_ENDINGS, Annotations, Dataset, EvaluationSet
from pipeline.config.judges import Judge, Rewriting
from pipeline.config.models import Chat, Model, Tuning
from pipeline.config.types import (
    Count,
    Distinct,
    Draws,
    Flag,
    Line,
    LocalFile,
    LocalPath,
    Name,
    NotNegative,
    Number,
    OneOrMore,
    Positive,
    Precision,
    Section,
    Seed,
    no_boolean,
)

RULES = ("eos", "uniform", "diversity")  # of the rule adapter, in the paper's order
BASE_LABEL = "base"  # the base model, as tables and figures name it


@cache
def gpus() -> dict[str, dict[str, float]]:
    """The ``tflops`` and ``bandwidth`` (TB/s) of each GPU by name."""
    return yaml.safe_load(Path(__file__).with_name("gpus.yaml").read_text(encoding="utf-8"))


class Run(Section):
    models: OneOrMore[Name]
    """By their names in `models`."""
    modes: OneOrMore[Name]
    """By their names in `modes`, in the order of the tables."""
    test_seeds: OneOrMore[Seed]


class Mode(Section):
    dataset: str
    """The tuning dataset, by its name in `datasets`."""
    user_turn: Literal["shown", "empty", "removed"] = "shown"
    """`empty`: no text, which is response tuning (equation 2); `removed`: no tag either."""
    label: Line
    """The name in tables and figures."""
    published: Line | None = None
    """The paper's row to show next to it."""
    tuning: dict[str, Any] = {}
    """Overrides keys of the common `tuning` and of the model's own."""


class Selection(Section):
    epochs: OneOrMore[Count]
    seed: Seed
    evaluation_set: str
    """A set with references, by its name in `evaluation_sets`."""


class Generation(Section):
    evaluation_set: str
    """The set of instructions to respond to, by its name in `evaluation_sets`."""
    max_new_tokens: Count
    precision: Precision


class Variant(Section):
    use: OneOrMore[Literal["eos", "uniform", "diversity"]]
    """The rules to use."""
    max_new_tokens: Count | None = None
    """Overrides the generation's."""

    @property
    def label(self) -> str:
        """The base model under these rules, as tables and figures name it."""
        left_out = [rule for rule in RULES if rule not in self.use]
        return BASE_LABEL + " + rules" + (f" without {' and '.join(left_out)}" if left_out else "")


class Rules(Section):
    eos_bonus: Number
    eos_ramp: Count
    eos_after_ramp: Literal["hold", "none"]
    token_scores: dict[str, Number | None]
    diversity_penalty: Number
    diversity_scope: Literal["response", "prompt_and_response"]
    variants: dict[Name, Variant | None]

    def used(self) -> dict[str, Variant]:
        """The variants that are not removed with null."""
        return {name: variant for name, variant in self.variants.items() if variant is not None}

    def scores(self) -> dict[str, float]:
        """The scores of the tokens that are not removed with null."""
        return {text: score for text, score in self.token_scores.items() if score is not None}


class Ranking(Section):
    precision: Precision
    evaluation_set: str
    instructions: Count
    others: Count
    negatives: OneOrMore[Literal["any", "same_kind", "same_format"]]
    seed: Seed
    """Seed for drawing other responses, and for the bootstrap."""
    modes: Distinct[str]
    bootstrap: Draws

    @model_validator(mode="after")
    def enough_others(self) -> Self:
        if self.others >= self.instructions:
            raise ValueError(f"'others' is {self.others}: it must be smaller than 'instructions', {self.instructions}")
        if "any" not in self.negatives:
            raise ValueError(f"'negatives' is {self.negatives}: it must contain 'any', which table 2 reports")
        return self


class Similarity(Section):
    encoder: LocalPath
    """A sentence encoder: a hub id or a directory. The paper's is `nomic-ai/nomic-embed-text-v1`."""
    revision: Line | None = None
    """The commit, tag or branch."""
    modes: OneOrMore[str]
    """The modes whose responses are compared with their own data."""
    baseline: str
    """A dataset without a particular style, LIMA in the paper."""
    seed: Seed
    """The tuning seed to use; it must be a test seed of every model that is run."""


class Conditions(Section):
    model: str
    """The model to vary, by its name in `models`; it needs a `pretrain`."""
    worlds: OneOrMore[Seed]
    """Each is the seed of a world, its corpus and the weights. Means and intervals are over worlds."""
    axis: Line
    """What the conditions are, with a unit: the title of the figure's axis."""
    values: Annotated[dict[Name, dict[str, Any] | None], Field(min_length=1)]
    """Overrides of the model's keys, by condition, in order; `null` removes a condition that another file defines."""

    def models(self) -> dict[str, tuple[str, int]]:
        """The condition and the world of each model that this section defines, by name."""
        named = [name for name, changes in self.values.items() if changes is not None]
        return {f"{name}-world{world}": (name, world) for name in named for world in self.worlds}


class Harness(Section):
    """lm-evaluation-harness, run as a program on the base model and every tuned one."""

    command: LocalPath = "lm_eval"
    """Its name on the PATH, or its path, which may be in a separate environment."""
    tasks: OneOrMore[Line]
    """Its tasks, such as `arc_easy`."""
    options: list[str] = []
    """Further command-line arguments, such as `["--limit", "100"]`."""


class Drift(Section):
    documents: Count
    """Number of texts that the base model and every tuned model are evaluated on."""
    file: LocalFile | None = None
    """Texts, in a column `text`: .json, .jsonl, .csv, .txt (one per line) or .parquet; `null`: drawn from the world."""
    precision: Precision = "float32"
    """Of the models' weights and arithmetic."""
    harness: Harness | None = None
    """Benchmarks in addition, for real models."""

    @model_validator(mode="after")
    def of_a_known_kind(self) -> Self:
        if self.file is not None and not self.file.endswith(FILE_ENDINGS):
            raise ValueError(f"'file' is {self.file!r}: it must end in one of {', '.join(FILE_ENDINGS)}")
        return self


Checker = Literal["ifeval", "gsm8k", "mbpp"]


class Ceilings(Section):
    gpu_hours: NotNegative | None = None
    """For all jobs together, including earlier ones."""
    price: NotNegative | None = None
    """For all requests together, in the currency of the server's price."""


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
    check_judge: Flag


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
    annotations: dict[Name, Annotations]
    rewriting: Rewriting | None
    similarity: Similarity | None
    conditions: Conditions | None
    drift: Drift | None
    checks: dict[str, Checker]
    ceilings: Ceilings
    plan: Plan
    execution: Execution
    note: str | None = None
    """A sentence shown under every table and in the report."""

    def of_world(self, dataset: str) -> bool:
        """Whether a dataset is drawn from the model's world, or made from one that is."""
        return any(self.datasets[name].origin == "world_part" for name in self.ancestry(dataset))

    def ancestry(self, dataset: str) -> list[str]:
        """A dataset's name, then those of all datasets that it is made from, recursively, without undefined ones."""
        found = [dataset] if dataset in self.datasets else []
        for name in found:  # which grows
            found += [one for one in self.datasets[name].made_of if one in self.datasets and one not in found]
        return found

    def mode_tuning(self, model: str, mode: str) -> Tuning:
        """How a model is tuned in a mode: the common values, overridden by the model's, then by the mode's."""
        return Tuning.model_validate(
            merged(self.tuning.model_dump(), self.models[model].tuning, self.modes[mode].tuning)
        )

    def model_chat(self, model: str) -> Chat:
        """The chat format of a model: the common values, overridden by the model's."""
        return Chat.model_validate(merged(self.chat.model_dump(), self.models[model].chat))

    def whole_datasets(self, model: str) -> list[str]:
        """The datasets whose responses must fit in a model's context: those of modes with ``too_long: error``."""
        strict = [mode for mode in self.run.modes if self.mode_tuning(model, mode).too_long == "error"]
        return list(dict.fromkeys(self.modes[mode].dataset for mode in strict))

    def epoch_grid(self, model: str, mode: str) -> list[int]:
        """The epoch counts to choose from: a single one if the model fixes it."""
        return [self.models[model].epochs[mode]] if mode in self.models[model].epochs else self.selection.epochs

    def test_seeds(self, model: str) -> list[int]:
        """The seeds whose results are reported for a model."""
        return self.models[model].test_seeds or self.run.test_seeds

    def validation_seed(self, model: str) -> int:
        """The seed of the runs that the epoch count is chosen from."""
        own = self.models[model].validation_seed
        return self.selection.seed if own is None else own

    def annotations_used(self) -> list[str]:
        """The known judgements that the judge is compared with, or trained on."""
        members = self.judge.panel().values() if self.judge else []
        trained = [member.train for member in members if member.train]
        names = [name for own in trained for name in (*own.annotations, *own.held_out.sets) if name in self.annotations]
        return list(dict.fromkeys([*(self.judge.card if self.judge else []), *names]))

    def judge_sets(self) -> list[str]:
        """The evaluation sets that the judge needs: for references, or so that it is not trained on them."""
        members = self.judge.panel().values() if self.judge else []
        names = [name for member in members for name in member.references]
        names += [name for member in members if member.train for name in member.train.held_out.sets]
        return [name for name in dict.fromkeys(names) if name in self.evaluation_sets]

    def selects(self) -> bool:
        """Whether any model and mode has epoch counts to choose from."""
        return any(
            len(self.epoch_grid(model, mode)) > 1
            for model in self.run.models
            for mode in self.run.modes
            if model in self.models
        )

    def ranked_modes(self) -> list[str]:
        """The modes whose models rank responses, in the order of ``run.modes``."""
        return [mode for mode in self.run.modes if self.ranking and mode in self.ranking.modes]


def merged(*layers: dict[str, Any]) -> dict[str, Any]:
    """Merge mappings recursively; later ones take precedence."""
    result: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            nested = isinstance(value, dict) and isinstance(result.get(key), dict)
            result[key] = merged(result[key], value) if nested else value
    return result
