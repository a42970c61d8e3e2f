"""Objects with more than one layer: a rim below them, and a part fixed on top."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from midway_zoo.scenes.config import ScenesConfig
from midway_zoo.scenes.draws import Array, Draws
from midway_zoo.scenes.motion import similarity, sizes
from midway_zoo.scenes.shapes import SHAPES, TEXTURES


@dataclass(frozen=True)
class Layers:
    """B scenes of T frames and L layers, the background first, nearer ones later."""

    pose: Array
    """(B, T, L, 3, 3): from each layer's own coordinates to those of each frame."""
    shapes: npt.NDArray[np.int64]
    """(B, L): index into ``SHAPES``; -1 if the scene has no such layer."""
    labels: npt.NDArray[np.int64]
    """(B, L)"""
    families: npt.NDArray[np.int64]
    """(B, L): index into ``TEXTURES``."""
    instances: npt.NDArray[np.int64]
    """(B, L)"""


def with_parts(config: ScenesConfig, plain: Layers, draws: Draws) -> Layers:
    """The layers with a rim below every object and a part on some, as the configuration says.

    They move rigidly with their object, so flow and occlusion stay exact.
    """
    if not config.border and not config.parts:
        return plain
    objects = plain.shapes.shape[1] - 1
    stacks = []
    if config.border:
        size = sizes(plain.pose[:, :, 1:])
        rim = np.zeros((*size.shape, 3, 3))
        rim[..., 0, 0] = rim[..., 1, 1] = 1 + config.border / size[:, size.shape[1] // 2, None]
        rim[..., 2, 2] = 1
        families = draws.whole(objects, low=0, high=len(TEXTURES) - 1)
        stacks.append((plain.pose[:, :, 1:] @ rim, plain.shapes[:, 1:], families))
    stacks.append((plain.pose[:, :, 1:], plain.shapes[:, 1:], plain.families[:, 1:]))
    if config.parts:
        there = (draws.uniform(objects) < config.parts) & (plain.shapes[:, 1:] >= 0)
        place = draws.vectors(objects, longest=0.6)
        scale, angle = draws.uniform(objects, low=0.3, high=0.6), draws.uniform(objects, high=2 * np.pi)
        fixed = similarity(angle, scale, place)[:, None]
        shapes = np.where(there, draws.whole(objects, low=0, high=len(SHAPES) - 1), -1)
        families = draws.whole(objects, low=0, high=len(TEXTURES) - 1)
        stacks.append((plain.pose[:, :, 1:] @ fixed, shapes, families))
    count = len(stacks)

    def interleaved(background: npt.NDArray[Any], axis: int, parts: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
        """Interleave the parts, so that the layers of one object follow each other."""
        joined = np.stack(parts, axis=axis + 1)
        shape = list(joined.shape)
        shape[axis : axis + 2] = [objects * count]
        return np.concatenate([background, joined.reshape(shape)], axis=axis)

    return Layers(
        pose=interleaved(plain.pose[:, :, :1], 2, [pose for pose, _, _ in stacks]),
        shapes=interleaved(plain.shapes[:, :1], 1, [shapes for _, shapes, _ in stacks]),
        labels=interleaved(plain.labels[:, :1], 1, [plain.labels[:, 1:]] * count),
        families=interleaved(plain.families[:, :1], 1, [families for _, _, families in stacks]),
        instances=interleaved(plain.instances[:, :1], 1, [plain.instances[:, 1:]] * count),
    )
