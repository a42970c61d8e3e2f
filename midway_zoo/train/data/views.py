"""The 22 views of a frame pair: which boxes are cut, and cutting them.

Boxes and flips follow the paper's pretraining recipe: frames of a pair share the dynamics box, the initial box and
the two global boxes inside it; local boxes are drawn per frame. The same code draws them for one pair of a video and
for a whole batch of rendered pairs. Crops are resized in the fastest way: with PyTorch's resize of single 8-bit images
for large frames in a worker, and with two batched matrix products, without synchronisation, for frames on the device.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from midway_zoo.checks import check_fields, field_range
from midway_zoo.errors import InputError, InputTypeError
from midway_zoo.train.data.photometric import (
    UNIFORMS,
    PhotometricConfig,
    ViewKind,
    photometric_parameters,
)

_TRIES = 10
_CHUNK = 16  # images cut at a time on a CPU: twice as fast as what leaves its cache
_CUBIC = -0.5  # the parameter of the bicubic kernel of antialiased resizing, in PIL as in PyTorch

Floats = npt.NDArray[np.float64]
Boxes = npt.NDArray[np.int64]
"""(..., 4): top, left, height, width, in pixels."""


@dataclass
class ViewsConfig(PhotometricConfig):
    """Sizes are sides in pixels; areas are (smallest, largest) fractions of the region that the box is cut from:
    the frame for the dynamics and initial boxes, the initial box for the others. ``aspect`` is width / height.

    ``local_size`` is that of the released code; in the paper's text all crops have 224.
    """

    dynamics_size: int = field_range(224, at_least=1)
    global_size: int = field_range(224, at_least=1)
    local_size: int = field_range(96, at_least=1)
    local_crops: int = field_range(8, at_least=0)
    """Number per frame; 0 for none."""
    dynamics_area: tuple[float, float] = field_range((0.2, 0.4), above=0, at_most=1, length=2, ordered=True)
    initial_area: tuple[float, float] = field_range((0.05, 0.2), above=0, at_most=1, length=2, ordered=True)
    global_area: tuple[float, float] = field_range((0.4, 1.0), above=0, at_most=1, length=2, ordered=True)
    local_area: tuple[float, float] = field_range((0.05, 0.4), above=0, at_most=1, length=2, ordered=True)
    aspect: tuple[float, float] = field_range((3 / 4, 4 / 3), above=0, length=2, ordered=True)
    dynamics_shift: float = field_range(0.0, at_least=0, below=1)
    """The target's dynamics box is shifted by up to this fraction of its sides each way, as far as the frame allows,
    which gives motion even on stills. An option of the authors' code that the released runs left at 0, so that both
    boxes are the same."""
    dynamics_degrees: float = field_range(0.0, at_least=0, at_most=180)
    """The target's dynamics crop is rotated about its centre by up to so many degrees either way, with reflection at
    its borders; like the next two an option of the authors' code (affine augmentation) that the released runs did not
    use."""
    dynamics_zoom: float = field_range(0.0, at_least=0, below=1)
    """... and enlarged or reduced by up to the factor 1 + dynamics_zoom."""
    dynamics_shear: float = field_range(0.0, at_least=0, below=90)
    """... and sheared along its rows by up to so many degrees either way."""
    flip_p: float = field_range(0.5, at_least=0, at_most=1)


class Uniform(Protocol):
    """Whatever gives (B, *shape) numbers in [0, 1), such as ``scenes.draws.Draws``."""

    def uniform(self, *shape: int) -> Floats: ...


class _Numbers(Protocol):
    """The random numbers of B pairs, in the order in which they are used."""

    def tries(self) -> Iterable[Floats]:
        """(B, 4) for each try at one box of each pair."""

    def shifts(self) -> Floats:
        """(B, 2): down and right."""

    def affine(self) -> Floats:
        """(B, 3): rotation, zoom and shear."""

    def flips(self) -> Floats:
        """(B,)"""

    def photometric(self, views: int) -> Floats:
        """(UNIFORMS, B * views)"""


class _PairNumbers:
    """Random numbers of one pair, from a generator; only those needed are drawn."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng

    def tries(self) -> Iterable[Floats]:
        return (self._rng.random((1, 4)) for _ in range(_TRIES))

    def shifts(self) -> Floats:
        return self._rng.random((1, 2))

    def affine(self) -> Floats:
        return self._rng.random((1, 3))

    def flips(self) -> Floats:
        return self._rng.random(1)

    def photometric(self, views: int) -> Floats:
        return self._rng.random((UNIFORMS, views))


class _BatchNumbers:
    """Random numbers of a batch: the same amount for every pair, those of all boxes first."""

    def __init__(self, draws: Uniform, local_views: int) -> None:
        boxes, flips, views = 4 + local_views, 2 + local_views, 6 + local_views
        self._tries = iter(draws.uniform(boxes, _TRIES, 4).transpose(1, 2, 0, 3))
        self._flips = iter(draws.uniform(flips).T)
        self._photometric = draws.uniform(UNIFORMS, views).transpose(1, 0, 2).reshape(UNIFORMS, -1)
        self._draws = draws

    def tries(self) -> Iterable[Floats]:
        return next(self._tries)

    def shifts(self) -> Floats:
        return self._draws.uniform(2)

    def affine(self) -> Floats:
        return self._draws.uniform(3)

    def flips(self) -> Floats:
        return next(self._flips)

    def photometric(self, views: int) -> Floats:
        return self._photometric


def random_boxes(
    height: Boxes, width: Boxes, area: tuple[float, float], aspect: tuple[float, float], tries: Iterable[Floats]
) -> Boxes:
    """A box for each pair, drawn as torchvision's ``RandomResizedCrop`` does.

    Area uniform, aspect (width / height) log-uniform, position uniform; if none of the tries fits, the largest central
    box with an allowed aspect.

    Args:
        height: (B,), height in pixels of the regions that boxes are cut from.
        width: (B,), likewise.
        area: see :class:`ViewsConfig`.
        aspect: width / height.
        tries: (B, 4) in [0, 1) each; taken until every box fits.

    Returns:
        (B, 4): top, left, height, width.
    """
    boxes, missing = np.zeros((len(height), 4)), np.ones(len(height), dtype=np.bool_)
    for share, shape, down, right in (numbers.T for numbers in tries):
        pixels = height * width * (area[0] + (area[1] - area[0]) * share)
        ratio = aspect[0] * (aspect[1] / aspect[0]) ** shape
        wide, tall = np.rint(np.sqrt(pixels * ratio)), np.rint(np.sqrt(pixels / ratio))
        fits = missing & (wide > 0) & (wide <= width) & (tall > 0) & (tall <= height)
        drawn = np.stack([np.trunc(down * (height - tall + 1)), np.trunc(right * (width - wide + 1)), tall, wide], 1)
        boxes = np.where(fits[:, None], drawn, boxes)
        missing &= ~fits
        if not missing.any():
            break
    else:
        wide = np.clip(np.rint(height * aspect[1]), 1, width)
        tall = np.clip(np.rint(width / aspect[0]), 1, height)
        central = np.stack([(height - tall) // 2, (width - wide) // 2, tall, wide], 1)
        boxes = np.where(missing[:, None], central, boxes)
    return boxes.astype(np.int64)


def shifted_boxes(boxes: Boxes, height: int, width: int, share: float, uniform: Floats) -> Boxes:
    """Boxes (B, 4) shifted uniformly by up to ``share`` of their sides either way, within (height, width).

    Args:
        boxes: top, left, height, width.
        height: height of the frames.
        width: width of the frames.
        share: in [0, 1).
        uniform: (B, 2) in [0, 1).
    """
    start, sides = boxes[:, :2], boxes[:, 2:]
    reach = (share * sides).astype(np.int64)
    low, high = np.maximum(0, start - reach), np.minimum((height, width) - sides, start + reach)
    return np.concatenate([low + (uniform * (high - low + 1)).astype(np.int64), sides], axis=1)


def affine_matrices(config: ViewsConfig, uniform: Floats) -> npt.NDArray[np.float32]:
    """Matrices (B, 2, 3) from positions in the warped crop to positions in the crop, both from -1 to 1.

    Args:
        config: configuration of the views.
        uniform: (B, 3) in [0, 1): rotation, zoom and shear.
    """
    turn, zoom, shear = (2 * uniform - 1).T
    angle, slant = np.deg2rad(turn * config.dynamics_degrees), np.tan(np.deg2rad(shear * config.dynamics_shear))
    scale = (1 + config.dynamics_zoom) ** -zoom
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    none = np.zeros_like(cos)
    rows = [cos, slant * cos - sin, none, sin, slant * sin + cos, none]
    return np.stack(rows, axis=1).reshape(-1, 2, 3).astype(np.float32)


def warp(images: Tensor, matrices: Tensor) -> Tensor:
    """Warp uint8 images (B, 3, S, S) by matrices (B, 2, 3), bilinear, with reflection at their borders."""
    grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
    warped = F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return warped.round_().clamp_(0, 255).to(torch.uint8)


class _Plan(NamedTuple):
    """The views of B pairs; all boxes in the frames' coordinates."""

    dynamics: Boxes
    """(B, 2, 4): the source's and the target's."""
    affine: npt.NDArray[np.float32] | None
    """(B, 2, 3): warp of the target's dynamics crop; None without warping."""
    shared: Boxes
    """(B, 2, 4): of the global views of both frames."""
    own: Boxes
    """(B, 2 * local_crops, 4): the source's, then the target's."""
    flips: npt.NDArray[np.bool_]
    """(B, 2 + 2 * local_crops): of the shared boxes, then of the others."""
    photometric: npt.NDArray[np.float32]
    """(B, views, 11)"""


class ViewSampler:
    """Cuts the views of pairs and draws their photometric parameters.

    Views are uint8: "dynamics" (2, 3, S, S), source and target, of type 1 and 2, never flipped (one box, or the
    target's moved by ``config.dynamics_shift`` and warped by the options beside it); "globals" (4, 3, G, G), x1, x2 of
    the source and y1, y2 of the target, where x1 and y1 share their box and flip and are of type 1, x2 and y2 likewise
    of type 2; "locals" (2 * local_crops, 3, L, L), the source's, then the target's; and "photometric" is float32 (6 + 2
    * local_crops, 11), the parameters for :func:`midway_zoo.train.data.photometric.augment` of these views in this
    order.

    Args:
        config: configuration of the views.

    Raises:
        ConfigError: for a configuration that allows no views.
    """

    def __init__(self, config: ViewsConfig) -> None:
        check_fields(config)
        self.config = config
        one, two = ViewKind.TYPE_1, ViewKind.TYPE_2
        self._kinds = [one, two, one, two, one, two] + [ViewKind.LOCAL] * (2 * config.local_crops)

    def __call__(self, source: Tensor, target: Tensor, rng: np.random.Generator) -> dict[str, Tensor]:
        """The views of one pair, a pure function of the frames and the generator's state.

        Args:
            source: first frame, uint8 (3, H, W), RGB. Channels-last memory (a permuted (H, W, 3) array) is fastest.
            target: second frame, the same.
            rng: the only source of random numbers.

        Raises:
            InputError: if the frames are not (3, H, W), empty, or differ in size.
            InputTypeError: if they are not uint8.
        """
        _check_frames(source, target)
        config, frames, count = self.config, (source, target), self.config.local_crops
        plan = self._plan(1, source.shape[1], source.shape[2], _PairNumbers(rng))
        dynamics, shared, own = (boxes[0].tolist() for boxes in (plan.dynamics, plan.shared, plan.own))
        flips, numbers = plan.flips[0].tolist(), range(2 * count)
        unflipped = [(frame, box, False) for frame, box in zip(frames, dynamics, strict=True)]
        both = [(frame, box, flip) for frame in frames for box, flip in zip(shared, flips[:2], strict=True)]
        single = [(frames[i // count], own[i], flips[2 + i]) for i in numbers]
        crop = _cut_each(unflipped, config.dynamics_size)
        if plan.affine is not None:
            crop[1:] = warp(crop[1:], torch.from_numpy(plan.affine))
        return {
            "dynamics": crop,
            "globals": _cut_each(both, config.global_size),
            "locals": _cut_each(single, config.local_size),
            "photometric": torch.from_numpy(plan.photometric[0]),
        }

    @torch.no_grad()
    def batch(self, frames: Tensor, draws: Uniform) -> dict[str, Tensor]:
        """The views of B pairs, with a leading dimension B, on the frames' device.

        Args:
            frames: float32 (B, 2, 3, H, W) in [0, 1]: source and target.
            draws: the only source of random numbers, the same amount for every pair.

        Raises:
            InputError: for frames of another shape.
        """
        if frames.ndim != 5 or frames.shape[1:3] != (2, 3):
            raise InputError(f"frames of shape {tuple(frames.shape)}: (B, 2, 3, H, W) is expected.")
        config, pairs, count = self.config, frames.flatten(1, 2), self.config.local_crops
        numbers = _BatchNumbers(draws, 2 * count)
        plan = self._plan(len(frames), frames.shape[-2], frames.shape[-1], numbers)

        def put(array: npt.NDArray[np.generic]) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(frames.device, non_blocking=True)

        unflipped = np.zeros((2 * len(frames), 1), dtype=np.bool_)
        if config.dynamics_shift:
            crop = cut(frames.flatten(0, 1), put(plan.dynamics.reshape(-1, 1, 4)), put(unflipped), config.dynamics_size)
            crop = crop.reshape(-1, 2, *crop.shape[2:])
        else:
            crop = cut(pairs, put(plan.dynamics[:, :1]), put(unflipped[: len(frames)]), config.dynamics_size)
            crop = crop.unflatten(2, (2, 3))[:, 0]
        if plan.affine is not None:
            crop = torch.stack([crop[:, 0], warp(crop[:, 1], put(plan.affine))], dim=1)
        both = cut(pairs, put(plan.shared), put(plan.flips[:, :2]), config.global_size)
        size = config.local_size
        single = frames.new_empty(len(frames), 0, 3, size, size, dtype=torch.uint8)
        if count:
            boxes, flips = plan.own.reshape(-1, count, 4), plan.flips[:, 2:].reshape(-1, count)
            single = cut(frames.flatten(0, 1), put(boxes), put(flips), size).reshape(-1, 2 * count, 3, size, size)
        return {
            "dynamics": crop,
            # (B, box, frame) -> x1, x2, y1, y2
            "globals": both.unflatten(2, (2, 3)).transpose(1, 2).flatten(1, 2),
            "locals": single,
            "photometric": put(plan.photometric),
        }

    def _plan(self, pairs: int, height: int, width: int, numbers: _Numbers) -> _Plan:
        config, views = self.config, len(self._kinds)
        frame = np.tile(np.array([0, 0, height, width]), (pairs, 1))
        dynamics = moved = self._box_inside(frame, config.dynamics_area, numbers)
        if config.dynamics_shift:
            moved = shifted_boxes(dynamics, height, width, config.dynamics_shift, numbers.shifts())
        warped = config.dynamics_degrees or config.dynamics_zoom or config.dynamics_shear
        affine = affine_matrices(config, numbers.affine()) if warped else None
        initial = self._box_inside(frame, config.initial_area, numbers)
        areas = [config.global_area] * 2 + [config.local_area] * (2 * config.local_crops)
        boxes, flips = np.empty((pairs, len(areas), 4), dtype=np.int64), np.empty((pairs, len(areas)))
        for i, area in enumerate(areas):
            boxes[:, i], flips[:, i] = self._box_inside(initial, area, numbers), numbers.flips()
        parameters = photometric_parameters(config, self._kinds * pairs, numbers.photometric(views))
        return _Plan(
            np.stack([dynamics, moved], 1),
            affine,
            boxes[:, :2],
            boxes[:, 2:],
            flips < config.flip_p,
            parameters.reshape(pairs, views, -1),
        )

    def _box_inside(self, outer: Boxes, area: tuple[float, float], numbers: _Numbers) -> Boxes:
        boxes = random_boxes(outer[:, 2], outer[:, 3], area, self.config.aspect, numbers.tries())
        boxes[:, :2] += outer[:, :2]
        return boxes


def _cut_each(wanted: Sequence[tuple[Tensor, Sequence[int], bool]], size: int) -> Tensor:
    """Resize boxes of uint8 frames (3, H, W), antialiased bicubic: (len(wanted), 3, size, size)."""
    views = torch.empty((len(wanted), 3, size, size), dtype=torch.uint8)
    for (frame, (top, left, height, width), flip), view in zip(wanted, views, strict=True):
        crop = frame[None, :, top : top + height, left : left + width].contiguous(memory_format=torch.channels_last)
        resized = F.interpolate(crop, (size, size), mode="bicubic", antialias=True)[0]
        view.copy_(resized.flip(-1) if flip else resized)
    return views


def cut(images: Tensor, boxes: Tensor, flips: Tensor, size: int) -> Tensor:
    """Resize boxes of images, antialiased bicubic as in ``F.interpolate``, each with its own flip.

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
    """(N, K, size, pixels): row i holds the weights of a box's pixels in its resized pixel i."""
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


def _check_frames(source: Tensor, target: Tensor) -> None:
    for name, frame in (("source", source), ("target", target)):
        if frame.dtype != torch.uint8:
            raise InputTypeError(f"{name} frame of dtype {frame.dtype}: uint8 is expected.")
        if frame.ndim != 3 or frame.shape[0] != 3 or 0 in frame.shape:
            raise InputError(f"{name} frame of shape {tuple(frame.shape)}: (3, H, W) is expected.")
    if source.shape != target.shape:
        raise InputError(
            f"frames of one pair differ in size: {tuple(source.shape)} and {tuple(target.shape)}. "
            "Both must come from the same video, with the same rotation."
        )
