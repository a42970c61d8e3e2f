"""``python -m tests.train.gradients_run FILE KEY=VALUE...``: writes gradients and center of the last step of a run."""

import sys

import torch
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor

from midway_zoo.train.config import load_config
from midway_zoo.train.distributed import make_accelerator
from midway_zoo.train.loop import Run
from midway_zoo.train.tasks.pretrain.config import PretrainConfig
from midway_zoo.train.tasks.pretrain.task import PretrainTask


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Of all processes."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


class Recording(PretrainTask):
    def before_update(self, step: int) -> None:
        self.gradients = {
            name: whole(parameter.grad).clone()
            for name, parameter in self.model.named_parameters()
            if parameter.grad is not None
        }
        super().before_update(step)


def record(file: str, settings: list[str]) -> None:
    config = load_config(PretrainConfig, "nano", settings)
    accelerator = make_accelerator(config)
    task = Recording(config)
    Run(task, accelerator).fit()
    if accelerator.is_main_process:
        save_file({**task.gradients, "center": task.model.dino.center}, file)


if __name__ == "__main__":
    record(sys.argv[1], sys.argv[2:])
