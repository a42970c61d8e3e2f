"""Validation on data sets such as Sintel's subval, or on held-out generated scenes."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from midway_zoo.errors import ConfigError, MissingFileError
from midway_zoo.flow import FlowMetrics
from midway_zoo.inference.batches import inference, normaliser
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.scenes import SceneGenerator
from midway_zoo.train.data.flow_datasets import list_part
from midway_zoo.train.data.flow_files import FlowEntry
from midway_zoo.train.data.flow_pairs import FlowDataConfig
from midway_zoo.train.tasks.flow.config import FlowConfig, FlowValidationConfig
from midway_zoo.train.tasks.flow.evaluate import Entries, evaluate_flow

logger = logging.getLogger(__name__)

HELD_OUT_SEED = 0x5EED_0F_F10A
"""Seed of the held-out scenes; do not train with this seed."""


class Validation(Protocol):
    """A validation of networks."""

    def __call__(self, network: MidwayNetwork) -> dict[str, float]:
        """End-point errors in pixels; checkpoints are compared by "epe"."""


def validation_of(config: FlowConfig) -> Validation | None:
    """The validation of a configuration; None if there are no data for it."""
    settings = config.validation
    if config.data.source == "scenes":
        return SceneValidation(config.data, settings) if settings.scenes else None
    parts = {}
    for name in settings.parts:
        try:
            parts[name] = spread(list_part(name, config.data.root, config.data.roots), settings.limit)
        except (MissingFileError, ConfigError) as error:
            logger.warning("checkpoints are not validated on %s: %s", name, error)
    return PartsValidation(parts, settings) if parts else None


@dataclass(frozen=True)
class PartsValidation:
    """Mean end-point error, pooled over the pixels of each part, whole images in tiles."""

    parts: dict[str, Entries]
    settings: FlowValidationConfig

    def __call__(self, network: MidwayNetwork) -> dict[str, float]:
        """Figures by part, and "epe", their mean."""
        settings, errors = self.settings, {}
        for name, entries in self.parts.items():
            found = evaluate_flow(
                network,
                entries,
                title=name,
                method="head",
                overlap=settings.overlap,
                batch_size=settings.batch_size,
            )
            errors[name] = float(found["metrics"]["epe"])
        return {**errors, "epe": sum(errors.values()) / len(errors)}


class SceneValidation:
    """End-point error on the centres of generated pairs, the same in every run of a configuration.

    Args:
        data: the scenes and the crop.
        settings: the number of pairs.
    """

    def __init__(self, data: FlowDataConfig, settings: FlowValidationConfig) -> None:
        self.data, self.settings = data, settings
        self._generator = SceneGenerator(data.scenes, HELD_OUT_SEED)

    def batches(self, first: int = 0) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Source and target (B, 3, h, w) in [0, 1] and flow (B, 2, h, w), of scenes from number ``first`` on; those
        from 0 on choose the best checkpoint."""
        for part in torch.arange(first, first + self.settings.scenes).split(self.settings.batch_size):
            scenes = self._generator.render(part)
            source, target = scenes.frames.unbind(1)
            yield self._centre(source), self._centre(target), self._centre(scenes.flow[:, 0])

    def _centre(self, images: Tensor) -> Tensor:
        height, width = (min(side, crop) for side, crop in zip(images.shape[-2:], self.data.crop, strict=True))
        top, left = (images.shape[-2] - height) // 2, (images.shape[-1] - width) // 2
        return images[..., top : top + height, left : left + width]

    def __call__(self, network: MidwayNetwork) -> dict[str, float]:
        metrics, normalise = FlowMetrics(), normaliser(network)
        with inference(network):
            for source, target, flow in self.batches():
                metrics.update(network.flow(normalise(source), normalise(target))[:, :2], flow)
        return {name: metrics.compute()[name] for name in ("epe", "px1", "px3")}


def spread(entries: Entries, limit: int | None) -> Entries:
    """At most ``limit`` pairs, evenly spaced; all if None."""
    if limit is None or len(entries) <= limit:
        return entries
    chosen: list[FlowEntry] = [entries[index * len(entries) // limit] for index in range(limit)]
    return chosen
