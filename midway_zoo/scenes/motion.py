"""Where each layer is in each frame: similarity motions of objects, seen by a camera that moves as well.

Coordinates are x to the right and y down, in pixels from the frame's centre. Affine maps are (..., 3, 3).
"""

import math

import numpy as np

from midway_zoo.scenes.config import ScenesConfig
from midway_zoo.scenes.draws import Array, Draws


def poses(config: ScenesConfig, draws: Draws) -> Array:
    """(B, T, L, 3, 3): from each layer's own coordinates to those of each frame; layer 0 is background.

    The unit of an object's own coordinates is its radius, that of the background's is the pixel.
    """
    camera = _camera(config, draws)
    objects = _objects(config, draws)
    return camera[:, :, None] @ np.concatenate([np.broadcast_to(np.eye(3), (*camera.shape[:2], 1, 3, 3)), objects], 2)


def _objects(config: ScenesConfig, draws: Draws) -> Array:
    count = config.objects[1]
    side = min(config.height, config.width)
    radius = draws.log_uniform(count, low=config.size[0] * side, high=config.size[1] * side)
    stretch = draws.log_uniform(count, low=1 / config.stretch, high=config.stretch)
    centre = (draws.uniform(count, 2) - 0.5) * (config.width, config.height)
    shift = _path(config, draws, count, longest=config.motion)
    angle = draws.uniform(count, high=2 * math.pi)[:, None] + _steady(
        config, draws, count, math.radians(config.rotation)
    )
    scale = np.exp(_steady(config, draws, count, math.log1p(config.zoom)))
    motion = similarity(angle, scale * radius[:, None], centre[:, None] + shift)
    shape = np.zeros((*radius.shape, 3, 3))
    shape[..., 0, 0], shape[..., 1, 1], shape[..., 2, 2] = stretch, 1 / stretch, 1
    return motion @ shape[:, None]


def _camera(config: ScenesConfig, draws: Draws) -> Array:
    shift = _path(config, draws, 1, longest=config.camera)
    angle = _steady(config, draws, 1, math.radians(config.camera_rotation))
    scale = np.exp(_steady(config, draws, 1, math.log1p(config.camera_zoom)))
    return similarity(angle, scale, shift)[:, :, 0]


def _path(config: ScenesConfig, draws: Draws, count: int, *, longest: float) -> Array:
    """(B, T, count, 2): positions, with the middle of the clip at 0. No step is longer than ``longest``."""
    first, other = draws.vectors(count, longest=longest), draws.vectors(count, longest=longest)
    last = first + config.acceleration * (other - first)
    steps = max(config.frames - 1, 1)
    blend = (np.arange(steps) / max(steps - 1, 1))[:, None, None]
    positions = np.cumsum(first[:, None] * (1 - blend) + last[:, None] * blend, axis=1)
    positions = np.concatenate([np.zeros_like(positions[:, :1]), positions], axis=1)[:, : config.frames]
    return positions - (positions[:, (config.frames - 1) // 2] + positions[:, config.frames // 2])[:, None] / 2


def _steady(config: ScenesConfig, draws: Draws, count: int, largest: float) -> Array:
    """(B, T, count): grows by the same amount, at most ``largest`` either way, in every frame; 0 in the middle."""
    rate = draws.uniform(count, low=-largest, high=largest)
    return rate[:, None] * (np.arange(config.frames) - (config.frames - 1) / 2)[:, None]


def at_time(maps: Array, time: float) -> Array:
    """Poses (B, T, L, 3, 3) interpolated linearly by ``time`` frames towards the next frame (< 0: away from it); the
    last frame is extrapolated."""
    if maps.shape[1] == 1:
        return maps
    steps = np.diff(maps, axis=1)
    result: Array = maps + time * np.concatenate([steps, steps[:, -1:]], axis=1)
    return result


def similarity(angle: Array, scale: Array, shift: Array) -> Array:
    """Affine maps (..., 3, 3) that turn by ``angle``, enlarge by ``scale`` and move by ``shift`` (..., 2)."""
    result = np.zeros((*angle.shape, 3, 3))
    cosine, sine = scale * np.cos(angle), scale * np.sin(angle)
    result[..., 0, 0], result[..., 0, 1], result[..., 0, 2] = cosine, -sine, shift[..., 0]
    result[..., 1, 0], result[..., 1, 1], result[..., 1, 2] = sine, cosine, shift[..., 1]
    result[..., 2, 2] = 1
    return result


def inverse(maps: Array) -> Array:
    """Inverse of affine maps; ``np.linalg.inv`` calls LAPACK once per matrix, which is slower."""
    (a, b, x), (c, d, y) = np.moveaxis(maps[..., :2, :], (-2, -1), (0, 1))
    scale = 1 / (a * d - b * c)
    result = np.zeros_like(maps)
    result[..., 0, 0], result[..., 0, 1], result[..., 0, 2] = d * scale, -b * scale, (b * y - d * x) * scale
    result[..., 1, 0], result[..., 1, 1], result[..., 1, 2] = -c * scale, a * scale, (c * x - a * y) * scale
    result[..., 2, 2] = 1
    return result


def sizes(maps: Array) -> Array:
    """The factor by which affine maps enlarge lengths, as a geometric mean over directions."""
    return np.sqrt(np.abs(maps[..., 0, 0] * maps[..., 1, 1] - maps[..., 0, 1] * maps[..., 1, 0]))
