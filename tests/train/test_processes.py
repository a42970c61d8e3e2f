"""Several processes, or micro-batches, do what one process does with the whole batch."""

import subprocess

import pytest
import torch
from safetensors.torch import load_file

from midway_zoo.errors import ConfigError
from midway_zoo.train.distributed import make_accelerator
from tests.train.gradients_run import record
from tests.train.test_resume import ONE_THREAD, command


@pytest.fixture
def alone(settings, tmp_path) -> dict[str, torch.Tensor]:
    """Gradients and center after two steps in one process."""
    record(str(tmp_path / "alone.safetensors"), [*settings, "max_steps=2"])
    return load_file(tmp_path / "alone.safetensors")


def assert_agree(path, alone) -> None:
    others = load_file(path)
    assert others.keys() == alone.keys()
    for name, value in alone.items():
        torch.testing.assert_close(others[name], value, atol=1e-5, rtol=1e-4, msg=name)
    assert alone["center"].abs().max() > 0


def test_two_processes_with_half_the_batch_each(settings, tmp_path, alone) -> None:
    file = tmp_path / "two.safetensors"
    module = "tests.train.gradients_run"
    two = command(module, str(file), *settings, "max_steps=2", f"out={tmp_path / 'two'}", processes=2)
    subprocess.run(two, check=True, capture_output=True, env=ONE_THREAD)
    assert_agree(file, alone)


def test_micro_batches(settings, tmp_path, alone) -> None:
    file = tmp_path / "parts.safetensors"
    record(str(file), [*settings, "max_steps=2", "accumulate=2", f"out={tmp_path / 'parts'}"])
    assert_agree(file, alone)


def test_batch_that_does_not_divide(make_task) -> None:
    with pytest.raises(ConfigError, match=r"batch_size=4 does not divide.*multiple of 3"):
        make_accelerator(make_task("accumulate=3").config)
