"""Optimizer groups, gradient clipping per tensor, and moving averages: whole lists of tensors at a time."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from midway_zoo.train.sharding import local_shards, whole_norms


def parameter_groups(named: Iterable[tuple[str, nn.Parameter]]) -> list[dict[str, Any]]:
    """AdamW groups: biases and 1-D tensors have no weight decay. Frozen parameters are left out."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in named:
        if parameter.requires_grad:
            (plain if parameter.ndim <= 1 or name.endswith(".bias") else decayed).append(parameter)
    groups = [{"params": decayed, "decay": True}, {"params": plain, "decay": False}]
    return [group for group in groups if group["params"]]


def set_hyperparameters(optimizer: torch.optim.Optimizer, lr: float, weight_decay: float) -> None:
    """Write this step's values into the groups of :func:`parameter_groups`."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
        group["weight_decay"] = weight_decay if group["decay"] else 0.0


@torch.no_grad()
def clip_each(parameters: Iterable[nn.Parameter], max_norm: float) -> None:
    """Scale each tensor's gradient to a norm of at most ``max_norm``, without waiting for the device."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return
    norms = whole_norms(gradients)
    torch._foreach_add_(norms, 1e-6)
    torch._foreach_reciprocal_(norms)
    torch._foreach_mul_(norms, max_norm)
    torch._foreach_clamp_max_(norms, 1.0)
    torch._foreach_mul_(local_shards(gradients), norms)


@torch.no_grad()
def ema_update(averages: Sequence[Tensor], values: Sequence[Tensor], momentum: float) -> None:
    """averages = momentum * averages + (1 - momentum) * values, in place."""
    torch._foreach_lerp_(local_shards(averages), local_shards(values), 1 - momentum)


def paired_parameters(modules: Iterable[tuple[nn.Module, nn.Module]]) -> Iterator[tuple[nn.Parameter, nn.Parameter]]:
    """(average, value) parameters of modules that are averaged copies of others."""
    for average, value in modules:
        yield from zip(average.parameters(), value.parameters(), strict=True)
