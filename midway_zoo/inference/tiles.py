"""Flow of images larger than the flow head was trained on: overlapping tiles, blended by confidence.

As in CroCo v2 (Weinzaepfel et al. 2023, appendix): each tile is predicted alone, and where tiles overlap the ones that
expect the smaller error count more.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from tqdm import tqdm

from midway_zoo.models.network import MidwayNetwork

_BETA, _TAU = 10.0, 5.0

Corner = tuple[int, int]


class Frames:
    """Normalised frames (b, 3, H, W) of one size, and their tokens once these are asked for: never encoded twice."""

    def __init__(self, network: MidwayNetwork, images: Tensor) -> None:
        self.network, self.images = network, images
        self._tokens: dict[bool, list[Tensor]] = {}

    @property
    def size(self) -> tuple[int, int]:
        return self.images.shape[-2], self.images.shape[-1]

    @property
    def grid(self) -> tuple[int, int]:
        return self.network.grid_of(self.images)

    def tokens(self, *, target: bool = False) -> list[Tensor]:
        """Four levels (b, L, D); one encoder serves both frames unless the network is in paired mode."""
        target = target and self.network.target_encoder is not None
        if target not in self._tokens:
            self._tokens[target] = self.network.encode(self.images, target=target)
        return self._tokens[target]

    def __getitem__(self, rows: slice) -> "Frames":
        part = Frames(self.network, self.images[rows])
        part._tokens = {key: [level[rows] for level in levels] for key, levels in self._tokens.items()}
        return part

    def after(self, before: "Frames | None") -> "Frames":
        """These frames preceded by others; only tokens that both have are kept."""
        if before is None:
            return self
        joined = Frames(self.network, torch.cat([before.images, self.images]))
        for key in self._tokens.keys() & before._tokens.keys():
            pairs = zip(before._tokens[key], self._tokens[key], strict=True)
            joined._tokens[key] = [torch.cat(pair) for pair in pairs]
        return joined


@dataclass(frozen=True)
class Tile:
    """A window of one pair; corners are (y, x) of its upper left pixel."""

    row: int
    """Which pair of the batch."""
    source: Corner
    target: Corner


def starts(length: int, side: int, overlap: float) -> list[int]:
    """First pixels of the tiles along one axis: evenly spread, overlapping by at least ``overlap`` of a side."""
    count = 1 + math.ceil((length - side) / ((1 - overlap) * side) - 1e-9)
    return [round(index * (length - side) / max(count - 1, 1)) for index in range(count)]


def raw_tiles(source: Frames, target: Frames, tiles: list[Tile], side: tuple[int, int], *, both: bool) -> list[Tensor]:
    """Raw flow (n, 3, h, w) of each tile from source to target; with ``both`` also from target to source.

    Frames of the size of a tile are taken as they are, so that their tokens are shared: one tile per row, in order.
    """
    if source.size != side:
        source, target = (
            Frames(frames.network, _crops(frames.images, [(tile.row, getattr(tile, name)) for tile in tiles], side))
            for frames, name in ((source, "source"), (target, "target"))
        )
    pairs = [(source, target), (target, source)][: 1 + both]
    decode = source.network.flow_from_tokens
    return [decode(one.tokens(), other.tokens(target=True), one.grid).float() for one, other in pairs]


def raw_flow(
    source: Frames,
    target: Frames,
    side: tuple[int, int],
    *,
    overlap: float,
    batch_size: int,
    coarse: bool,
    both: bool,
) -> list[Tensor]:
    """Raw flow (b, 3, H, W) of frames at least as large as a tile of (height, width) ``side``.

    With ``coarse``, the frames are first seen as a whole at the size of a tile, and each tile of the target is
    moved by the median of that flow over its source tile, as far as the frame reaches.
    """
    if source.size == side:
        tiles = [Tile(row, (0, 0), (0, 0)) for row in range(len(source.images))]
        return raw_tiles(source, target, tiles, side, both=both)
    if not coarse:
        return _blended(source, target, _tiles(source, side, overlap), side, batch_size, both=both)
    small = [Frames(frames.network, _shrink(frames.images, side)) for frames in (source, target)]
    whole = [Tile(row, (0, 0), (0, 0)) for row in range(len(source.images))]
    found = []
    directions = ((source, target), (target, source)) if both else ((source, target),)
    roughs = raw_tiles(small[0], small[1], whole, side, both=both)
    for rough, (one, other) in zip(roughs, directions, strict=True):
        tiles = [_placed(tile, rough[tile.row], one.size, side) for tile in _tiles(one, side, overlap)]
        found += _blended(one, other, tiles, side, batch_size, both=False)
    return found


def _tiles(frames: Frames, side: tuple[int, int], overlap: float) -> list[Tile]:
    rows, columns = (starts(length, edge, overlap) for length, edge in zip(frames.size, side, strict=True))
    corners = [(y, x) for y in rows for x in columns]
    return [Tile(row, corner, corner) for row in range(len(frames.images)) for corner in corners]


def _placed(tile: Tile, rough: Tensor, size: tuple[int, int], side: tuple[int, int]) -> Tile:
    """The tile with its target window where the rough flow (3, h, w) of the whole frame says."""
    (height, width), (y, x) = size, tile.source
    rows, columns = (  # what the tile covers of the rough map, which is the frame at the size of a tile
        slice(start * edge // length, max(start * edge // length + 1, (start + edge) * edge // length))
        for start, length, edge in zip(tile.source, size, side, strict=True)
    )
    # A network that diverged gives NaN here; the flow shall show that, not the rounding below.
    u, v = (float(part.median().nan_to_num()) for part in rough[:2, rows, columns].float().cpu())
    moved = (y + round(v * height / side[0]), x + round(u * width / side[1]))
    corner = [min(max(place, 0), length - edge) for place, length, edge in zip(moved, size, side, strict=True)]
    return Tile(tile.row, tile.source, (corner[0], corner[1]))


def _blended(
    source: Frames, target: Frames, tiles: list[Tile], side: tuple[int, int], batch_size: int, *, both: bool
) -> list[Tensor]:
    """Tiles joined; with ``both``, a tile lies at the same place of both frames."""
    totals = [torch.zeros_like(source.images, dtype=torch.float32) for _ in range(1 + both)]
    weights = [total[:, :1].clone() for total in totals]
    for chunk in _chunks(tiles, batch_size):
        raw = raw_tiles(source, target, chunk, side, both=both)
        for found, total, weight in zip(raw, totals, weights, strict=True):
            share = torch.exp(-2 * _BETA * (torch.sigmoid(found[:, 2:] / _TAU) - 0.5))
            for index, tile in enumerate(chunk):
                (y, x), (target_y, target_x) = tile.source, tile.target
                moved = found.new_tensor([target_x - x, target_y - y, 0]).view(3, 1, 1)
                place = (tile.row, slice(None), slice(y, y + side[0]), slice(x, x + side[1]))
                total[place] += (found[index] + moved) * share[index]
                weight[place] += share[index]
    return [total / weight for total, weight in zip(totals, weights, strict=True)]


def _chunks(tiles: list[Tile], batch_size: int) -> Iterator[list[Tile]]:
    parts = range(0, len(tiles), batch_size)
    for first in tqdm(parts, unit=" batches of tiles", leave=False, disable=True if len(parts) < 2 else None):
        yield tiles[first : first + batch_size]


def _crops(images: Tensor, places: list[tuple[int, Corner]], side: tuple[int, int]) -> Tensor:
    return torch.stack([images[row, :, y : y + side[0], x : x + side[1]] for row, (y, x) in places])


def _shrink(images: Tensor, side: tuple[int, int]) -> Tensor:
    smaller = F.interpolate(images.float(), size=side, mode="bicubic", antialias=True, align_corners=False)
    return smaller.to(images.dtype)
