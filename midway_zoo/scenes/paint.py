"""Colours of pixels from the layers they show, and the light and noise of each frame."""

from functools import reduce

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from midway_zoo.scenes.layout import Layout
from midway_zoo.scenes.raster import Coverage, Outlines
from midway_zoo.scenes.textures import Texture


class Lookup:
    """Looks up the parameters of the layer that each pixel shows.

    This is done column by column: gathering whole rows and working on their columns is slower.

    Args:
        layers: uint8 (B, T, H, W).
        count: L, how many layers there are.
    """

    def __init__(self, layers: Tensor, count: int) -> None:
        samples, frames = layers.shape[:2]
        first = torch.arange(samples * frames, dtype=torch.int32, device=layers.device) * count
        self.cells = (first.reshape(samples, frames, 1, 1) + layers).flatten()

    def __call__(self, table: npt.NDArray[np.generic], dtype: torch.dtype, at: Tensor | None = None) -> list[Tensor]:
        """R tensors (B * T * H * W,), or (N,) for the N pixels ``at``, from a table (B, T, L, R) of R parameters per
        layer."""
        # A copy, since memory shared with torch must be writable, and a table may be a read-only view.
        columns = torch.from_numpy(np.array(table.reshape(-1, table.shape[-1]).T, order="C"))
        cells = self.cells if at is None else self.cells.index_select(0, at)
        return [column.index_select(0, cells) for column in columns.to(dtype).to(cells.device)]


def paint(layout: Layout, texture: Texture, coverage: Coverage, frames: slice, x: Tensor, y: Tensor) -> Tensor:
    """(B, T', 3, H, W) float32 in [0, 1]: the given frames at (x, y), which broadcast against (B, T', H, W)."""
    shape = coverage.owner.shape
    maps = layout.texture[:, frames]
    numbers = np.broadcast_to(layout.numbers[:, None], (*maps.shape[:3], layout.numbers.shape[-1]))
    table = np.concatenate([maps.reshape(*maps.shape[:3], 6), numbers], axis=-1)
    x, y = x.expand(shape).reshape(-1), y.expand(shape).reshape(-1)

    def colours(layers: Tensor, at: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        a, b, c, d, e, f, *rest = Lookup(layers, table.shape[2])(table, torch.float32, at)
        right, down = (x, y) if at is None else (x[at], y[at])
        return texture.paint(c.addcmul_(a, right).addcmul_(b, down), f.addcmul_(d, right).addcmul_(e, down), rest)

    result = colours(coverage.top)
    edge = (coverage.share < 1).flatten().nonzero()[:, 0]
    share = coverage.share.flatten()[edge]
    for above, below in zip(result, colours(coverage.under, edge), strict=True):
        above.index_copy_(0, edge, torch.lerp(below, above[edge], share))
    return torch.stack([channel.reshape(shape) for channel in result], dim=2)


def cast_shadows(
    frames: Tensor, layout: Layout, outlines: Outlines, owner: Tensor, x: Tensor, y: Tensor, darkness: float
) -> Tensor:
    """Frames (B, T, 3, H, W) with the soft shadow of every object on what is behind it; ``owner`` as in Coverage."""
    if not darkness:
        return frames
    everything = slice(0, frames.shape[1])
    right, down, fade = torch.from_numpy(layout.shadows).float().to(frames.device).T.reshape(3, -1, 1, 1, 1)
    objects = layout.instances[0]  # of each layer, the same in all scenes
    mine = torch.from_numpy(objects).to(frames.device)[owner.long()]
    for number in range(1, int(objects.max()) + 1):
        found = (
            outlines.distance(layer, everything, x - right, y - down)
            for layer in np.flatnonzero(objects == number).tolist()
        )
        distances = [distance for distance in found if distance is not None]
        if distances:
            nearest = reduce(torch.minimum, distances)
            shade = torch.sigmoid(-nearest / fade).mul_(darkness).mul_(mine < number)
            frames = frames * (1 - shade[:, :, None])
    return frames


def light_up(frames: Tensor, light: npt.NDArray[np.float64]) -> None:
    """Multiply frames (B, T, 3, H, W) in place by brightness, colour balance and a gradient, given as (B, T, 5)
    logarithms."""
    height, width = frames.shape[-2:]
    logs = torch.from_numpy(light).float().to(frames.device)[..., None, None]
    right = torch.linspace(-1, 1, width, device=frames.device)
    down = torch.linspace(-1, 1, height, device=frames.device)[:, None]
    rows = (logs[:, :, :3] + logs[:, :, 4:5] * down).exp_()
    frames.mul_(rows).mul_((logs[:, :, 3:4] * right).exp_())


def add_noise(frames: Tensor, keys: npt.NDArray[np.int32], deviation: float) -> None:
    """Add noise to frames (B, T, 3, H, W) in place, a hash of position and ``keys`` (B, T): the same on every device.

    The two uniform halves of a hash are summed: the noise is triangular, with standard deviation ``deviation``.
    """
    places = torch.arange(frames[0, 0].numel(), dtype=torch.int32, device=frames.device).reshape(frames.shape[2:])
    bits = places * _signed(0x9E3779B1) ^ torch.from_numpy(keys).to(frames.device)[..., None, None, None]
    # "lowbias32" of C. Wellons' hash prospector.
    bits = (bits ^ _shifted(bits, 16)).mul_(0x7FEB352D)
    bits = (bits ^ _shifted(bits, 15)).mul_(_signed(0x846CA68B))
    bits ^= _shifted(bits, 16)
    total = (bits & 0xFFFF).add_(_shifted(bits, 16)).float()
    frames.add_(total.sub_(0xFFFF), alpha=deviation * 6**0.5 / 2**16)


def _shifted(bits: Tensor, places: int) -> Tensor:
    """Logical shift to the right; the operator copies the sign of signed numbers."""
    return (bits >> places).bitwise_and_((1 << (32 - places)) - 1)


def _signed(bits: int) -> int:
    """The int32 with these bits."""
    return bits - 2**32 if bits >= 2**31 else bits
