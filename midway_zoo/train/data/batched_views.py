"""The views of :mod:`midway_zoo.train.data.views`, for a whole batch of pairs at once, on any device.

For frames that are made where they are used: boxes are drawn for the batch, and each kind of view is cut by two
batched matrix products (an antialiased resize is linear and separable), so that nothing waits for the device.
"""

from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from midway_zoo.errors import InputError
from midway_zoo.train.data.photometric import UNIFORMS, photometric_parameters
from midway_zoo.train.data.views import ViewSampler, ViewsConfig

_TRIES = 10
_CHUNK = 16  # images cut at a time on a CPU: twice as fast as what leaves its cache
_CUBIC = -0.5  # the parameter of the bicubic kernel of antialiased resizing, in PIL as in PyTorch

Floats = npt.NDArray[np.float64]
Boxes = npt.NDArray[np.int64]


class Uniform(Protocol):
    """Whatever gives (B, *shape) numbers in [0, 1), such as ``scenes.draws.Draws``."""

    def uniform(self, *shape: int) -> Floats: ...


def random_boxes(
    height: Boxes, width: Boxes, area: tuple[float, float], aspect: tuple[float, float], uniform: Floats
) -> Boxes:
    """Boxes drawn as :func:`midway_zoo.train.data.views.random_box` draws one.

    Args:
        height: (B, n) or what broadcasts to it, pixels of what the boxes are cut from.
        width: as ``height``.
        area: see :class:`~midway_zoo.train.data.views.ViewsConfig`.
        aspect: width / height.
        uniform: (B, n, 10, 4) in [0, 1).

    Returns:
        (B, n, 4): top, left, height, width.
    """
    share, shape, down, right = np.moveaxis(uniform, -1, 0)
    tall, wide = np.broadcast_to(height, uniform.shape[:2]), np.broadcast_to(width, uniform.shape[:2])
    pixels = (tall * wide)[..., None] * (area[0] + (area[1] - area[0]) * share)
    ratio = aspect[0] * (aspect[1] / aspect[0]) ** shape
    widths, heights = (np.rint(np.sqrt(side)).astype(np.int64) for side in (pixels * ratio, pixels / ratio))
    fits = (widths > 0) & (widths <= wide[..., None]) & (heights > 0) & (heights <= tall[..., None])
    tops = (down * (tall[..., None] - heights + 1)).astype(np.int64)
    lefts = (right * (wide[..., None] - widths + 1)).astype(np.int64)
    drawn = np.stack([tops, lefts, heights, widths], axis=-1)
    first = np.take_along_axis(drawn, fits.argmax(-1)[..., None, None], axis=2)[:, :, 0]
    fallback_width = np.clip(np.rint(tall * aspect[1]), 1, wide).astype(np.int64)
    fallback_height = np.clip(np.rint(wide / aspect[0]), 1, tall).astype(np.int64)
    fallback = [(tall - fallback_height) // 2, (wide - fallback_width) // 2, fallback_height, fallback_width]
    return np.where(fits.any(-1)[..., None], first, np.stack(fallback, axis=-1))


def shifted_boxes(boxes: Boxes, side: Boxes, share: float, uniform: Floats) -> Boxes:
    """Boxes moved as :func:`midway_zoo.train.data.views.shifted_box` moves one.

    Args:
        boxes: (B, n, 4): top, left, height, width.
        side: (2,): height and width of the frames.
        share: of the boxes' sides.
        uniform: (B, n, 2) in [0, 1).
    """
    start, sides = boxes[..., :2], boxes[..., 2:]
    reach = (share * sides).astype(np.int64)
    low, high = np.maximum(0, start - reach), np.minimum(side - sides, start + reach)
    return np.concatenate([low + (uniform * (high - low + 1)).astype(np.int64), sides], axis=-1)


def cut(images: Tensor, boxes: Tensor, flips: Tensor, size: int) -> Tensor:
    """Resize boxes of images, antialiased bicubic as ``F.interpolate`` does it, with each one's own flip.

    Args:
        images: float32 (N, C, H, W) in [0, 1].
        boxes: int64 (N, K, 4): top, left, height, width, inside the images.
        flips: bool (N, K): mirror left to right.
        size: side of the results.

    Returns:
        uint8 (N, K, C, size, size), rounded.
    """
    if images.device.type != "cpu" or len(images) <= _CHUNK:
        return _cut(images, boxes, flips, size)
    parts = zip(images.split(_CHUNK), boxes.split(_CHUNK), flips.split(_CHUNK), strict=True)
    return torch.cat([_cut(*part, size) for part in parts])


def _cut(images: Tensor, boxes: Tensor, flips: Tensor, size: int) -> Tensor:
    count, channels, height, width = images.shape
    top, left, tall, wide = boxes.to(torch.float32).unbind(-1)
    rows = _resize_matrices(top, tall, size, height)
    columns = _resize_matrices(left, wide, size, width)
    columns = torch.where(flips[..., None, None], columns.flip(-2), columns)
    lines = images.transpose(1, 2).reshape(count, height, channels * width)
    # All boxes of an image share the first product; its result is (N, K * size, C * W).
    narrow = (rows.flatten(1, 2) @ lines).reshape(-1, size * channels, width)
    views = (narrow @ columns.flatten(0, 1).mT).reshape(count, -1, size, channels, size)
    return views.mul_(255).round_().clamp_(0, 255).to(torch.uint8).transpose(2, 3).contiguous()


def _resize_matrices(start: Tensor, length: Tensor, size: int, pixels: int) -> Tensor:
    """(N, K, size, pixels): row i holds the weights with which the pixels of a box make up its resized pixel i."""
    start, length = start[..., None, None], length[..., None, None]
    scale = length / size
    place = torch.arange(pixels, device=start.device) + 0.5
    centre = start + (torch.arange(size, device=start.device)[:, None] + 0.5) * scale
    distance = ((place - centre) / scale.clamp(min=1)).abs_()
    near = ((_CUBIC + 2) * distance - (_CUBIC + 3)) * distance * distance + 1
    far = ((distance - 5) * distance + 8) * distance * _CUBIC - 4 * _CUBIC
    weights = torch.where(distance < 1, near, far) * (distance < 2)
    weights = weights * ((place > start) & (place < start + length))
    return weights / weights.sum(-1, keepdim=True)


class BatchedViews:
    """Cuts the views of B pairs and draws their photometric parameters; the counterpart of ``ViewSampler``.

    Args:
        config: of the views.

    Raises:
        ConfigError: for a configuration from which no views can be drawn.
    """

    def __init__(self, config: ViewsConfig) -> None:
        self._kinds = ViewSampler(config).kinds
        self.config = config

    @torch.no_grad()
    def __call__(self, frames: Tensor, draws: Uniform) -> dict[str, Tensor]:
        """The views of pairs.

        Args:
            frames: float32 (B, 2, 3, H, W) in [0, 1]: source and target.
            draws: what is drawn comes from here only, the same amount for every pair.

        Returns:
            As :class:`~midway_zoo.train.data.views.ViewSampler`, with a leading dimension B, on the frames' device.

        Raises:
            InputError: for frames of another shape.
        """
        if frames.ndim != 5 or frames.shape[1:3] != (2, 3):
            raise InputError(f"frames of shape {tuple(frames.shape)}: (B, 2, 3, H, W) is expected.")
        config, pairs = self.config, frames.flatten(1, 2)
        side = np.array(frames.shape[-2:], dtype=np.int64)
        dynamics = self._boxes(draws, 1, side[:1, None], side[1:, None], config.dynamics_area)
        initial = self._boxes(draws, 1, side[:1, None], side[1:, None], config.initial_area)
        shared = self._inside(draws, 2, initial, config.global_area)
        own = self._inside(draws, 2 * config.local_crops, initial, config.local_area)
        flips = draws.uniform(2 + 2 * config.local_crops) < config.flip_p
        kinds = self._kinds
        uniform = draws.uniform(UNIFORMS, len(kinds)).transpose(1, 0, 2).reshape(UNIFORMS, -1)
        params = photometric_parameters(config, kinds * len(frames), uniform).reshape(len(frames), len(kinds), -1)

        def put(array: npt.NDArray[np.generic]) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(frames.device, non_blocking=True)

        unflipped = np.zeros((len(frames), 1), dtype=np.bool_)
        if config.dynamics_shift:
            moved = shifted_boxes(dynamics, side, config.dynamics_shift, draws.uniform(1, 2))
            both_boxes = put(np.stack([dynamics, moved], axis=1).reshape(-1, 1, 4))
            crop = cut(frames.flatten(0, 1), both_boxes, put(unflipped.repeat(2, axis=0)), config.dynamics_size)
            crop = crop.reshape(-1, 1, 6, *crop.shape[-2:])
        else:
            crop = cut(pairs, put(dynamics), put(unflipped), config.dynamics_size)
        both = cut(pairs, put(shared), put(flips[:, :2]), config.global_size)
        count, size = config.local_crops, config.local_size
        locals_ = frames.new_empty(len(frames), 0, 3, size, size, dtype=torch.uint8)
        if count:
            boxes, mirrored = own.reshape(-1, count, 4), flips[:, 2:].reshape(-1, count)
            locals_ = cut(frames.flatten(0, 1), put(boxes), put(mirrored), size).reshape(-1, 2 * count, 3, size, size)
        return {
            "dynamics": crop.unflatten(2, (2, 3))[:, 0],
            # (B, box, frame) -> x1, x2, y1, y2
            "globals": both.unflatten(2, (2, 3)).transpose(1, 2).flatten(1, 2),
            "locals": locals_,
            "photometric": put(params),
        }

    def _boxes(self, draws: Uniform, count: int, height: Boxes, width: Boxes, area: tuple[float, float]) -> Boxes:
        return random_boxes(height, width, area, self.config.aspect, draws.uniform(count, _TRIES, 4))

    def _inside(self, draws: Uniform, count: int, outer: Boxes, area: tuple[float, float]) -> Boxes:
        boxes = self._boxes(draws, count, outer[..., 2], outer[..., 3], area)
        boxes[..., :2] += outer[..., :2]
        return boxes
