"""A pretraining step of the trainer, and the same step written out plainly, from the same weights and views."""

import json
from typing import Any

import torch
from torch import Tensor

from midway_zoo.benchmarks.plain_step import PlainStep
from midway_zoo.train.attention import attention_of
from midway_zoo.train.config import load_config
from midway_zoo.train.distributed import make_accelerator
from midway_zoo.train.optim import set_hyperparameters
from midway_zoo.train.tasks.pretrain.config import PretrainConfig
from midway_zoo.train.tasks.pretrain.model import PretrainModel
from midway_zoo.train.tasks.pretrain.task import PretrainTask

_STEPS_PER_EPOCH = 1000
_AS_IN_RECIPE: dict[str, dict[str, Any]] = {
    "midway_nano": {
        **{"views.dynamics_size": 64, "views.global_size": 64, "views.local_size": 32, "views.local_crops": 4},
        **{"head.hidden": 256, "head.bottleneck": 64},
    }
}
"""Sizes of the recipe `nano`, which differ from the released runs."""
_AUTOCAST = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class StepTask(PretrainTask):
    """Pretraining without data, with the trainer's optimizer, schedules, clipping and averages."""

    def __init__(self, config: PretrainConfig) -> None:
        self.config, self.total_steps, self.steps_per_epoch = config, 300 * _STEPS_PER_EPOCH, _STEPS_PER_EPOCH
        torch.manual_seed(config.seed)
        self.model = PretrainModel(config).train()


class TrainerStep:
    """What midway_zoo.train.loop does in a step."""

    def __init__(self, config: PretrainConfig) -> None:
        self.task, self.accelerator = StepTask(config), make_accelerator(config)
        if config.compile:
            self.task.model.compile()
        self.model, self.optimizer = self.accelerator.prepare(self.task.model, self.task.optimizer())
        self.attention = attention_of(config, self.accelerator, self.task.model, {})
        self.step = _STEPS_PER_EPOCH  # past the epoch in which the last layer is frozen

    def __call__(self, views: dict[str, Tensor]) -> dict[str, Tensor]:
        hyper = self.task.hyperparameters(self.step)
        set_hyperparameters(self.optimizer, hyper.lr, hyper.weight_decay)
        with self.accelerator.autocast(), self.attention:
            losses = self.model(views)
        self.accelerator.backward(losses["loss"])
        if self.accelerator.scaler is not None:
            self.accelerator.unscale_gradients(self.optimizer)
        self.task.before_update(self.step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.task.after_update(self.step)
        self.step += 1
        return {name: value.detach() for name, value in losses.items()}


def plain_step(config: PretrainConfig, device: torch.device) -> PlainStep:
    """The plain step, with the plain optimizer."""
    task = StepTask(config)
    task.model.to(device)
    kept = ("params", "weight_decay", "scheduled")
    groups = [{key: group[key] for key in kept} for group in task.optimizer().param_groups]
    return PlainStep(task.model, torch.optim.AdamW(groups), _AUTOCAST[config.precision])


def settings(model: str, batch: int, prototypes: int, **changes: Any) -> PretrainConfig:
    """A pretraining configuration without data and output."""
    values = {"out": "unused", "data.root": "unused", "batch_size": batch, "network.name": model}
    values |= _AS_IN_RECIPE.get(model, {})
    values |= {"head.out": prototypes, "trackers": [], "network.resample": "timm"} | changes
    config: PretrainConfig = load_config(
        PretrainConfig, None, [f"{key}={json.dumps(value)}" for key, value in values.items()]
    )
    return config


def random_views(config: PretrainConfig, batch: int, device: torch.device) -> dict[str, Tensor]:
    """Noise in the shapes of normalised views."""
    views, generator = config.views, torch.Generator().manual_seed(0)
    sizes = {"dynamics": (2, views.dynamics_size), "globals": (4, views.global_size)}
    sizes["locals"] = (2 * views.local_crops, views.local_size)
    shapes = {key: (count, batch, 3, size, size) for key, (count, size) in sizes.items()}
    return {key: torch.randn(shape, generator=generator).to(device) for key, shape in shapes.items()}


def disturb(model: Any) -> None:
    """Noise on all weights (the same for the same shapes), so that no term is zero and EMA copies differ."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in (*model.parameters(), model.dino.center):
            tensor.add_(0.02 * torch.randn(tensor.shape, generator=generator).to(tensor))


def differences(config: PretrainConfig, views: dict[str, Tensor]) -> tuple[float, float]:
    """Largest relative difference of the losses and, over all tensors, of the gradients of the two steps."""
    device = views["globals"].device
    models = [StepTask(config).model.to(device) for _ in range(2)]
    for model in models:
        disturb(model)
    ours = models[0](views)["loss"]
    theirs, _, _ = PlainStep(models[1], torch.optim.SGD(models[1].parameters(), lr=0.0), None).losses(views)
    ours.backward()
    theirs.backward()
    grads = [{name: p.grad for name, p in model.named_parameters() if p.requires_grad} for model in models]
    apart = [_relative(grads[0][name], expected) for name, expected in grads[1].items()]
    return _relative(ours, theirs), max(apart)


def _relative(value: Any, expected: Any) -> float:
    return float(((value - expected).norm() / expected.norm()).detach())
