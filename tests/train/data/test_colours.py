"""Each operation of the photometric augmentation against PIL and torchvision."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from torch import Tensor
from torchvision.transforms.v2 import functional as TF  # noqa: N812

from midway_zoo.train.data.photometric import (
    Column,
    adjust_hue,
    gaussian_blur,
    jitter,
    luma,
    solarize,
)

LEVEL = 1 / 255


def picture(height: int = 72, width: int = 96, seed: int = 0) -> Tensor:
    """uint8 (3, H, W): coloured blobs with some texture, a flat grey corner, black and white."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 6, 8, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")[0]
    image = (230 * smooth + 25 * torch.rand(3, height, width, generator=generator)).clamp(0, 255).byte()
    image[:, :8, :8], image[:, -4:, :4], image[:, -4:, -4:] = 90, 0, 255
    return image


def to_pil(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def from_pil(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1) / 255


@pytest.mark.parametrize("factor", [0.0, 0.6, 0.93, 1.4])
@pytest.mark.parametrize(
    ("column", "enhance"),
    [
        (Column.BRIGHTNESS, ImageEnhance.Brightness),
        (Column.CONTRAST, ImageEnhance.Contrast),
        (Column.SATURATION, ImageEnhance.Color),
    ],
)
def test_jitter_is_that_of_pil_up_to_its_rounding(factor: float, column: Column, enhance: object) -> None:
    params = torch.tensor([[1.0, 1, 1, 0, 0, 1, 2, 3]])
    params[0, column] = factor
    expected = from_pil(enhance(to_pil(picture())).enhance(factor))  # type: ignore[operator]
    torch.testing.assert_close(jitter(picture()[None] / 255, params)[0], expected, atol=1.6 * LEVEL, rtol=0)


@pytest.mark.parametrize("turn", [-0.5, -0.1, -0.03, 0.0, 0.1, 0.37, 0.5])
def test_hue_is_that_of_torchvision(turn: float) -> None:
    image = picture() / 255
    found = adjust_hue(image[None], torch.tensor([turn]))[0]
    torch.testing.assert_close(found, TF.adjust_hue(image, turn), atol=1e-5, rtol=0)


def test_hue_is_close_to_that_of_pil_which_has_256_hues() -> None:
    image = picture()
    found = adjust_hue(image[None] / 255, torch.tensor([0.07]))[0]
    difference = found - from_pil(TF.adjust_hue(to_pil(image), 0.07))
    assert difference.abs().mean() < 1.5 * LEVEL
    assert difference.abs().max() < 15 * LEVEL  # PIL rounds hue and turn: 2 of 256 hues are 12 levels of full chroma


def test_hue_takes_a_turn_per_image_and_keeps_its_input() -> None:
    images, turns = torch.rand(3, 3, 8, 9), torch.tensor([-0.2, 0.0, 0.4])
    before = images.clone()
    alone = [adjust_hue(images[i : i + 1], turns[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(adjust_hue(images, turns), torch.cat(alone))
    assert torch.equal(images, before)


def test_grey_and_solarisation_are_those_of_pil() -> None:
    image = picture()
    grey = luma(image / 255).expand(3, -1, -1)
    torch.testing.assert_close(grey, from_pil(to_pil(image).convert("L")), atol=0.6 * LEVEL, rtol=0)
    torch.testing.assert_close(solarize(image / 255), from_pil(ImageOps.solarize(to_pil(image))))


def blurred(image: Tensor, radius: float) -> Tensor:
    return gaussian_blur(image[None], torch.tensor([radius]))[0]


@pytest.mark.parametrize("radius", [0.1, 0.45, 1.0, 2.0])
def test_blur_is_a_gaussian(radius: float) -> None:
    image = picture() / 255
    reach = int(np.ceil(3 * radius))
    expected = TF.gaussian_blur(image, [2 * reach + 1] * 2, [radius] * 2)
    inner = (slice(None), slice(reach, -reach), slice(reach, -reach))  # torchvision mirrors, PIL repeats
    torch.testing.assert_close(blurred(image, radius)[inner], expected[inner], atol=1e-5, rtol=0)


@pytest.mark.parametrize("radius", [0.1, 0.7, 1.3, 2.0])
def test_blur_is_close_to_that_of_pil_up_to_the_border(radius: float) -> None:
    image = picture()
    difference = blurred(image / 255, radius) - from_pil(to_pil(image).filter(ImageFilter.GaussianBlur(radius)))
    assert difference.abs().mean() < 0.8 * LEVEL
    assert difference.abs().max() < 12 * LEVEL  # at the corners of the black and white squares


@pytest.mark.parametrize("size", [(72, 96), (33, 33), (3, 5), (1, 1)])
def test_blurs_of_a_batch_are_those_of_its_images(size: tuple[int, int]) -> None:
    """On the CPU as sums of shifted images, elsewhere (and compiled) as products with matrices."""
    radii = torch.tensor([0.1, 0.8, 1.7, 2.0, 9.0])
    images = torch.rand(len(radii), 3, *size)
    compiled = torch.compile(gaussian_blur, fullgraph=True, backend="eager")(images, radii)
    for image, radius, one, other in zip(images, radii.tolist(), gaussian_blur(images, radii), compiled, strict=True):
        torch.testing.assert_close(one, blurred(image, radius), atol=1e-7, rtol=0)
        torch.testing.assert_close(other, blurred(image, radius), atol=2e-6, rtol=0)
