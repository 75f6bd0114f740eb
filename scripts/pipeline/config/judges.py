"""The sections of a config on judges and other servers."""

import re
from itertools import chain
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from implicit.servers.chat_client import OURS, completion_limit
from pipeline.config.models import Lora
from pipeline.config.types import (
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
    OneOrMore,
    Positive,
    Precision,
    Section,
    Seed,
    Share,
)


class Price(Section):
    """Price of a million tokens, in the currency of the ceilings."""

    input: NotNegative
    """Per million input tokens."""
    output: NotNegative
    """Per million output tokens."""


class Server(Section):
    """An OpenAI-compatible server. The key is read from the environment variable that `key_variable` names."""

    base_url: Annotated[str, Field(pattern=r"^https?://")]
    """Such as `http://localhost:8000/v1`, without user, password or query."""
    model: Line
    """The model's name on the server."""
    key_variable: str = "OPENAI_API_KEY"
    """The environment variable that holds the key, never the key itself."""
    request: JsonObject = {}
    """Added to every request as it is: temperature, max_tokens, logprobs."""
    price: Price | None
    """In the currency of `ceilings.price`; `null`: unknown, which is not allowed with a `ceilings.price`."""

    @model_validator(mode="after")
    def without_secrets(self) -> Self:
        """Everything in a config is also in records. The messages do not repeat what may be a key."""
        parts = urlsplit(self.base_url)
        if parts.username or parts.password or parts.query:
            raise ValueError("'base_url' must not contain a user, password or query; keys come from the environment")
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.key_variable):
            raise ValueError("'key_variable' must be the name of an environment variable, not the key itself")
        wrong = [name for name in OURS if name in self.request]
        if wrong:
            raise ValueError(f"'request' must not contain {', '.join(wrong)}: set elsewhere, or not supported")
        return self


BY_PROMPT = ("server", "evaluator", "local")  # kinds that answer a prompt; the others compute from the two texts
SEEN = "seen.json"  # in a trained judge's directory: the instructions and models that it has seen


class HeldOut(Section):
    models: Annotated[float, Field(ge=0, lt=1)] = 0.25
    """The share of the models, drawn by the seed."""
    instructions: Annotated[float, Field(ge=0, lt=1)] = 0.25
    """The share of the instructions, drawn by the seed."""
    sets: Distinct[str] = []
    """Sets in `annotations` and `evaluation_sets` of whose instructions none is trained on."""


class JudgeTraining(Section):
    """How a `reward` judge is trained: on whose judgements, and what is held out."""

    base: LocalPath
    """The model to start from: a name in `models`, a directory or a hub id; a causal model or an encoder."""
    revision: Line | None = None
    """The commit, tag or branch of a hub id."""
    annotations: OneOrMore[str]
    """The sets in `annotations` to learn from."""
    held_out: HeldOut
    """What is never trained on, so that the judge can be measured on it."""
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """The share of the other models and instructions that decides when training was best."""
    degenerate: NotNegative = 0.0
    """Further pairs, as a share of those to train on, in which the worse response repeats the instruction or itself, or
    answers another instruction; for judging base models."""
    method: Literal["full", "lora"] = "lora"
    """Train all weights, or adapters and the score head."""
    lora: Lora = Lora(rank=16, alpha=32, dropout=0.0)
    """Adapters, for the method `lora`."""
    epochs: Count = 1
    """Passes over all pairs."""
    pairs: Count = 8
    """Pairs of one instruction that are computed together, so that an output that they share is computed once."""
    batch_size: Count = 32
    """The least number of pairs in an optimizer step."""
    learning_rate: Positive = 2.0e-4
    """Of AdamW, with linear warm-up and cosine decay."""
    warmup: Share = 0.05
    """The share of the steps with a rising learning rate."""
    weight_decay: NotNegative = 0.01
    """Of AdamW."""
    max_length: Count = 512
    """Tokens of instruction and response; longer ones are cut, as they will be when judging."""
    evaluations: Count = 10
    """How often validation is measured in all; the weights of the best one are kept."""
    precision: Precision = "auto"
    """Of the arithmetic."""
    seed: Seed = 0
    """Of the split, the order, and the new weights."""


class Assessor(Section):
    """What compares two responses."""

    kind: Literal["oracle", "reference", "reward", "panel", "evaluator", "server", "local"]
    """One of the seven above, described in docs/judges.md."""
    measure: Literal["chrf", "bleu", "rouge"] | None = None
    """For the kind `reference`: of similarity; chrF and BLEU by sacrebleu, ROUGE-L by rouge-score."""
    references: Distinct[str] = []
    """For the kind `reference`: evaluation sets with references, of which the most similar counts; `[]`: its own."""
    evaluator: LocalPath | None = None
    """For the kind `evaluator`: the name of one that ships with alpaca-eval, or the path of a folder or YAML file."""
    server: Server | None = None
    """For the kind `server`."""
    path: LocalPath | None = None
    """For the kinds `local` and `reward`: a directory or a hub id."""
    revision: Line | None = None
    """The commit, tag or branch of `path`."""
    train: JudgeTraining | None = None
    """For the kind `reward`, instead of `path`: a model to be trained on known judgements."""
    temperature: Positive = 1.0
    """For the kind `reward`: the difference of two scores is divided by it before it becomes a preference."""
    precision: Precision = "float32"
    """For the kinds `local` and `reward`: of weights and arithmetic."""
    template: LocalFile | None = None
    """A file with `{instruction}`, `{output_1}` and `{output_2}`; `null`: AlpacaEval 2's."""
    answer: Literal["logprobs", "text"] = "logprobs"
    """`logprobs`: AlpacaEval 2's weighted preference; `text`: the label itself."""
    min_label_probability: Share = 0.5
    """The least that both labels together must have of the probability, for `logprobs`."""

    @model_validator(mode="after")
    def of_its_kind(self) -> Self:
        allowed = {"reference": ["measure"], "evaluator": ["evaluator"], "server": ["server"], "local": ["path"]}
        allowed |= {"reward": ["path", "train"], "panel": ["members"]}
        own = allowed.get(self.kind, [])
        given = [key for key in dict.fromkeys(chain(*allowed.values())) if getattr(self, key, None)]
        for key in given:
            if key not in own:
                raise ValueError(f"a judge of kind {self.kind!r} has no {key!r}")
        if own and len(given) != 1:
            raise ValueError(f"a judge of kind {self.kind!r} needs {' or '.join(map(repr, own))}")
        if self.references and self.kind != "reference":
            raise ValueError(f"a judge of kind {self.kind!r} has no 'references'")
        request = self.server.request if self.server and self.answer == "logprobs" else None
        if request is not None and not (request.get("logprobs") and request.get("top_logprobs")):
            raise ValueError("'answer' is logprobs: 'server.request' needs logprobs: true and top_logprobs: 2 or more")
        if self.server and self.answer == "text" and completion_limit(self.server.request) < 2:
            raise ValueError(
                "'answer' is text: max_tokens in 'server.request' must be 2 or more; truncated answers are not used"
            )
        return self


class Member(Assessor):
    """A member of a panel."""

    kind: Literal["oracle", "reference", "reward", "evaluator", "server", "local"]
    """Any but a panel."""


class Judge(Assessor):
    name: Name
    members: dict[Name, Member | None] = {}
    """For the kind `panel`: judges, whose mean preference counts; `null` removes one that another file defines."""
    card: Distinct[str] = []
    """Sets in `annotations` that the judge is compared with, for its card."""
    reference_mode: str
    seed: Seed
    bootstrap: Draws
    metric: Literal["length_controlled_minimal", "length_controlled_v1"]
    df_gamed: LocalFile | None = None
    both_orders: Flag

    @model_validator(mode="after")
    def of_several(self) -> Self:
        if self.kind == "panel" and len(self.panel()) < 2:
            raise ValueError("a judge of kind 'panel' needs two 'members' or more")
        servers = {own.server.model: own.server.base_url for own in self.panel().values() if own.server}
        for own in self.panel().values():
            if own.server and servers[own.server.model] != own.server.base_url:
                raise ValueError(
                    f"two 'members' ask for {own.server.model!r} on different servers, but answers are kept by the "
                    "model's name: give it another one on one of them"
                )
        return self

    def panel(self) -> dict[str, Assessor]:
        """The judges that compare, by name: the members of a panel, or the judge itself."""
        members = {name: member for name, member in self.members.items() if member is not None}
        return members if self.kind == "panel" else {self.name: self}

    def computes(self) -> bool:
        """Whether a model runs on this machine."""
        return any(member.kind in ("local", "reward") for member in self.panel().values())

    def own_precision(self) -> str | None:
        """The precision of its model; None for a panel, whose members have their own."""
        return None if self.kind == "panel" else self.precision

    def trained(self, models: dict[str, Path]) -> dict[str, Assessor]:
        """The judges, with the directories of those that were trained as their paths."""
        return {
            name: member.model_copy(update={"path": str(models[name])}) if member.train else member
            for name, member in self.panel().items()
        }


class JudgeSettings(Judge):
    """The section `judge` as scripts take it; ``metric`` is that of the evaluation set."""

    reference_mode: str | None = None
    both_orders: Flag = False


class Rewriting(Section):
    """The no-rephrase ablation (paper, appendix C): find responses that restate their instruction, and rewrite them."""

    server: Server
    """The server that is asked."""
    detect: str
    """Prompt asking if `{response}` restates `{instruction}`; the answer ends with "#### YES" or "#### NO"."""
    rewrite: str
    """Prompt asking for the response without the restatement, with the same placeholders."""
