"""Values of the schedules, and the optimizer's tools."""

import numpy as np
import pytest
import torch
from torch import nn

from midway_zoo.train.optim import clip_each, cosine, ema_update, parameter_groups, poly, set_hyperparameters


def test_cosine_with_warmup_is_dinos() -> None:
    total, warmup, base, final = 50, 10, 0.4, 0.01
    rest = np.arange(total - warmup)
    expected = np.concatenate(
        [np.linspace(0, base, warmup), final + 0.5 * (base - final) * (1 + np.cos(np.pi * rest / len(rest)))]
    )
    np.testing.assert_allclose([cosine(step, total, base, final, warmup=warmup) for step in range(total)], expected)
    assert cosine(total, total, base, final) == final
    assert cosine(10**6, total, base, final, warmup=warmup) == final
    assert cosine(0, 10, 1.0, 0.0, warmup=1) == 0.0


def test_pretraining_schedule(make_task) -> None:
    task = make_task("schedule_steps=100", "epochs=100", "optim.base_lr=0.64", "optim.min_lr=0")
    assert task.warmup_steps == 10
    assert task.hyperparameters(0).lr == 0
    assert task.hyperparameters(9).lr == pytest.approx(0.64 * 4 / 256)
    assert task.hyperparameters(55).lr == pytest.approx(0.32 * 4 / 256)
    assert task.hyperparameters(0).weight_decay == pytest.approx(0.04)
    assert task.hyperparameters(100).weight_decay == pytest.approx(0.1)
    assert task.hyperparameters(50).momentum == pytest.approx(0.99)
    released = make_task("schedule_steps=100", "epochs=100", "optim.ema_horizon=released")
    # A horizon of epochs x clips = steps x batch iterations: a quarter of the cosine's length is done at step 100.
    assert released.hyperparameters(100).momentum == pytest.approx(0.98 + 0.02 * 0.5 * (1 - np.cos(np.pi / 4)))


def test_epochs_give_the_length(make_task) -> None:
    task = make_task("schedule_steps=null", "epochs=8")
    assert task.total_steps == 8 * 3 // 4  # three videos, one pair each an epoch, four pairs a step
    assert task.steps_per_epoch == 0.75


def test_groups() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.Linear(3, 2))
    model[2].requires_grad_(False)
    groups = parameter_groups([model])
    assert [[tuple(p.shape) for p in group["params"]] for group in groups] == [[(3,), (3,), (3,)], [(3, 3)]]
    optimizer = torch.optim.AdamW(groups, lr=0.0)
    set_hyperparameters(optimizer, 0.1, 0.2)
    assert [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [(0.1, 0.0), (0.1, 0.2)]


def test_a_constant_weight_decay_is_left_alone() -> None:
    optimizer = torch.optim.AdamW(parameter_groups([nn.Linear(3, 3)], weight_decay=0.01), lr=0.0)
    set_hyperparameters(optimizer, 0.1, 0.2)
    assert [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [(0.1, 0.0), (0.1, 0.01)]


def test_clip_each_tensor_by_itself() -> None:
    parameters = [nn.Parameter(torch.zeros(shape)) for shape in ((4, 5), (3,), (2, 2))]
    gradients = [torch.randn(4, 5) * 10, torch.tensor([0.1, 0.0, 0.2]), None]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = None if gradient is None else gradient.clone()
    clip_each(parameters, 3.0)
    torch.testing.assert_close(parameters[0].grad, gradients[0] * 3 / gradients[0].norm(), atol=1e-5, rtol=1e-5)
    assert torch.equal(parameters[1].grad, gradients[1])
    assert parameters[2].grad is None
    clip_each(parameters[2:], 1.0)


def test_ema() -> None:
    average, value = torch.ones(3), torch.zeros(3)
    ema_update([average], [value], 0.9)
    torch.testing.assert_close(average, torch.full((3,), 0.9))


def test_poly() -> None:
    values = [poly(step, 10, 2.0, warmup=4) for step in range(11)]
    assert values[0] == pytest.approx(2 / 4)
    assert values[3] == pytest.approx(2 * 0.7)
    assert values[5] == pytest.approx(1.0)
    assert values[10] == 0
    assert poly(5, 10, 2.0, power=2.0) == pytest.approx(0.5)
