"""The sections of a config on judges and other servers."""

import re
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from implicit.servers.chat_client import OURS, completion_limit
from pipeline.config.types import (
    Draws,
    Flag,
    JsonObject,
    Line,
    LocalFile,
    LocalPath,
    Name,
    NotNegative,
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


class Judge(Section):
    name: Name
    kind: Literal["oracle", "reference", "evaluator", "server", "local"]
    """One of the five above, described in docs/judges.md."""
    measure: Literal["chrf", "bleu"] | None = None
    """For the kind `reference`: of similarity, by sacrebleu."""
    evaluator: LocalPath | None = None
    """For the kind `evaluator`: the name of one that ships with alpaca-eval, or the path of a folder or YAML file."""
    server: Server | None = None
    """For the kind `server`."""
    path: LocalPath | None = None
    """For the kind `local`: a directory or a hub id."""
    revision: Line | None = None
    """For the kind `local`: the commit, tag or branch."""
    precision: Precision = "float32"
    """For the kind `local`: of weights and arithmetic."""
    template: LocalFile | None = None
    """A file with `{instruction}`, `{output_1}` and `{output_2}`; `null`: AlpacaEval 2's."""
    answer: Literal["logprobs", "text"] = "logprobs"
    """`logprobs`: AlpacaEval 2's weighted preference; `text`: the label itself."""
    min_label_probability: Share
    reference_mode: str
    seed: Seed
    bootstrap: Draws
    metric: Literal["length_controlled_minimal", "length_controlled_v1"]
    df_gamed: LocalFile | None = None
    both_orders: Flag

    @model_validator(mode="after")
    def of_its_kind(self) -> Self:
        needs = {"reference": "measure", "evaluator": "evaluator", "server": "server", "local": "path"}
        for key in needs.values():
            needed = needs.get(self.kind) == key
            if (getattr(self, key) is not None) != needed:
                raise ValueError(f"a judge of kind {self.kind!r} {'needs' if needed else 'has no'} {key!r}")
        request = self.server.request if self.server and self.answer == "logprobs" else None
        if request is not None and not (request.get("logprobs") and request.get("top_logprobs")):
            raise ValueError("'answer' is logprobs: 'server.request' needs logprobs: true and top_logprobs: 2 or more")
        if self.server and self.answer == "text" and completion_limit(self.server.request) < 2:
            raise ValueError(
                "'answer' is text: max_tokens in 'server.request' must be 2 or more; truncated answers are not used"
            )
        return self


class Rewriting(Section):
    """The no-rephrase ablation (paper, appendix C): find responses that restate their instruction, and rewrite them."""

    server: Server
    """The server that is asked."""
    detect: str
    """Prompt asking if `{response}` restates `{instruction}`; the answer ends with "#### YES" or "#### NO"."""
    rewrite: str
    """Prompt asking for the response without the restatement, with the same placeholders."""
