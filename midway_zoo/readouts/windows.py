"""Logits of images of any size, from overlapping windows."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812


def starts(length: int, side: int, stride: int) -> list[int]:
    """First pixels of the windows along one axis: ``stride`` apart, the last one at the end."""
    return [*range(0, length - side, stride), max(0, length - side)]


def sliding_logits(
    logits: Callable[[Tensor], Tensor],
    images: Tensor,
    *,
    side: int,
    stride: int,
    patch: int,
    batch_size: int = 8,
) -> Tensor:
    """Mean logits over windows of images; an image that fits in a window is processed as a whole.

    Args:
        logits: (n, 3, h, w) -> (n, K, h, w), for sides that are multiples of ``patch``.
        images: (B, 3, H, W).
        side: side of the windows in pixels, at most that of the image.
        stride: distance of windows in pixels.
        patch: windows whose sides are not multiples of it are padded with their last pixels, and the logits cropped.
        batch_size: windows per forward pass.

    Returns:
        (B, K, H, W) float32.
    """
    height, width = images.shape[-2:]
    high, wide = min(side, height), min(side, width)
    places = [
        (index, top, left)
        for index in range(len(images))
        for top in starts(height, high, stride)
        for left in starts(width, wide, stride)
    ]
    total = torch.empty(0)
    count = images.new_zeros(height, width, dtype=torch.float32)
    for some in _parts(places, batch_size):
        windows = torch.stack([images[i, :, top : top + high, left : left + wide] for i, top, left in some])
        found = _padded(logits, windows, patch).float()
        if not total.numel():
            total = found.new_zeros(len(images), found.shape[1], height, width)
        for (index, top, left), one in zip(some, found, strict=True):
            total[index, :, top : top + high, left : left + wide] += one
            if not index:
                count[top : top + high, left : left + wide] += 1
    return total / count


def _padded(logits: Callable[[Tensor], Tensor], windows: Tensor, patch: int) -> Tensor:
    height, width = windows.shape[-2:]
    lacking = (0, -width % patch, 0, -height % patch)
    return logits(F.pad(windows, lacking, mode="replicate") if any(lacking) else windows)[..., :height, :width]


def _parts(places: list[tuple[int, int, int]], size: int) -> Iterator[list[tuple[int, int, int]]]:
    return (places[first : first + size] for first in range(0, len(places), size))


def classes_of(logits: Tensor, size: tuple[int, int], *, at_once: int = 16) -> tuple[Tensor, Tensor]:
    """The most likely class of each pixel of a larger or smaller picture, and its probability.

    Logits are resized a few classes at a time, so that 150 classes of a large photograph do not fill the memory.

    Args:
        logits: (B, K, h, w).
        size: (H, W).
        at_once: number of classes resized at a time.

    Returns:
        (B, H, W) int64 and float32 in [0, 1].
    """
    best = total = torch.full((len(logits), *size), -torch.inf, device=logits.device)
    classes = torch.zeros_like(best, dtype=torch.int64)
    for first in range(0, logits.shape[1], at_once):
        some = logits[:, first : first + at_once].float()
        if some.shape[-2:] != size:
            some = F.interpolate(some, size, mode="bilinear", align_corners=False)
        value, index = some.max(1)
        classes = torch.where(value > best, index + first, classes)
        best, total = torch.maximum(value, best), torch.logaddexp(total, some.logsumexp(1))
    return classes, torch.exp(best - total)
