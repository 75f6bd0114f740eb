"""Estimates of what a job will cost, before it runs, in hours of a given GPU.

A GPU is a peak (TFLOP/s, bfloat16) and a memory bandwidth (TB/s); see ``pipeline/config/gpus.yaml``.
"""

from dataclasses import dataclass

CHARACTERS_PER_TOKEN = 4.0  # of English text, roughly


@dataclass(frozen=True)
class Machine:
    """A GPU, and the fraction of its peak performance that is reached."""

    tflops: float
    bandwidth: float  # TB/s
    utilisation: float


def llama_parameters(*, width: int, layers: int, vocabulary: int) -> float:
    """Parameters in billions of a Llama that is pre-trained here: 12 width² per layer, and tied embeddings."""
    return (12 * width**2 * layers + width * vocabulary) / 1e9


def tuning_hours(machine: Machine, *, parameters: float, tokens: int, checkpointing: bool) -> float:
    """GPU hours of tuning: 6 operations per parameter (in billions) and token, 8 if activations are recomputed."""
    operations = (8 if checkpointing else 6) * parameters * 1e9 * tokens
    return operations / (machine.tflops * 1e12 * machine.utilisation) / 3600


def scoring_hours(machine: Machine, *, parameters: float, tokens: int) -> float:
    """GPU hours of a forward pass over ``tokens``."""
    return 2 * parameters * 1e9 * tokens / (machine.tflops * 1e12 * machine.utilisation) / 3600


def generation_hours(
    machine: Machine, *, parameters: float, prompts: int, response_tokens: int, batch: int, width: int = 2
) -> float:
    """GPU hours of greedy generation, limited by reading the weights (``width`` bytes each) once per step.

    A batch takes as long as its longest response, assumed to be three times the mean.
    """
    steps = -(-prompts // batch) * 3 * response_tokens
    return steps * parameters * 1e9 * width / (machine.bandwidth * 1e12 * machine.utilisation) / 3600
