"""One pretraining step against the reference implementation's: logits, losses, gradients, center."""

import pytest
import torch

from midway_zoo.train.config import load_config
from midway_zoo.train.tasks.pretrain.config import PretrainConfig
from midway_zoo.train.tasks.pretrain.model import PretrainModel
from midway_zoo.train.tasks.pretrain.weights import initialise
from midway_zoo.weights.released import released_name

SETTINGS = [
    *("out=unused", "batch_size=2", "data.root=unused", "network.name=midway_vits", "network.drop_path=0"),
    "network.overrides={embed_dim: 48, num_heads: 3, grid: [4, 4], motion_dim: 24}",
    *("views.dynamics_size=64", "views.global_size=64", "views.local_size=64"),
    *("head.hidden=64", "head.bottleneck=32", "head.out=256"),
]


@pytest.fixture
def model(official) -> PretrainModel:
    model = PretrainModel(load_config(PretrainConfig, None, SETTINGS)).train()
    initialise(model, str(official))
    return model


@pytest.fixture
def views(official_inputs) -> dict[str, torch.Tensor]:
    crops = torch.stack([official_inputs[f"crop{index:02d}"] for index in range(22)])
    return {"dynamics": crops[:2], "globals": crops[2:6], "locals": crops[6:]}


def released(name: str) -> str:
    """The fixture's name of a gradient norm."""
    if name.startswith("network.dynamics."):
        return f"dynamics.{released_name(name.removeprefix('network.dynamics.'))}"
    if name.startswith("network.encoder."):
        return f"student.backbone.{name.removeprefix('network.encoder.')}"
    name = name.removeprefix("head.").replace("parametrizations.weight.original0", "weight_g")
    return f"student.dino_head.{name.replace('parametrizations.weight.original1', 'weight_v')}"


def test_step(model, views, official_expected) -> None:
    step = {name.removeprefix("step."): value for name, value in official_expected.items() if name.startswith("step.")}
    close = {"atol": 1e-4, "rtol": 1e-4}
    torch.testing.assert_close(model.dino.center, step["center_before"], **close)
    student, teacher = model._logits(model._see(views), pairs=2)
    torch.testing.assert_close(student.flatten(0, 1), step["dino_student_logits"], **close)
    torch.testing.assert_close(teacher.flatten(0, 1), step["dino_teacher_logits"], **close)

    losses = model(views)
    names = {"dino": "loss_invariance", "dynamics": "loss_dynamics_sum", "loss": "loss_total"}
    names |= {f"dynamics_{level}": f"loss_dynamics_level{level}" for level in (2, 1, 0)}
    for ours, theirs in names.items():
        torch.testing.assert_close(losses[ours], step[theirs], **close)

    losses["loss"].backward()
    norms = {name.removeprefix("gradnorm."): value for name, value in step.items() if name.startswith("gradnorm.")}
    ours = {released(name): p.grad.norm() for name, p in model.named_parameters() if p.requires_grad}
    assert ours.keys() == norms.keys()
    for name, norm in ours.items():
        torch.testing.assert_close(norm, norms[name], atol=1e-8, rtol=1e-3, msg=f"{name}: {norm} {norms[name]}")

    model.dino.update_center()
    torch.testing.assert_close(model.dino.center, step["center_after"], **close)
