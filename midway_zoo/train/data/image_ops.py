"""Photometric operations on float images in [0, 1], for one image or for a batch with a value per image.

Colours follow PIL, on which the original recipe runs: luma is ITU-R 601, hue is turned in HSV, every
blend ends with a clamp to [0, 1]. Nothing here waits for the device.
"""

import math
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

Factor: TypeAlias = "float | Tensor"

_LUMA = (0.299, 0.587, 0.114)
_REACH = 3  # the blur's kernel ends at this many standard deviations


def adjust_brightness_(images: Tensor, factor: Factor) -> Tensor:
    """Multiply images (..., 3, H, W) in [0, 1] by ``factor`` in place, clamped; a tensor broadcasts against them."""
    return images.mul_(factor).clamp_(0, 1)


def adjust_contrast_(images: Tensor, factor: Factor) -> Tensor:
    """Blend images (..., 3, H, W) in [0, 1] with the mean of their luma, in place: 0 = that grey, 1 = as they are."""
    grey = mean_luma(images).mul_(1 - factor)
    return images.mul_(factor).add_(grey).clamp_(0, 1)


def adjust_saturation_(images: Tensor, factor: Factor) -> Tensor:
    """Blend images (..., 3, H, W) in [0, 1] with their luma, in place: 0 = grey, 1 = as they are."""
    grey = luma(images).mul_(1 - factor)
    return images.mul_(factor).add_(grey).clamp_(0, 1)


def adjust_hue(images: Tensor, turn: Factor) -> Tensor:
    """Turn the hue of images (..., 3, H, W) in [0, 1] by ``turn`` of the circle; value and chroma of HSV stay.

    A tensor of turns broadcasts against (..., 3, H, W). Hue is had without telling sextants apart (which
    is slow on CPUs): its distance from red is 1 - r + g + b sextants of colours stretched to [0, 1], on
    the side of the larger of g and b. Each channel of the result falls from value to value - chroma
    between one and two sextants from the channel's own hue.
    """
    red, green, blue = images.split(1, dim=-3)
    value = torch.maximum(torch.maximum(red, green), blue)
    low = torch.minimum(torch.minimum(red, green), blue)
    chroma = value - low
    hue = (green + blue).sub_(red).add_(value).sub_(low, alpha=2)
    hue = hue.div_(chroma.clamp(min=1e-12).mul_(6)).copysign_(green - blue)
    own = torch.arange(3, device=images.device).div(3).view(3, 1, 1)
    distance = hue - (own - turn)
    distance = distance.sub_(distance.round()).abs_().clamp_(1 / 6, 1 / 3)
    return distance.mul_(chroma * -6).add_(value.add_(chroma))


def luma(images: Tensor) -> Tensor:
    """Grey (..., 1, H, W) of images (..., 3, H, W), ITU-R 601 as in PIL."""
    red, green, blue = images.split(1, dim=-3)
    return (red * _LUMA[0]).add_(green, alpha=_LUMA[1]).add_(blue, alpha=_LUMA[2])


def mean_luma(images: Tensor) -> Tensor:
    """Mean grey (..., 1, 1, 1) of images (..., 3, H, W)."""
    return luma(images.mean((-2, -1), keepdim=True))


def solarise(images: Tensor) -> Tensor:
    """Invert what is brighter than a half, in images in [0, 1]: that is min(x, 1 - x)."""
    return torch.minimum(images, 1 - images)


def gaussian_blur(image: Tensor, radius: float) -> Tensor:
    """Blur one image (C, H, W) with a Gaussian of standard deviation ``radius`` > 0, cut at three of them.

    Pixels outside repeat the nearest one inside, as in PIL's ``GaussianBlur`` (which approximates the
    Gaussian by boxes).
    """
    down, right = (_kernel(radius, size) for size in image.shape[-2:])
    rows, columns = len(down) - 1, len(right) - 1
    padded = F.pad(image[None], (columns, columns, rows, rows), mode="replicate")[0]
    return _filter(_filter(padded, right, -1), down, -2)


def _kernel(radius: float, size: int) -> list[float]:
    """Weights at distances 0, 1, ... of a side of ``size`` pixels."""
    reach = min(math.ceil(_REACH * radius), size - 1)
    weights = [math.exp(-(distance**2) / (2 * radius**2)) for distance in range(reach + 1)]
    total = weights[0] + 2 * sum(weights[1:])
    return [weight / total for weight in weights]


def _filter(padded: Tensor, weights: list[float], dim: int) -> Tensor:
    """Symmetric filter along ``dim``, as a sum of shifted images: on a CPU faster than a convolution."""
    reach = len(weights) - 1
    size = padded.shape[dim] - 2 * reach
    result = padded.narrow(dim, reach, size) * weights[0]
    for distance in range(1, reach + 1):
        for start in (reach - distance, reach + distance):
            result.add_(padded.narrow(dim, start, size), alpha=weights[distance])
    return result


def gaussian_blurs(images: Tensor, radii: Tensor) -> Tensor:
    """:func:`gaussian_blur` of images (N, 3, H, W) by radii (N,) >= 0 without looking at their values.

    Each direction is one batched product with a banded matrix, so the reach needs no bound.
    """
    height, width = images.shape[-2:]
    rows = _blur_matrices(height, radii)
    columns = rows if width == height else _blur_matrices(width, radii)
    blurred = rows[:, None] @ (images @ columns[:, None].mT)
    return torch.where(radii[:, None, None, None] > 0, blurred, images)


def _blur_matrices(size: int, radii: Tensor) -> Tensor:
    """(N, size, size): row i holds the weights with which pixels make up the blurred pixel i."""
    distance = torch.arange(size, device=radii.device)
    spread = radii[:, None].clamp(min=1e-3)
    weights = torch.exp(-(distance**2) / (2 * spread**2)) * (distance <= (_REACH * spread).ceil())
    weights = weights / (2 * weights.sum(1, keepdim=True) - weights[:, :1])
    matrices = weights[:, (distance[:, None] - distance).abs()]
    # What falls off either end counts for the pixel at that end.
    outside = weights.flip(1).cumsum(1).flip(1) - weights
    first, last = (distance == 0).to(weights), (distance == size - 1).to(weights)
    return matrices + outside[:, :, None] * first + outside.flip(1)[:, :, None] * last
