"""What a run trains: the generic loop knows only this."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic

import torch
from torch import Tensor, nn
from torch.nn.parameter import Parameter

from midway_zoo.errors import ConfigError
from midway_zoo.train.checkpoints import Checkpoint
from midway_zoo.train.config import Config


@dataclass(frozen=True)
class Hyperparameters:
    """What the schedules give for one step."""

    lr: float
    weight_decay: float
    momentum: float | None = None
    """Of the EMA, where there is one."""


class Task(ABC, Generic[Config]):
    """Owns model, loss, data, optimizer groups, averages and checkpoint content of one kind of training.

    The loop calls, for every step: the loader, :meth:`to_inputs`, the model's forward, backward,
    :meth:`before_update`, the optimizer, :meth:`after_update`.
    """

    name: str
    model: nn.Module
    """Takes what :meth:`to_inputs` gives; returns scalars, "loss" among them. All of its state is saved."""
    total_steps: int
    """Length of the schedules."""
    steps_per_epoch: float
    unit = "pairs"
    """What batch_size counts."""
    best_by: str | None = None
    """Which of :meth:`validate`'s figures tells the best checkpoint, by its lowest value."""

    shown: ClassVar[tuple[str, ...]] = ()
    """Values of a step that the progress bar shows, beside the loss and the learning rate."""
    renamed: ClassVar[Mapping[str, str]] = {}
    """Tensors of the model in checkpoints of earlier versions -> what they are called now."""
    assumed: ClassVar[Mapping[str, Any]] = {}
    """What a checkpoint of an earlier version was trained with where its :meth:`identity` does not say."""

    def __init__(self, config: Config) -> None:
        self.config = config

    @abstractmethod
    def batches(self, first_step: int, last_step: int, *, rank: int, world: int) -> Iterable[Any]:
        """This process's share of the batches of steps ``first_step`` ... ``last_step - 1``."""

    @abstractmethod
    def to_inputs(self, batch: Any, step: int) -> Any:
        """The model's argument, from a batch (or a micro-batch) that is on the device already."""

    @abstractmethod
    def hyperparameters(self, step: int) -> Hyperparameters:
        """Learning rate, weight decay and EMA momentum of a step."""

    @abstractmethod
    def optimizer(self) -> torch.optim.Optimizer:
        """A fresh optimizer over the model's trainable parameters."""

    def shards(self) -> Iterable[nn.Module]:
        """Submodules of the model, inner ones first, whose weights are gathered only while they run (``shard=true``).

        Only their ``forward`` may read their weights. While :meth:`validate` and :meth:`pictures` run, ``self.model``
        is a whole copy: reach weights through it.
        """
        return ()

    def identity(self) -> dict[str, Any]:
        """Configuration keys and values that must not change when a run is resumed; JSON types."""
        return {"schedule_steps": self.total_steps}

    def observe(self, batch: Any) -> None:
        """Look at a batch of this process before it is used (counting failures, for instance).

        Its tensors are on the device already, so that reading their values would wait for it.
        """

    def before_update(self, step: int) -> None:
        """After the backward pass, before the optimizer: clipping, freezing."""

    def after_update(self, step: int) -> None:
        """After the optimizer: averages, centers."""

    def health(self, values: Mapping[str, float], step: int) -> str | None:
        """A warning that names the remedy, if the step's values say that training goes wrong."""
        return None

    def validate(self, step: int, folder: Path) -> dict[str, float]:
        """Figures that tell how good the model is by now.

        Run on the main process, the others waiting, when a checkpoint is written; not if a signal asks for it.
        """
        return {}

    def pictures(self, batch: Any) -> dict[str, Tensor]:
        """Pictures for the tracker, uint8 (3, H, W), from a batch on the device."""
        return {}

    def describe(self) -> dict[str, Any]:
        """Entries of a checkpoint's state.json that say what the model is; "network" is needed for exports."""
        return {}

    @classmethod
    def export_files(cls, checkpoint: Checkpoint) -> dict[str, tuple[dict[str, Tensor], dict[str, Any]]]:
        """What an export holds beside the network: file name -> tensors and metadata of a safetensors file."""
        return {}

    @classmethod
    def export_as(cls, layout: str, checkpoint: Checkpoint, out: Path, *, overwrite: bool) -> Path:
        """Write ``out`` in a layout of the task's own (``TaskEntry.layouts``) instead of the zoo's.

        Raises:
            ConfigError: if there is no such layout of this task.
        """
        raise ConfigError(f"{checkpoint.path} is of a {cls.name} run, which has no layout {layout!r}: --layout zoo.")

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beside model and optimizer; JSON types."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""


def split_batch(batch: Any, parts: int) -> list[Any]:
    """Micro-batches: tensors are split along their first dimension, anything else is given to each."""
    if parts == 1:
        return [batch]
    chunks = {key: value.chunk(parts) if isinstance(value, Tensor) else [value] * parts for key, value in batch.items()}
    return [{key: chunk[index] for key, chunk in chunks.items()} for index in range(parts)]


def trainable(module: nn.Module) -> list[Parameter]:
    """Parameters that take gradients."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]
