"""The interface between a kind of training and the generic loop."""

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
from midway_zoo.train.config import Config, current_names


@dataclass(frozen=True)
class Hyperparameters:
    """Values of the schedules for one step."""

    lr: float
    weight_decay: float
    momentum: float | None = None
    """Momentum of the EMA, if there is one."""


class Task(ABC, Generic[Config]):
    """Model, loss, data, optimizer groups, averages and checkpoint content of one kind of training.

    For every step the loop calls: the loader, :meth:`to_inputs`, the model's forward, backward,
    :meth:`before_update`, the optimizer, :meth:`after_update`.
    """

    name: str
    model: nn.Module
    """Maps the result of :meth:`to_inputs` to scalars, including "loss". Its whole state is saved."""
    total_steps: int
    """Length of the schedules in optimizer steps."""
    steps_per_epoch: float
    unit = "pairs"
    """Unit of batch_size."""
    best_by: str | None = None
    """Name of the figure of :meth:`validate` whose lowest value marks the best checkpoint."""

    shown: ClassVar[tuple[str, ...]] = ()
    """Values of a step that the progress bar shows in addition to loss and learning rate."""
    renamed: ClassVar[Mapping[str, str]] = {}
    """Tensors of the model in checkpoints of earlier versions -> their names now."""
    assumed: ClassVar[Mapping[str, Any]] = {}
    """Values for keys that the :meth:`identity` of checkpoints of earlier versions lacks."""

    def __init__(self, config: Config) -> None:
        self.config = config

    @abstractmethod
    def batches(self, first_step: int, last_step: int, *, rank: int, world: int) -> Iterable[Any]:
        """This process's share of the batches of steps ``first_step`` ... ``last_step - 1``."""

    @abstractmethod
    def to_inputs(self, batch: Any, step: int) -> Any:
        """The model's argument from a batch (or micro-batch) that is already on the device."""

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

    def recorded_identity(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """:meth:`identity` from a checkpoint's state, also of an earlier version."""
        return current_names({**self.assumed, **state["identity"]}, self.config.renamed_keys)

    def observe(self, batch: Any) -> None:
        """Inspect a batch of this process before it is used, for example to count failures.

        Its tensors are already on the device, so reading their values would wait for the device.
        """

    def before_update(self, step: int) -> None:
        """Called after the backward pass and before the optimizer step, for clipping and freezing."""

    def after_update(self, step: int) -> None:
        """Called after the optimizer step, for averages and centers."""

    def health(self, values: Mapping[str, float], step: int) -> str | None:
        """A warning with a remedy if the step's values indicate that training goes wrong; else None."""
        return None

    def validate(self, step: int, folder: Path) -> dict[str, float]:
        """Validate the model.

        Runs in the main process while the others wait, whenever a checkpoint is written except after a signal.
        """
        return {}

    def pictures(self, batch: Any) -> dict[str, Tensor]:
        """Pictures for the tracker, uint8 (3, H, W), from a batch on the device."""
        return {}

    def describe(self) -> dict[str, Any]:
        """Entries of a checkpoint's state.json that describe the model; exports need "network"."""
        return {}

    @classmethod
    def export_files(cls, checkpoint: Checkpoint) -> dict[str, tuple[dict[str, Tensor], dict[str, Any]]]:
        """Further files of an export: file name -> tensors and metadata of a safetensors file."""
        return {}

    @classmethod
    def export_as(cls, layout: str, checkpoint: Checkpoint, out: Path, *, overwrite: bool) -> Path:
        """Write ``out`` in a layout of the task's own (``TaskEntry.layouts``) instead of the zoo's.

        Raises:
            ConfigError: if there is no such layout of this task.
        """
        raise ConfigError(
            f"{checkpoint.path} is of a {cls.name} run, which has no layout {layout!r}: use --layout zoo."
        )

    def state_dict(self) -> dict[str, Any]:
        """State of the task beside model and optimizer, in JSON types."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""


def split_batch(batch: Any, parts: int) -> list[Any]:
    """Micro-batches: tensors are split along their first dimension, and anything else goes to each of them."""
    if parts == 1:
        return [batch]
    chunks = {key: value.chunk(parts) if isinstance(value, Tensor) else [value] * parts for key, value in batch.items()}
    return [{key: chunk[index] for key, chunk in chunks.items()} for index in range(parts)]


def trainable(module: nn.Module) -> list[Parameter]:
    """Parameters that take gradients."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]
