"""Generated pairs for flow training, through an ordinary ``DataLoader``."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from midway_zoo.checks import is_integer
from midway_zoo.errors import ConfigError
from midway_zoo.scenes.config import ScenesConfig
from midway_zoo.scenes.generator import SceneGenerator


class ScenePair(NamedTuple):
    """B pairs of frames; a tuple, so that a ``DataLoader`` can pin and move it."""

    source: Tensor
    """(B, 3, H, W) float32 in [0, 1]."""
    target: Tensor
    """As ``source``."""
    flow: Tensor
    """(B, 2, H, W) float32, source to target, in pixels, x to the right, then y down; finite everywhere."""
    occlusion: Tensor
    """(B, H, W) bool: occluded or outside the frame in the target."""


class ScenePairs(Dataset[ScenePair]):
    """``batches`` batches of pairs; item ``i`` has scenes ``i * batch_size`` to ``(i + 1) * batch_size - 1``.

    Items are whole batches, since these render faster than single scenes: ``DataLoader(pairs, batch_size=None)``, with
    ``sampler=range(start, len(pairs))`` to continue where a run was stopped. The items do not depend on the number of
    workers.

    Args:
        config: with 2 frames.
        seed: of the generator.
        batch_size: B.
        batches: how many there are; scenes never repeat.
        device: of the results; must be the CPU if the loader has workers.

    Raises:
        ConfigError: for sizes that are not positive integers, or scenes that do not have two frames.
    """

    def __init__(
        self, config: ScenesConfig, seed: int, *, batch_size: int, batches: int, device: str | torch.device = "cpu"
    ) -> None:
        if config.frames != 2:
            raise ConfigError(f"frames={config.frames}: a pair has 2.")
        for name, value in (("batch_size", batch_size), ("batches", batches)):
            if not is_integer(value, 1):
                raise ConfigError(f"{name}={value!r}: a positive integer is expected.")
        self.batch_size = batch_size
        self._batches = batches
        self._generator = SceneGenerator(config, seed, device)

    def __len__(self) -> int:
        return self._batches

    def __getitem__(self, index: int) -> ScenePair:
        if not 0 <= index < self._batches:
            raise IndexError(f"batch {index} of {self._batches}")
        batch = self._generator.render(range(index * self.batch_size, (index + 1) * self.batch_size))
        source, target = batch.frames.unbind(1)
        return ScenePair(source, target, batch.flow[:, 0], batch.occlusion[:, 0])
