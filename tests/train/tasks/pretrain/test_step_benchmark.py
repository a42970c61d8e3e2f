"""The plain step of the examples and the trainer's agree: what the benchmark compares is the same computation."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from midway_zoo.train.tasks.pretrain.config import PretrainConfig

EXAMPLES = Path(__file__).parents[4] / "examples"
SMALL = {"network.drop_path": 0, "optim.base_lr": 0.2}
SMALL |= {"views.dynamics_size": 32, "views.global_size": 32, "views.local_size": 16}


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import benchmark_pretraining_step

    yield benchmark_pretraining_step
    for name in ("benchmark_pretraining_step", "reference_step"):
        sys.modules.pop(name, None)


@pytest.fixture
def config(benchmark: ModuleType) -> PretrainConfig:
    options = benchmark.parse(["--name", "midway_nano", "--prototypes", "64"])
    return benchmark.settings(options, 2, precision="no", **SMALL)


def test_losses_and_gradients_agree(benchmark, config) -> None:
    views = benchmark.random_views(config, 2, "cpu")
    loss, gradient = benchmark.differences(config, views)
    assert loss < 1e-5
    assert gradient < 1e-4


def test_weights_agree_after_a_step(benchmark, config) -> None:
    views = benchmark.random_views(config, 2, "cpu")
    ours, plain = benchmark.TrainerStep(config), benchmark.reference(config, "cpu")
    for model in (ours.task.model, plain.model):
        benchmark.disturb(model)
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
