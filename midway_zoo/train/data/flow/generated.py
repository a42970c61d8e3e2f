"""Generated pairs in place of files: nothing to download, flow that is exact to rounding."""

from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from midway_zoo.errors import ConfigError
from midway_zoo.scenes import SceneGenerator, ScenesConfig
from midway_zoo.train.data.flow.augment import FlowAugment
from midway_zoo.train.data.flow.reading import FlowSample
from midway_zoo.train.data.loading import Sample


class GeneratedPairs(Dataset[Sample]):
    """Augmented scene ``k`` of a run; scenes never repeat, and do not depend on workers or batches.

    Args:
        config: of the scenes, with 2 frames.
        augment: makes crops.
        seed: of the run.

    Raises:
        ConfigError: for scenes that are no pairs.
        MissingFileError, InputError: if textures are to come from a folder that is not there, or holds no image.
    """

    def __init__(self, config: ScenesConfig, augment: FlowAugment, seed: int) -> None:
        if config.frames != 2:
            raise ConfigError(f"data.scenes.frames={config.frames}: a pair has 2.")
        self.augment = augment
        self._seed = seed
        self._generator = SceneGenerator(config, seed)

    def __getitem__(self, number: int) -> Sample:
        return self.__getitems__([number])[0]

    def __getitems__(self, numbers: Sequence[int]) -> list[Sample]:
        """Samples as of :class:`~midway_zoo.train.data.flow.pairs.FlowPairs`; rendering many at once is faster."""
        batch = self._generator.render(list(numbers))
        frames = (batch.frames * 255).round().to(torch.uint8)
        samples: list[Sample] = []
        for number, (source, target), flow in zip(numbers, frames, batch.flow[:, 0], strict=True):
            made = self.augment(FlowSample(source, target, flow), "dense", np.random.default_rng([self._seed, number]))
            samples.append({**made.tensors(), "index": torch.tensor(number), "failures": []})
        return samples
