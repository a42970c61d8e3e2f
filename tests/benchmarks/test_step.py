"""The plain step and the trainer's agree: what the benchmark compares is the same computation."""

import pytest
import torch

from midway_zoo.benchmarks.step import TrainerStep, differences, disturb, plain_step, random_views, settings
from midway_zoo.train.tasks.pretrain.config import PretrainConfig

SMALL = {"network.drop_path": 0, "optim.base_lr": 0.2}
SMALL |= {"views.dynamics_size": 32, "views.global_size": 32, "views.local_size": 16}
CPU = torch.device("cpu")


@pytest.fixture
def config() -> PretrainConfig:
    return settings("midway_nano", 2, 64, precision="no", **SMALL)


def test_losses_and_gradients_agree(config) -> None:
    loss, gradient = differences(config, random_views(config, 2, CPU))
    assert loss < 1e-5
    assert gradient < 1e-4


def test_weights_agree_after_a_step(config) -> None:
    views = random_views(config, 2, CPU)
    ours, plain = TrainerStep(config), plain_step(config, CPU)
    for model in (ours.task.model, plain.model):
        disturb(model)
    hyper = ours.task.hyperparameters(ours.step)
    before = {name: tensor.clone() for name, tensor in plain.model.state_dict().items()}
    for step in (ours, plain):
        for group in step.optimizer.param_groups:
            group["eps"] = 1e-5  # the first step is otherwise the sign of gradients that are zero but for rounding
    assert hyper.lr > 1e-5
    ours(views)
    plain(views, lr=hyper.lr, weight_decay=hyper.weight_decay, momentum=hyper.momentum)
    after = plain.model.state_dict()
    for name, tensor in ours.task.model.state_dict().items():
        torch.testing.assert_close(tensor, after[name], atol=1e-6, rtol=1e-4, msg=name)
    changed = sum(not torch.equal(before[name], tensor) for name, tensor in after.items())
    assert changed > 0.9 * len(after)
