"""Sharding a model over several processes, each with a part of every parameter (FSDP). Not used with one process."""

import atexit
import copy
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM, PreTrainedModel


@dataclass(frozen=True)
class Processes:
    """The processes of a job, from the point of view of one of them. ``device`` is its own."""

    rank: int = 0
    count: int = 1
    device: str = "cpu"

    @property
    def first(self) -> bool:
        """Whether this is the process that logs and writes."""
        return self.rank == 0


ALONE = Processes()


def started_together() -> int:
    """The number of processes that a launcher has started on this machine, including this one."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def join_processes(device: str) -> Processes:
    """Join the processes started by ``accelerate launch``: over nccl on ``cuda``, otherwise over gloo.

    A process that was started on its own stays alone.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Processes(device=device)
    from accelerate import PartialState

    state = PartialState(cpu=device == "cpu")
    atexit.register(state.destroy_process_group)
    return Processes(state.process_index, state.num_processes, "cpu" if device == "cpu" else str(state.device))


def decoder_layers(model: PreTrainedModel) -> list[torch.nn.Module]:
    """The layers that a model declares as its units. Raises ValueError if it declares none."""
    names = set(model._no_split_modules or ())
    layers = [module for module in model.modules() if type(module).__name__ in names]
    if not layers:
        name = type(model).__name__
        raise ValueError(f"{name} does not declare its layers (_no_split_modules), so it cannot be sharded or compiled")
    return layers


def shard(root: torch.nn.Module, layers: Iterable[torch.nn.Module], processes: Processes) -> None:
    """Move a module to the processes' devices in place, a shard of each parameter to each.

    A layer's parameters are gathered only while it computes; those outside ``layers`` while the root does. All
    processes must start with the same weights. Gradients are summed over the processes, not averaged. The arithmetic
    is that of the unsharded module: weights are communicated in float32, and cast where autocast casts them.
    """
    mesh = init_device_mesh(torch.device(processes.device).type, (processes.count,))
    for module in [*layers, root]:
        fully_shard(module, mesh=mesh)
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)  # gloo supports no other


def divide(rows: Sequence[int], lengths: Sequence[int], *, count: int) -> list[list[int]]:
    """Divide rows into ``count`` shares of similar token counts: longest first, each to the smallest share so far."""
    shares: list[list[int]] = [[] for _ in range(count)]
    tokens = [0] * count
    for row in sorted(rows, key=lambda row: lengths[row], reverse=True):
        smallest = tokens.index(min(tokens))
        shares[smallest].append(row)
        tokens[smallest] += lengths[row]
    return shares


def total(values: Sequence[float], processes: Processes) -> list[float]:
    """Sum each number over all processes; the result is the same on each."""
    if processes.count == 1:
        return list(values)
    sums = torch.tensor(values, dtype=torch.float64, device=processes.device)
    dist.all_reduce(sums)
    return sums.tolist()


def from_all(value: Any, processes: Processes) -> list[Any]:
    """Gather a value from every process, by rank, on every process. Values are pickled."""
    if processes.count == 1:
        return [value]
    values: list[Any] = [None] * processes.count
    dist.all_gather_object(values, value)
    return values


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The full tensor, on each process, from a tensor that may be sharded. All processes must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gather(tensors: Mapping[str, torch.Tensor], processes: Processes) -> dict[str, torch.Tensor]:
    """The full tensors on the CPU, on the first process; empty on the others. All processes must call it."""
    gathered = {}
    for name, tensor in tensors.items():
        value = whole(tensor)
        if processes.first:
            gathered[name] = value.detach().cpu()
    return gathered


def gather_model(model: PreTrainedModel, processes: Processes) -> PreTrainedModel | None:
    """The full model on the CPU, on the first process; None on the others. All processes must call it.

    With one process, the model itself.
    """
    if processes.count == 1:
        return model
    weights = gather(model.state_dict(), processes)
    if not processes.first:
        return None
    with torch.device("meta"):
        gathered = AutoModelForCausalLM.from_config(copy.deepcopy(model.config))
    gathered.load_state_dict(weights, assign=True)
    gathered.tie_weights()
    gathered.generation_config = model.generation_config
    return gathered
