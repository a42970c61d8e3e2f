"""The 22 views of a frame pair: which boxes are cut, and cutting them in the worker.

Boxes and flips follow the paper's pretraining recipe: frames of a pair share the dynamics box, the
initial box and the two global boxes inside it; local boxes are each frame's own.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from midway_zoo.errors import ConfigError, InputError, InputTypeError
from midway_zoo.train.data.photometric import PhotometricConfig, ViewKind, check_photometric, draw_parameters

_TRIES = 10


@dataclass
class ViewsConfig(PhotometricConfig):
    """Sizes are sides in pixels; areas are (smallest, largest) shares of what the box is cut from: the
    frame for the dynamics and initial boxes, the initial box for the others. ``aspect`` is width / height.

    ``local_size`` is that of the released code; the paper's text has all crops at 224.
    """

    dynamics_size: int = 224
    global_size: int = 224
    local_size: int = 96
    local_crops: int = 8
    """Per frame; 0 for none."""
    dynamics_area: tuple[float, float] = (0.2, 0.4)
    initial_area: tuple[float, float] = (0.05, 0.2)
    global_area: tuple[float, float] = (0.4, 1.0)
    local_area: tuple[float, float] = (0.05, 0.4)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    dynamics_shift: float = 0.0
    """The target's dynamics box lies up to this share of the box's sides away from the source's, each way, as far as
    the frame reaches: motion by the crop, on stills too. An option that the authors' code has and the released runs
    left at 0: both boxes are the same."""
    flip_p: float = 0.5


class Box(NamedTuple):
    """Rows [top, top + height) and columns [left, left + width), in pixels."""

    top: int
    left: int
    height: int
    width: int

    def inside(self, outer: "Box") -> "Box":
        """This box, given relative to ``outer``, in the coordinates that ``outer`` is given in."""
        return Box(outer.top + self.top, outer.left + self.left, self.height, self.width)


def random_box(
    height: int, width: int, area: tuple[float, float], aspect: tuple[float, float], rng: np.random.Generator
) -> Box:
    """A box in (height, width) drawn as torchvision's ``RandomResizedCrop`` does.

    Area share uniform, aspect (width / height) log-uniform, place uniform; after ten boxes that do not
    fit, the largest central one whose aspect is allowed.
    """
    for _ in range(_TRIES):
        share, shape, down, right = rng.random(4).tolist()
        pixels = height * width * (area[0] + (area[1] - area[0]) * share)
        ratio = aspect[0] * (aspect[1] / aspect[0]) ** shape
        box_width, box_height = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
        if 0 < box_width <= width and 0 < box_height <= height:
            top, left = int(down * (height - box_height + 1)), int(right * (width - box_width + 1))
            return Box(top, left, box_height, box_width)
    box_width = max(1, min(width, round(height * aspect[1])))
    box_height = max(1, min(height, round(width / aspect[0])))
    return Box((height - box_height) // 2, (width - box_width) // 2, box_height, box_width)


def shifted_box(box: Box, height: int, width: int, share: float, rng: np.random.Generator) -> Box:
    """``box`` moved by up to ``share`` of its sides either way, uniformly, where (height, width) has room for it."""
    down, right = rng.random(2).tolist()
    top, left = (
        _moved(start, side, room, share, place)
        for start, side, room, place in ((box.top, box.height, height, down), (box.left, box.width, width, right))
    )
    return box._replace(top=top, left=left)


def _moved(start: int, side: int, room: int, share: float, place: float) -> int:
    low, high = max(0, start - int(share * side)), min(room - side, start + int(share * side))
    return low + int(place * (high - low + 1))


class ViewSampler:
    """Cuts the views of a pair and draws their photometric parameters.

    Raises:
        ConfigError: for a configuration from which no views can be drawn.
    """

    def __init__(self, config: ViewsConfig) -> None:
        check_photometric(config)
        _check_geometry(config)
        self.config = config
        one, two = ViewKind.TYPE_1, ViewKind.TYPE_2
        self.kinds = [one, two, one, two, one, two] + [ViewKind.LOCAL] * (2 * config.local_crops)

    def __call__(self, source: Tensor, target: Tensor, rng: np.random.Generator) -> dict[str, Tensor]:
        """The views of one pair, a pure function of the frames and the generator's state.

        Args:
            source: first frame, uint8 (3, H, W), RGB. Channels-last memory (a permuted (H, W, 3) array)
                is fastest.
            target: second frame, the same.
            rng: what is drawn comes from here only.

        Returns:
            uint8 "dynamics" (2, 3, S, S): source and target, type 1 and 2, never flipped (one box, or the target's
            moved by ``config.dynamics_shift``); "globals"
            (4, 3, G, G): x1, x2 of the source, y1, y2 of the target, where x1 and y1 share their box and
            flip and are of type 1, x2 and y2 likewise of type 2; "locals" (2 * local_crops, 3, L, L): the
            source's, then the target's; and "photometric" float32 (6 + 2 * local_crops, 11), the
            parameters for :func:`midway_zoo.train.data.photometric.augment` of these views in this order.

        Raises:
            InputError: if the frames are not (3, H, W), empty, or differ in size.
            InputTypeError: if they are not uint8.
        """
        _check_frames(source, target)
        config, frames = self.config, (source, target)
        height, width = source.shape[1:]
        box = random_box(height, width, config.dynamics_area, config.aspect, rng)
        dynamics = _empty(2, config.dynamics_size)
        moved = shifted_box(box, height, width, config.dynamics_shift, rng) if config.dynamics_shift else box
        for i, one in enumerate((box, moved)):
            _cut(frames[i : i + 1], one, False, dynamics[i : i + 1])

        initial = random_box(height, width, config.initial_area, config.aspect, rng)
        global_views = _empty(4, config.global_size)
        for i in range(2):
            box = random_box(initial.height, initial.width, config.global_area, config.aspect, rng).inside(initial)
            _cut(frames, box, rng.random() < config.flip_p, global_views[i::2])
        local_views = _empty(2 * config.local_crops, config.local_size)
        for i in range(2 * config.local_crops):
            box = random_box(initial.height, initial.width, config.local_area, config.aspect, rng).inside(initial)
            frame = frames[i // config.local_crops]
            _cut((frame,), box, rng.random() < config.flip_p, local_views[i : i + 1])
        parameters = torch.from_numpy(draw_parameters(config, self.kinds, rng))
        return {"dynamics": dynamics, "globals": global_views, "locals": local_views, "photometric": parameters}


def _empty(number: int, size: int) -> Tensor:
    return torch.empty((number, 3, size, size), dtype=torch.uint8)


def _cut(frames: tuple[Tensor, ...], box: Box, flip: bool, out: Tensor) -> None:
    """Resize the box of each frame, antialiased bicubic, into ``out`` (len(frames), 3, size, size)."""
    rows, columns = slice(box.top, box.top + box.height), slice(box.left, box.left + box.width)
    for frame, view in zip(frames, out, strict=True):
        crop = frame[None, :, rows, columns].contiguous(memory_format=torch.channels_last)
        resized = F.interpolate(crop, view.shape[1:], mode="bicubic", antialias=True)[0]
        view.copy_(resized.flip(-1) if flip else resized)


def _check_geometry(config: ViewsConfig) -> None:
    for name in ("dynamics_size", "global_size", "local_size"):
        if getattr(config, name) < 1:
            raise ConfigError(f"{name}={getattr(config, name)}: a positive number of pixels is expected.")
    if config.local_crops < 0:
        raise ConfigError(f"local_crops={config.local_crops}: 0 or more per frame are expected.")
    for name in ("dynamics_area", "initial_area", "global_area", "local_area"):
        area = tuple(getattr(config, name))
        if len(area) != 2 or not 0 < area[0] <= area[1] <= 1:
            raise ConfigError(f"{name}={area}: (smallest, largest) share of the area, in (0, 1], is expected.")
    aspect = tuple(config.aspect)
    if len(aspect) != 2 or not 0 < aspect[0] <= aspect[1] < math.inf:
        raise ConfigError(f"aspect={aspect}: (smallest, largest) width / height above 0 is expected.")
    if not 0 <= config.dynamics_shift < 1:
        raise ConfigError(f"dynamics_shift={config.dynamics_shift}: a share of the box in [0, 1) is expected.")
    if not 0 <= config.flip_p <= 1:
        raise ConfigError(f"flip_p={config.flip_p}: a probability in [0, 1] is expected.")


def _check_frames(source: Tensor, target: Tensor) -> None:
    for name, frame in (("source", source), ("target", target)):
        if frame.dtype != torch.uint8:
            raise InputTypeError(f"{name} frame of dtype {frame.dtype}: uint8 is expected.")
        if frame.ndim != 3 or frame.shape[0] != 3 or 0 in frame.shape:
            raise InputError(f"{name} frame of shape {tuple(frame.shape)}: (3, H, W) is expected.")
    if source.shape != target.shape:
        raise InputError(
            f"frames of one pair differ in size: {tuple(source.shape)} and {tuple(target.shape)}. "
            "Both must come from the same video, rotated alike."
        )
