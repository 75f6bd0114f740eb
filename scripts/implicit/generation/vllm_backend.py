"""Greedy generation with vLLM: optional, many times faster than `generate.generate`, and never the reference.

Written for the interface of vLLM 0.11 to 0.33. The rule adapter is a per-request logits processor for the V1 model
runner, which is selected when rules are used: the V2 runner, the default since 0.25, has a different, newer interface.
The scores of a row are ``RuleAdapter``'s own, recomputed at each step from the request's prompt and response because
vLLM reorders, preempts and resumes requests. In bfloat16, the batching may change which token is chosen.
"""

import io
import os
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from implicit.generation.generate import Limits, Response
from implicit.generation.rules import RuleAdapter
from implicit.progress import Progress


class VllmUnavailable(RuntimeError):
    """vLLM is not installed, or its version is not supported here."""


def check_vllm() -> None:
    """Raise VllmUnavailable if vLLM is not installed."""
    if not find_spec("vllm"):
        raise VllmUnavailable(
            "execution.backend: 'vllm' needs the package vllm (0.11 to 0.33), which is not installed: "
            "install it on a machine with a GPU, or use 'transformers'"
        )


def add_rule_scores(
    adapter: RuleAdapter, prompt: Sequence[int], response: Sequence[int], logits: torch.Tensor
) -> torch.Tensor:
    """Return a request's next-token logits [vocabulary] plus the rules' scores, given its ``response`` so far.

    ``prompt`` is the part that counts for the wide diversity scope (see RuleAdapter.start). No state is kept between
    calls.
    """
    adapter.start([prompt], logits.device)
    adapter.length = len(response)
    tokens = torch.tensor(list(response), dtype=torch.int64, device=logits.device)
    adapter.has_seen(torch.tensor([0], device=logits.device), tokens[None])
    return adapter.add_scores(logits[None].clone(), None)[0]


def generate_with_vllm(
    path: Path,
    prompts: Sequence[Sequence[int]],
    limits: Limits,
    *,
    precision: str,
    adapter_of: Callable[[int], RuleAdapter] | None = None,
    adapter_prompts: Sequence[Sequence[int]] | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> list[Response]:
    """Generate a response to every prompt, in the given order, as `generate.generate` does, with the model in ``path``.

    ``precision`` is the name of a torch dtype; ``adapter_of`` makes a rule adapter for a given number of logits.

    Raises VllmUnavailable, ValueError for a prompt that leaves no room for a response, RuntimeError if vLLM returns
    less than was requested.
    """
    check_vllm()
    full = [i for i, prompt in enumerate(prompts) if len(prompt) >= limits.context]
    if full:
        raise ValueError(f"prompts that fill or exceed the context of {limits.context} tokens: {full[:10]}")
    options: dict[str, Any] = {}
    if adapter_of is not None:
        os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "0"
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # a local class cannot leave this process
        # Asynchronous scheduling would call the processor before the last token is known.
        options = {"logits_processors": [_rule_processor(adapter_of)], "async_scheduling": False}
    from vllm import LLM, SamplingParams

    engine = LLM(
        model=str(path),
        dtype=precision,
        max_model_len=limits.context,
        generation_config="vllm",  # ignore the model's own, which may set penalties and more end tokens
        seed=0,
        **options,
    )
    sampling = [
        SamplingParams(
            temperature=0.0,
            max_tokens=min(limits.max_new_tokens, limits.context - len(prompt)),
            ignore_eos=True,  # regardless of the model's own EOS: ours is a stop token
            stop_token_ids=[limits.eos],
            detokenize=False,
            extra_args={"rule_prompt": list(counted)} if adapter_of is not None else None,
        )
        for prompt, counted in zip(prompts, adapter_prompts or prompts, strict=True)
    ]
    given = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
    outputs = engine.generate(given, sampling, use_tqdm=logging_bar(log))
    return _responses(outputs, prompts, eos=limits.eos)


def logging_bar(log: Callable[[str], None]) -> type:
    """A subclass of tqdm's progress bar that draws nothing and logs how many responses are done."""
    from tqdm import tqdm

    class LoggingBar(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            # Never disabled, whatever the environment says: vLLM divides by the time that the bar has measured.
            super().__init__(*args, **options | {"disable": False, "file": io.StringIO()})
            self.progress = Progress(int(self.total or 0), "responses", log=log)

        def update(self, n: float | None = 1) -> bool | None:
            if self.iterable is None:  # a bar around an iterable counts requests as they are handed over
                self.progress.advance(int(n or 0))
            return super().update(n)

    return LoggingBar


def _responses(outputs: Sequence[Any], prompts: Sequence[Sequence[int]], *, eos: int) -> list[Response]:
    """Convert vLLM's outputs to responses, checking that each one is present, finished, and belongs to its prompt."""
    if len(outputs) != len(prompts):
        raise RuntimeError(f"vLLM returned {len(outputs)} responses to {len(prompts)} prompts")
    responses = []
    for number, (output, prompt) in enumerate(zip(outputs, prompts, strict=True)):
        (completion,) = output.outputs
        if completion.finish_reason not in ("stop", "length") or list(output.prompt_token_ids) != list(prompt):
            raise RuntimeError(f"vLLM did not finish its response to prompt {number}: {completion.finish_reason!r}")
        ids = list(completion.token_ids)
        stopped = bool(ids) and ids[-1] == eos
        responses.append(Response(ids[:-1] if stopped else ids, stopped))
    return responses


def _rule_processor(adapter_of: Callable[[int], RuleAdapter]) -> type:
    """The rule adapter as a class from which vLLM creates its logits processor."""
    try:
        from vllm.v1.sample.logits_processor import AdapterLogitsProcessor
    except ImportError as error:
        raise VllmUnavailable(
            f"this version of vLLM has no per-request logits processors (0.11 to 0.33 have them): {error}"
        ) from None

    class RuleProcessor(AdapterLogitsProcessor):
        """Adds the rules' scores to each request that has a ``rule_prompt``."""

        adapter: RuleAdapter | None = None  # created once the logits show the size of the vocabulary

        @classmethod
        def validate_params(cls, sampling_params: Any) -> None:
            """Accept everything: ``generate_with_vllm`` passes only valid parameters."""

        def is_argmax_invariant(self) -> bool:
            return False

        def new_req_logits_processor(self, params: Any) -> Any:
            prompt = (params.extra_args or {}).get("rule_prompt")
            if prompt is None:
                return None

            def scored(response: list[int], logits: torch.Tensor) -> torch.Tensor:
                if self.adapter is None:
                    self.adapter = adapter_of(logits.shape[-1])
                return add_rule_scores(self.adapter, prompt, response, logits)

            return scored

    return RuleProcessor
