"""Every accepted kind of image as a tensor, and its size in the network."""

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from midway_zoo.checks import is_integer, is_size
from midway_zoo.errors import InputError, InputTypeError, MissingFileError
from midway_zoo.reading import stand_in

ImageLike: TypeAlias = "Image.Image | str | PathLike[str] | npt.NDArray[Any] | Tensor"
Images: TypeAlias = "ImageLike | Sequence[ImageLike]"
ImageStream: TypeAlias = "Images | Iterator[ImageLike]"
Size: TypeAlias = 'int | tuple[int, int] | Literal["full"] | None'

MAX_TOKENS = 2**16
"""A size with more patches per image than this is considered a mistake (256 x 256 patches, 4096 x 4096 pixels)."""
MAX_ASPECT = 10
"""An image whose longer side is more than so many times the shorter one has no size that suits it by itself: what is
made of it would be thousands of times larger than it is."""
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, LookupError, ArithmeticError, struct.error)
"""What Pillow raises for files that are damaged, each of its formats in its own way."""
_RANGE_SLACK = 1e-3  # resampling, or arithmetic in half precision, may leave [0, 1] by this much


def to_tensor(image: ImageLike) -> Tensor:
    """One image as float32 (3, H, W) in [0, 1], RGB.

    Args:
        image: PIL image or path (EXIF orientation applied; alpha dropped; grayscale, palette and
            16-bit images converted), numpy (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), or tensor (1 or 3, H, W);
            arrays and tensors uint8, uint16 or floats in [0, 1].

    Raises:
        InputError: for invalid content (range, NaN, size, channels, unreadable file).
        InputTypeError: for a type or dtype that is not accepted.
        MissingFileError: for a path that does not exist.
    """
    if isinstance(image, str | PathLike):
        return _open(Path(image))
    if isinstance(image, Image.Image):
        return _from_pil(image)
    if isinstance(image, np.ndarray):
        return _from_numpy(image)
    if isinstance(image, Tensor):
        return _from_tensor(image)
    raise InputTypeError(
        f"{type(image).__name__} is not an image: pass a PIL image, a path, a numpy array (H, W, 3) or a tensor "
        "(3, H, W)."
    )


def iterate(images: ImageStream, *, step: int = 1) -> Iterator[Tensor]:
    """Each image of any accepted input as float32 (3, H, W) in [0, 1]; files are opened one at a time.

    ``step`` is the stride at which the caller took the images; messages number them accordingly.
    """
    if not _several(images) and not isinstance(images, Iterator):
        yield to_tensor(images)  # type: ignore[arg-type]
        return
    for index, image in enumerate(images):  # type: ignore[arg-type]
        try:
            yield to_tensor(image)
        except (InputError, InputTypeError) as error:
            raise type(error)(f"image {index * step}: {error}") from error


def count(images: Images) -> int:
    """How many images :func:`iterate` will give.

    Raises:
        InputError: if there are none.
        InputTypeError: for an iterator, whose images are not counted yet.
    """
    if isinstance(images, Iterator):
        raise InputTypeError(f"got an iterator ({type(images).__name__}) of images; here pass a list of them.")
    number = len(images) if _several(images) else 1  # type: ignore[arg-type]
    if number == 0:
        raise InputError("got no images: the list or batch is empty.")
    return number


def _several(images: ImageStream) -> bool:
    return isinstance(images, list | tuple) or (isinstance(images, Tensor | np.ndarray) and images.ndim == 4)


def _open(path: Path) -> Tensor:
    with reading(path), Image.open(path) as image:
        image.load()
        return _from_pil(image)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn errors of reading an image file into errors of this package that name the file.

    Raises:
        MissingFileError: if there is no such file.
        InputError: if it is not an image, is damaged, or has more pixels than Pillow allows.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise MissingFileError(f"there is no image {path}.") from error
    except IsADirectoryError as error:
        raise InputError(f"{path} is a folder; pass the images in it as a list.") from error
    except UnidentifiedImageError as error:
        problem = stand_in(path) or f"is not an image that Pillow can read{convert_hint(path)}."
        raise InputError(f"{path} {problem}") from error
    except Image.DecompressionBombError as error:
        raise InputError(
            f"{path} has more pixels than Pillow opens, in case it was made to fill the memory ({error}). If you trust "
            "it, make it smaller with another program, or in Python raise the limit: PIL.Image.MAX_IMAGE_PIXELS = None."
        ) from error
    except UNREADABLE as error:
        if isinstance(error, InputError):
            raise InputError(f"{path}: {error}") from error
        remedy = "" if getattr(error, "errno", None) else " Get the file again."  # not of a missing permission
        raise InputError(f"{path} cannot be read as an image: {error}.{remedy}") from error


def convert_hint(path: Path) -> str:
    """What to do about a phone's picture that neither Pillow nor FFmpeg opens; empty for other files."""
    if path.suffix.lower() in (".heic", ".heif", ".hif"):
        return (
            ": convert it to JPEG or PNG, or in Python install pillow-heif and call pillow_heif.register_heif_opener() "
            "before"
        )
    return ""


def _from_pil(image: Image.Image) -> Tensor:
    if 0 in image.size:
        raise InputError(f"the image has zero size: {image.width} x {image.height} pixels.")
    try:
        image.load()
    except UNREADABLE as error:
        raise InputError(f"the PIL image cannot be read: {error}. Its file may be truncated or closed.") from error
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16-bit grayscale, stored in 16 or 32 bits
        return _from_numpy(_sixteen_bit(np.asarray(image)))
    if image.mode == "F":
        return _from_numpy(np.asarray(image))
    if image.mode == "P" and "transparency" in image.info:
        image = image.copy()
        del image.info["transparency"]  # alpha is dropped; Pillow would warn
    try:
        array = np.array(image.convert("RGB"))
    except ValueError as error:
        raise InputError(f"the image of mode {image.mode} cannot be converted to RGB: {error}.") from error
    return torch.from_numpy(array).permute(2, 0, 1).float() / 255


def _sixteen_bit(array: npt.NDArray[Any]) -> npt.NDArray[np.uint16]:
    if array.min() < 0 or array.max() > 65535:
        raise InputError(f"integer image with values in [{array.min()}, {array.max()}]; 16-bit images end at 65535.")
    return array.astype(np.uint16)


def _from_numpy(array: npt.NDArray[Any]) -> Tensor:
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        raise InputError(
            f"numpy image of shape {array.shape}: (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) is expected. "
            "Channels-first data can be passed as a torch tensor (3, H, W)."
        )
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype == np.uint16:
        array = array.astype(np.float32) / np.float32(65535)
    if array.dtype.kind not in "uf" or (array.dtype.kind == "u" and array.dtype != np.uint8):
        raise InputTypeError(f"numpy image of dtype {array.dtype}: uint8, uint16 or floats in [0, 1] are expected.")
    pixels = np.ascontiguousarray(array[:, :, :3].transpose(2, 0, 1))
    if pixels.dtype != np.uint8:
        pixels = pixels.astype(np.float32, copy=False)
    return _from_tensor(torch.from_numpy(pixels if pixels.flags.writeable else pixels.copy()))


def _from_tensor(image: Tensor) -> Tensor:
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise InputError(
            f"tensor image of shape {tuple(image.shape)}: (3, H, W), (1, H, W) or (B, 3, H, W) is expected. "
            "For (H, W, 3) pass image.permute(2, 0, 1)."
        )
    if 0 in image.shape:
        raise InputError(f"the image has zero size: shape {tuple(image.shape)}.")
    if image.dtype == torch.uint8:
        image = image.float() / 255
    elif image.dtype == torch.uint16:
        image = image.float() / 65535
    elif image.is_floating_point():
        image = image.detach().float()
        _check_range(image)
        image = image.clamp(0, 1)
    else:
        raise InputTypeError(f"tensor image of dtype {image.dtype}: uint8, uint16 or floats in [0, 1] are expected.")
    return image.expand(3, -1, -1)


def _check_range(image: Tensor) -> None:
    low, high = (float(bound) for bound in image.aminmax())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise InputError("the image holds NaN or infinity; finite values in [0, 1] are expected.")
    if low >= -_RANGE_SLACK and high <= 1 + _RANGE_SLACK:
        return
    name, value = ("maximum", high) if high > 1 + _RANGE_SLACK else ("minimum", low)
    place = int(image.argmax() if name == "maximum" else image.argmin())
    channel, row, column = np.unravel_index(place, tuple(image.shape))
    raise InputError(
        f"float image with values in [{low:.6g}, {high:.6g}]: [0, 1] is expected, before normalisation; the {name} "
        f"{value:.6g} is in channel {channel}, row {row}, column {column}. {_advice(low, high)}"
    )


_OVERSHOOT = 0.5  # by which resampling leaves [0, 1] at most, and an image without its mean always does
_NORMALISED = 10  # largest value of an image without its mean, in standard deviations


def _advice(low: float, high: float) -> str:
    """What brings an image of such values into [0, 1]."""
    if low < -_OVERSHOOT and max(-low, high) <= _NORMALISED:
        return "Values below 0 are those of a normalised image: pass it before its mean is subtracted."
    if high <= 1 + _OVERSHOOT:
        return "Clamp what resampling added: image.clip(0, 1)."
    if high <= 1.1 * 255:
        return "These look like 8-bit values: divide by 255 (image / 255)."
    if high <= 1.1 * 65535:
        return "These look like 16-bit values: divide by 65535 (image / 65535)."
    return f"Divide by the largest value that the camera gives, {high:.6g} or more."


def target_size(height: int, width: int, size: Size, native: tuple[int, int], patch: int) -> tuple[int, int]:
    """The (height, width) in pixels, multiples of ``patch``, at which an image enters the network.

    Args:
        height: of the image.
        width: of the image.
        size: None: shorter side as the shorter side of ``native``, aspect ratio kept, both sides rounded
            to the patch; an int: the same with that shorter side; (H, W): exactly that; "full": the
            image's own size, rounded to the patch.
        native: the model's native (height, width).
        patch: side of a patch in pixels.

    Raises:
        InputError: for a size that is invalid, does not fit the patch or has over ``MAX_TOKENS`` patches; for None
            also for an image longer than :data:`MAX_ASPECT` times its shorter side.
    """
    if size is None:
        check_aspect(height, width, (patch, patch))
    if isinstance(size, tuple | list):
        result = _exact(tuple(size), patch)
    elif size == "full":
        result = _rounded(height, patch), _rounded(width, patch)
    elif size is None or is_integer(size, 1):
        shorter = min(native) if size is None else size
        scale = shorter / min(height, width)
        result = _rounded(height * scale, patch), _rounded(width * scale, patch)
    else:
        raise InputError(f'size={size!r}: None, a positive number of pixels, (height, width) or "full" is expected.')
    if result[0] // patch * (result[1] // patch) > MAX_TOKENS:
        raise InputError(
            f"an image of {height} x {width} pixels would become {result[0]} x {result[1]}, over {MAX_TOKENS} patches. "
            "Pass size=(height, width) with smaller sides, or crop the image."
        )
    return result


def check_aspect(height: int, width: int, steps: tuple[int, int]) -> None:
    """Raise :class:`InputError` for an image that is too long and narrow for a size that is chosen for it.

    ``steps``: what height and width can be multiples of instead, and the least that they can be.
    """
    longer, shorter = max(height, width), min(height, width)
    if longer <= MAX_ASPECT * shorter:
        return
    kept = tuple(max(step, side // step * step) for side, step in zip((height, width), steps, strict=True))
    raise InputError(
        f"an image of {height} x {width} pixels (height x width) is {longer / shorter:.0f} times as long as it is "
        f"wide, over {MAX_ASPECT}. Crop it, or say at which size it is computed: size={kept} (on the command line "
        f"--size {kept[0]}x{kept[1]})."
    )


def _exact(size: tuple[Any, ...], patch: int) -> tuple[int, int]:
    if not is_size(size):
        raise InputError(f"size={size!r}: two positive integers (height, width) are expected.")
    fitting = tuple(_rounded(side, patch) for side in size)
    if fitting != size:
        raise InputError(f"size={size} does not fit patches of {patch} pixels; the nearest that does is {fitting}.")
    return size


def _rounded(side: float, patch: int) -> int:
    return max(1, round(side / patch)) * patch


def resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Antialiased bicubic resize of (..., 3, H, W) in [0, 1]; an image of that size is returned as it is."""
    if images.shape[-2:] == size:
        return images
    batch = images if images.ndim == 4 else images[None]
    result = F.interpolate(batch, size=size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
    return result if images.ndim == 4 else result[0]


@dataclass(frozen=True)
class Normalise:
    """(x - mean) / std per channel, then the model's device and dtype."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    device: torch.device
    dtype: torch.dtype

    def __call__(self, images: Tensor) -> Tensor:
        images = images.to(self.device, non_blocking=True)
        mean, std = (torch.tensor(v, device=self.device).view(3, 1, 1) for v in (self.mean, self.std))
        return ((images - mean) / std).to(self.dtype)
