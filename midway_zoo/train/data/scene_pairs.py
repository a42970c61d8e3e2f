"""Pretraining pairs that need no files: rendered scenes and their views, in whole batches."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from midway_zoo.errors import ConfigError
from midway_zoo.scenes import SceneGenerator, ScenesConfig
from midway_zoo.scenes.draws import Draws
from midway_zoo.train.data.loading import Sample, StepBatches, collate, make_loader
from midway_zoo.train.data.views import ViewSampler, ViewsConfig

_KINDS = 0x6B696E64
_VIEWS = 0x76696577  # separates the random numbers of views from those of scenes


class RenderedBatches(Dataset[Sample], ABC):
    """Data made in whole batches on :attr:`device`."""

    device: torch.device

    @abstractmethod
    def __getitems__(self, numbers: Sequence[int]) -> Sample:
        """The batch of these samples, as from :func:`midway_zoo.train.data.loading.collate`."""

    def __getitem__(self, number: int) -> Sample:
        batch = self.__getitems__([number])
        return {key: value[0] if isinstance(value, Tensor) else value for key, value in batch.items()}


class SceneViews(RenderedBatches):
    """Views of scene ``k`` of a run: a pure function of configuration, seed and k; scenes never repeat.

    Args:
        scenes: scenes with 2 or more frames; a pair is any two of them in temporal order, each distance equally likely
            (all frames are rendered).
        views: views to cut.
        seed: seed of the run.
        device: device that they are rendered on, and stay on.

    Raises:
        ConfigError: for scenes of a single frame, or views that cannot be drawn.
        MissingFileError, InputError: if the folder of textures does not exist, or holds no image.
    """

    def __init__(self, scenes: ScenesConfig, views: ViewsConfig, seed: int, device: str | torch.device = "cpu") -> None:
        if scenes.frames < 2:
            raise ConfigError(f"data.scenes.frames={scenes.frames}: a pair needs at least 2.")
        self._seed = seed
        self._views = ViewSampler(views)
        self._generator = SceneGenerator(scenes, seed, device)
        self.device = self._generator.device

    def __getitems__(self, numbers: Sequence[int]) -> Sample:
        """The batch of these pairs, as from :func:`midway_zoo.train.data.loading.collate`."""
        index = torch.tensor(list(numbers))
        draws = Draws(self._seed ^ (_VIEWS << 32), index.numpy())
        frames = self._pair(self._generator.frames(numbers), draws)
        return {**self._views.batch(frames, draws), "index": index, "failures": []}

    def _pair(self, clips: Tensor, draws: Draws) -> Tensor:
        """(B, T, 3, H, W) -> (B, 2, 3, H, W)."""
        last = clips.shape[1] - 1
        if last == 1:
            return clips
        uniform = draws.uniform(2)
        distance = 1 + (uniform[:, 0] * last).astype(int)
        source = (uniform[:, 1] * (last - distance + 1)).astype(int)
        frames = torch.from_numpy(source[:, None]), torch.from_numpy((source + distance)[:, None])
        chosen = torch.cat(frames, dim=1).to(clips.device)
        return clips[torch.arange(len(clips), device=clips.device)[:, None], chosen]


class MixedViews(RenderedBatches):
    """Views of pair ``k`` of a run, from a scene or a video; which of them depends only on the seed and k.

    Args:
        scenes: views of scenes, on the CPU.
        videos: samples by pair numbers, as :class:`~midway_zoo.train.data.frame_pairs.PairDataset`.
        share: share of videos, 0 to 1.
        seed: seed of the run.
    """

    def __init__(self, scenes: SceneViews, videos: Dataset[Sample], share: float, seed: int) -> None:
        self.device = scenes.device
        self._scenes, self._videos, self._share, self._seed = scenes, videos, share, seed

    def __getitems__(self, numbers: Sequence[int]) -> Sample:
        """The batch of these pairs in their order, as from :func:`midway_zoo.train.data.loading.collate`."""
        chosen = Draws(self._seed ^ (_KINDS << 32), np.array(numbers)).uniform(1)[:, 0] < self._share
        filmed = [number for number, video in zip(numbers, chosen, strict=True) if video]
        drawn = [number for number, video in zip(numbers, chosen, strict=True) if not video]
        parts = []
        if filmed:
            parts.append(collate(self._videos.__getitems__(filmed)))  # type: ignore[attr-defined]
        if drawn:
            parts.append(self._scenes.__getitems__(drawn))
        order = np.argsort(np.argsort(~chosen, kind="stable"), kind="stable")
        place = torch.from_numpy(order)
        batch = {key: torch.cat([part[key] for part in parts])[place] for key in parts[0] if key != "failures"}
        return {**batch, "failures": [failure for part in parts for failure in part["failures"]]}


def scene_batches(dataset: RenderedBatches, steps: StepBatches, *, num_workers: int) -> Iterable[Any]:
    """The batches of ``steps`` in order: on an accelerator rendered there, on the CPU by the loader's workers."""
    if dataset.device.type != "cpu":
        return map(dataset.__getitems__, steps)
    return make_loader(dataset, steps, _as_it_is, num_workers=num_workers)


def scenes_fingerprint(scenes: ScenesConfig) -> str:
    """Identifies a configuration of scenes, which must be the same when a run is resumed."""
    return hashlib.sha256(json.dumps(asdict(scenes), sort_keys=True).encode()).hexdigest()[:16]


def _as_it_is(batch: Any) -> Any:
    return batch
