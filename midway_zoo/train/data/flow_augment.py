"""Augmentation of flow fine-tuning (appendix B.4; CroCo v2): from a pair and a random generator to a crop."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from midway_zoo.checks import check_fields, field_range
from midway_zoo.errors import ConfigError, InputError
from midway_zoo.results import ShapeRepr
from midway_zoo.train.data.flow_files import Kind
from midway_zoo.train.data.photometric import jitter

RESIZING = ("protocol", "independent")
_MARGIN = 8  # a resized image is larger than the crop by at least this many pixels
_CONTROL = (2, 5)  # control points of a smooth warp on each side
_STEEPEST = 0.25  # neighbouring control points move apart by at most half of their distance, so that nothing folds


@dataclass(frozen=True, repr=False, eq=False)
class FlowSample(ShapeRepr):
    """One pair."""

    source: Tensor
    """uint8 (3, H, W), RGB."""
    target: Tensor
    """As ``source``."""
    flow: Tensor | None
    """float32 (2, H, W), pixels, source to target, channel 0 = x to the right, 1 = y down; both NaN where invalid.
    None if it is not published."""
    occlusion: Tensor | None = None
    """bool (H, W): the source pixel is not seen in the target; None if it is unknown or was not requested."""

    def tensors(self) -> dict[str, Tensor]:
        """``source``, ``target`` and ``flow``, for a batch."""
        assert self.flow is not None
        return {"source": self.source, "target": self.target, "flow": self.flow}


@dataclass
class FlowAugmentConfig:
    """Distribution of the augmentation of each pair. Fields that end in ``_p`` are probabilities."""

    scale_p: float = field_range(0.8, at_least=0, at_most=1)
    min_scale: float = field_range(-0.2, at_least=-4, at_most=4)
    """Both sides are scaled by 2 to a power drawn from [min_scale, max_scale]."""
    max_scale: float = field_range(0.5, at_least=-4, at_most=4)
    stretch_p: float = field_range(0.8, at_least=0, at_most=1)
    max_stretch: float = field_range(0.2, at_least=0, at_most=4)
    """Each side is scaled separately by 2 to a power drawn from [-max_stretch, max_stretch]."""
    resizing: str = field_range("protocol", choices=RESIZING)
    """protocol: as in CroCo v2 (and RAFT), stretch only scaled images, scale both sides at least as much as the crop
    requires of the shorter one, bilinear without antialiasing. independent: stretch whether scaled or not, enlarge each
    side only as much as it requires itself, with antialiasing; earlier versions had only this."""
    horizontal_flip_p: float = field_range(0.5, at_least=0, at_most=1)
    vertical_flip_p: float = field_range(0.1, at_least=0, at_most=1)
    brightness: float = field_range(0.4, at_least=0)
    """Strengths of colour jitter as in torchvision's ``ColorJitter``."""
    contrast: float = field_range(0.4, at_least=0)
    saturation: float = field_range(0.4, at_least=0)
    hue: float = field_range(0.5 / 3.14, at_least=0, at_most=0.5)
    asymmetric_p: float = field_range(0.2, at_least=0, at_most=1)
    """Jitter each frame separately; otherwise both in the same way."""
    warp_p: float = field_range(0.0, at_least=0, at_most=1)
    """The source is bent by a smooth random field on top of what moves, as ground and bodies bend that no rigid motion
    describes. Not in the protocol."""
    max_warp: float = field_range(8.0, at_least=0)
    """Largest displacement in each direction at the points through which that field goes, in pixels of the crop; less
    where it would fold."""
    still_p: float = field_range(0.0, at_least=0, at_most=1)
    """The target is a copy of the source, and the flow is zero. Not in the protocol."""
    letterbox_p: float = field_range(0.0, at_least=0, at_most=1)
    """Black bars that do not move, at two opposite sides of both frames as in films, each up to a third of the crop.
    Not in the protocol."""


def check_augment(config: FlowAugmentConfig) -> None:
    """Raise :class:`ConfigError` for a value that cannot be drawn from."""
    check_fields(config, "augment.")
    if config.min_scale > config.max_scale:
        raise ConfigError(f"augment.min_scale={config.min_scale} is above augment.max_scale={config.max_scale}.")


class FlowAugment:
    """Makes a training pair of crops.

    In order: scale and stretch, flips, crop, warp, stillness, colour jitter, black bars. Images are resized only if
    scale or stretch were drawn or they are smaller than the crop, and never to less than 8 pixels above it.

    Args:
        config: distribution of the augmentation.
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
            sample: a pair with flow.
            kind: how its flow is resized: "sparse" by moving vectors, others by interpolation.
            rng: random generator; its state is advanced.

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
        antialias = config.resizing != "protocol"
        source, target = (
            resize(image, (height, width), antialias=antialias) for image in (sample.source, sample.target)
        )
        sample = FlowSample(source, target, resize_flow(sample.flow, (height, width)))
        horizontal, vertical = rng.random(2) < (config.horizontal_flip_p, config.vertical_flip_p)
        sample = flip(sample, horizontal=bool(horizontal), vertical=bool(vertical))
        y = int(rng.integers(height - self.size[0] + 1))
        x = int(rng.integers(width - self.size[1] + 1))
        if config.warp_p and rng.random() < config.warp_p:
            sample = warp(sample, y, x, self._draw_warp(rng), nearest=kind == "sparse")
        else:
            sample = crop(sample, y, x, self.size)
        assert sample.flow is not None
        if config.still_p and rng.random() < config.still_p:
            sample = FlowSample(sample.source, sample.source, torch.zeros_like(sample.flow))
        sample = self.jitter(sample, rng)
        if config.letterbox_p and rng.random() < config.letterbox_p:
            columns = bool(rng.random() < 0.5)
            widest = max(1, self.size[columns] // 3)
            first, last = rng.integers(1, widest + 1, size=2).tolist()
            sample = letterbox(sample, first, last, columns=columns)
        return sample

    def jitter(self, sample: FlowSample, rng: np.random.Generator) -> FlowSample:
        """Change only the colours.

        Args:
            sample: a pair of any size.
            rng: random generator; its state is advanced.
        """
        images = torch.stack([sample.source, sample.target]).float().div_(255)
        if rng.random() < self.config.asymmetric_p:
            images = jitter(images, torch.stack([self._jitter_params(rng), self._jitter_params(rng)]))
        else:
            # Side by side, so that contrast is changed about their common mean.
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
        if config.resizing == "protocol":
            stretched = stretched and scaled
        if not scaled and not stretched and height >= self.size[0] and width >= self.size[1]:
            return height, width
        factors = (scale if scaled else 1.0) * (stretch if stretched else np.ones(2))
        least = np.array(self.size) + _MARGIN
        if config.resizing == "protocol":
            factors = np.maximum(factors, (least / (height, width)).max())
        new_height, new_width = np.maximum(np.rint((height, width) * factors), least).astype(int).tolist()
        return new_height, new_width

    def _draw_warp(self, rng: np.random.Generator) -> Tensor:
        """A smooth field (2, h, w) in pixels, as large as the crop."""
        points = int(rng.integers(_CONTROL[0], _CONTROL[1] + 1))
        spacing = np.array([self.size[1] - 1, self.size[0] - 1]) / (points - 1)
        largest = np.minimum(rng.uniform(0, self.config.max_warp), _STEEPEST * spacing)
        control = rng.uniform(-1, 1, (2, points, points)) * largest[:, None, None]
        field = F.interpolate(torch.from_numpy(control).float()[None], self.size, mode="bicubic", align_corners=True)
        return field[0]

    def _jitter_params(self, rng: np.random.Generator) -> Tensor:
        """(8,): factors, hue shift and order, as for :func:`midway_zoo.train.data.photometric.jitter`."""
        config = self.config
        strengths = (config.brightness, config.contrast, config.saturation)
        factors = [rng.uniform(max(0.0, 1 - strength), 1 + strength) for strength in strengths]
        factors.append(rng.uniform(-config.hue, config.hue))
        return torch.tensor([*factors, *np.argsort(rng.permutation(4))], dtype=torch.float32)


def resize(images: Tensor, size: tuple[int, int], *, antialias: bool) -> Tensor:
    """uint8 images (..., 3, H, W) at another (height, width), bilinear; with
    ``antialias`` over all pixels covered when shrinking, instead of the nearest four."""
    if images.shape[-2:] == size:
        return images
    flat = images.reshape(-1, *images.shape[-3:])
    resized = F.interpolate(flat, size=size, mode="bilinear", antialias=antialias, align_corners=False)
    return resized.reshape(*images.shape[:-2], *size)


def resize_dense(flow: Tensor, size: tuple[int, int]) -> Tensor:
    """Flow (2, H, W) at another (height, width), bilinear, in pixels of that size.

    Results that depend on an invalid vector are invalid.
    """
    if flow.shape[-2:] == size:
        return flow
    resized = F.interpolate(flow[None], size=size, mode="bilinear", align_corners=False)[0]
    return resized * _factors(flow, size)


def resize_sparse(flow: Tensor, size: tuple[int, int]) -> Tensor:
    """Sparse flow (2, H, W) at another (height, width), in pixels of that size, without interpolation.

    Each valid vector goes to the pixel that its own pixel's centre falls into; of several, the one closest to the
    centre is kept. All other pixels are NaN.
    """
    if flow.shape[-2:] == size:
        return flow
    values = (flow * _factors(flow, size)).numpy()
    rows, columns = np.nonzero(~np.isnan(values).any(axis=0))
    exact = [
        (place + 0.5) * new / old - 0.5 for place, new, old in zip((rows, columns), size, flow.shape[1:], strict=True)
    ]
    y, x = (
        np.clip(np.floor(place + 0.5).astype(np.int64), 0, side - 1) for place, side in zip(exact, size, strict=True)
    )
    nearest = np.argsort((exact[0] - y) ** 2 + (exact[1] - x) ** 2, kind="stable")
    _, first = np.unique((y * size[1] + x)[nearest], return_index=True)
    kept = nearest[first]
    result = np.full((2, *size), np.nan, dtype=np.float32)
    result[:, y[kept], x[kept]] = values[:, rows[kept], columns[kept]]
    return torch.from_numpy(result)


def flip(sample: FlowSample, *, horizontal: bool, vertical: bool) -> FlowSample:
    """A pair mirrored left to right, top to bottom, or both; u or v change sign with it."""
    dims = [dim for dim, wanted in ((-1, horizontal), (-2, vertical)) if wanted]
    if not dims:
        return sample
    flow = sample.flow
    if flow is not None:
        signs = flow.new_tensor([-1 if horizontal else 1, -1 if vertical else 1]).view(2, 1, 1)
        flow = flow.flip(dims) * signs
    return FlowSample(sample.source.flip(dims), sample.target.flip(dims), flow)


def crop(sample: FlowSample, y: int, x: int, size: tuple[int, int]) -> FlowSample:
    """The same window (height, width) of both images and the flow, from row ``y`` and column ``x``."""
    rows, columns = slice(y, y + size[0]), slice(x, x + size[1])
    flow = None if sample.flow is None else sample.flow[:, rows, columns]
    return FlowSample(sample.source[:, rows, columns], sample.target[:, rows, columns], flow)


def warp(sample: FlowSample, y: int, x: int, field: Tensor, *, nearest: bool = False) -> FlowSample:
    """A window of a pair, of which the source is bent: its pixel p shows what was at p + field(p).

    The flow stays exact: what a pixel shows is now at p, and moves by the field and then by its own flow.

    Args:
        sample: a pair of any size.
        y, x: row and column where the window begins.
        field: float (2, h, w), pixels, as large as the window.
        nearest: take the flow of the nearest pixel, as sparse flow needs, instead of interpolating.

    Returns:
        the window; its flow is NaN where the field leaves the image.
    """
    assert sample.flow is not None
    size = (field.shape[-2], field.shape[-1])
    height, width = sample.source.shape[-2:]
    rows, columns = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    places = torch.stack([columns + x, rows + y]) + field
    grid = (places / places.new_tensor([width - 1, height - 1]).view(2, 1, 1) * 2 - 1).permute(1, 2, 0)[None]
    source = F.grid_sample(sample.source[None].float(), grid, padding_mode="border", align_corners=True)[0]
    mode = "nearest" if nearest else "bilinear"
    flow = F.grid_sample(sample.flow[None], grid, mode=mode, padding_mode="border", align_corners=True)[0] + field
    flow = flow.where((grid[0].abs() <= 1).all(-1) & flow.isfinite().all(0), float("nan"))
    return FlowSample(source.round().to(torch.uint8), crop(sample, y, x, size).target, flow)


def letterbox(sample: FlowSample, first: int, last: int, *, columns: bool) -> FlowSample:
    """A pair under black bars that rest: over its ``first`` and ``last`` rows, or ``columns``."""
    dim = -1 if columns else -2
    shown = slice(first, sample.source.shape[dim] - last)

    def within(values: Tensor) -> Tensor:
        covered = torch.zeros_like(values)
        inside = (..., shown) if columns else (..., shown, slice(None))
        covered[inside] = values[inside]
        return covered

    flow = None if sample.flow is None else within(sample.flow)
    return FlowSample(within(sample.source), within(sample.target), flow)


def _factors(flow: Tensor, size: tuple[int, int]) -> Tensor:
    """(2, 1, 1): how much longer u and v become."""
    return flow.new_tensor([size[1] / flow.shape[2], size[0] / flow.shape[1]]).view(2, 1, 1)
