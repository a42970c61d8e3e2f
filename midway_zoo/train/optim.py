"""Optimizer groups, gradient clipping per tensor, moving averages (whole lists of tensors at a time), and schedules."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import Tensor, nn

from midway_zoo.errors import ConfigError, nearest
from midway_zoo.train.distributed import local_shards, whole_norms

_DECAYED = 1.0  # only distinguishes it from 0


def parameter_groups(modules: Iterable[nn.Module], *, weight_decay: float | None = None) -> list[dict[str, Any]]:
    """AdamW groups by timm's rule: biases and tensors of one dimension have no weight decay; frozen ones are left out.

    Args:
        modules: modules whose parameters are grouped.
        weight_decay: constant weight decay of the decayed group; None for that of each step.
    """
    groups = param_groups_weight_decay(nn.ModuleList(modules), weight_decay=_DECAYED)
    for group in groups:
        group["scheduled"] = group["weight_decay"] == _DECAYED and weight_decay is None
        group["weight_decay"] = (weight_decay or 0.0) if group["weight_decay"] == _DECAYED else 0.0
    return groups


def freeze(network: nn.Module, parts: Sequence[str]) -> None:
    """Exclude parts of a network from training.

    Args:
        network: a network; parts are named as in its state dict.
        parts: names such as "encoder" or "dynamics.forward_dynamics.0".

    Raises:
        ConfigError: for a name that the network does not have, and if nothing is left to train.
    """
    modules = {name for name, _ in network.named_modules() if name}
    parameters = dict(network.named_parameters())
    for part in parts:
        if part not in modules and part not in parameters:
            raise ConfigError(
                f"network.freeze={part}: the network has no such part.{nearest(part, modules | set(parameters))}"
            )
        for name, parameter in parameters.items():
            if name == part or name.startswith(f"{part}."):
                parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise ConfigError(f"network.freeze={list(parts)} leaves nothing of the network to train; leave a part out.")


def layer_groups(vit: nn.Module, layer_decay: float) -> list[dict[str, Any]]:
    """AdamW groups for fine-tuning an encoder, by timm's rules: from each layer to the one below, the learning rate is
    multiplied by ``layer_decay``; biases, tensors of one dimension and those that the ViT names have no weight decay;
    frozen ones are left out."""
    spared: Any = getattr(vit, "no_weight_decay", None)
    groups = param_groups_layer_decay(
        vit,
        weight_decay=_DECAYED,
        no_weight_decay_list=spared() if spared is not None else (),
        layer_decay=layer_decay,
    )
    return [
        {
            "params": group["params"],
            "lr_scale": group["lr_scale"],
            "scheduled": group["weight_decay"] == _DECAYED,
            "weight_decay": 0.0,
        }
        for group in groups
    ]


def set_hyperparameters(optimizer: torch.optim.Optimizer, lr: float, weight_decay: float) -> None:
    """Set this step's values in the groups of :func:`parameter_groups`."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
        if group["scheduled"]:
            group["weight_decay"] = weight_decay


def total_norm(gradients: Sequence[Tensor]) -> Tensor:
    """Norm of all gradients together, over all shards; a scalar on their device."""
    return torch.linalg.vector_norm(torch.stack(whole_norms(gradients)).float())


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
    """Pairs (average, value) of parameters, from modules that are averaged copies of others."""
    for average, value in modules:
        yield from zip(average.parameters(), value.parameters(), strict=True)


def cosine(step: int, total: int, start: float, end: float, *, warmup: int = 0, warmup_start: float = 0.0) -> float:
    """Linear warm-up from ``warmup_start`` to ``start``, then half a cosine from ``start`` to ``end``.

    Args:
        step: 0-based optimizer step; from ``total`` on the value is ``end``.
        total: steps of the whole schedule, the warm-up included.
        start: value after the warm-up.
        end: value that step ``total`` would have.
        warmup: steps of the warm-up; its first step has ``warmup_start``, its last has ``start`` (as in
            ``numpy.linspace``).
        warmup_start: value of step 0 if there is a warm-up.
    """
    if step < warmup:
        return warmup_start + (start - warmup_start) * step / max(1, warmup - 1)
    if step >= total:
        return end
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def poly(step: int, total: int, start: float, *, power: float = 1.0, warmup: int = 0) -> float:
    """``start`` falling to 0 as (1 - step / total) ** power, and rising linearly over the first ``warmup`` steps.

    Both factors apply during the warm-up, as in mmsegmentation.
    """
    rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
    return rise * start * max(0.0, 1 - step / total) ** power
