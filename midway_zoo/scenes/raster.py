"""From layers to pixels: which layer is seen where, and what covers it in the next frame."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from midway_zoo.scenes.layout import Layout
from midway_zoo.scenes.shapes import FORMULAS, SHAPES, signed_distance

_FAR = 1e3


@dataclass(frozen=True)
class Coverage:
    """(B, T, H, W) each."""

    owner: Tensor
    """uint8: the layer that covers the pixel's centre."""
    top: Tensor
    """uint8: the nearest layer that touches the pixel; differs from ``owner`` only if it covers less than half."""
    under: Tensor
    """uint8: the layer below ``top``."""
    share: Tensor
    """float32: fraction of the pixel that ``top`` covers, 0 to 1."""


def affine(maps: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Maps (N, T, 2, 3) of x and y, which broadcast against (N, T, H, W); (N, T, H, W) each."""
    (a, b, c), (d, e, f) = (row.unbind(-1) for row in maps[..., None, None].movedim((2, 3), (0, -1)).unbind(0))
    return a * x + (b * y + c), d * x + (e * y + f)


class Outlines:
    """Outlines of all objects of a batch.

    The objects of one layer are grouped by formula, and each formula is evaluated only for the samples that need it.
    """

    def __init__(self, layout: Layout, device: torch.device) -> None:
        self.layers = layout.shapes.shape[1]
        self._own = torch.from_numpy(layout.own).float().to(device)
        self._size = torch.from_numpy(layout.size).float().to(device)
        self._groups = [self._group(layout.shapes[:, layer], device) for layer in range(self.layers)]

    def _group(self, shapes: npt.NDArray[np.int64], device: torch.device) -> list[tuple[str, Tensor, Tensor]]:
        """(formula, samples (N,), numbers (3, N, 1, 1, 1)) for the objects of one layer."""
        kinds = list(SHAPES.values())
        groups = []
        for formula in FORMULAS:
            rows = np.flatnonzero([shape >= 0 and kinds[shape].formula == formula for shape in shapes])
            if len(rows):
                numbers = torch.tensor([kinds[shapes[row]].numbers for row in rows]).T.reshape(3, -1, 1, 1, 1)
                groups.append((formula, torch.from_numpy(rows).to(device), numbers.to(device)))
        return groups

    def distance(self, layer: int, frames: slice, x: Tensor, y: Tensor) -> Tensor | None:
        """(B, T', H, W): distance in pixels to the outline of each sample's object in this layer, < 0 inside.

        None if no sample has one.

        Args:
            layer: 1 or higher.
            frames: the T' frames.
            x: broadcasts against (B, T', H, W), in pixels from the frame's centre.
            y: as ``x``.
        """
        whole: Tensor | None = None
        for formula, rows, numbers in self._groups[layer]:
            everyone = len(rows) == len(self._own)
            maps = self._own[:, frames, layer] if everyone else self._own[rows, frames, layer]
            size = self._size[:, frames, layer] if everyone else self._size[rows, frames, layer]
            u, v = affine(maps, *(a if everyone or len(a) == 1 else a.index_select(0, rows) for a in (x, y)))
            part = signed_distance(formula, u, v, numbers).mul_(size[..., None, None])
            if everyone:
                return part
            if whole is None:
                whole = part.new_full((len(self._own), *part.shape[1:]), _FAR)
            whole.index_copy_(0, rows, part)
        return whole

    def cover(self, frames: slice, x: Tensor, y: Tensor, *, antialias: bool) -> Coverage:
        """What is seen at (x, y), given as for :meth:`distance`."""
        shape = torch.broadcast_shapes(x.shape, y.shape, (*self._own[:, frames].shape[:2], 1, 1))
        owner = torch.zeros(shape, dtype=torch.uint8, device=x.device)
        top, under, share = owner.clone(), owner.clone(), torch.ones(shape, device=x.device)
        for layer in range(1, self.layers):
            distance = self.distance(layer, frames, x, y)
            if distance is None:
                continue
            if antialias:
                touched = distance < 0.5
                under = torch.where(touched, owner, under)
                top.masked_fill_(touched, layer)
                share = torch.where(touched, 0.5 - distance, share)
            owner.masked_fill_(distance < 0, layer)
        return Coverage(owner, top if antialias else owner, under, share.clamp_(0, 1))

    def covered(self, frames: slice, x: Tensor, y: Tensor, owner: Tensor) -> Tensor:
        """bool (B, T', H, W): whether a layer nearer than ``owner`` lies at (x, y)."""
        result = torch.zeros_like(owner, dtype=torch.bool)
        for layer in range(1, self.layers):
            distance = self.distance(layer, frames, x, y)
            if distance is not None:
                result |= (distance < 0) & (owner < layer)
        return result
