"""Parts of a network that keep their weights (``network.freeze``)."""

from pathlib import Path

import pytest
import torch
from torch import nn

from midway_zoo.errors import ConfigError
from midway_zoo.train.checkpoints import latest_checkpoint
from midway_zoo.train.loop import fit
from midway_zoo.train.optim import freeze
from tests.train.test_resume import assert_same_weights, lines


def weights(run: Path) -> dict[str, torch.Tensor]:
    return latest_checkpoint(run).model()


def test_names_of_modules_and_of_parameters() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), nn.Linear(2, 2))
    freeze(network, ["1.0", "2.bias"])
    left = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert left == {"0.weight", "0.bias", "1.1.weight", "1.1.bias", "2.weight"}


def test_a_name_that_the_network_does_not_have(make_task) -> None:
    with pytest.raises(ConfigError, match=r"network\.freeze=encodr: .* Did you mean 'encoder'"):
        make_task("network.freeze=[encodr]")
    with pytest.raises(ConfigError, match="leaves nothing of the network to train"):
        make_task("network.freeze=[encoder,target_encoder,dynamics]")


def test_only_what_is_left_is_trained_and_goes_on_as_if_never_stopped(make_task, tmp_path: Path) -> None:
    frozen = "network.freeze=[encoder,dynamics.midway,dynamics.source_backward,dynamics.forward_dynamics.2]"
    start = {key: value.clone() for key, value in make_task(frozen).model.state_dict().items()}
    fit(make_task(frozen))
    trained = weights(tmp_path / "run")
    changed = {key for key, value in trained.items() if not torch.equal(value, start[key])}
    kept = (
        "network.encoder.",
        "network.target_encoder.",
        "network.dynamics.midway.",
        "network.dynamics.source_backward.",
    )
    kept += ("network.dynamics.target_backward.", "network.dynamics.forward_dynamics.2.")
    assert not {key for key in changed if key.startswith(kept)}
    for part in ("network.dynamics.forward_dynamics.0.", "network.dynamics.source_embed.", "head.", "teacher_head."):
        assert any(key.startswith(part) for key in changed), part
    fit(make_task(frozen, f"out={tmp_path / 'again'}", "max_steps=3"))
    fit(make_task(frozen, f"out={tmp_path / 'again'}"))
    assert lines(tmp_path / "again") == lines(tmp_path / "run")
    assert_same_weights(tmp_path / "again", tmp_path / "run")
    with pytest.raises(ConfigError, match=r"Resume with network\.freeze="):
        fit(make_task(f"out={tmp_path / 'again'}", "schedule_steps=9"))
