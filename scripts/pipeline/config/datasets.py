"""The sections of a config that say where rows come from: datasets, evaluation sets and known judgements."""

from typing import Annotated, Literal, Self

from pydantic import Field, Strict, model_validator

from pipeline.config.types import Count, Flag, Line, LocalFile, OneOrMore, Section, Two

ORIGINS = ("alter", "rewrite", "file", "hub", "world_part")  # the first that is given is used
FILE_ENDINGS = tuple(
    f".{kind}{packed}" for kind in ("json", "jsonl", "csv", "txt", "parquet") for packed in ("", ".gz")
)

Alteration = Literal["shuffle_instructions", "random_instructions", "cut_responses", "other_responses"]


class Hub(Section):
    """Rows on a dataset hub: read through `datasets`, or from a single `file` of the repository."""

    id: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
    """Such as `openai/gsm8k`."""
    revision: Line | None = None
    """The commit, tag or branch."""
    config: Line | None = None
    """Which configuration to read, if there are several."""
    split: Line = "train"
    """The split to read."""
    file: Line | None = None
    """A single file of the repository, read like a local one."""
    gated: Flag = False
    """The hub requires a token; this is checked before anything runs."""


class Source(Section):
    """Where rows come from: a part of the model's world, a hub, or a file. Later ones take precedence."""

    file: LocalFile | None = None
    """A local file, or the URL of one: .json, .jsonl, .csv, .txt or .parquet, also with .gz."""
    hub: Hub | None = None
    """A dataset on a hub."""
    rows: Annotated[list[Annotated[int, Strict(), Field(ge=0)]], Field(min_length=2, max_length=2)] | None = None
    """From the first of these rows, counted from 0, up to but not including the second."""
    templates: LocalFile | None = None
    """For the recipe `alpaca`: a file of prompt templates, which are read and never executed."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """The hash that the resulting rows must have; each run prints it."""

    @property
    def origin(self) -> str | None:
        """The key that the rows are read from, which takes precedence if several are given."""
        return next((kind for kind in ORIGINS if getattr(self, kind) is not None), None)

    @model_validator(mode="after")
    def one_source(self) -> Self:
        if self.origin is None:
            raise ValueError("needs a source for its rows: 'world_part', 'hub' or 'file'")
        if self.file is not None and not self.file.endswith(FILE_ENDINGS):
            raise ValueError(f"'file' is {self.file!r}: it must end in one of {', '.join(FILE_ENDINGS)}")
        if self.rows and self.rows[0] >= self.rows[1]:
            raise ValueError(f"'rows' is {self.rows}: the first must be smaller than the second")
        if (self.recipe == "alpaca") != (self.templates is not None):  # type: ignore[attr-defined]
            raise ValueError("'templates' is for the recipe 'alpaca', which needs it")
        return self


class Dataset(Source):
    world_part: Literal["instructions", "arithmetic", "code", "poem", "recipe", "chess"] | None = None
    """The part of the model's world to draw from."""
    rewrite: str | None = None
    """Another dataset, whose responses are rewritten by `rewriting`."""
    alter: str | None = None
    """Another dataset, all of whose rows are altered: for controls."""
    alteration: Alteration | None = None
    """Instructions are shuffled, or replaced by as many random words; responses are cut, or another dataset's."""
    responses_of: str | None = None
    """For `other_responses`: the dataset that the responses are taken from, row by row."""
    recipe: Literal["lima", "poetry", "recipes", "chess", "self_instruct"] | None = None
    """How the paper's sets come from their raw rows (sections 3 to 5)."""
    max_characters: Count | None = None
    """Rows with more characters than this in all turns together are left out, and counted in the log."""
    examples: Count | None = None
    """Number of rows: the first ones, or the number drawn from a world."""
    user: str | None = None
    """A template for the instruction, with columns in braces: `"{question}"`."""
    assistant: str | None = None
    """A template for the response, in the same form."""
    messages: str | None = None
    """The column of whole conversations, each a list of objects with `role` and `content`."""
    format: Literal["messages", "sharegpt", "prompt_completion", "alpaca", "dolly"] | None = None
    """What the rows are (docs/data.md); `null`: recognised by their columns, if no other key says it."""
    system: Literal["keep", "drop"] = "keep"
    """System turns: put before the first instruction, as the chat format has none; or dropped, and counted."""
    on_bad_row: Literal["error", "skip"] = "error"
    """A row that cannot be used ends the run; or it is skipped, and counted and named in the log."""

    @model_validator(mode="after")
    def mapped(self) -> Self:
        if self.origin == "world_part" and self.examples is None:
            raise ValueError("a dataset of the world needs 'examples'")
        if self.max_characters is not None and self.origin not in ("file", "hub"):
            raise ValueError("'max_characters' is for rows of a file or a hub")
        if (self.user is None) != (self.assistant is None) and self.origin in ("file", "hub"):
            raise ValueError("'user' and 'assistant' need each other")
        ways = [key for key in ("recipe", "messages", "user", "format") if getattr(self, key) is not None]
        if self.origin in ("file", "hub") and len(ways) > 1:
            raise ValueError(f"only one of {', '.join(map(repr, ways))} can say what the rows are: remove the others")
        if self.on_bad_row == "skip" and (self.recipe or self.origin not in ("file", "hub")):
            raise ValueError("'on_bad_row: skip' is for rows of a file or a hub that no recipe reads")
        return self

    @model_validator(mode="after")
    def altered(self) -> Self:
        if (self.alter is None) != (self.alteration is None):
            raise ValueError("'alter', a dataset, and 'alteration' need each other")
        if (self.alteration == "other_responses") != (self.responses_of is not None):
            raise ValueError("'responses_of' is for 'alteration: other_responses', which needs it")
        extra = [key for key in ("rewrite", "rows", "examples") if self.alter and getattr(self, key) is not None]
        if extra:
            raise ValueError(f"{extra[0]!r} cannot be combined with 'alter', which uses all rows of the other dataset")
        return self

    @property
    def made_of(self) -> list[str]:
        """The datasets that this one is made from, first the one that its rows come from."""
        named = {"alter": [self.alter, self.responses_of], "rewrite": [self.rewrite]}.get(self.origin, [])
        return [name for name in named if name is not None]


class EvaluationSet(Source):
    world_part: Literal["validation", "test"] | None = None
    """The part of the model's world to draw from."""
    alter: None = None
    rewrite: None = None
    recipe: Literal["alpaca", "ifeval", "mbpp"] | None = None
    """Stanford's Alpaca in the authors' prompt templates (section 4); IFEval's or MBPP's prompts with their checks."""
    every: Count | None = None
    """Only every so many rows, beginning with the first: a part of a set that is sorted by its origin."""
    instructions: Count | None = None
    """Number of instructions: the first ones, or the number drawn from a world."""
    instruction: str | None = None
    """A template for the instruction, with columns in braces."""
    reference: str | None = None
    """A template for the reference response."""

    @model_validator(mode="after")
    def mapped(self) -> Self:
        if self.origin == "world_part" and self.instructions is None:
            raise ValueError("an evaluation set of the world needs 'instructions'")
        if self.origin in ("file", "hub") and (self.instruction is None) == (self.recipe is None):
            raise ValueError("an evaluation set from a file or a hub needs 'instruction', or a 'recipe'")
        return self


class Annotations(Source):
    """Judgements that are known, of pairs of responses: to compare a judge with, or to train one on."""

    world_part: None = None
    alter: None = None
    rewrite: None = None
    recipe: None = None
    instruction: str = "{instruction}"
    """A template for the instruction, with columns in braces."""
    outputs: Two[Line] = ["output_1", "output_2"]
    """The columns of the first and the second response."""
    models: Two[Line] | None = None
    """The columns with the names of the models that responded; `null`: not known."""
    preferences: OneOrMore[Line] = ["preference"]
    """A column for each annotator: from 1, the first response, to 2, as in AlpacaEval's files; a tie is 1.5 or 0."""
    annotator: Line | None = None
    """Whose judgements these are, and under which licence, for cards."""
    sample: Count | None = None
    """Number of pairs, drawn by the set's name; `null`: all."""
