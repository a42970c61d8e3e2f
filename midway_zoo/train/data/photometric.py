"""Photometric augmentation of the views: parameters drawn by the worker, operations run on the views' device.

The order is that of DINO: colour jitter (its four operations in an order drawn per view), grey, blur,
solarisation, then ImageNet normalisation.
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

from midway_zoo.errors import ConfigError, InputError, InputTypeError
from midway_zoo.train.data.image_ops import (
    Factor,
    adjust_brightness_,
    adjust_contrast_,
    adjust_hue,
    adjust_saturation_,
    gaussian_blur,
    gaussian_blurs,
    luma,
    mean_luma,
    solarise,
)

UNIFORMS = 13
"""Random numbers behind the parameters of one view."""

_CHUNK = 256  # views augmented at a time on an accelerator: bounds the memory of the temporaries


class ViewKind(IntEnum):
    """Which probabilities a view's blur and solarisation have."""

    TYPE_1 = 0
    TYPE_2 = 1
    LOCAL = 2


class Column(IntEnum):
    """Columns of the parameters (N, 11), float32.

    The first four are what the jitter does: factors of brightness, contrast and saturation (1 = as it
    is) and the turn of hue (0 = as it is; 1 is the full circle). ``*_RANK`` say when: a permutation of
    0..3. GREY and SOLARISE are 0 or 1; BLUR is the radius in pixels (standard deviation), 0 = none.
    """

    BRIGHTNESS = 0
    CONTRAST = 1
    SATURATION = 2
    HUE = 3
    BRIGHTNESS_RANK = 4
    CONTRAST_RANK = 5
    SATURATION_RANK = 6
    HUE_RANK = 7
    GREY = 8
    BLUR = 9
    SOLARISE = 10


@dataclass
class PhotometricConfig:
    """What is drawn for each view: the paper's recipe, which is DINO's, with BYOL's two types of views.

    Strengths are of torchvision's ``ColorJitter``. Of three probabilities the first is of views of type
    1, the second of type 2, the third of local crops.
    """

    jitter_p: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1
    grey_p: float = 0.2
    blur_p: tuple[float, float, float] = (1.0, 0.1, 0.5)
    blur_radius: tuple[float, float] = (0.1, 2.0)
    solarise_p: tuple[float, float, float] = (0.0, 0.2, 0.0)


def check_photometric(config: PhotometricConfig) -> None:
    """Refuse values that cannot be drawn from.

    Raises:
        ConfigError: naming the field, its value and what is allowed.
    """
    for name in ("jitter_p", "grey_p"):
        _check(name, (getattr(config, name),), 1, 0.0, 1.0)
    for name in ("blur_p", "solarise_p"):
        _check(name, getattr(config, name), 3, 0.0, 1.0)
    for name in ("brightness", "contrast", "saturation"):
        _check(name, (getattr(config, name),), 1, 0.0, math.inf)
    _check("hue", (config.hue,), 1, 0.0, 0.5)
    _check("blur_radius", config.blur_radius, 2, 0.0, math.inf)
    if config.blur_radius[0] > config.blur_radius[1]:
        raise ConfigError(f"blur_radius={tuple(config.blur_radius)}: (smallest, largest) is expected.")


def _check(name: str, values: Sequence[float], number: int, low: float, high: float) -> None:
    if len(values) != number or not all(low <= value <= high and math.isfinite(value) for value in values):
        shown = values[0] if number == 1 else tuple(values)
        limit = f"in [{low:g}, {high:g}]" if math.isfinite(high) else f"of at least {low:g}"
        raise ConfigError(f"{name}={shown}: {number} number{'s' * (number > 1)} {limit} expected.")


def draw_parameters(
    config: PhotometricConfig, kinds: Sequence[ViewKind], rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Parameters of one :class:`ViewKind` per view, independent of each other: (N, 11) as :class:`Column` says."""
    return photometric_parameters(config, kinds, rng.random((UNIFORMS, len(kinds))))


def photometric_parameters(
    config: PhotometricConfig, kinds: Sequence[ViewKind], uniform: npt.NDArray[np.float64]
) -> npt.NDArray[np.float32]:
    """:func:`draw_parameters` from numbers in [0, 1) that are drawn already, (UNIFORMS, N): for whole batches."""
    kind = np.asarray(kinds, dtype=np.intp)
    parameters = np.empty((len(kind), len(Column)), np.float32)
    jittered = uniform[0] < config.jitter_p
    for column, strength in enumerate((config.brightness, config.contrast, config.saturation)):
        low, high = max(0.0, 1 - strength), 1 + strength
        parameters[:, column] = np.where(jittered, low + (high - low) * uniform[1 + column], 1.0)
    parameters[:, Column.HUE] = np.where(jittered, config.hue * (2 * uniform[4] - 1), 0.0)
    parameters[:, Column.BRIGHTNESS_RANK : Column.HUE_RANK + 1] = uniform[5:9].argsort(axis=0).T
    parameters[:, Column.GREY] = uniform[9] < config.grey_p
    smallest, largest = config.blur_radius
    blurred = uniform[10] < np.asarray(config.blur_p)[kind]
    parameters[:, Column.BLUR] = np.where(blurred, smallest + (largest - smallest) * uniform[11], 0.0)
    parameters[:, Column.SOLARISE] = uniform[12] < np.asarray(config.solarise_p)[kind]
    return parameters


def augment(views: Tensor, params: Tensor) -> Tensor:
    """Apply each view's own parameters, then normalise.

    On an accelerator all views go through every operation, switched per view by arithmetic, so nothing
    waits for the device and shapes never depend on values; on the CPU each view runs only what its
    parameters ask for. Both give the same values up to float32 rounding.

    Args:
        views: uint8 (N, 3, H, W), RGB.
        params: float32 (N, 11) as :class:`Column` says, on the same device.

    Returns:
        float32 (N, 3, H, W), normalised with ImageNet's mean and standard deviation.

    Raises:
        InputError: for shapes that are not these.
        InputTypeError: for views that are not uint8.
    """
    if views.ndim != 4 or views.shape[1] != 3 or 0 in views.shape[2:]:
        raise InputError(f"views of shape {tuple(views.shape)}: (N, 3, H, W) is expected.")
    if params.shape != (len(views), len(Column)):
        expected = len(views), len(Column)
        raise InputError(f"parameters of shape {tuple(params.shape)}: {expected} is expected, a row per view.")
    if views.dtype != torch.uint8:
        raise InputTypeError(f"views of dtype {views.dtype}: uint8 is expected, as ViewSampler gives them.")
    with torch.autocast(views.device.type, enabled=False):
        if views.device.type == "cpu" and not torch.compiler.is_compiling():
            return _augment_each(views, params)
        if len(views) <= _CHUNK:
            return _augment_together(views, params)
        chunks = zip(views.split(_CHUNK), params.split(_CHUNK), strict=True)
        return torch.cat([_augment_together(some, theirs) for some, theirs in chunks])


def denormalise(images: Tensor) -> Tensor:
    """What :func:`augment` gave (..., 3, H, W), as images in [0, 1] to look at."""
    offset, scale = _normalisation(images.device)
    return ((images - offset) / scale).clamp_(0, 1)


def _normalisation(device: torch.device) -> tuple[Tensor, Tensor]:
    """Offset and scale (3, 1, 1), filled on the device: a copy from the host would wait for it."""
    scale = [1 / std for std in IMAGENET_DEFAULT_STD]
    offset = [-mean * factor for mean, factor in zip(IMAGENET_DEFAULT_MEAN, scale, strict=True)]
    values = torch.stack([torch.full((1, 1), value, device=device) for value in offset + scale])
    return values[:3], values[3:]


_JITTER: tuple[Callable[[Tensor, Factor], Tensor], ...] = (
    adjust_brightness_,
    adjust_contrast_,
    adjust_saturation_,
    adjust_hue,
)
_IDENTITY = (1.0, 1.0, 1.0, 0.0)


def _augment_each(views: Tensor, params: Tensor) -> Tensor:
    result = torch.empty(views.shape, dtype=torch.float32)
    offset, scale = _normalisation(views.device)
    for view, row, out in zip(views, params.tolist(), result, strict=True):
        image = view.float().mul_(1 / 255)
        ranks = row[Column.BRIGHTNESS_RANK : Column.HUE_RANK + 1]
        for operation in sorted(range(4), key=ranks.__getitem__):
            if row[operation] != _IDENTITY[operation]:
                image = _JITTER[operation](image, row[operation])
        if row[Column.GREY]:
            image = luma(image)
        if row[Column.BLUR] > 0:
            image = gaussian_blur(image, row[Column.BLUR])
        if row[Column.SOLARISE]:
            image = solarise(image)
        torch.addcmul(offset, image, scale, out=out)
    return result


def _augment_together(views: Tensor, params: Tensor) -> Tensor:
    images = _jitter_together(views.float() * (1 / 255), params)
    grey, solarised = (params[:, column, None, None, None] for column in (Column.GREY, Column.SOLARISE))
    images = torch.where(grey > 0, luma(images), images)
    images = gaussian_blurs(images, params[:, Column.BLUR])
    images = torch.where(solarised > 0, solarise(images), images)
    offset, scale = _normalisation(views.device)
    return torch.addcmul(offset, images, scale)


def _jitter_together(images: Tensor, params: Tensor) -> Tensor:
    """Colour jitter with an order per view.

    Brightness, contrast and saturation are one kind of operation, a blend with black, the mean luma or
    the luma, so three slots hold them in each view's order. Views differ in how many come before hue,
    the costly one: it runs once, between two passes over the slots of which each view uses complementary ones.
    """
    factors = params[:, : Column.HUE]
    ranks = params[:, Column.BRIGHTNESS_RANK : Column.HUE_RANK]
    hue_rank = params[:, Column.HUE_RANK, None]
    after_hue = (ranks > hue_rank).to(params)
    slots = ranks - after_hue  # the order without hue: 0, 1, 2
    for late in (0, 1):
        for slot in range(3):
            chosen = (slots == slot).to(params) * (after_hue == late)  # (N, 3), at most one of a row
            factor = 1 + (chosen * (factors - 1)).sum(1)
            contrast, saturation = chosen[:, Column.CONTRAST], chosen[:, Column.SATURATION]
            images = _blend(images, *(v[:, None, None, None] for v in (factor, contrast, saturation)))
        if not late:
            turn = params[:, Column.HUE, None, None, None]
            images = torch.where(turn != 0, adjust_hue(images, turn), images)
    return images


def _blend(images: Tensor, factor: Tensor, contrast: Tensor, saturation: Tensor) -> Tensor:
    reference = contrast * mean_luma(images) + saturation * luma(images)
    return (images * factor + (1 - factor) * reference).clamp(0, 1)
