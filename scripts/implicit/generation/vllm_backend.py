"""Greedy generation by vLLM: optional, many times faster than `generate.generate`, and never the reference.

Written against the interface of vLLM 0.11 to 0.33. Its rule adapter is a per-request logits processor of the V1 model
runner, which is asked for where rules are used: the V2 runner, the default since 0.25, takes another, newer one. The
scores of a row are ``RuleAdapter``'s own, computed anew at each step from the request's prompt and response, as vLLM
reorders, preempts and resumes requests. In bfloat16, what is batched together may change a choice.
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
    """vLLM is not installed, or is not of a version that this file knows."""


def check_vllm() -> None:
    """Raise VllmUnavailable where vLLM is not installed."""
    if not find_spec("vllm"):
        raise VllmUnavailable(
            "execution.backend: 'vllm' needs the package vllm (0.11 to 0.33), which is not installed here: "
            "install it, on a machine with a GPU, or use 'transformers'"
        )


def add_rule_scores(
    adapter: RuleAdapter, prompt: Sequence[int], response: Sequence[int], logits: torch.Tensor
) -> torch.Tensor:
    """Logits [vocabulary] of a request's next token plus the rules' scores, after ``response`` to ``prompt``.

    ``prompt`` is what the wide diversity scope counts (see RuleAdapter.start). Nothing is kept between calls.
    """
    adapter.start([prompt], logits.device)
    adapter.length = len(response)
    said = torch.tensor(list(response), dtype=torch.int64, device=logits.device)
    adapter.has_seen(torch.tensor([0], device=logits.device), said[None])
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
    """Respond to every prompt with the model in a directory, in the given order, as `generate.generate` does.

    ``precision`` is a torch dtype by name; ``adapter_of`` makes a rule adapter for a number of logits.

    Raises VllmUnavailable, ValueError for a prompt that leaves no room, RuntimeError where vLLM returns less than it
    was asked for.
    """
    check_vllm()
    full = [i for i, prompt in enumerate(prompts) if len(prompt) >= limits.context]
    if full:
        raise ValueError(f"prompts that fill the context of {limits.context} tokens, or more: {full[:10]}")
    options: dict[str, Any] = {}
    if adapter_of is not None:
        os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "0"
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the processor, a local class, stays in this process
        # Asynchronous scheduling would call the processor before the last token is known.
        options = {"logits_processors": [_rule_processor(adapter_of)], "async_scheduling": False}
    from vllm import LLM, SamplingParams

    engine = LLM(
        model=str(path),
        dtype=precision,
        max_model_len=limits.context,
        generation_config="vllm",  # nothing from the model's own: it might hold penalties and further end tokens
        seed=0,
        **options,
    )
    sampling = [
        SamplingParams(
            temperature=0.0,
            max_tokens=min(limits.max_new_tokens, limits.context - len(prompt)),
            ignore_eos=True,  # whatever the model calls its EOS: ours is named
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
    """A progress bar of tqdm's kind that draws nothing, and logs how many responses are done."""
    from tqdm import tqdm

    class LoggingBar(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            # Not disabled, whatever the environment says: vLLM divides by the time that the bar has measured.
            super().__init__(*args, **options | {"disable": False, "file": io.StringIO()})
            self.progress = Progress(int(self.total or 0), "responses", log=log)

        def update(self, n: float | None = 1) -> bool | None:
            if self.iterable is None:  # a bar around an iterable counts requests as they are handed over
                self.progress.advance(int(n or 0))
            return super().update(n)

    return LoggingBar


def _responses(outputs: Sequence[Any], prompts: Sequence[Sequence[int]], *, eos: int) -> list[Response]:
    """Responses of vLLM's outputs, each checked to be there, finished, and of its prompt."""
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
    """The rule adapter as a class that vLLM makes its logits processor from."""
    try:
        from vllm.v1.sample.logits_processor import AdapterLogitsProcessor
    except ImportError as error:
        raise VllmUnavailable(
            f"this version of vLLM has no per-request logits processors (0.11 to 0.33): {error}"
        ) from None

    class RuleProcessor(AdapterLogitsProcessor):
        """Adds the rules' scores to each request that names its ``rule_prompt``."""

        adapter: RuleAdapter | None = None  # made when the logits tell the size of the vocabulary

        @classmethod
        def validate_params(cls, sampling_params: Any) -> None:
            """Nothing can be wrong with what ``generate_with_vllm`` gives."""

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
