"""Low-rank adapters (LoRA, arXiv 2106.09685; QLoRA, 2305.14314) with peft: trained instead of the model, then merged.

The result is an ordinary model. The base model's weights are changed only where there were adapters, in float32.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

Method = Literal["full", "lora", "qlora"]


@dataclass(frozen=True)
class Lora:
    """Adapters on all linear layers except the output head: W + alpha / rank · B A, with B = 0 at the start."""

    rank: int
    alpha: float
    dropout: float


class MethodUnavailable(RuntimeError):
    """The requirements of a tuning method are not met."""


def check_method(method: Method, *, device: str, processes: int) -> None:
    """Raise MethodUnavailable, listing everything that is missing, if a method cannot be used."""
    missing = []
    if method != "full" and not find_spec("peft"):
        missing.append("the package peft")
    if method == "qlora":
        if torch.device(device).type != "cuda":
            missing.append(f"a GPU (this run is on {device!r})")
        if not find_spec("bitsandbytes"):
            missing.append("the package bitsandbytes")
        if processes > 1:
            missing.append(f"a single process (execution.processes is {processes}), as 4-bit weights are not sharded")
    if missing:
        raise MethodUnavailable(f"tuning.method: {method!r} needs {', '.join(missing)}; 'full' does not")


def load_quantized(path: Path, *, device: str) -> PreTrainedModel:
    """Load a model with its linear layers in 4 bits (NF4, double quantisation), for bfloat16 arithmetic, on a GPU."""
    from transformers import BitsAndBytesConfig

    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    return AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float32, quantization_config=quantization, device_map={"": device}
    )


def add_adapters(model: PreTrainedModel, lora: Lora, *, task: str = "CAUSAL_LM") -> None:
    """Add adapters to a model, in place, and freeze everything else. Initial weights depend on torch's global seed.

    ``task`` is one of peft's: with "SEQ_CLS", the head of a sequence classifier is trained as it is.
    """
    _peft_model(model, lora, task)


def adapter_weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The adapters' parameters, by name, which are all the trained parameters."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def merge(
    base: PreTrainedModel, lora: Lora, weights: Mapping[str, torch.Tensor], *, task: str = "CAUSAL_LM"
) -> PreTrainedModel:
    """Merge adapters into the weights of the base model, which must be in float32 and is changed in place.

    Raises ValueError if the adapters do not belong to such a model.
    """
    adapted = _peft_model(base, lora, task)
    expected = set(adapter_weights(base))
    if expected != set(weights):
        raise ValueError(f"adapters that do not belong to this model: {sorted(expected ^ set(weights))[:4]}")
    base.load_state_dict(weights, strict=False)
    merged = adapted.merge_and_unload(safe_merge=True)
    return merged.requires_grad_(True)


def _peft_model(model: PreTrainedModel, lora: Lora, task: str):
    """Peft's wrapper around a model; this adds the adapters to ``model`` itself."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules="all-linear",
        bias="none",
        task_type=task,
    )
    return get_peft_model(model, config)
