"""The flow head on images larger than it was trained on: overlapping tiles, blended by confidence.

As in CroCo v2 (Weinzaepfel et al. 2023, appendix): each tile is predicted alone, and where tiles overlap, those that
expect the smaller error count more.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from midway_zoo.bars import bar
from midway_zoo.inference.encoded import Corner, EncodedFrames

_BETA, _TAU = 10.0, 5.0


def starts(length: int, side: int, overlap: float) -> list[int]:
    """First pixels of the tiles along one axis: evenly spread, overlapping by at least ``overlap`` of a side."""
    count = 1 + math.ceil((length - side) / ((1 - overlap) * side) - 1e-9)
    return [round(index * (length - side) / max(count - 1, 1)) for index in range(count)]


def corners(size: tuple[int, int], side: tuple[int, int], overlap: float) -> tuple[Corner, ...]:
    """Upper left pixels (y, x) of the tiles of an image."""
    rows, columns = (starts(length, edge, overlap) for length, edge in zip(size, side, strict=True))
    return tuple((y, x) for y in rows for x in columns)


def tiled_flow(source: EncodedFrames, target: EncodedFrames, *, both: bool) -> list[Tensor]:
    """Raw flow (b, 3, H, W) from source to target, with ``both`` also from target to source, of tiles at the same
    positions in both frames."""
    pairs = [(source, target), (target, source)][: 1 + both]
    return [_blended(one, other) for one, other in pairs]


def placed_flow(source: EncodedFrames, target: EncodedFrames, *, both: bool) -> list[Tensor]:
    """:func:`tiled_flow` with each tile of the target shifted by the flow of the whole images.

    That flow is first predicted at the size of a tile; its median over a source tile shifts the target's tile, within
    the frame.
    """
    small = [EncodedFrames(frames.network, _shrink(frames.images, frames.side)) for frames in (source, target)]
    found = []
    directions = ((source, target), (target, source))[: 1 + both]
    for rough, (one, other) in zip(tiled_flow(small[0], small[1], both=both), directions, strict=True):
        parts = []
        for row in range(len(one)):
            moved = tuple(_placed(corner, rough[row], one) for corner in one.windows)
            there = EncodedFrames(one.network, other.images[row : row + 1], moved, one.side, one.batch_size, one.fade)
            parts.append(_blended(one[row : row + 1], there))
        found.append(torch.cat(parts))
    return found


def _placed(corner: Corner, rough: Tensor, frames: EncodedFrames) -> Corner:
    """The position to which the rough flow (3, h, w) of the whole frame shifts a tile."""
    size, side = frames.size, frames.side
    rows, columns = (  # the tile's area in the rough map, which is the frame reduced to the size of a tile
        slice(start * edge // length, max(start * edge // length + 1, (start + edge) * edge // length))
        for start, length, edge in zip(corner, size, side, strict=True)
    )
    # A diverged network gives NaN here; that should show in the flow, not as an error of the rounding below.
    u, v = (float(part.median().nan_to_num()) for part in rough[:2, rows, columns].float().cpu())
    moved = (corner[0] + round(v * size[0] / side[0]), corner[1] + round(u * size[1] / side[1]))
    y, x = (min(max(place, 0), length - edge) for place, length, edge in zip(moved, size, side, strict=True))
    return y, x


def _blended(source: EncodedFrames, target: EncodedFrames) -> Tensor:
    """Tiles blended into frames (b, 3, H, W), each adding the offset of its target tile from its source tile."""
    count, (height, width) = len(source.windows), source.side
    if source.side == source.size:
        return _decoded(source, target, slice(None))
    total = torch.zeros_like(source.images, dtype=torch.float32)
    weight = total[:, :1].clone()
    fading = _fading(source.side).to(total.device) if source.fade else 1.0
    for rows in _parts(len(source) * count, source.batch_size):
        found = _decoded(source, target, rows)
        share = torch.exp(-2 * _BETA * (torch.sigmoid(found[:, 2:] / _TAU) - 0.5)) * fading
        for index, row in enumerate(range(rows.start, rows.start + len(found))):
            frame, window = divmod(row, count)
            (y, x), (target_y, target_x) = source.windows[window], target.windows[window]
            moved = found.new_tensor([target_x - x, target_y - y, 0]).view(3, 1, 1)
            place = (frame, slice(None), slice(y, y + height), slice(x, x + width))
            total[place] += (found[index] + moved) * share[index]
            weight[place] += share[index]
    return total / weight


def _fading(side: tuple[int, int]) -> Tensor:
    """(h, w) weights that fall from 1 in the middle of a tile to almost 0 at its borders."""
    rows, columns = (torch.sin(torch.pi * (torch.arange(edge, dtype=torch.float32) + 0.5) / edge) for edge in side)
    return rows[:, None] * columns + 1e-3


def _decoded(source: EncodedFrames, target: EncodedFrames, rows: slice) -> Tensor:
    """Raw flow (n, 3, h, w) of some windows, float32."""
    before, after = ([level[rows] for level in each] for each in (source.tokens(), target.tokens(target=True)))
    return source.network.flow_from_tokens(before, after, source.grid).float()


def _parts(total: int, size: int | None) -> Iterator[slice]:
    size = size or total
    firsts = range(0, total, size)
    for first in bar(firsts, unit=" batches of tiles", hidden=len(firsts) < 2):
        yield slice(first, first + size)


def _shrink(images: Tensor, side: tuple[int, int]) -> Tensor:
    smaller = F.interpolate(images.float(), size=side, mode="bicubic", antialias=True, align_corners=False)
    return smaller.to(images.dtype)
