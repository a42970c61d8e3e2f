"""Principal components of a clip's features over time; the first one separates the foreground."""

from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from midway_zoo.checks import check_integer, is_integer
from midway_zoo.errors import InputError
from midway_zoo.inference.batches import inference
from midway_zoo.inference.features import extract_features
from midway_zoo.inference.frames import ClipLike, known_times, open_frames
from midway_zoo.inference.images import Size
from midway_zoo.results import ShapeRepr
from midway_zoo.visualize import principal_axes
from midway_zoo.weights.registry import Model, resolve_network


@dataclass(frozen=True, repr=False, eq=False)
class Components(ShapeRepr):
    """Principal components of the patch features of T frames, one set for all of them."""

    colours: Tensor
    """(T, 3, h, w) float32 in [0, 1]: first three components of the foreground's tokens, each scaled to its range; NaN
    outside the foreground."""
    foreground: Tensor
    """(T, h, w) bool."""
    first: Tensor
    """(T, h, w) float32: first component of all tokens, positive in the foreground."""
    explained: Tensor
    """(4,) float32: share of the variance of all tokens that the first component explains, and shares of the
    foreground's variance that its three components explain."""
    grid: tuple[int, int]
    """Token grid (h, w)."""
    pts_seconds: Tensor | None = None
    """(T,) float64: presentation times of the frames, for videos."""


def principal_components(
    model: Model,
    clip: ClipLike,
    *,
    block: int | None = None,
    backward: int | None = None,
    foreground: bool = True,
    frames: int = 64,
    stride: int = 1,
    fps: float | None = None,
    size: Size = None,
    batch_size: int = 16,
) -> Components:
    """Principal components of a clip's features over time, in colours that are comparable from frame to frame.

    The first component of all tokens splits them in two at Otsu's threshold (1979); the part that touches the
    frame's border less is taken as the foreground. Nothing is learned, and this part need not be what a person would
    call foreground: in a frame that shows only background, it is some of the background.

    Args:
        model: a network or a pretrained name.
        clip: as in :func:`~midway_zoo.infer_motion_latents`; one frame is enough.
        block: encoder block whose patch features are taken, 0-based; None for the last.
        backward: level 2, 1 or 0, to take its backward features instead.
        foreground: False takes all tokens as foreground.
        frames: largest number of frames to take; the features of all are held in memory.
        stride, fps, size: as in :func:`~midway_zoo.infer_motion_latents`.
        batch_size: frames per forward pass.

    Raises:
        InputError: for frames or arguments that cannot be used, or features of fewer than three channels.
        ConfigError: for ``backward`` with a network without backward layers.
    """
    network = resolve_network(model)
    check_integer("frames", frames, 1)
    if block is not None and backward is not None:
        raise InputError(f"block={block} and backward={backward}: one of them is expected.")
    if backward is not None and (not is_integer(backward) or backward not in network.config.levels):
        raise InputError(f"backward={backward!r}: one of the levels {network.config.levels} is expected.")
    chosen = network.config.depth - 1 if block is None else block
    source = islice(open_frames(clip, stride=stride, fps=fps), frames)
    maps: list[Tensor] = []
    times: list[float | None] = []
    with inference(network):
        while some := list(islice(source, batch_size)):
            images = [frame.image for frame in some]
            found = extract_features(
                network, images, blocks=(chosen,), backward=backward is not None, size=size, batch_size=batch_size
            )
            part = found.maps[chosen] if backward is None else (found.backward or {})[backward]
            if isinstance(part, list):
                raise InputError("the frames of a clip differ in size.")
            maps.append(part.float().cpu())
            times += [frame.pts_seconds for frame in some]
    if not maps:
        raise InputError("the clip holds no frame.")
    if len({part.shape[1:] for part in maps}) > 1:
        raise InputError("the frames of a clip differ in size.")
    return components_of(torch.cat(maps), foreground=foreground, pts_seconds=known_times(times))


def components_of(maps: Tensor, *, foreground: bool = True, pts_seconds: Tensor | None = None) -> Components:
    """:func:`principal_components` of feature maps (T, D, h, w).

    Raises:
        InputError: for another shape, fewer than three channels, or values that are not finite.
    """
    if maps.ndim != 4 or maps.shape[1] < 3 or 0 in maps.shape or not maps.isfinite().all():
        raise InputError(f"feature maps {tuple(maps.shape)}: finite (T, D, h, w), D >= 3, are expected.")
    grid = (maps.shape[2], maps.shape[3])
    tokens = maps.movedim(1, -1).flatten(0, 2).double()
    centred = tokens - tokens.mean(dim=0)
    first = (centred @ principal_axes(centred, 1))[:, 0]
    part_of_first = float(first.square().sum() / centred.square().sum().clamp_min(1e-30))
    first = (first - _threshold(first)).unflatten(0, (len(maps), *grid))
    if float((first[_border(first)] > 0).double().mean()) > float((first > 0).double().mean()):
        first = -first  # the part that touches the border less is the foreground
    inside = first > 0 if foreground else torch.ones_like(first, dtype=torch.bool)
    if not inside.any():  # features that are the same everywhere
        inside = torch.ones_like(inside)
    chosen = tokens[inside.flatten()]
    chosen = chosen - chosen.mean(dim=0)
    values = chosen @ principal_axes(chosen, 3)
    shares = values.square().sum(dim=0) / chosen.square().sum().clamp_min(1e-30)
    low, high = values.amin(dim=0), values.amax(dim=0)
    colours = torch.full((*first.shape, 3), torch.nan)
    colours[inside] = ((values - low) / (high - low).clamp_min(1e-12)).float()
    explained = torch.cat([shares.new_tensor([part_of_first]), shares]).float()
    return Components(colours.movedim(-1, 1), inside, first.float(), explained, grid, pts_seconds)


def _threshold(values: Tensor) -> float:
    """The threshold that splits values in two with the least variance within each part (Otsu, 1979)."""
    ordered = values.sort().values
    count = torch.arange(1, len(ordered), dtype=ordered.dtype)
    below = ordered.cumsum(0)[:-1]
    above = ordered.sum() - below
    rest = len(ordered) - count
    between = count * rest * (below / count - above / rest).square()
    if not len(between) or float(between.max()) <= 0:
        return float(ordered[0])
    best = int(between.argmax())
    return float((ordered[best] + ordered[best + 1]) / 2)


def _border(first: Tensor) -> Tensor:
    """Mask (T, h, w) of tokens at the frame's border."""
    mask = torch.zeros_like(first, dtype=torch.bool)
    mask[:, [0, -1]] = True
    mask[:, :, [0, -1]] = True
    return mask
