"""Everything random about a batch of scenes, drawn on the CPU: the same whatever batch or device renders it."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from midway_zoo.scenes.config import ScenesConfig
from midway_zoo.scenes.draws import Array, Draws
from midway_zoo.scenes.motion import inverse, poses, sizes
from midway_zoo.scenes.shapes import SHAPES, TEXTURES
from midway_zoo.scenes.textures import Texture


@dataclass(frozen=True)
class Layout:
    """B scenes of T frames and L layers; layer 0 is background, nearer layers come later."""

    own: Array
    """(B, T, L, 2, 3): from the picture of a frame to each layer's own coordinates."""
    size: Array
    """(B, T, L): pixels per unit of those coordinates."""
    texture: Array
    """(B, T, L, 2, 3): from the picture to texture coordinates."""
    motion: Array
    """(B, T - 1, L, 2, 3): from a point in the picture of frame t to where its layer takes it in frame t + 1."""
    numbers: Array
    """(B, L, R): of each layer's texture."""
    shapes: npt.NDArray[np.int64]
    """(B, L): index into ``SHAPES``; -1 where there is no such object; column 0 means nothing."""
    labels: npt.NDArray[np.int64]
    """(B, L): class id."""
    light: Array
    """(B, T, 5): log brightness of red, green, blue, and its slope to the right and down over half a side."""
    noise_keys: npt.NDArray[np.int32]
    """(B, T): what tells the noise of one frame from that of another."""


def draw_layout(config: ScenesConfig, texture: Texture, seed: int, indices: npt.NDArray[np.int64]) -> Layout:
    """The scenes of ``indices``, (B,)."""
    draws = Draws(seed, indices)
    count = config.objects[1]
    present = np.arange(count) < draws.whole(1, low=config.objects[0], high=count)
    classes = draws.whole(count, low=0, high=config.num_classes - 1)
    background = draws.whole(1, low=0, high=len(TEXTURES) - 1)
    shapes = np.where(present, classes % len(SHAPES), -1)
    labels = np.where(present, classes + 1, 0)

    pose = poses(config, draws)
    own = inverse(pose)
    coordinates, numbers = texture.draw(draws, np.concatenate([background, classes % len(TEXTURES)], axis=1))
    size = sizes(pose)
    pixels = np.zeros_like(own)  # from own coordinates to the layer's pixels as they are in the middle of the clip
    pixels[..., 0, 0] = pixels[..., 1, 1] = size[:, config.frames // 2, None]
    pixels[..., 2, 2] = 1
    zero = np.zeros((len(indices), 1), dtype=np.int64)
    return Layout(
        own=own[..., :2, :],
        size=size,
        texture=(coordinates[:, None] @ pixels @ own)[..., :2, :],
        motion=(pose[:, 1:] @ own[:, :-1])[..., :2, :],
        numbers=numbers,
        shapes=np.concatenate([zero, shapes], axis=1),
        labels=np.concatenate([zero, labels], axis=1),
        light=_light(config, draws),
        noise_keys=draws.keys(config.frames),
    )


def _light(config: ScenesConfig, draws: Draws) -> Array:
    """A constant and a change over the clip, each up to half of ``lighting``; colour balance a quarter as much."""
    balance, common, slopes = draws.uniform(2, 3), draws.uniform(2, 1), draws.uniform(2, 2)
    drawn = 2 * np.concatenate([0.25 * balance + 0.75 * common, slopes], axis=2) - np.array([1, 1, 1, 1, 1])
    time = (np.arange(config.frames) - (config.frames - 1) / 2) / max(config.frames - 1, 1) * 2
    return config.lighting * 0.5 * (drawn[:, None, 0] + time[:, None] * drawn[:, None, 1])
