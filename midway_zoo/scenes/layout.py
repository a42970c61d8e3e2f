"""Everything random about a batch of scenes, drawn on the CPU so that it is the same for any batch and device."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from midway_zoo.scenes.config import ScenesConfig
from midway_zoo.scenes.draws import Array, Draws
from midway_zoo.scenes.motion import at_time, inverse, poses, sizes
from midway_zoo.scenes.parts import Layers, with_parts
from midway_zoo.scenes.shapes import SHAPES, TEXTURES
from midway_zoo.scenes.textures import Texture

# Options draw from sequences of their own, so that switching one on changes nothing else.
_PARTS, _SHADOWS = 0x7061727473 << 20, 0x736861646F77 << 10
_EXPOSURES = 5


@dataclass(frozen=True)
class Layout:
    """B scenes of T frames and L layers; layer 0 is background, nearer layers come later."""

    own: Array
    """(B, T, L, 2, 3): from frame coordinates to each layer's own coordinates."""
    size: Array
    """(B, T, L): pixels per unit of those coordinates."""
    texture: Array
    """(B, T, L, 2, 3): from frame coordinates to texture coordinates."""
    motion: Array
    """(B, T - 1, L, 2, 3): from a point of frame t to the place where its layer takes it in frame t + 1."""
    numbers: Array
    """(B, L, R): parameters of each layer's texture."""
    shapes: npt.NDArray[np.int64]
    """(B, L): index into ``SHAPES``; -1 if the scene has no such object; column 0 (the background) has no meaning."""
    labels: npt.NDArray[np.int64]
    """(B, L): class id."""
    light: Array
    """(B, T, 5): log brightness of red, green, blue, and its slope to the right and down over half a side."""
    noise_keys: npt.NDArray[np.int32]
    """(B, T): hash keys that make the noise of each frame different."""
    instances: npt.NDArray[np.int64]
    """(B, L): number of the object that the layer belongs to; 0 for the background."""
    shadows: Array
    """(B, 3): offset of shadows to the right and down, and the width over which their edges fade, in pixels."""
    exposures: tuple["Layout", ...] = ()
    """The same layers at times within the exposure of each frame; empty without motion blur."""


def draw_layout(config: ScenesConfig, texture: Texture, seed: int, indices: npt.NDArray[np.int64]) -> Layout:
    """The scenes of ``indices``, (B,)."""
    draws = Draws(seed, indices)
    count = config.objects[1]
    present = np.arange(count) < draws.whole(1, low=config.objects[0], high=count)
    classes = draws.whole(count, low=0, high=config.num_classes - 1)
    background = draws.whole(1, low=0, high=len(TEXTURES) - 1)
    zero = np.zeros((len(indices), 1), dtype=np.int64)
    layers = with_parts(
        config,
        Layers(
            pose=poses(config, draws),
            shapes=np.concatenate([zero, np.where(present, classes % len(SHAPES), -1)], axis=1),
            labels=np.concatenate([zero, np.where(present, classes + 1, 0)], axis=1),
            families=np.concatenate([background, classes % len(TEXTURES)], axis=1),
            instances=np.broadcast_to(np.arange(count + 1), (len(indices), count + 1)),
        ),
        Draws(seed ^ _PARTS, indices),
    )
    pose = layers.pose
    own = inverse(pose)
    coordinates, numbers = texture.draw(draws, layers.families)
    size = sizes(pose)
    pixels = np.zeros_like(own)  # from own coordinates to pixels on the layer, at its size in the middle of the clip
    pixels[..., 0, 0] = pixels[..., 1, 1] = size[:, config.frames // 2, None]
    pixels[..., 2, 2] = 1
    layout = Layout(
        own=own[..., :2, :],
        size=size,
        texture=(coordinates[:, None] @ pixels @ own)[..., :2, :],
        motion=(pose[:, 1:] @ own[:, :-1])[..., :2, :],
        numbers=numbers,
        shapes=layers.shapes,
        labels=layers.labels,
        light=_light(config, draws),
        noise_keys=draws.keys(config.frames),
        instances=layers.instances,
        shadows=_shadows(config, Draws(seed ^ _SHADOWS, indices)),
    )
    times = (np.arange(_EXPOSURES) / (_EXPOSURES - 1) - 0.5) * config.shutter if config.shutter else ()
    moments = (inverse(at_time(pose, float(time))) for time in times)
    maps = coordinates[:, None] @ pixels
    return replace(
        layout,
        exposures=tuple(replace(layout, own=one[..., :2, :], texture=(maps @ one)[..., :2, :]) for one in moments),
    )


def _shadows(config: ScenesConfig, draws: Draws) -> Array:
    side = min(config.height, config.width)
    angle, length, fade = draws.uniform(3).T
    reach = side * (0.03 + 0.09 * length)
    edge = side * (0.01 + 0.04 * fade)
    return np.stack([reach * np.cos(2 * np.pi * angle), reach * np.sin(2 * np.pi * angle), edge], axis=1)


def _light(config: ScenesConfig, draws: Draws) -> Array:
    """A constant and a linear change over the clip, each up to half of ``lighting``; a quarter is colour balance."""
    balance, common, slopes = draws.uniform(2, 3), draws.uniform(2, 1), draws.uniform(2, 2)
    drawn = 2 * np.concatenate([0.25 * balance + 0.75 * common, slopes], axis=2) - np.array([1, 1, 1, 1, 1])
    time = (np.arange(config.frames) - (config.frames - 1) / 2) / max(config.frames - 1, 1) * 2
    return config.lighting * 0.5 * (drawn[:, None, 0] + time[:, None] * drawn[:, None, 1])
