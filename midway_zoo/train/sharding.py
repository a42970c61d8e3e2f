"""Parameters, gradients and optimizer state divided over the processes (PyTorch's FSDP2), instead of copied to each.

Checkpoints do not show it: they hold whole tensors, and a run may be resumed with sharding or without.
"""

import copy
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.utils import parse_flag_from_env, reduce
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.distributed_c10d import get_backend_config
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from midway_zoo.errors import ConfigError
from midway_zoo.train.task import Task

logger = logging.getLogger(__name__)
_SWITCHES = ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_MEGATRON_LM")


def check_launch() -> None:
    """Raise :class:`ConfigError` if Accelerate was told, by its launcher or a plugin, to shard the model by itself.

    Clipping per tensor, averages of weights, and checkpoints have to know how a model is sharded.
    """
    for switch in _SWITCHES:  # launcher and plugins both set them
        if parse_flag_from_env(switch):
            raise ConfigError(
                f"Accelerate was told to shard by itself ({switch} is set), which this training cannot use. Launch "
                "plainly (`accelerate launch --multi_gpu` or torchrun; see `accelerate env`) and pass shard=true."
            )


def shard_model(model: nn.Module, units: Iterable[nn.Module], accelerator: Accelerator) -> None:
    """Divide a model over the processes, in place, and move it to their devices.

    Args:
        model: the same weights in every process.
        units: submodules whose weights are gathered while they run and let go after; what is in none of them is
            gathered while ``model`` runs. Only their ``forward`` may read their weights.
        accelerator: says which processes and devices there are. With one process there is nothing to divide.

    Raises:
        ConfigError: for processes that talk through Gloo (those on CPUs do), with a torch before 2.8.
    """
    if accelerator.num_processes == 1:
        logger.info("shard=true: there is one process, which keeps everything")
        model.to(accelerator.device)
        return
    device = accelerator.device.type
    gloo = f"{device}:gloo" in str(get_backend_config())
    if gloo:
        _check_gloo_is_supported()
    mesh = init_device_mesh(device, (accelerator.num_processes,))
    for unit in units:
        fully_shard(unit, mesh=mesh)
    # FSDP would keep what the root gathers until a backward pass; a forward without one would then see old weights.
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    for module in model.modules() if gloo else ():
        if isinstance(module, FSDPModule):
            # Asked for a mean, Gloo returned the sum (torch 2.7 and 2.8 at least): gradients as many times too large
            # as there are processes, without an error.
            module.set_force_sum_reduction_for_comms(True)


def _check_gloo_is_supported() -> None:
    if not hasattr(FSDPModule, "set_force_sum_reduction_for_comms"):
        raise ConfigError(
            f"shard=true on CPUs (processes that talk through Gloo) needs torch 2.8 or newer, and this is torch "
            f"{torch.__version__}, which fails or sums gradients where it should average them. Upgrade torch, train on "
            "GPUs with NCCL, or leave shard=false."
        )


@contextmanager
def unsynchronised(model: nn.Module) -> Iterator[None]:
    """Backward passes in here add to the gradients of this process only; the next one outside sums over them all."""
    if not isinstance(model, FSDPModule):
        yield
        return
    model.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        model.set_requires_gradient_sync(True)


@torch.no_grad()
def local_shards(tensors: Iterable[Tensor]) -> list[Tensor]:
    """This process's part of each tensor, sharing its memory; tensors that are whole stay as they are."""
    return [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]


@torch.no_grad()
def whole_norms(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Norm of each tensor, over all its shards; one communication for all, none if they are whole."""
    norms = torch._foreach_norm(local_shards(tensors))
    divided = [isinstance(tensor, DTensor) for tensor in tensors]
    if not any(divided):
        return list(norms)
    assert all(divided), "whole and divided tensors in one list"
    squares = cast(Tensor, reduce(torch.stack(norms).square(), "sum"))
    return list(squares.sqrt().unbind())


def gathered(state: Any, *, keep: bool) -> Any:
    """A state dict with whole tensors, on the CPU, for shards. Every process has to call it.

    Args:
        state: mappings and sequences of tensors and anything else; what is not divided is returned as it is.
        keep: whether this process wants them; None takes their place otherwise, which bounds its memory.
    """
    if isinstance(state, DTensor):
        whole = state.full_tensor().detach()
        return whole.cpu() if keep else None
    if isinstance(state, Mapping):
        return {key: gathered(value, keep=keep) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(gathered(value, keep=keep) for value in state)
    return state


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """``optimizer.load_state_dict`` of whole tensors into an optimizer whose parameters may be divided.

    Raises:
        ValueError: if the state is of other groups of parameters.
    """
    sizes = [[len(group["params"]) for group in groups] for groups in (optimizer.param_groups, state["param_groups"])]
    if sizes[0] != sizes[1]:
        raise ValueError(f"groups of {sizes[1]} parameters are not groups of {sizes[0]}")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    entries = {index: _divided_like(parameters[index], entry) for index, entry in state["state"].items()}
    optimizer.load_state_dict({**state, "state": entries})


def _divided_like(parameter: Tensor, entry: Mapping[str, Any]) -> dict[str, Any]:
    def divide(value: Any) -> Any:
        if not isinstance(parameter, DTensor) or not isinstance(value, Tensor) or value.shape != parameter.shape:
            return value
        return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)

    return {key: divide(value) for key, value in entry.items()}


class WholeCopy:
    """A copy of a model, without memory of its own until weights are lent to it: one process alone cannot run a
    model that is divided."""

    def __init__(self, model: nn.Module) -> None:
        self.model = copy.deepcopy(model)
        _forget(self.model)

    @contextmanager
    def stands_in(self, task: Task[Any], state: Mapping[str, Tensor], device: torch.device) -> Iterator[None]:
        """``task.model`` is the copy in here, with the weights of ``state`` (whole, see :func:`gathered`)."""
        divided = task.model
        self.model.load_state_dict(state, assign=True)
        task.model = self.model.to(device)
        try:
            yield
        finally:
            task.model = divided
            _forget(self.model)


def _forget(model: nn.Module) -> None:
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            empty = torch.empty_like(parameter, device="meta")
            module.register_parameter(name, nn.Parameter(empty, requires_grad=parameter.requires_grad))
