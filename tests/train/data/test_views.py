"""Boxes are drawn as torchvision draws them, and views show what their place in the result says."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torchvision.transforms import RandomResizedCrop

from midway_zoo.errors import ConfigError, InputError, InputTypeError
from midway_zoo.scenes.draws import Draws
from midway_zoo.train.data.photometric import Column, augment
from midway_zoo.train.data.views import (
    Boxes,
    ViewSampler,
    ViewsConfig,
    affine_matrices,
    cut,
    random_boxes,
    shifted_boxes,
    warp,
)

ASPECT = (3 / 4, 4 / 3)
TRIES = 10
SMALL = ViewsConfig(dynamics_size=32, global_size=24, local_size=12, local_crops=3)


def boxes_of(
    height: int, width: int, area: tuple[float, float], aspect: tuple[float, float], seed: int, number: int = 1
) -> Boxes:
    """(number, 4), each from numbers of its own."""
    tries = np.random.default_rng(seed).random((TRIES, number, 4))
    return random_boxes(np.full(number, height), np.full(number, width), area, aspect, tries)


def ramps(height: int, width: int, blue: int) -> Tensor:
    """uint8 (3, H, W): red grows to the right and green downwards, over the whole range; blue is constant."""
    image = torch.empty(3, height, width)
    image[0], image[1] = torch.linspace(0, 255, width), torch.linspace(0, 255, height)[:, None]
    image[2] = blue
    return image.round().byte()


def extent(view: Tensor, frame: tuple[int, int]) -> tuple[float, float, float, float]:
    """(top, left, bottom, right) that a view of :func:`ramps` shows, in pixels; right < left if flipped.

    The ends are extrapolated from the inner half: resampling bends the ramp near the border.
    """
    size, inner = view.shape[-1], view.shape[-1] // 4
    ends = []
    for ramp, length in ((view[1].float().mean(1), frame[0]), (view[0].float().mean(0), frame[1])):
        slope = (ramp[-inner - 1] - ramp[inner]) / (size - 2 * inner - 1)
        first = ramp[inner] - slope * (inner + 0.5)
        ends.append([float(value) / 255 * (length - 1) + 0.5 for value in (first, first + slope * size)])
    return ends[0][0], ends[1][0], ends[0][1], ends[1][1]


def sample(seed: int, frame: tuple[int, int] = (540, 960), config: ViewsConfig | None = None) -> dict[str, Tensor]:
    sampler = ViewSampler(config or ViewsConfig())
    return sampler(ramps(*frame, blue=50), ramps(*frame, blue=200), np.random.default_rng(seed))


def test_boxes_have_the_distribution_of_torchvision() -> None:
    """Means, spreads and the share of full-height boxes of 4000 draws, within five standard errors."""
    height, width, area, number = 90, 160, (0.2, 0.6), 4000
    frame = torch.empty(3, height, width)
    ours = torch.from_numpy(boxes_of(height, width, area, ASPECT, 0, number)).double()
    theirs = torch.tensor(
        [RandomResizedCrop.get_params(frame, list(area), list(ASPECT)) for _ in range(number)]
    ).double()
    for boxes in (ours, theirs):
        boxes[:, :2] += boxes[:, 2:] / 2  # centres
    error = (ours.var(0) / number + theirs.var(0) / number).sqrt()
    assert ((ours.mean(0) - theirs.mean(0)).abs() < 5 * error).all()
    assert (ours.std(0) / theirs.std(0) - 1).abs().max() < 0.08
    assert (torch.corrcoef(ours.T) - torch.corrcoef(theirs.T)).abs().max() < 0.1


@given(
    st.integers(1, 200),
    st.integers(1, 200),
    st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(sorted),
    st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)).map(sorted),
    st.integers(0, 2**32),
)
def test_boxes_lie_in_their_frame(height: int, width: int, area: list[float], aspect: list[float], seed: int) -> None:
    boxes = boxes_of(height, width, (area[0], area[1]), (aspect[0], aspect[1]), seed, number=3)
    assert boxes.shape == (3, 4)
    for top, left, tall, wide in boxes.tolist():
        assert tall >= 1
        assert wide >= 1
        assert 0 <= top <= height - tall
        assert 0 <= left <= width - wide


@pytest.mark.parametrize(("height", "width"), [(10, 1000), (1000, 10), (30, 30), (1, 7)])
def test_a_box_that_cannot_fit_is_that_of_torchvision(height: int, width: int) -> None:
    area = (1.0, 1.0)
    aspect = (1.1, 1.2) if height == width else ASPECT
    expected = RandomResizedCrop.get_params(torch.empty(3, height, width), list(area), list(aspect))
    assert boxes_of(height, width, area, aspect, seed=0)[0].tolist() == list(expected)


def test_a_box_does_not_depend_on_the_others() -> None:
    """Each takes its first try that fits, whatever the others need."""
    tries = np.random.default_rng(0).random((TRIES, 50, 4))
    sides = np.full(50, 60), np.full(50, 70)
    together = random_boxes(*sides, (0.8, 1.0), ASPECT, tries)
    for i, box in enumerate(together):
        alone = random_boxes(sides[0][:1], sides[1][:1], (0.8, 1.0), ASPECT, tries[:, i : i + 1])
        assert box.tolist() == alone[0].tolist()
    assert len({tuple(box) for box in together.tolist()}) > 40


def test_shapes_and_types() -> None:
    views = sample(0)
    assert {name: (tuple(v.shape), v.dtype) for name, v in views.items()} == {
        "dynamics": ((2, 3, 224, 224), torch.uint8),
        "globals": ((4, 3, 224, 224), torch.uint8),
        "locals": ((16, 3, 96, 96), torch.uint8),
        "photometric": ((22, 11), torch.float32),
    }


def test_frames_come_in_their_order() -> None:
    views = sample(0)
    for name, order in (("dynamics", [50, 200]), ("globals", [50, 50, 200, 200]), ("locals", [50] * 8 + [200] * 8)):
        assert [int(view[2].float().mean()) for view in views[name]] == order


@pytest.mark.parametrize("seed", range(8))
def test_frames_share_the_dynamics_box_which_is_not_flipped(seed: int) -> None:
    source, target = sample(seed, config=ViewsConfig(local_crops=0, flip_p=1.0))["dynamics"]
    assert torch.equal(source[:2], target[:2])
    top, left, bottom, right = extent(source, (540, 960))
    assert 0.2 - 0.01 < (bottom - top) * (right - left) / (540 * 960) < 0.4 + 0.01
    assert 3 / 4 - 0.03 < (right - left) / (bottom - top) < 4 / 3 + 0.03


def test_frames_share_the_global_boxes_and_their_flips() -> None:
    flips = []
    for seed in range(60):
        x1, x2, y1, y2 = sample(seed, config=SMALL)["globals"]
        assert torch.equal(x1[:2], y1[:2])
        assert torch.equal(x2[:2], y2[:2])
        assert not torch.equal(x1[:2], x2[:2])
        flips.append([extent(view, (540, 960))[3] < extent(view, (540, 960))[1] for view in (x1, x2)])
    one, two = np.array(flips).T
    for flipped in (one, two, one != two):  # each flips half of the time, whatever the other does
        assert 15 < flipped.sum() < 45


def test_local_crops_are_each_their_own() -> None:
    views = sample(0)["locals"][:, :2].flatten(1)
    assert len({view.numpy().tobytes() for view in views}) == 16
    flipped = [
        right < left
        for seed in range(20)
        for _, left, _, right in [extent(view, (540, 960)) for view in sample(seed, config=SMALL)["locals"]]
    ]
    assert 35 < sum(flipped) < 85  # of 120


@pytest.mark.parametrize("seed", range(6))
def test_globals_and_locals_lie_in_one_initial_box(seed: int) -> None:
    """What they cover together is no larger than the initial box may be, and each no larger than its share."""
    views = sample(seed)
    extents = [extent(view, (540, 960)) for name in ("globals", "locals") for view in views[name]]
    boxes = np.array([(top, min(left, right), bottom, max(left, right)) for top, left, bottom, right in extents])
    heights, widths = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    union = (boxes[:, 2].max() - boxes[:, 0].min()) * (boxes[:, 3].max() - boxes[:, 1].min())
    assert union < 1.03 * 0.2 * 540 * 960
    assert (heights * widths)[4:].max() < 0.42 * 0.2 * 540 * 960
    assert (heights * widths)[:4].min() > 0.38 * 0.05 * 540 * 960


def test_views_are_the_crops_of_pil() -> None:
    """Bicubic, antialiased: PIL's crop and resize to within a level."""
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (120, 200, 3), dtype=np.uint8)
    image = torch.from_numpy(frame).permute(2, 0, 1)
    config = ViewsConfig(local_crops=0, dynamics_size=40)
    source = ViewSampler(config)(image, image, np.random.default_rng(5))["dynamics"][0]
    tries = np.random.default_rng(5).random((1, 1, 4))  # at most 0.4 of the frame: the first one fits
    box = random_boxes(np.array([120]), np.array([200]), config.dynamics_area, config.aspect, tries)
    top, left, height, width = box[0].tolist()
    corners = left, top, left + width, top + height
    expected = np.asarray(Image.fromarray(frame).crop(corners).resize((40, 40), Image.Resampling.BICUBIC))
    difference = source.permute(1, 2, 0).numpy().astype(int) - expected
    assert np.abs(difference).max() <= 1


def test_memory_layout_of_the_frames_does_not_matter() -> None:
    planes = torch.randint(0, 256, (2, 3, 60, 90), dtype=torch.uint8)
    pixels = planes.contiguous(memory_format=torch.channels_last)
    sampler = ViewSampler(SMALL)
    first, second = (sampler(*frames, np.random.default_rng(1)) for frames in (planes, pixels))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_same_generator_same_views() -> None:
    first, again, other = sample(3, config=SMALL), sample(3, config=SMALL), sample(4, config=SMALL)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_frames_are_left_as_they_are() -> None:
    frames = torch.randint(0, 256, (2, 3, 60, 90), dtype=torch.uint8)
    before = frames.clone()
    ViewSampler(SMALL)(*frames, np.random.default_rng(0))
    assert torch.equal(frames, before)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [(0, [True, False] * 3 + [False] * 6), (1, [False, True] * 3 + [False] * 6), (2, [False] * 6 + [True] * 6)],
)
def test_types_of_the_views(kind: int, expected: list[bool]) -> None:
    """With p 1 for one kind only, just its views are blurred: 1 2 for dynamics, 1 2 1 2 for globals, then locals."""
    blur_p = (float(kind == 0), float(kind == 1), float(kind == 2))
    params = sample(0, config=ViewsConfig(local_crops=3, blur_p=blur_p))["photometric"]
    assert (params[:, Column.BLUR] > 0).tolist() == expected


@pytest.mark.parametrize("size", [(40, 64), (64, 40), (5, 400), (1, 1), (2, 3)])
def test_tiny_and_long_frames(size: tuple[int, int]) -> None:
    for seed in range(10):
        views = sample(seed, size, SMALL)
        assert {name: len(v) for name, v in views.items()} == {
            "dynamics": 2,
            "globals": 4,
            "locals": 6,
            "photometric": 12,
        }


@settings(max_examples=25)
@given(st.integers(0, 4), st.integers(1, 40), st.integers(0, 2**32))
def test_any_number_and_size_of_views_can_be_augmented(number: int, size: int, seed: int) -> None:
    config = ViewsConfig(dynamics_size=size, global_size=size, local_size=size, local_crops=number)
    views = sample(seed, (30, 40), config)
    stacked = torch.cat([views["dynamics"], views["globals"], views["locals"]])
    result = augment(stacked, views["photometric"])
    assert result.shape == (6 + 2 * number, 3, size, size)
    assert result.isfinite().all()
    assert float(result.abs().max()) < 2.7  # white and black, normalised


def test_config_goes_through_omegaconf() -> None:
    config = OmegaConf.merge(OmegaConf.structured(ViewsConfig), {"local_crops": 1, "aspect": [0.5, 2.0]})
    sampler = ViewSampler(OmegaConf.to_object(config))  # type: ignore[arg-type]
    frame = ramps(40, 64, 0)
    assert len(sampler(frame, frame, np.random.default_rng(0))["locals"]) == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dynamics_size", 0),
        ("local_crops", -1),
        ("initial_area", (0.2, 0.05)),
        ("global_area", (0.0, 1.0)),
        ("local_area", (0.1, 1.1)),
        ("aspect", (0.0, 1.0)),
        ("aspect", (2.0, 1.0)),
        ("flip_p", 1.1),
        ("blur_p", (1.0,)),
    ],
)
def test_configs_without_views(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=name):
        ViewSampler(ViewsConfig(**{name: value}))  # type: ignore[arg-type]


def test_frames_that_are_no_pair() -> None:
    sampler, rng, frame = ViewSampler(SMALL), np.random.default_rng(0), ramps(40, 64, 0)
    with pytest.raises(InputError, match="differ in size"):
        sampler(frame, ramps(64, 40, 0), rng)
    with pytest.raises(InputError, match="target"):
        sampler(frame, frame[0], rng)
    with pytest.raises(InputTypeError, match="source"):
        sampler(frame / 255, frame, rng)


def test_the_target_s_dynamics_box_can_be_shifted() -> None:
    """By up to the given share of its sides, inside the frame; nothing else of the views changes its place."""
    config = ViewsConfig(dynamics_size=32, global_size=24, local_size=12, local_crops=0, dynamics_shift=0.25)
    moves = []
    for seed in range(40):
        views = sample(seed, config=config)["dynamics"]
        (top, left, bottom, right), there = extent(views[0], (540, 960)), extent(views[1], (540, 960))
        moves.append(((there[1] - left) / (right - left), (there[0] - top) / (bottom - top)))
        assert there[3] - there[1] == pytest.approx(right - left, rel=0.1)
    assert 0.18 < np.abs(moves).max() < 0.29
    assert np.abs(moves).mean() > 0.05
    with pytest.raises(ConfigError, match="dynamics_shift=1"):
        ViewSampler(ViewsConfig(dynamics_shift=1.0))


def test_the_target_s_dynamics_crop_can_be_warped() -> None:
    """About its middle; the source, and the places of all else, stay as they are."""
    picture = torch.randint(0, 256, (1, 3, 16, 16), dtype=torch.uint8)
    quarter = affine_matrices(ViewsConfig(dynamics_degrees=90), np.array([[1.0, 0.5, 0.5]]))
    assert torch.equal(warp(picture, torch.from_numpy(quarter)), picture.rot90(1, (2, 3)))
    large = affine_matrices(ViewsConfig(dynamics_zoom=0.5), np.array([[0.5, 1.0, 0.5], [0.5, 0.0, 0.5]]))
    np.testing.assert_allclose(large[:, [0, 1], [0, 1]], [[2 / 3] * 2, [3 / 2] * 2], rtol=1e-6)
    slanted = affine_matrices(ViewsConfig(dynamics_shear=45), np.array([[0.5, 0.5, 1.0]]))
    np.testing.assert_allclose(slanted[0], [[1, 1, 0], [0, 1, 0]], atol=1e-6)
    small = {"dynamics_size": 32, "global_size": 24, "local_size": 12, "local_crops": 0}
    still, moved = (sample(3, config=ViewsConfig(**small, **more)) for more in ({}, {"dynamics_degrees": 20.0}))
    assert torch.equal(still["dynamics"][0], moved["dynamics"][0])
    assert not torch.equal(still["dynamics"][1], moved["dynamics"][1])


# Whole batches of rendered frames.


def test_cut_is_an_antialiased_bicubic_resize() -> None:
    images = torch.rand(2, 6, 40, 56, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor(
        [[[3, 5, 30, 44], [0, 0, 40, 56], [20, 30, 8, 9]], [[1, 1, 39, 20], [0, 9, 5, 5], [7, 0, 9, 50]]]
    )
    flips = torch.tensor([[False, True, False], [True, False, True]])
    views = cut(images, boxes, flips, 16)
    assert views.shape == (2, 3, 6, 16, 16)
    for image, row, mirrored, found in zip(images, boxes, flips, views, strict=True):
        for (top, left, height, width), flip, view in zip(row.tolist(), mirrored.tolist(), found, strict=True):
            crop = image[None, :, top : top + height, left : left + width]
            expected = F.interpolate(crop, (16, 16), mode="bicubic", antialias=True)[0].clamp(0, 1).mul(255).round()
            assert (expected.flip(-1) if flip else expected).sub(view).abs().max() <= 1


@pytest.fixture
def rendered() -> ViewsConfig:
    return ViewsConfig(
        dynamics_size=24, global_size=16, local_size=8, local_crops=2, initial_area=(0.5, 1.0), solarize_p=(0, 1, 0)
    )


def test_order_sharing_and_kinds_of_a_batch(rendered: ViewsConfig) -> None:
    same = torch.rand(3, 1, 3, 40, 40).expand(-1, 2, -1, -1, -1)
    batch = ViewSampler(rendered).batch(same, Draws(0, np.arange(3)))
    shapes = {key: tuple(value.shape) for key, value in batch.items()}
    assert shapes == {
        "dynamics": (3, 2, 3, 24, 24),
        "globals": (3, 4, 3, 16, 16),
        "locals": (3, 4, 3, 8, 8),
        "photometric": (3, 10, 11),
    }
    # Boxes and flips are shared by the frames, which here are equal: x1 = y1, x2 = y2, and nothing else.
    assert torch.equal(batch["dynamics"][:, 0], batch["dynamics"][:, 1])
    assert torch.equal(batch["globals"][:, :2], batch["globals"][:, 2:])
    assert not torch.equal(batch["globals"][:, 0], batch["globals"][:, 1])
    assert not torch.equal(batch["locals"][:, :2], batch["locals"][:, 2:])
    solarized = batch["photometric"][:, :, Column.SOLARIZE]
    assert torch.equal(solarized, torch.tensor([0, 1, 0, 1, 0, 1, 0, 0, 0, 0.0]).expand(3, -1))
    assert len(batch["photometric"][..., Column.HUE].unique()) > 10


def test_frames_of_a_batch_are_told_apart(rendered: ViewsConfig) -> None:
    frames = torch.stack([torch.zeros(2, 3, 40, 40), torch.ones(2, 3, 40, 40)], dim=1)
    batch = ViewSampler(rendered).batch(frames, Draws(0, np.arange(2)))
    means = [batch[key].float().mean((2, 3, 4)).tolist()[0] for key in ("dynamics", "globals", "locals")]
    assert means == [[0, 255], [0, 0, 255, 255], [0, 0, 255, 255]]


def test_a_batch_without_local_crops_and_of_bad_frames(rendered: ViewsConfig) -> None:
    rendered.local_crops = 0
    views = ViewSampler(rendered)
    assert views.batch(torch.rand(2, 2, 3, 40, 40), Draws(0, np.arange(2)))["locals"].shape == (2, 0, 3, 8, 8)
    with pytest.raises(InputError, match=r"\(B, 2, 3, H, W\)"):
        views.batch(torch.rand(2, 3, 3, 40, 40), Draws(0, np.arange(2)))


def test_a_shift_moves_the_dynamics_crop_of_the_target_alone(rendered: ViewsConfig) -> None:
    rendered.dynamics_area, rendered.dynamics_shift, rendered.aspect = (0.36, 0.36), 0.5, (1.0, 1.0)
    row = torch.arange(40) / 40
    ramp = torch.stack([row.expand(40, -1), row[:, None].expand(-1, 40), torch.zeros(40, 40)])
    same = ramp.expand(64, 2, -1, -1, -1)
    batch = ViewSampler(rendered).batch(same, Draws(0, np.arange(64)))
    source, target = batch["dynamics"].float().div(255 / 40).mean((-2, -1)).unbind(1)
    moved = (target - source)[:, :2]
    assert 5 < moved.abs().max() < 12.5
    assert moved.abs().mean() > 2
    assert torch.equal(batch["globals"][:, 0], batch["globals"][:, 2])
    rendered.dynamics_shift = 0.0
    still = ViewSampler(rendered).batch(same, Draws(0, np.arange(64)))
    assert torch.equal(still["dynamics"][:, 0], batch["dynamics"][:, 0])
    assert torch.equal(still["dynamics"][:, 0], still["dynamics"][:, 1])


def test_a_warp_of_a_batch_is_each_pair_s_own(rendered: ViewsConfig) -> None:
    frames = torch.rand(3, 1, 3, 40, 40).expand(-1, 2, -1, -1, -1)
    still = ViewSampler(rendered).batch(frames, Draws(0, np.arange(3)))["dynamics"]
    rendered.dynamics_zoom, rendered.dynamics_shear = 0.4, 20.0
    warped = ViewSampler(rendered).batch(frames, Draws(0, np.arange(3)))["dynamics"]
    alone = ViewSampler(rendered).batch(frames[1:2], Draws(0, np.arange(1, 2)))["dynamics"]
    assert torch.equal(still[:, 0], warped[:, 0])
    assert all(not torch.equal(before, after) for before, after in zip(still[:, 1], warped[:, 1], strict=True))
    assert torch.equal(warped[1:2], alone)


@pytest.mark.parametrize("size", [(48, 64), (32, 32)])
def test_shifted_boxes_stay_in_the_frame_and_their_share(size: tuple[int, int]) -> None:
    boxes = boxes_of(*size, (0.2, 0.6), ASPECT, seed=0, number=200)
    moved = shifted_boxes(boxes, *size, 0.5, np.random.default_rng(1).random((200, 2)))
    assert (moved[:, 2:] == boxes[:, 2:]).all()
    assert (moved[:, :2] >= 0).all()
    assert (moved[:, :2] + moved[:, 2:] <= size).all()
    distance = np.abs(moved - boxes)[:, :2] / boxes[:, 2:]
    assert 0.2 < distance.max() <= 0.5
