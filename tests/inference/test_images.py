"""Every kind of image that is accepted, and every one that is refused."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from midway_zoo.errors import InputError, InputTypeError, MidwayZooError, MissingFileError
from midway_zoo.inference.images import count, iterate, to_tensor

HEIGHT, WIDTH = 6, 8
_random = np.random.default_rng(0)
COLOUR = _random.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
GREY = _random.integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)
STENCIL = np.where(GREY > 127, np.uint8(255), np.uint8(0))
ALPHA = _random.integers(0, 256, (HEIGHT, WIDTH, 1), dtype=np.uint8)


def pixels(array: np.ndarray) -> Tensor:
    """What to_tensor has to give for a uint8 picture (H, W) or (H, W, 3)."""
    colour = array if array.ndim == 3 else np.stack([array] * 3, axis=2)
    return torch.tensor(colour.transpose(2, 0, 1).copy(), dtype=torch.float32) / 255


def palette_image(transparency: int | bytes | None = None) -> Image.Image:
    """COLOUR with a palette that holds each of its pixels."""
    image = Image.fromarray(np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH))
    image.putpalette(COLOUR.tobytes())
    if transparency is not None:
        image.info["transparency"] = transparency
    return image


def read_only(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flags.writeable = False
    return array


def chw(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.transpose(2, 0, 1).copy())


PIL_KINDS: dict[str, tuple[Callable[[], Image.Image], np.ndarray]] = {
    "RGB": (lambda: Image.fromarray(COLOUR), COLOUR),
    "RGBA": (lambda: Image.fromarray(np.concatenate([COLOUR, ALPHA], axis=2)), COLOUR),
    "L": (lambda: Image.fromarray(GREY), GREY),
    "LA": (lambda: Image.fromarray(np.concatenate([GREY[:, :, None], ALPHA], axis=2), "LA"), GREY),
    "P": (palette_image, COLOUR),
    "P, one transparent colour": (lambda: palette_image(3), COLOUR),
    "P, alpha per colour": (lambda: palette_image(b"\x00\x80\xff"), COLOUR),
    "1": (lambda: Image.fromarray(STENCIL).convert("1"), STENCIL),
    "I;16": (lambda: Image.fromarray(GREY.astype(np.uint16) * 257), GREY),
    "I;16B": (lambda: Image.frombytes("I;16B", (WIDTH, HEIGHT), (GREY.astype(">u2") * 257).tobytes()), GREY),
    "I": (lambda: Image.fromarray(GREY.astype(np.int32) * 257), GREY),
    "F": (lambda: Image.fromarray(GREY.astype(np.float32) / 255), GREY),
    "CMYK": (lambda: Image.fromarray(COLOUR).convert("CMYK"), COLOUR),
}

ARRAY_KINDS: dict[str, tuple[np.ndarray, np.ndarray]] = {
    "uint8 HWC": (COLOUR, COLOUR),
    "uint8 HW": (GREY, GREY),
    "uint8 HW1": (GREY[:, :, None], GREY),
    "uint8 HW4": (np.concatenate([COLOUR, ALPHA], axis=2), COLOUR),
    "uint16 HWC": (COLOUR.astype(np.uint16) * 257, COLOUR),
    "uint16 HW": (GREY.astype(np.uint16) * 257, GREY),
    "uint16 big-endian": ((COLOUR.astype(np.uint16) * 257).astype(">u2"), COLOUR),
    "float16 HWC": (COLOUR.astype(np.float16) / np.float16(255), COLOUR),
    "float32 HWC": (COLOUR.astype(np.float32) / 255, COLOUR),
    "float64 HWC": (COLOUR / 255, COLOUR),
    "float64 HW": (GREY / 255, GREY),
    "float32 big-endian": ((COLOUR / 255).astype(">f4"), COLOUR),
    "every second pixel": (COLOUR.repeat(2, axis=0).repeat(2, axis=1)[::2, ::2], COLOUR),
    "negative strides": (COLOUR[::-1, ::-1, ::-1].copy()[::-1, ::-1, ::-1], COLOUR),
    "transposed": (COLOUR.transpose(1, 0, 2).copy().transpose(1, 0, 2), COLOUR),
    "Fortran order": (np.asfortranarray(COLOUR), COLOUR),
    "read-only HWC": (read_only(COLOUR), COLOUR),
    "read-only HW": (read_only(GREY / 255), GREY),
}

TENSOR_KINDS: dict[str, tuple[Tensor, np.ndarray]] = {
    "uint8 3HW": (chw(COLOUR), COLOUR),
    "uint8 1HW": (torch.from_numpy(GREY)[None], GREY),
    "uint16 3HW": (chw(COLOUR.astype(np.uint16) * 257), COLOUR),
    "float32 3HW": (pixels(COLOUR), COLOUR),
    "float32 1HW": (pixels(GREY)[:1], GREY),
    "float64 3HW": (pixels(COLOUR).double(), COLOUR),
    "half 3HW": (pixels(COLOUR).half(), COLOUR),
    "bfloat16 3HW": (pixels(COLOUR).bfloat16(), COLOUR),
    "non-contiguous": (torch.from_numpy(COLOUR).permute(2, 0, 1), COLOUR),
    "requires grad": (pixels(COLOUR).requires_grad_(), COLOUR),
}
ROUNDING = {"float16 HWC": 1e-3, "half 3HW": 1e-3, "bfloat16 3HW": 4e-3}


def assert_pixels(image: Tensor, expected: np.ndarray, atol: float = 1e-6) -> None:
    assert image.dtype == torch.float32
    assert not image.requires_grad
    torch.testing.assert_close(image, pixels(expected), rtol=0, atol=atol)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", PIL_KINDS)
def test_pil_modes_give_the_pixels_without_a_warning(kind: str) -> None:
    make, expected = PIL_KINDS[kind]
    assert_pixels(to_tensor(make()), expected)


@pytest.mark.parametrize("kind", ARRAY_KINDS)
def test_numpy_arrays_give_the_pixels_and_stay_as_they_are(kind: str) -> None:
    array, expected = ARRAY_KINDS[kind]
    before = array.copy()
    assert_pixels(to_tensor(array), expected, ROUNDING.get(kind, 1e-6))
    np.testing.assert_array_equal(array, before)


@pytest.mark.parametrize("kind", TENSOR_KINDS)
def test_tensors_give_the_pixels_and_stay_as_they_are(kind: str) -> None:
    tensor, expected = TENSOR_KINDS[kind]
    before = tensor.detach().clone()
    assert_pixels(to_tensor(tensor), expected, ROUNDING.get(kind, 1e-6))
    assert tensor.detach().equal(before)


@pytest.mark.parametrize("as_path", [str, Path])
@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "webp"])
def test_files_are_read_from_str_and_path(tmp_path: Path, as_path: type, suffix: str) -> None:
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(COLOUR).save(path, lossless=True)
    assert_pixels(to_tensor(as_path(path)), COLOUR)


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_sixteen_bit_grey_file_keeps_its_precision(tmp_path: Path, suffix: str) -> None:
    values = np.linspace(0, 65535, HEIGHT * WIDTH).astype(np.uint16).reshape(HEIGHT, WIDTH)
    Image.fromarray(values).save(tmp_path / f"deep.{suffix}")
    expected = torch.from_numpy(values / 65535).float().expand(3, -1, -1)
    torch.testing.assert_close(to_tensor(tmp_path / f"deep.{suffix}"), expected, rtol=0, atol=1e-6)


# How the camera stored a picture that has to be shown upright, per EXIF orientation (JEITA CP-3451, tag 274).
STORED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda upright: upright,
    2: np.fliplr,
    3: lambda upright: np.rot90(upright, 2),
    4: np.flipud,
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: np.rot90(upright, 1),  # stored a quarter turn counter-clockwise, shown clockwise
    7: lambda upright: np.rot90(upright, 2).swapaxes(0, 1),
    8: lambda upright: np.rot90(upright, -1),
}


@pytest.mark.parametrize("opened", [False, True], ids=["path", "PIL"])
@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, opened: bool) -> None:
    upright = np.zeros((32, 48, 3), np.uint8)
    upright[:16, :16], upright[:16, 32:], upright[16:, :16] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / "photo.jpg"
    Image.fromarray(np.ascontiguousarray(STORED[orientation](upright))).save(
        path, exif=exif, quality=100, subsampling=0
    )
    image = to_tensor(Image.open(path) if opened else path)
    torch.testing.assert_close(image, pixels(upright), rtol=0, atol=0.03)


def test_a_list_mixes_all_kinds_and_keeps_their_order(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "grey.png")
    kinds = [COLOUR, tmp_path / "grey.png", Image.fromarray(COLOUR), pixels(GREY), str(tmp_path / "grey.png")]
    found = list(iterate(kinds))
    assert count(kinds) == len(found) == 5
    for image, expected in zip(found, [COLOUR, GREY, COLOUR, GREY, GREY], strict=True):
        assert_pixels(image, expected)


@pytest.mark.parametrize(
    "batch",
    [
        torch.stack([pixels(COLOUR), pixels(GREY)]),
        np.stack([COLOUR, np.stack([GREY] * 3, axis=2)]),
        (COLOUR, GREY),
    ],
    ids=["tensor (B, 3, H, W)", "array (B, H, W, 3)", "tuple"],
)
def test_batches_give_each_image(batch: Any) -> None:
    assert count(batch) == 2
    for image, expected in zip(iterate(batch), [COLOUR, GREY], strict=True):
        assert_pixels(image, expected)


@pytest.mark.parametrize("image", [Image.fromarray(COLOUR), COLOUR, pixels(COLOUR)], ids=["PIL", "array", "tensor"])
def test_a_single_image_counts_as_one(image: Any) -> None:
    assert count(image) == len(list(iterate(image))) == 1


def test_files_of_a_list_are_opened_one_at_a_time(tmp_path: Path) -> None:
    Image.fromarray(COLOUR).save(tmp_path / "first.png")
    images = iterate([tmp_path / "first.png", tmp_path / "not yet there.png"])
    assert_pixels(next(images), COLOUR)


@pytest.mark.parametrize("value", [-5e-5, 1 + 5e-5])
@pytest.mark.parametrize("as_kind", [np.asarray, torch.from_numpy], ids=["array", "tensor"])
def test_rounding_outside_the_range_is_clamped(value: float, as_kind: Callable[[np.ndarray], Any]) -> None:
    image = to_tensor(as_kind(np.full((3, 4, 3), value, np.float32)))
    assert image.min() >= 0
    assert image.max() <= 1


def with_value(value: float, another: float = 0.5) -> np.ndarray:
    array = np.full((HEIGHT, WIDTH, 3), 0.5, np.float32)
    array[2, 3, 1], array[3, 3, 1] = value, another
    return array


# What is refused: input, error, and what the message has to name: the value that was given and what to do.
REFUSED: dict[str, tuple[Any, type[MidwayZooError], list[str]]] = {
    "array with NaN": (with_value(np.nan), InputError, ["NaN", "[0, 1]"]),
    "array with inf": (with_value(np.inf), InputError, ["infinity", "[0, 1]"]),
    "array with -inf": (with_value(-np.inf), InputError, ["infinity", "[0, 1]"]),
    "array too light": (with_value(1.01), InputError, ["[0.5, 1.01]", "[0, 1] is expected", "clip(0, 1)"]),
    "array normalised": (with_value(-2), InputError, ["[-2, 0.5]", "[0, 1] is expected", "mean"]),
    "array 0 to 255": (COLOUR.astype(np.float32), InputError, ["[0, 1] is expected", "8-bit values: divide by 255"]),
    "array resampled, 0 to 255": (with_value(-30, 250), InputError, ["[-30, 250]", "divide by 255"]),
    "array 0 to 65535": (with_value(60000), InputError, ["16-bit values: divide by 65535"]),
    "array of counts": (with_value(3e6), InputError, ["largest value", "3e+06"]),
    "array of no rows": (np.zeros((0, 8, 3), np.uint8), InputError, ["zero size", "0, 8"]),
    "array of no columns": (np.zeros((6, 0, 3), np.uint8), InputError, ["zero size", "6, 0"]),
    "array of two channels": (np.zeros((6, 8, 2), np.uint8), InputError, ["(6, 8, 2)", "(H, W, 3)"]),
    "array of five channels": (np.zeros((6, 8, 5), np.uint8), InputError, ["(6, 8, 5)", "(H, W, 3)"]),
    "array channels first": (np.zeros((3, 6, 8), np.uint8), InputError, ["(3, 6, 8)", "torch tensor (3, H, W)"]),
    "array of one axis": (np.zeros(6, np.uint8), InputError, ["(6,)", "(H, W, 3)"]),
    "array int64": (np.zeros((6, 8, 3), np.int64), InputTypeError, ["int64", "uint8", "[0, 1]"]),
    "array bool": (np.zeros((6, 8, 3), bool), InputTypeError, ["bool", "uint8"]),
    "array object": (np.zeros((6, 8, 3), object), InputTypeError, ["object", "uint8"]),
    "array complex": (np.zeros((6, 8, 3), complex), InputTypeError, ["complex128", "uint8"]),
    "array of text": (np.full((6, 8, 3), "a"), InputTypeError, ["<U1", "uint8"]),
    "tensor with NaN": (chw(with_value(np.nan)), InputError, ["NaN", "[0, 1]"]),
    "tensor 0 to 255": (pixels(COLOUR) * 255, InputError, ["[0, 1] is expected", "8-bit values: divide by 255"]),
    "tensor of no rows": (torch.zeros(3, 0, 8), InputError, ["zero size", "(3, 0, 8)"]),
    "tensor channels last": (torch.zeros(6, 8, 3), InputError, ["(6, 8, 3)", "(3, H, W)", "permute(2, 0, 1)"]),
    "tensor of four channels": (torch.zeros(4, 6, 8), InputError, ["(4, 6, 8)", "(3, H, W)"]),
    "tensor of two axes": (torch.zeros(6, 8), InputError, ["(6, 8)", "(1, H, W)"]),
    "tensor int64": (torch.zeros(3, 6, 8).long(), InputTypeError, ["int64", "uint8", "[0, 1]"]),
    "tensor bool": (torch.zeros(3, 6, 8).bool(), InputTypeError, ["bool", "uint8"]),
    "PIL of no columns": (Image.new("RGB", (0, 4)), InputError, ["zero size", "0 x 4"]),
    "PIL I negative": (Image.fromarray(np.full((2, 2), -3, np.int32)), InputError, ["-3", "65535"]),
    "PIL I above 16 bits": (Image.fromarray(np.full((2, 2), 65536, np.int32)), InputError, ["65536", "65535"]),
    "PIL F 0 to 255": (Image.fromarray(GREY.astype(np.float32)), InputError, ["divide by 255 (image / 255)"]),
    "None": (None, InputTypeError, ["NoneType", "pass a PIL image"]),
    "a number": (3, InputTypeError, ["int", "pass a PIL image"]),
    "bytes": (b"\x89PNG", InputTypeError, ["bytes", "pass a PIL image"]),
    "a list where one image is expected": ([COLOUR], InputTypeError, ["list", "pass a PIL image"]),
}
BUILTIN = {InputError: ValueError, InputTypeError: TypeError, MissingFileError: FileNotFoundError}


def assert_refused(image: Any, error: type[MidwayZooError], named: list[str]) -> None:
    with pytest.raises(error) as caught:
        to_tensor(image)
    assert isinstance(caught.value, MidwayZooError)
    assert isinstance(caught.value, BUILTIN[error])
    for part in named:
        assert part in str(caught.value)


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_image_is_refused_with_its_value_and_the_remedy(case: str) -> None:
    assert_refused(*REFUSED[case])


def noise_png() -> bytes:
    buffer = BytesIO()
    Image.fromarray(_random.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(buffer, "png")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("notes.txt", b"no image", "Pillow"),
        ("notes.png", b"no image", "Pillow"),
        ("empty.png", b"", "is empty"),
        ("cut.png", noise_png()[:4000], "cannot be read as an image: image file is truncated"),
    ],
    ids=["text", "text named png", "empty", "truncated"],
)
def test_a_file_that_is_no_image_is_named(tmp_path: Path, name: str, content: bytes, named: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert_refused(path, InputError, [str(path), named])


def test_a_bad_value_inside_a_file_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "float.tiff"
    Image.fromarray(GREY.astype(np.float32)).save(path)
    assert_refused(path, InputError, [str(path), "[0, 1] is expected"])


def test_a_folder_is_refused_with_the_remedy(tmp_path: Path) -> None:
    assert_refused(tmp_path, InputError, [str(tmp_path), "list"])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert_refused(tmp_path / "nowhere.png", MissingFileError, [str(tmp_path / "nowhere.png")])


def test_a_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(noise_png())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert_refused(path, InputError, [str(path), "4096 pixels"])


def test_an_opened_image_whose_file_is_truncated_is_refused(tmp_path: Path) -> None:
    """Pillow reads pixels only when they are needed, which is inside to_tensor."""
    path = tmp_path / "cut.png"
    path.write_bytes(noise_png()[:4000])
    with Image.open(path) as image:
        assert_refused(image, InputError, ["truncated"])


def test_a_closed_image_is_refused() -> None:
    image = Image.open(BytesIO(noise_png()))
    image.close()
    assert_refused(image, InputError, ["closed"])


@pytest.mark.parametrize(
    "empty", [[], (), torch.zeros(0, 3, 4, 4), np.zeros((0, 4, 4, 3))], ids=["list", "tuple", "tensor", "array"]
)
def test_no_images_at_all_are_refused(empty: Any) -> None:
    with pytest.raises(InputError, match="empty"):
        count(empty)


@pytest.mark.parametrize(
    ("images", "error"),
    [
        ([COLOUR, with_value(2)], InputError),
        ([COLOUR, None], InputTypeError),
        (np.stack([with_value(1), with_value(2)]), InputError),
        (torch.stack([pixels(COLOUR), pixels(COLOUR) * 2]), InputError),
    ],
    ids=["list, value", "list, type", "array batch", "tensor batch"],
)
def test_the_refused_image_of_several_is_named(images: Any, error: type[MidwayZooError]) -> None:
    with pytest.raises(error, match="image 1"):
        list(iterate(images))


def test_pictures_of_phones_that_pillow_cannot_open_say_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    with pytest.raises(
        InputError, match=r"IMG_1\.HEIC is not an image .*: convert it to JPEG or PNG, or .* pillow-heif"
    ):
        to_tensor(tmp_path / "IMG_1.HEIC")
