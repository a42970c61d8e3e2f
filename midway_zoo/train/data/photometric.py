"""Photometric augmentation of the views: parameters drawn by the worker, operations run on the views' device.

The order is that of DINO: colour jitter (four operations in an order drawn per view), grayscale, blur, solarization,
then ImageNet normalisation. Colours follow PIL, which the original recipe uses: luma is ITU-R 601, hue is shifted
in HSV, and every blend is clamped to [0, 1].
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from midway_zoo.checks import field_range
from midway_zoo.errors import InputError, InputTypeError

UNIFORMS = 13
"""Number of random numbers for the parameters of one view."""

_CHUNK = 256  # views augmented at a time on an accelerator: bounds the memory of the temporaries
_CACHED = 2**19  # values augmented at a time on a CPU, so that they stay in its cache
_LUMA = (0.299, 0.587, 0.114)
_REACH = 3  # the blur's kernel ends at this many standard deviations


class ViewKind(IntEnum):
    """Kind of a view, which determines its probabilities of blur and solarization."""

    TYPE_1 = 0
    TYPE_2 = 1
    LOCAL = 2


class Column(IntEnum):
    """Columns of the parameters (N, 11), float32.

    The first four are the jitter: factors of brightness, contrast and saturation (1 = unchanged) and the
    shift of hue (0 = unchanged; 1 is the full circle). ``*_RANK`` are their order: a permutation of
    0..3. GRAYSCALE and SOLARIZE are 0 or 1; BLUR is the radius in pixels (standard deviation), 0 = none.
    """

    BRIGHTNESS = 0
    CONTRAST = 1
    SATURATION = 2
    HUE = 3
    BRIGHTNESS_RANK = 4
    CONTRAST_RANK = 5
    SATURATION_RANK = 6
    HUE_RANK = 7
    GRAYSCALE = 8
    BLUR = 9
    SOLARIZE = 10


@dataclass
class PhotometricConfig:
    """Distribution of the parameters of each view: the paper's recipe, which is DINO's, with BYOL's two types of views.

    Strengths are those of torchvision's ``ColorJitter``. Three probabilities are those of views of type 1, of type 2,
    and of local crops.
    """

    jitter_p: float = field_range(0.8, at_least=0, at_most=1)
    brightness: float = field_range(0.4, at_least=0)
    contrast: float = field_range(0.4, at_least=0)
    saturation: float = field_range(0.2, at_least=0)
    hue: float = field_range(0.1, at_least=0, at_most=0.5)
    grayscale_p: float = field_range(0.2, at_least=0, at_most=1)
    blur_p: tuple[float, float, float] = field_range((1.0, 0.1, 0.5), at_least=0, at_most=1, length=3)
    blur_radius: tuple[float, float] = field_range((0.1, 2.0), at_least=0, length=2, ordered=True)
    solarize_p: tuple[float, float, float] = field_range((0.0, 0.2, 0.0), at_least=0, at_most=1, length=3)


def draw_parameters(
    config: PhotometricConfig, kinds: Sequence[ViewKind], rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Parameters of one :class:`ViewKind` per view, independent of each other: (N, 11), see :class:`Column`."""
    return photometric_parameters(config, kinds, rng.random((UNIFORMS, len(kinds))))


def photometric_parameters(
    config: PhotometricConfig, kinds: Sequence[ViewKind], uniform: npt.NDArray[np.float64]
) -> npt.NDArray[np.float32]:
    """:func:`draw_parameters` from given numbers (UNIFORMS, N) in [0, 1), for whole batches."""
    kind = np.asarray(kinds, dtype=np.intp)
    parameters = np.empty((len(kind), len(Column)), np.float32)
    jittered = uniform[0] < config.jitter_p
    for column, strength in enumerate((config.brightness, config.contrast, config.saturation)):
        low, high = max(0.0, 1 - strength), 1 + strength
        parameters[:, column] = np.where(jittered, low + (high - low) * uniform[1 + column], 1.0)
    parameters[:, Column.HUE] = np.where(jittered, config.hue * (2 * uniform[4] - 1), 0.0)
    parameters[:, Column.BRIGHTNESS_RANK : Column.HUE_RANK + 1] = uniform[5:9].argsort(axis=0).T
    parameters[:, Column.GRAYSCALE] = uniform[9] < config.grayscale_p
    smallest, largest = config.blur_radius
    blurred = uniform[10] < np.asarray(config.blur_p)[kind]
    parameters[:, Column.BLUR] = np.where(blurred, smallest + (largest - smallest) * uniform[11], 0.0)
    parameters[:, Column.SOLARIZE] = uniform[12] < np.asarray(config.solarize_p)[kind]
    return parameters


def augment(views: Tensor, params: Tensor) -> Tensor:
    """Apply each view's own parameters, then normalise.

    On an accelerator every operation is computed for all views and selected per view, so that nothing waits for the
    device and shapes never depend on values; on the CPU each operation is computed only for the views that need it.
    Both give the same values up to float32 rounding.

    Args:
        views: uint8 (N, 3, H, W), RGB.
        params: float32 (N, 11), see :class:`Column`, on the same device.

    Returns:
        float32 (N, 3, H, W), normalised with ImageNet's mean and standard deviation.

    Raises:
        InputError: for other shapes.
        InputTypeError: for views that are not uint8.
    """
    if views.ndim != 4 or views.shape[1] != 3 or 0 in views.shape[2:]:
        raise InputError(f"views of shape {tuple(views.shape)}: (N, 3, H, W) is expected.")
    if params.shape != (len(views), len(Column)):
        expected = len(views), len(Column)
        raise InputError(f"parameters of shape {tuple(params.shape)}: {expected} is expected, a row per view.")
    if views.dtype != torch.uint8:
        raise InputTypeError(f"views of dtype {views.dtype}: uint8 is expected, as ViewSampler gives them.")
    chunk = max(1, _CACHED // views.shape[1:].numel()) if _values_are_known(views) else _CHUNK
    if torch.compiler.is_compiling():  # there are few temporaries in this case
        chunk = len(views)
    with torch.autocast(views.device.type, enabled=False):
        if len(views) <= chunk:
            return _augment(views, params)
        result = torch.empty(views.shape, dtype=torch.float32, device=views.device)
        for some, theirs, out in zip(*(values.split(chunk) for values in (views, params, result)), strict=True):
            out.copy_(_augment(some, theirs))
        return result


def _augment(views: Tensor, params: Tensor) -> Tensor:
    images = jitter(views.float().mul_(1 / 255), params)
    images = _where(params[:, Column.GRAYSCALE] > 0, lambda images: luma(images).expand(-1, 3, -1, -1), images)
    images = _where(params[:, Column.BLUR] > 0, gaussian_blur, images, params[:, Column.BLUR])
    images = _where(params[:, Column.SOLARIZE] > 0, solarize, images)
    offset, scale = _normalisation(views.device)
    return torch.addcmul(offset, images, scale)


def _where(chosen: Tensor, operation: Callable[..., Tensor], images: Tensor, *values: Tensor) -> Tensor:
    """Images (N, 3, H, W) with an operation applied to the ``chosen`` (N,); ``values`` (N,) are its parameters."""
    if not _values_are_known(images):
        return torch.where(chosen[:, None, None, None], operation(images, *values), images)
    rows = chosen.nonzero().flatten()
    if len(rows) in (0, len(images)):
        return operation(images, *values) if len(rows) else images
    return images.index_copy(0, rows, operation(images[rows], *(value[rows] for value in values)))


def _values_are_known(images: Tensor) -> bool:
    """Whether control flow may depend on values: on an accelerator the host would wait, and compiled code has none."""
    return images.device.type == "cpu" and not torch.compiler.is_compiling()


def denormalise(images: Tensor) -> Tensor:
    """Invert the normalisation of :func:`augment`: images (..., 3, H, W) in [0, 1]."""
    offset, scale = _normalisation(images.device)
    return ((images - offset) / scale).clamp_(0, 1)


def _normalisation(device: torch.device) -> tuple[Tensor, Tensor]:
    """Offset and scale (3, 1, 1), filled on the device: a copy from the host would wait for it."""
    scale = [1 / std for std in IMAGENET_DEFAULT_STD]
    offset = [-mean * factor for mean, factor in zip(IMAGENET_DEFAULT_MEAN, scale, strict=True)]
    values = torch.stack([torch.full((1, 1), value, device=device) for value in offset + scale])
    return values[:3], values[3:]


def jitter(images: Tensor, params: Tensor) -> Tensor:
    """Change colours, each image in an order of its own.

    Brightness, contrast and saturation are one kind of operation, a blend with black, the mean luma or the luma, so
    three slots hold them in each image's order. Images differ in how many come before hue, the expensive operation: it
    runs once, between two passes over the slots, and each image uses each slot in one of the passes.

    Args:
        images: float32 (N, 3, H, W) in [0, 1]; not modified.
        params: float32 (N, 8 or more); for the first columns see :class:`Column`.

    Returns:
        (N, 3, H, W) in [0, 1].
    """
    factors = params[:, : Column.HUE]
    ranks = params[:, Column.BRIGHTNESS_RANK : Column.HUE_RANK]
    after_hue = (ranks > params[:, Column.HUE_RANK, None]).to(params)
    slots = ranks - after_hue  # the order without hue: 0, 1, 2
    for late in (0, 1):
        for slot in range(3):
            chosen = (slots == slot).to(params) * (after_hue == late)  # (N, 3), at most one of a row
            factor = 1 + (chosen * (factors - 1)).sum(1)
            contrast, saturation = chosen[:, Column.CONTRAST], chosen[:, Column.SATURATION]
            images = _where(factor != 1, _blend, images, factor, contrast, saturation)
        if not late:
            turn = params[:, Column.HUE]
            images = _where(turn != 0, adjust_hue, images, turn)
    return images


def _blend(images: Tensor, factor: Tensor, contrast: Tensor, saturation: Tensor) -> Tensor:
    factor, contrast, saturation = (value[:, None, None, None] for value in (factor, contrast, saturation))
    reference = contrast * mean_luma(images) + saturation * luma(images)
    return (images * factor).add_((1 - factor) * reference).clamp_(0, 1)


def adjust_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Shift the hue of images (N, 3, H, W) in [0, 1] by ``turns`` (N,) of the circle, keeping value and chroma of HSV.

    Hue is computed without case distinctions by sextant (which are slow on CPUs): its distance from red is 1 - r + g +
    b sextants of colours stretched to [0, 1], on the side of the larger of g and b. Each channel of the result falls
    from value to value - chroma between one and two sextants from the channel's own hue.
    """
    red, green, blue = images.split(1, dim=1)
    value = torch.maximum(torch.maximum(red, green), blue)
    low = torch.minimum(torch.minimum(red, green), blue)
    chroma = value - low
    hue = (green + blue).sub_(red).add_(value).sub_(low, alpha=2)
    hue = hue.div_(chroma.clamp(min=1e-12).mul_(6)).copysign_(green - blue)
    own = torch.arange(3, device=images.device).div(3).view(3, 1, 1)
    distance = hue - (own - turns[:, None, None, None])
    distance = distance.sub_(distance.round()).abs_().clamp_(1 / 6, 1 / 3)
    return distance.mul_(chroma * -6).add_(value.add_(chroma))


def luma(images: Tensor) -> Tensor:
    """Luma (..., 1, H, W) of images (..., 3, H, W), ITU-R 601 as in PIL."""
    red, green, blue = images.split(1, dim=-3)
    return (red * _LUMA[0]).add_(green, alpha=_LUMA[1]).add_(blue, alpha=_LUMA[2])


def mean_luma(images: Tensor) -> Tensor:
    """Mean luma (..., 1, 1, 1) of images (..., 3, H, W)."""
    return luma(images.mean((-2, -1), keepdim=True))


def solarize(images: Tensor) -> Tensor:
    """Solarize images in [0, 1] at a threshold of 0.5: min(x, 1 - x)."""
    return torch.minimum(images, 1 - images)


def gaussian_blur(images: Tensor, radii: Tensor) -> Tensor:
    """Blur images (N, C, H, W) with Gaussians of standard deviation ``radii`` (N,) > 0, truncated at three of them.

    Pixels outside repeat the nearest one inside, as in PIL's ``GaussianBlur`` (which approximates the Gaussian by
    boxes).
    """
    if not _values_are_known(images):
        # One product with a banded matrix per direction, so the reach of the kernel needs no bound.
        rows, columns = (_blur_matrices(side, radii) for side in images.shape[-2:])
        return rows[:, None] @ (images @ columns[:, None].mT)
    reach = math.ceil(_REACH * float(radii.max()))
    for dim in (-1, -2):
        length = min(reach, images.shape[dim] - 1) + 1
        images = _filter(images, _kernels(radii.double(), length).float(), dim)
    return images


def _kernels(radii: Tensor, length: int) -> Tensor:
    """(N, length): weights of pixels at distances 0, 1, ..."""
    distance = torch.arange(length, device=radii.device)
    spread = radii[:, None].clamp(min=1e-3)
    weights = torch.exp(-(distance**2) / (2 * spread**2)) * (distance <= (_REACH * spread).ceil())
    return weights / (2 * weights.sum(1, keepdim=True) - weights[:, :1])


def _filter(images: Tensor, weights: Tensor, dim: int) -> Tensor:
    """Symmetric filters along ``dim``, as a sum of shifted images: on a CPU faster than a convolution."""
    reach, size = weights.shape[1] - 1, images.shape[dim]
    padding = (reach, reach, 0, 0) if dim == -1 else (0, 0, reach, reach)
    padded = F.pad(images, padding, mode="replicate")
    result = images * weights[:, 0, None, None, None]
    for distance in range(1, reach + 1):
        for start in (reach - distance, reach + distance):
            result.addcmul_(padded.narrow(dim, start, size), weights[:, distance, None, None, None])
    return result


def _blur_matrices(size: int, radii: Tensor) -> Tensor:
    """(N, size, size): row i holds the weights with which pixels make up the blurred pixel i."""
    weights, distance = _kernels(radii, size), torch.arange(size, device=radii.device)
    matrices = weights[:, (distance[:, None] - distance).abs()]
    # Weights beyond either end are added to the pixel at that end.
    outside = weights.flip(1).cumsum(1).flip(1) - weights
    first, last = (distance == 0).to(weights), (distance == size - 1).to(weights)
    return matrices + outside[:, :, None] * first + outside.flip(1)[:, :, None] * last
