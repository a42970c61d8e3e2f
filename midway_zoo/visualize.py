"""Pictures of flow, features and heat maps, as uint8 tensors (3, H, W) or (B, 3, H, W)."""

import colorsys
import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from midway_zoo import style
from midway_zoo.checks import is_size
from midway_zoo.errors import InputError, InputTypeError
from midway_zoo.inference.images import ImageLike, to_tensor

# Lengths of the colour wheel's six transitions: red-yellow, yellow-green, ... (Baker et al., "A Database and
# Evaluation Methodology for Optical Flow", IJCV 2011).
_TRANSITIONS = (15, 6, 4, 11, 13, 6)
_CORNERS = ((255, 0, 0), (255, 255, 0), (0, 255, 0), (0, 255, 255), (0, 0, 255), (255, 0, 255), (255, 0, 0))

STILL = 0.5
"""In pixels. If the longest vector of a flow field is shorter, its picture shows noise rather than motion."""


def flow_to_image(flow: Tensor, *, max_flow: float | None = None) -> Tensor:
    """Middlebury colours: hue is direction, saturation is length (white = no motion).

    Args:
        flow: (2, H, W) or (B, 2, H, W) in pixels; NaN = invalid, drawn black.
        max_flow: length in pixels at full saturation; longer vectors are darkened. None: the longest
            valid vector of each image.

    Returns:
        uint8 (3, H, W) or (B, 3, H, W).

    Raises:
        InputError: for another shape, or a ``max_flow`` that is not positive.
    """
    if not isinstance(flow, Tensor):
        raise InputTypeError(
            f"{type(flow).__name__} is not a flow field: a float tensor (2, H, W) or (B, 2, H, W) is expected."
        )
    if flow.ndim not in (3, 4) or flow.shape[-3] != 2 or not flow.is_floating_point():
        raise InputError(
            f"flow of shape {tuple(flow.shape)}, {flow.dtype}: float (2, H, W) or (B, 2, H, W) is expected."
        )
    if max_flow is not None and not 0 < max_flow < math.inf:
        raise InputError(f"max_flow={max_flow!r}: a positive number of pixels is expected.")
    if flow.ndim == 4:
        if len(flow) == 0:
            return flow.new_zeros((0, 3, *flow.shape[2:]), dtype=torch.uint8)
        return torch.stack([flow_to_image(single, max_flow=max_flow) for single in flow])
    flow = flow.detach()
    valid = flow.isfinite().all(dim=0)
    x, y = flow.float().where(valid, torch.zeros(()).to(flow.device))
    radius = torch.hypot(x, y)
    longest = max_flow if max_flow is not None else max(float(radius.max()) if radius.numel() else 0.0, 1e-6)
    radius = radius / longest
    wheel = _wheel().to(flow.device)
    position = (torch.atan2(-y, -x) / math.pi + 1) / 2 * (len(wheel) - 1)
    low = position.floor().long()
    colour = torch.lerp(wheel[low], wheel[(low + 1) % len(wheel)], (position - low)[..., None]).movedim(-1, 0)
    inside = 1 - radius * (1 - colour)
    image = torch.where(radius <= 1 + 1e-6, inside, colour * 0.75).clamp(0, 1) * valid
    return (image * 255).round().to(torch.uint8)


def _wheel() -> Tensor:
    """(55, 3) colours in [0, 1] around the circle."""
    parts = []
    for length, start, stop in zip(_TRANSITIONS, _CORNERS[:-1], _CORNERS[1:], strict=True):
        weight = torch.arange(length, dtype=torch.float32)[:, None] / length
        parts.append(torch.lerp(torch.tensor(start).float(), torch.tensor(stop).float(), weight))
    return torch.cat(parts) / 255


def features_to_image(maps: Tensor | Sequence[Tensor], *, size: tuple[int, int] | None = None) -> Tensor | list[Tensor]:
    """The first three principal components as RGB; one projection for all frames, so that colours are comparable.

    Args:
        maps: (B, D, h, w) or (D, h, w) patch features, or a list of (D, h, w) on different grids.
        size: (H, W) to enlarge to (nearest neighbour); None keeps the grid.

    Returns:
        uint8 (B, 3, H, W), (3, H, W), or a list of (3, H, W), as given.

    Raises:
        InputError: for another shape, or fewer than three channels.
    """
    parts = [maps] if isinstance(maps, Tensor) else maps
    if not isinstance(parts, list | tuple) or not all(isinstance(part, Tensor) for part in parts):
        kinds = type(maps).__name__ + (
            f" of {type(maps[0]).__name__}" if isinstance(maps, list | tuple) and maps else ""
        )
        raise InputTypeError(f"{kinds} is not a feature map: tensors (D, h, w) or (B, D, h, w) are expected.")
    if size is not None and not is_size(size):
        raise InputError(f"size={size!r}: two positive integers (height, width) are expected.")
    if isinstance(maps, Tensor):
        if maps.ndim == 3:
            return _pca_images([maps], size)[0]
        if maps.ndim == 4:
            return torch.stack(_pca_images(list(maps), size))
        raise InputError(f"feature maps of shape {tuple(maps.shape)}: (D, h, w) or (B, D, h, w) is expected.")
    return _pca_images(list(maps), size)


def _pca_images(maps: list[Tensor], size: tuple[int, int] | None) -> list[Tensor]:
    if not maps or any(m.ndim != 3 or m.shape[0] != maps[0].shape[0] for m in maps) or maps[0].shape[0] < 3:
        raise InputError("feature maps (D, h, w) of one width D >= 3 are expected.")
    if any(0 in m.shape for m in maps):
        raise InputError("a feature map has zero size; positive sides are expected.")
    if not all(m.isfinite().all() for m in maps):
        raise InputError("a feature map holds NaN or infinity; finite values are expected.")
    tokens = torch.cat([m.flatten(1).T for m in maps]).double()
    tokens = tokens - tokens.mean(dim=0)
    vectors = principal_axes(tokens, 3)
    colours = tokens @ vectors
    low, high = colours.amin(dim=0), colours.amax(dim=0)
    colours = ((colours - low) / (high - low).clamp_min(1e-12) * 255).round().to(torch.uint8)
    images = []
    for part, one in zip(colours.split([m[0].numel() for m in maps]), maps, strict=True):
        image = part.T.unflatten(1, one.shape[1:])
        images.append(image if size is None else F.interpolate(image[None], size=size, mode="nearest-exact")[0])
    return images


def principal_axes(tokens: Tensor, count: int) -> Tensor:
    """(D, count) unit vectors along which centred tokens (n, D) vary most, in descending order."""
    vectors = torch.linalg.eigh(tokens.T @ tokens)[1][:, -count:].flip(1)
    # An eigenvector's sign is arbitrary: make its largest entry positive, so that pictures are reproducible.
    return vectors * vectors.gather(0, vectors.abs().argmax(dim=0, keepdim=True)).sign()


def heatmap_overlay(
    image: ImageLike, heatmap: Tensor, *, alpha: float = 0.6, vmin: float | None = None, vmax: float | None = None
) -> Tensor:
    """A heat map over its image.

    Args:
        image: any single image that :func:`midway_zoo.inference.images.to_tensor` reads, (H, W) pixels.
        heatmap: (h, w) values; enlarged bilinearly to the image. NaN is drawn as ``vmin``.
        alpha: weight of the heat map, from 0 to 1.
        vmin: the value that is drawn darkest; None: the smallest.
        vmax: the value that is drawn lightest; None: the largest.

    Returns:
        uint8 (3, H, W).

    Raises:
        InputError: for a heat map of another shape, or ``alpha`` outside [0, 1].
    """
    if not isinstance(heatmap, Tensor):
        raise InputTypeError(f"{type(heatmap).__name__} is not a heat map: a tensor (h, w) is expected.")
    if heatmap.ndim != 2 or 0 in heatmap.shape:
        raise InputError(f"heat map of shape {tuple(heatmap.shape)}: (h, w) is expected.")
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha={alpha!r}: a number from 0 to 1 is expected.")
    picture = to_tensor(image).cpu()
    values = heatmap.detach().float().cpu()
    finite = values[values.isfinite()]
    if not finite.numel():
        raise InputError("the heat map holds no finite value.")
    low = float(finite.min()) if vmin is None else vmin
    high = float(finite.max()) if vmax is None else vmax
    if not (math.isfinite(low) and math.isfinite(high)) or (None not in (vmin, vmax) and low > high):
        raise InputError(f"vmin={vmin}, vmax={vmax}: finite values with vmin <= vmax are expected.")
    values = ((values.nan_to_num(low, high, low) - low) / max(high - low, 1e-12)).clamp(0, 1)
    values = F.interpolate(values[None, None], size=picture.shape[1:], mode="bilinear", align_corners=False)[0, 0]
    palette = torch.tensor(style.HEAT).float() / 255
    position = values * (len(palette) - 1)
    step = position.long().clamp_max(len(palette) - 2)
    colour = torch.lerp(palette[step], palette[step + 1], (position - step)[..., None]).movedim(-1, 0)
    return ((1 - alpha) * picture + alpha * colour).mul(255).round().clamp(0, 255).to(torch.uint8)


def labels_to_image(labels: Tensor, *, palette: Sequence[Sequence[int]] | None = None) -> Tensor:
    """Class labels as a picture, one colour per class.

    Args:
        labels: (H, W) or (B, H, W) integers from 0 to 255.
        palette: RGB colours from 0 to 255 of classes 0, 1, ...; None for well separated colours, the same every time.

    Returns:
        uint8 (3, H, W) or (B, 3, H, W); a label without a colour, such as 255, is black.

    Raises:
        InputError: for other shapes or values.
    """
    if not isinstance(labels, Tensor):
        raise InputTypeError(f"{type(labels).__name__} is not a map of labels: a tensor (H, W) is expected.")
    whole = not labels.is_floating_point() and labels.ndim in (2, 3) and 0 not in labels.shape
    if not whole or int(labels.min()) < 0 or int(labels.max()) > 255:
        raise InputError(f"labels {tuple(labels.shape)}, {labels.dtype}: (H, W) integers from 0 to 255 are expected.")
    return label_colours(palette)[labels.long().cpu()].movedim(-1, -3)


def label_colours(palette: Sequence[Sequence[int]] | None = None) -> Tensor:
    """(256, 3) uint8: the colours of :func:`labels_to_image`."""
    colours = torch.zeros(256, 3, dtype=torch.uint8)
    if palette is None:
        for number in range(255):  # golden steps around the wheel, in three brightnesses
            value = (0.95, 0.7, 0.5)[number % 3]
            colour = colorsys.hsv_to_rgb(number * 0.618034 % 1, 0.85, value)
            colours[number] = torch.tensor([round(255 * part) for part in colour], dtype=torch.uint8)
    else:
        colours[: len(palette)] = torch.tensor([list(colour) for colour in palette], dtype=torch.uint8)
    return colours


def labels_overlay(
    image: ImageLike, labels: Tensor, *, palette: Sequence[Sequence[int]] | None = None, alpha: float = 0.5
) -> Tensor:
    """Class colours over an image, which stays unchanged where a label has no colour, such as 255.

    Args:
        image: any single image that :func:`midway_zoo.inference.images.to_tensor` reads, (H, W) pixels.
        labels: (H, W) integers from 0 to 255.
        palette: see :func:`labels_to_image`.
        alpha: weight of the colours, from 0 to 1.

    Returns:
        uint8 (3, H, W).

    Raises:
        InputError: for labels of another size, or ``alpha`` outside [0, 1].
    """
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha={alpha!r}: a number from 0 to 1 is expected.")
    picture, colours = to_tensor(image).cpu(), labels_to_image(labels, palette=palette)
    if colours.shape != picture.shape:
        raise InputError(f"labels {tuple(labels.shape)} and image {tuple(picture.shape[1:])} differ in size.")
    known = labels.cpu() < (255 if palette is None else len(palette))
    tinted = (1 - alpha) * picture + alpha * colours.float() / 255
    mixed = torch.where(known, tinted, picture)
    return mixed.mul(255).round().clamp(0, 255).to(torch.uint8)


def side_by_side(images: Sequence[Tensor], *, side: int = 224, gap: int = 8, columns: int = 8) -> Tensor:
    """Pictures of any sizes in rows, enlarged without smoothing, with white gaps.

    Args:
        images: uint8 (3, h, w) each.
        side: height in pixels that each is scaled to.
        gap: pixels between them.
        columns: pictures per row.

    Returns:
        uint8 (3, H, W).

    Raises:
        InputError: if there are no pictures.
    """
    if not images:
        raise InputError("there are no pictures to put side by side.")
    rows = []
    for first in range(0, len(images), columns):
        cells = []
        for image in images[first : first + columns]:
            width = max(1, round(image.shape[2] * side / image.shape[1]))
            cells += [F.interpolate(image[None], size=(side, width), mode="nearest-exact")[0].cpu(), _white(side, gap)]
        rows.append(torch.cat(cells[:-1], dim=2))
    width = max(row.shape[2] for row in rows)
    parts: list[Tensor] = []
    for row in rows:
        parts += [torch.cat([row, _white(side, width - row.shape[2])], dim=2), _white(gap, width)]
    return torch.cat(parts[:-1], dim=1)


def flow_wheel(side: int = 44) -> Tensor:
    """The flow colours as a disc on white, uint8 (3, side, side): the motion shown at a point is
    its offset from the centre, and the edge is ``max_flow``."""
    large = side * 4
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, large, dtype=torch.float32),) * 2, indexing="ij")
    disc = flow_to_image(torch.stack([x, y]), max_flow=1.0)
    disc = torch.where(torch.hypot(x, y) <= 1, disc, torch.tensor(255, dtype=torch.uint8))
    return F.avg_pool2d(disc[None].to(torch.float32), 4)[0].round().to(torch.uint8)


def flow_legend(width: int, max_flow: float, *, longest: float | None = None) -> Tensor:
    """A strip to put under pictures of flow: the colour wheel and the length at its edge.

    Args:
        width: of the pictures; the strip is wider if its text needs more room.
        max_flow: length in pixels at full saturation, as in :func:`flow_to_image`.
        longest: length in pixels of the longest vector shown; below half a pixel the strip says that there is hardly
            any motion, since noise then looks like it.

    Returns:
        uint8 (3, h, w).
    """
    text = f"edge: {max_flow:.3g} px"
    if longest is not None and longest < STILL:
        text += f"\nhardly any motion: {longest:.2g} px at most"
    font = style.font(style.CAPTION)
    side = 44
    needed = side + 20 + math.ceil(max(font.getlength(line) for line in text.splitlines()))
    strip = Image.new("RGB", (max(width, needed), side + 8), style.PAPER)
    wheel = Image.fromarray(flow_wheel(side).permute(1, 2, 0).contiguous().numpy())
    strip.paste(wheel, (4, 4))
    ImageDraw.Draw(strip).text((side + 12, side / 2 + 4), text, fill=style.INK, font=font, anchor="lm")
    return torch.from_numpy(np.array(strip)).permute(2, 0, 1)


def above_legend(picture: Tensor, legend: Tensor) -> Tensor:
    """A picture (3, H, W) above its legend; the narrower of the two is padded with white."""
    width = max(picture.shape[2], legend.shape[2])
    parts = [torch.cat([part.cpu(), _white(part.shape[1], width - part.shape[2])], dim=2) for part in (picture, legend)]
    return torch.cat(parts, dim=1)


def _white(height: int, width: int) -> Tensor:
    return torch.full((3, height, width), 255, dtype=torch.uint8)
