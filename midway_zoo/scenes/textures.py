"""What is painted on a layer: a function of continuous texture coordinates, so that it moves without resampling."""

import math
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import center_crop

from midway_zoo.errors import InputError, MissingFileError
from midway_zoo.inference.images import resize, to_tensor
from midway_zoo.scenes.config import NATURAL, ScenesConfig
from midway_zoo.scenes.draws import Array, Draws
from midway_zoo.scenes.natural import picture
from midway_zoo.scenes.shapes import TEXTURES


class Texture(Protocol):
    """A kind of textures; every layer of every sample has its own parameters."""

    def draw(self, draws: Draws, families: npt.NDArray[np.int64]) -> tuple[Array, Array]:
        """Draw the parameters of layers.

        Args:
            draws: random numbers of the B samples.
            families: (B, L) indices into ``TEXTURES``.

        Returns:
            (B, L, 3, 3): from pixels on the layer to texture coordinates; (B, L, R): parameters for :meth:`paint`.
        """

    def paint(self, p: Tensor, q: Tensor, numbers: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Red, green and blue in [0, 1] at texture coordinates (p, q), (N,) each, with R parameters (N,)."""


# Weights of the waves below in each family: the first, the second, their product, the two slanted ones, a constant, and
# how much the second bends the first.
_MIX = {
    "stripes": (1.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    "checks": (0.0, 0.0, 1.5, 0.0, 0.0, 0.0),
    "dots": (1.1, 1.1, 0.0, 0.0, -0.9, 0.0),
    "waves": (1.0, 0.0, 0.0, 0.0, 0.0, 1.4),
    "noise": (0.6, 0.6, 0.0, 0.6, 0.0, 0.0),
}


class Procedural:
    """Sums of waves, sharpened by a sigmoid, between two random colours that say nothing about the family.

    All are shaded by slower waves that never line up again. Otherwise a pattern would match itself after one period,
    and stripes after any shift along them, so that the motion could not be inferred from the frames.
    """

    def __init__(self, config: ScenesConfig) -> None:
        self._config = config

    def draw(self, draws: Draws, families: npt.NDArray[np.int64]) -> tuple[Array, Array]:
        layers, config = families.shape[1], self._config
        period = draws.log_uniform(layers, low=config.period[0], high=config.period[1])
        # The waves of "noise" never line up again, so a random offset makes each layer unique.
        place = draws.uniform(layers, 2, low=-50, high=50)
        coordinates = _turned(draws.uniform(layers, high=2 * math.pi), 2 * math.pi / period, place)
        mix = np.array([_MIX[name] for name in TEXTURES])[families]
        sharpness = draws.uniform(layers, low=config.sharpness[0], high=config.sharpness[1])
        mix[..., :5] *= sharpness[..., None]
        relief = draws.uniform(layers, 1, low=0.03, high=0.06)
        middle = draws.uniform(layers, 3, low=0.4, high=0.6)
        sign = np.where(draws.uniform(layers, 3) < 0.5, -1.0, 1.0)
        contrast = sign * draws.uniform(layers, 3, low=0.12, high=0.28)
        return coordinates, np.concatenate([mix, relief, middle, contrast], axis=2)

    def paint(self, p: Tensor, q: Tensor, numbers: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        first, second, product, slanted, constant, bend, relief, *colours = numbers
        across = q.sin()
        along = torch.addcmul(p, bend, across).sin_()
        slant = (0.62 * p).add_(q, alpha=1.13).sin_().add_((1.31 * p).sub_(q, alpha=0.87).sin_())
        value = torch.addcmul(constant, first, along).addcmul_(slanted, slant)
        value.addcmul_(torch.addcmul(second, product, along), across)
        value.mul_(value.square().add_(1).rsqrt_())
        shade = (0.23 * p).add_(q, alpha=0.41).sin_().add_((0.37 * p).sub_(q, alpha=0.19).sin_()).mul_(relief)
        red, green, blue = (torch.addcmul(shade, colours[c + 3], value).add_(colours[c]) for c in range(3))
        return red, green, blue


class Images:
    """The user's images and generated pictures, mirrored at their sides.

    Values between texels are defined by bilinear interpolation.

    Args:
        atlas: (N, S, S, 3) uint8.
        config: ``texture_scale`` is used.
    """

    def __init__(self, atlas: Tensor, config: ScenesConfig) -> None:
        self._count, self._side = atlas.shape[:2]
        self._texels = atlas.reshape(-1, 3)
        self._config = config

    @classmethod
    def load(cls, config: ScenesConfig, device: torch.device) -> "Images":
        """Every image under ``config.textures``, in the order of their paths, and ``config.pictures`` generated ones.

        Raises:
            MissingFileError: if there is no such folder.
            InputError: if it holds no image, or one that cannot be read.
        """
        paths = [] if config.textures == NATURAL else _images(config.textures)
        images = [_square(path, config.texture_size) for path in paths]
        images += [torch.from_numpy(picture(number, config.texture_size)) for number in range(config.pictures)]
        return cls(torch.stack(images).to(device), config)

    def draw(self, draws: Draws, families: npt.NDArray[np.int64]) -> tuple[Array, Array]:
        layers = families.shape[1]
        scale = draws.log_uniform(layers, low=self._config.texture_scale[0], high=self._config.texture_scale[1])
        place = draws.uniform(layers, 2, high=2 * self._side)
        coordinates = _turned(draws.uniform(layers, high=2 * math.pi), 1 / scale, place)
        return coordinates, draws.whole(layers, low=0, high=self._count - 1)[..., None].astype(np.float64)

    def paint(self, p: Tensor, q: Tensor, numbers: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        left, right, across = self._neighbours(p)
        above, below, down = self._neighbours(q)
        first = numbers[0].int() * self._side
        above, below = (first + above) * self._side, (first + below) * self._side
        top = torch.lerp(self._at(above + left), self._at(above + right), across[:, None])
        bottom = torch.lerp(self._at(below + left), self._at(below + right), across[:, None])
        red, green, blue = torch.lerp(top, bottom, down[:, None]).mul_(1 / 255).unbind(1)
        return red, green, blue

    def _neighbours(self, position: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        side = self._side
        mirrored = side - (torch.remainder(position, 2 * side) - side).abs_()
        texel = mirrored.sub_(0.5).clamp_(0, side - 1)
        low = texel.floor()
        return low.int(), (low + 1).clamp_max_(side - 1).int(), texel - low

    def _at(self, index: Tensor) -> Tensor:
        return self._texels.index_select(0, index).float()


def _turned(angle: Array, scale: Array, place: Array) -> Array:
    result = np.zeros((*angle.shape, 3, 3))
    result[..., 0, 0], result[..., 0, 1] = scale * np.cos(angle), -scale * np.sin(angle)
    result[..., 1, 0], result[..., 1, 1] = scale * np.sin(angle), scale * np.cos(angle)
    result[..., :2, 2], result[..., 2, 2] = place, 1
    return result


def _images(folder: str) -> list[Path]:
    root = Path(folder)
    if not root.is_dir():
        raise MissingFileError(
            f'there is no folder {root} to take textures from; "procedural" and "natural" need none.'
        )
    Image.init()
    paths = sorted(path for path in root.rglob("*") if path.suffix.lower() in Image.EXTENSION and path.is_file())
    if not paths:
        raise InputError(f"{root} holds no image files to take textures from.")
    return paths


def _square(path: Path, side: int) -> Tensor:
    image = to_tensor(path)
    image = resize(center_crop(image, [min(image.shape[1:])] * 2), (side, side))
    return image.mul(255).round().to(torch.uint8).permute(1, 2, 0)
