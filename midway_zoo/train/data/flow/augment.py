"""Augmentation of flow fine-tuning (appendix B.4; CroCo v2): a pair and a random generator in, a crop out."""

import math
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from midway_zoo.errors import ConfigError, InputError
from midway_zoo.train.data.flow.entries import Kind
from midway_zoo.train.data.flow.geometry import crop, flip, resize, resize_dense, resize_sparse
from midway_zoo.train.data.flow.reading import FlowSample
from midway_zoo.train.data.photometric import jitter

_MARGIN = 8  # a resized image exceeds the crop by this many pixels at least


@dataclass
class FlowAugmentConfig:
    """What is drawn for each pair. Fields that end in ``_p`` are probabilities."""

    scale_p: float = 0.8
    min_scale: float = -0.2
    """Both sides are scaled by 2 to a power drawn from [min_scale, max_scale]."""
    max_scale: float = 0.5
    stretch_p: float = 0.8
    max_stretch: float = 0.2
    """Then either side on its own by 2 to a power drawn from [-max_stretch, max_stretch]."""
    horizontal_flip_p: float = 0.5
    vertical_flip_p: float = 0.1
    brightness: float = 0.4
    """Strengths of colour jitter, as torchvision's ``ColorJitter`` takes them."""
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.5 / 3.14
    asymmetric_p: float = 0.2
    """Jitter either frame on its own; otherwise both alike."""


def check_augment(config: FlowAugmentConfig) -> None:
    """Raise :class:`ConfigError` for a value that cannot be drawn from."""
    for entry in fields(config):
        value = getattr(config, entry.name)
        if entry.name.endswith("_p"):
            low, high = 0.0, 1.0
        else:
            low, high = {"min_scale": (-4.0, 4.0), "max_scale": (-4.0, 4.0), "max_stretch": (0.0, 4.0)}.get(
                entry.name, (0.0, 0.5 if entry.name == "hue" else math.inf)
            )
        if not low <= value <= high:
            raise ConfigError(f"augment.{entry.name}={value} must lie between {low:g} and {high:g}.")
    if config.min_scale > config.max_scale:
        raise ConfigError(f"augment.min_scale={config.min_scale} is above augment.max_scale={config.max_scale}.")


class FlowAugment:
    """Makes a training pair of crops.

    In order: scale, stretch, flips, crop, colour jitter. Images are resized only if scale or stretch were drawn or they
    are smaller than the crop, and never to less than 8 pixels above it.

    Args:
        config: what is drawn.
        size: (height, width) of the crop in pixels.

    Raises:
        ConfigError: for values that cannot be drawn from, or a size that is not positive.
    """

    def __init__(self, config: FlowAugmentConfig, size: tuple[int, int]) -> None:
        check_augment(config)
        if min(size) < 1:
            raise ConfigError(f"crop={list(size)}: a height and a width of at least 1 pixel are expected.")
        self.config, self.size = config, size

    def __call__(self, sample: FlowSample, kind: Kind, rng: np.random.Generator) -> FlowSample:
        """A crop of a pair; a pure function of the arguments.

        Args:
            sample: with flow.
            kind: how its flow is resized: "sparse" by moving vectors, others by interpolation.
            rng: is used up.

        Returns:
            uint8 (3, h, w) images and float32 (2, h, w) flow of the crop, NaN where invalid.

        Raises:
            InputError: without flow.
        """
        if sample.flow is None:
            raise InputError("a pair without flow cannot be trained on; test sets are for submissions.")
        config = self.config
        height, width = self._draw_size(sample.source.shape[-2], sample.source.shape[-1], rng)
        resize_flow = resize_sparse if kind == "sparse" else resize_dense
        source, target = (resize(image, (height, width)) for image in (sample.source, sample.target))
        sample = FlowSample(source, target, resize_flow(sample.flow, (height, width)))
        horizontal, vertical = rng.random(2) < (config.horizontal_flip_p, config.vertical_flip_p)
        sample = flip(sample, horizontal=bool(horizontal), vertical=bool(vertical))
        y = int(rng.integers(height - self.size[0] + 1))
        x = int(rng.integers(width - self.size[1] + 1))
        return self.jitter(crop(sample, y, x, self.size), rng)

    def jitter(self, sample: FlowSample, rng: np.random.Generator) -> FlowSample:
        """Change the colours alone; the flow stays as it is.

        Args:
            sample: of any size.
            rng: is used up.
        """
        images = torch.stack([sample.source, sample.target]).float().div_(255)
        if rng.random() < self.config.asymmetric_p:
            images = jitter(images, torch.stack([self._jitter_params(rng), self._jitter_params(rng)]))
        else:
            # Side by side, so that contrast is changed about the mean of both.
            side_by_side = jitter(torch.cat([*images], dim=-1)[None], self._jitter_params(rng)[None])[0]
            images = torch.stack(side_by_side.chunk(2, dim=-1))
        source, target = images.mul(255).round_().to(torch.uint8)
        assert sample.flow is not None
        return FlowSample(source, target, sample.flow.contiguous())

    def _draw_size(self, height: int, width: int, rng: np.random.Generator) -> tuple[int, int]:
        config = self.config
        scaled, stretched = rng.random(2) < (config.scale_p, config.stretch_p)
        scale = 2.0 ** rng.uniform(config.min_scale, config.max_scale)
        stretch = 2.0 ** rng.uniform(-config.max_stretch, config.max_stretch, size=2)
        if not scaled and not stretched and height >= self.size[0] and width >= self.size[1]:
            return height, width
        factors = (scale if scaled else 1.0) * (stretch if stretched else np.ones(2))
        sides = (round(float(side * factor)) for side, factor in zip((height, width), factors, strict=True))
        new_height, new_width = (max(side, least + _MARGIN) for side, least in zip(sides, self.size, strict=True))
        return new_height, new_width

    def _jitter_params(self, rng: np.random.Generator) -> Tensor:
        """(8,): factors and turn, and their order, as :func:`midway_zoo.train.data.photometric.jitter` takes them."""
        config = self.config
        strengths = (config.brightness, config.contrast, config.saturation)
        factors = [rng.uniform(max(0.0, 1 - strength), 1 + strength) for strength in strengths]
        factors.append(rng.uniform(-config.hue, config.hue))
        return torch.tensor([*factors, *np.argsort(rng.permutation(4))], dtype=torch.float32)
