"""The size at which an image enters the network, and how its pixels get there."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from midway_zoo.errors import InputError
from midway_zoo.inference.images import MAX_ASPECT, MAX_TOKENS, Normalise, resize, target_size

PATCHES = st.sampled_from([8, 14, 16])
SHORTER = st.integers(1, 256)


@st.composite
def geometries(draw: st.DrawFn) -> tuple[int, int, tuple[int, int], int]:
    """An image's height and width, a native size and its patch; small enough that the token limit never bites."""
    patch = draw(PATCHES)
    native = (draw(st.integers(1, 28)) * patch, draw(st.integers(1, 28)) * patch)
    height = draw(st.integers(1, 2000))
    width = draw(st.integers(-(-height // MAX_ASPECT), min(2000, height * MAX_ASPECT)))
    return height, width, native, patch


@given(geometries(), st.one_of(st.none(), SHORTER, st.just("full")))
def test_every_size_is_whole_patches_and_at_least_one(geometry: Any, size: Any) -> None:
    height, width, native, patch = geometry
    result = target_size(height, width, size, native, patch)
    assert all(side % patch == 0 and side >= patch for side in result)


@given(geometries())
def test_none_gives_the_native_shorter_side_and_keeps_the_aspect_ratio(geometry: Any) -> None:
    height, width, native, patch = geometry
    result = target_size(height, width, None, native, patch)
    assert min(result) == min(native)
    assert abs(max(result) - max(height, width) * min(native) / min(height, width)) <= patch / 2 + 1e-6
    assert (result[0] >= result[1]) if height > width else (result[0] <= result[1])


@given(geometries(), SHORTER)
def test_an_int_is_the_shorter_side_rounded_to_the_patch(geometry: Any, size: int) -> None:
    height, width, native, patch = geometry
    result = target_size(height, width, size, native, patch)
    for side, given_side in zip(result, (height, width), strict=True):
        wanted = given_side * size / min(height, width)
        assert abs(side - max(wanted, patch)) <= patch / 2 + 1e-6


@given(geometries())
def test_full_is_the_images_own_size_rounded_to_the_patch(geometry: Any) -> None:
    height, width, native, patch = geometry
    result = target_size(height, width, "full", native, patch)
    for side, given_side in zip(result, (height, width), strict=True):
        assert abs(side - max(given_side, patch)) <= patch / 2


@given(st.integers(1, 100), st.integers(1, 100), PATCHES)
def test_a_pair_is_taken_exactly(rows: int, columns: int, patch: int) -> None:
    wanted = (rows * patch, columns * patch)
    assert target_size(50, 70, wanted, (64, 64), patch) == wanted
    assert target_size(50, 70, list(wanted), (64, 64), patch) == wanted


@pytest.mark.parametrize(
    ("given_size", "size", "native", "expected"),
    [
        ((64, 64), None, (64, 64), (64, 64)),
        ((480, 640), None, (224, 224), (224, 304)),
        ((640, 480), None, (224, 224), (304, 224)),
        ((480, 640), None, (256, 512), (256, 336)),
        ((480, 640), 448, (224, 224), (448, 592)),
        ((1080, 1920), "full", (224, 224), (1088, 1920)),
        ((3, 5), "full", (224, 224), (16, 16)),
        ((480, 640), (224, 224), (224, 224), (224, 224)),
        ((480, 640), (16, 4096), (224, 224), (16, 4096)),
    ],
)
def test_sizes_by_example(given_size: Any, size: Any, native: Any, expected: Any) -> None:
    assert target_size(*given_size, size, native, 16) == expected


@pytest.mark.parametrize(
    ("size", "named"),
    [
        (0, "size=0"),
        (-16, "size=-16"),
        (True, "size=True"),
        (64.0, "size=64.0"),
        ("big", "size='big'"),
        ((64,), "size=(64,)"),
        ((64, 64, 3), "size=(64, 64, 3)"),
        ((64, 0), "size=(64, 0)"),
        ((64, 64.0), "size=(64, 64.0)"),
        ((64, True), "size=(64, True)"),
        ((64, 100), "nearest that does is (64, 96)"),
        ((1, 64), "nearest that does is (16, 64)"),
    ],
)
def test_a_size_that_makes_no_sense_is_named(size: Any, named: str) -> None:
    with pytest.raises(InputError) as caught:
        target_size(100, 100, size, (64, 64), 16)
    assert named in str(caught.value)


@pytest.mark.parametrize(
    ("given_size", "size"),
    [
        ((64, 64), 10**6),
        ((64, 64), (10**6 * 16, 10**6 * 16)),
        ((10**5, 10**5), "full"),
        ((1, 10**6), 16),
    ],
    ids=["int", "pair", "full", "thin image"],
)
def test_an_absurd_size_is_refused_before_anything_is_allocated(given_size: Any, size: Any) -> None:
    with pytest.raises(InputError, match=rf"over {MAX_TOKENS} patches.*Pass size=\(height, width\)"):
        target_size(*given_size, size, (64, 64), 16)


def test_the_largest_allowed_size_is_allowed() -> None:
    assert target_size(64, 64, 4096, (64, 64), 16) == (4096, 4096)
    with pytest.raises(InputError):
        target_size(64, 64, (4096, 4112), (64, 64), 16)


@given(st.integers(1, 40), st.integers(1, 40), st.booleans())
def test_resize_to_the_same_size_changes_nothing(height: int, width: int, batched: bool) -> None:
    image = torch.rand(*([2] if batched else []), 3, height, width)
    assert resize(image, (height, width)).equal(image)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(1, 40))
def test_resize_stays_in_the_range_and_keeps_a_flat_image(height: int, width: int, rows: int, columns: int) -> None:
    """Bicubic weights overshoot at edges: a picture of zeros and ones is the worst case."""
    stripes = torch.randint(0, 2, (3, height, width), generator=torch.Generator().manual_seed(0)).float()
    result = resize(stripes, (rows, columns))
    assert result.shape == (3, rows, columns)
    assert result.min() >= 0
    assert result.max() <= 1
    flat = resize(torch.full((3, height, width), 0.25), (rows, columns))
    torch.testing.assert_close(flat, torch.full((3, rows, columns), 0.25))


def test_resize_of_a_batch_is_that_of_its_images() -> None:
    batch = torch.rand(3, 3, 20, 30)
    resized = resize(batch, (16, 24))
    for one, image in zip(resized, batch, strict=True):
        torch.testing.assert_close(one, resize(image, (16, 24)))


def test_resize_is_antialiased() -> None:
    """One bright column in eight becomes an eighth of the light; without antialiasing it would fall through."""
    comb = (torch.arange(64) % 8 == 0).float().expand(3, 64, 64)
    inner = resize(comb, (8, 8))[:, 2:-2, 2:-2]
    torch.testing.assert_close(inner, torch.full_like(inner, 1 / 8), rtol=0, atol=0.01)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_normalise_subtracts_the_mean_and_divides_by_std_per_channel(dtype: torch.dtype) -> None:
    normalise = Normalise((0.1, 0.2, 0.3), (0.5, 0.25, 2.0), torch.device("cpu"), dtype)
    values = normalise(torch.full((2, 3, 4, 5), 0.6))
    assert values.shape == (2, 3, 4, 5)
    assert values.dtype == dtype
    expected = torch.tensor([1.0, 1.6, 0.15], dtype=dtype).view(3, 1, 1).expand(2, 3, 4, 5)
    torch.testing.assert_close(values, expected, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-6)


@pytest.mark.parametrize(("height", "width", "kept"), [(2, 2000, (16, 2000)), (2000, 2, (2000, 16)), (9, 91, (16, 80))])
def test_a_strip_has_no_size_of_its_own(height: int, width: int, kept: tuple[int, int]) -> None:
    """2000 x 2 pixels would become 224 x 224000. The size that the message names is one that works."""
    with pytest.raises(InputError, match="times as long as it is wide") as error:
        target_size(height, width, None, (224, 224), 16)
    assert f"size={kept}" in str(error.value)
    assert target_size(height, width, kept, (224, 224), 16) == kept
    assert target_size(height, width, 16, (224, 224), 16)[0] >= 16
    assert target_size(MAX_ASPECT, 1, None, (16, 16), 16) == (16 * MAX_ASPECT, 16)
