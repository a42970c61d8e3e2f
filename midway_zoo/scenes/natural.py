"""Generated pictures with the statistics of photographs, in which nothing repeats: dead leaves and 1/f noise.

"Dead leaves" (Matheron 1968; Lee, Mumford and Huang, "Occlusion Models for Natural Images", 2001): opaque shapes whose
sizes follow a power law fall on each other until nothing else is seen, so that there are edges at every scale. Noise
whose amplitude falls as one over the frequency has the same spectrum and no edges.
"""

from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.float64]

_EXPONENT = 3.0  # the density of radii falls as r ** -3: the picture then looks the same at every magnification
_SMALLEST = 1.5  # radius in pixels; what is smaller is grain
_LARGEST = 0.3  # radius as a fraction of the side
_UNCOVERED = 0.002  # fraction of pixels that may be left without a leaf


@lru_cache(maxsize=256)
def picture(number: int, side: int) -> npt.NDArray[np.uint8]:
    """Picture ``number`` (0, 1, ...), (side, side, 3); every fifth is noise. The same in every run, like files."""
    return draw("noise" if number % 5 == 4 else "leaves", side, np.random.default_rng([side, number]))


def draw(kind: Literal["leaves", "noise"], side: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """A picture (side, side, 3) of dead leaves or of coloured noise."""
    drawn = _leaves(side, rng) if kind == "leaves" else _coloured_noise(side, rng)
    return np.rint(drawn.clip(0, 1) * 255).astype(np.uint8)


def _leaves(side: int, rng: np.random.Generator) -> Picture:
    """Leaves in shades of a few common colours, each with a slight relief of its own."""
    palette = rng.uniform(0.05, 0.95, (int(rng.integers(3, 9)), 3))
    relief = power_noise(side, rng)
    result = np.full((side, side, 3), -1.0)
    empty = side * side
    while empty > _UNCOVERED * side * side:
        # From front to back: painted pixels stay, so the loop ends.
        for x, y, radius in _places(side, 64, rng):
            empty -= _fall(result, x, y, radius, palette, relief, rng)
    return np.where(result < 0, palette[0], result)


def _places(side: int, count: int, rng: np.random.Generator) -> Picture:
    """(count, 3): x, y and radius of leaves."""
    low, high = _SMALLEST ** (1 - _EXPONENT), (_LARGEST * side) ** (1 - _EXPONENT)
    radius = (low + rng.random(count) * (high - low)) ** (1 / (1 - _EXPONENT))
    # With the power law alone, a million leaves of a few pixels would be needed to cover the picture: half of the
    # radii are log-uniform instead.
    even = np.exp(rng.uniform(np.log(_SMALLEST), np.log(_LARGEST * side), count))
    return np.stack([*(rng.random((2, count)) * side), np.where(rng.random(count) < 0.5, radius, even)], axis=1)


def _fall(
    result: Picture, x: float, y: float, radius: float, palette: Picture, relief: Picture, rng: np.random.Generator
) -> int:
    """Paint the visible part of one leaf, a rotated ellipse or box; returns how many pixels it got."""
    reach = int(np.ceil(1.5 * radius))
    rows = slice(max(0, int(y) - reach), int(y) + reach + 1)
    columns = slice(max(0, int(x) - reach), int(x) + reach + 1)
    part = result[rows, columns]
    angle, stretch, box = rng.uniform(0, np.pi), rng.uniform(1, 1.5), rng.random() < 0.4
    down, right = np.ogrid[rows.start : rows.start + part.shape[0], columns.start : columns.start + part.shape[1]]
    u = ((right - x) * np.cos(angle) + (down - y) * np.sin(angle)) / (radius * stretch)
    v = ((down - y) * np.cos(angle) - (right - x) * np.sin(angle)) / radius * stretch
    inside = (np.maximum(abs(u), abs(v)) < 0.8) if box else (u * u + v * v < 1)
    free = inside & (part[..., 0] < 0)
    colour = palette[rng.integers(len(palette))] + rng.normal(0, 0.08, 3)
    shade = rng.uniform(0, 0.15) * relief[rows, columns] + rng.uniform(-0.1, 0.1) * (u + v)
    part[free] = (colour + shade[..., None]).clip(0.001, 1)[free]
    return int(free.sum())


def power_noise(side: int, rng: np.random.Generator) -> Picture:
    """(side, side) noise of mean 0 and standard deviation 1 with a spectrum of amplitude 1 / f; it wraps around."""
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side))
    frequency[0, 0] = np.inf
    noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((side, side))) / frequency, s=(side, side))
    result: Picture = noise / noise.std()
    return result


def _coloured_noise(side: int, rng: np.random.Generator) -> Picture:
    """Three channels that are strongly correlated, as those of photographs are."""
    common, own = power_noise(side, rng), np.stack([power_noise(side, rng) for _ in range(3)], axis=-1)
    middle, contrast = rng.uniform(0.3, 0.7, 3), rng.uniform(0.1, 0.25)
    return middle + contrast * (0.85 * common[..., None] + 0.5 * own)
