"""The augmentation of flow pairs: what it draws, and that images and flow stay in agreement."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from midway_zoo.errors import ConfigError, InputError
from midway_zoo.train.data.flow_augment import FlowAugment, FlowAugmentConfig, FlowSample, check_augment

STILL = FlowAugmentConfig(
    scale_p=0, stretch_p=0, horizontal_flip_p=0, vertical_flip_p=0, brightness=0, contrast=0, saturation=0, hue=0
)
GEOMETRY = replace(FlowAugmentConfig(), brightness=0, contrast=0, saturation=0, hue=0, vertical_flip_p=0.5)
HEIGHT, WIDTH = 72, 100

TURN = torch.tensor([[1.05, 0.06], [-0.04, 0.96]])
SHIFT = torch.tensor([3.0, -2.0])


def picture(points: Tensor) -> Tensor:
    """Smooth colours at points (H, W, 2), uint8 (3, H, W)."""
    waves = [torch.sin(points @ torch.tensor(wave) + phase) for wave, phase in (
        ((0.13, 0.05), 0.0), ((-0.04, 0.12), 1.0), ((0.09, -0.1), 2.0)
    )]  # fmt: skip
    return (torch.stack(waves) * 120 + 127.5).round().to(torch.uint8)


def affine_pair() -> FlowSample:
    """A scene under an affine motion: target(TURN p + SHIFT) = source(p)."""
    y, x = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    points = torch.stack([x, y], dim=-1).float()
    flow = (points @ TURN.T + SHIFT - points).permute(2, 0, 1)
    return FlowSample(picture(points), picture((points - SHIFT) @ torch.linalg.inv(TURN).T), flow.contiguous())


def disagreement(sample: FlowSample) -> Tensor:
    """|source(p) - target(p + flow(p))| in [0, 1], (H, W); NaN where p + flow leaves the picture or is invalid."""
    assert sample.flow is not None
    height, width = sample.source.shape[1:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    there = sample.flow + torch.stack([x, y])
    at = torch.stack([2 * there[0] / (width - 1) - 1, 2 * there[1] / (height - 1) - 1], dim=-1)
    warped = F.grid_sample(sample.target[None].float(), at[None], align_corners=True)[0]
    error = (warped - sample.source).abs().amax(0) / 255
    return error.where((at.abs() <= 1).all(-1), float("nan"))


def test_the_pair_agrees_to_begin_with() -> None:
    assert np.nanmax(disagreement(affine_pair())) < 0.03


@pytest.mark.parametrize("seed", range(12))
def test_images_and_flow_stay_in_agreement(seed: int) -> None:
    made = FlowAugment(GEOMETRY, (48, 64))(affine_pair(), "dense", np.random.default_rng(seed))
    assert made.source.shape == made.target.shape == (3, 48, 64)
    assert made.source.dtype == torch.uint8
    assert made.flow is not None
    assert made.flow.shape == (2, 48, 64)
    error = disagreement(made)
    assert error.isfinite().float().mean() > 0.5
    assert np.nanmax(error[2:-2, 2:-2]) < 0.05


@pytest.mark.parametrize("seed", range(6))
def test_sparse_flow_stays_in_agreement(seed: int) -> None:
    sample = affine_pair()
    assert sample.flow is not None
    sparse = torch.rand(HEIGHT, WIDTH, generator=torch.Generator().manual_seed(seed)) < 0.2
    given = FlowSample(sample.source, sample.target, sample.flow.where(sparse, float("nan")))
    made = FlowAugment(GEOMETRY, (48, 64))(given, "sparse", np.random.default_rng(seed))
    dense = FlowAugment(GEOMETRY, (48, 64))(sample, "dense", np.random.default_rng(seed))
    assert made.flow is not None
    assert dense.flow is not None
    assert torch.equal(made.source, dense.source)
    kept = made.flow.isfinite().all(0)
    assert 0.03 < kept.float().mean() < 0.4
    assert (made.flow - dense.flow)[:, kept].abs().max() < 0.15  # half a pixel's worth of the affine field
    assert np.nanmax(disagreement(made)[2:-2, 2:-2]) < 0.07


def test_it_is_a_function_of_the_generator() -> None:
    augment = FlowAugment(FlowAugmentConfig(), (48, 64))
    one, again, other = (
        augment(affine_pair(), "dense", np.random.default_rng(seed)).tensors() for seed in (5, 5, 6)
    )  # fmt: skip
    assert all(torch.equal(one[key], again[key]) for key in one)
    assert not any(torch.equal(one[key], other[key]) for key in one)


def test_nothing_drawn_changes_nothing() -> None:
    sample = affine_pair()
    made = FlowAugment(STILL, (HEIGHT, WIDTH))(sample, "dense", np.random.default_rng(0))
    assert torch.equal(made.source, sample.source)
    assert torch.equal(made.target, sample.target)
    assert sample.flow is not None
    assert made.flow is not None
    assert torch.equal(made.flow, sample.flow)


def test_smaller_images_are_enlarged_to_the_crop_and_a_margin() -> None:
    sizes = {FlowAugment(STILL, (HEIGHT + 1, 40))._draw_size(HEIGHT, WIDTH, np.random.default_rng(k)) for k in range(9)}
    assert sizes == {(HEIGHT + 9, round(WIDTH * (HEIGHT + 9) / HEIGHT))}
    made = FlowAugment(STILL, (90, 120))(affine_pair(), "dense", np.random.default_rng(0))
    assert made.source.shape == (3, 90, 120)
    assert np.nanmax(disagreement(made)[2:-2, 2:-2]) < 0.05


def test_sizes_follow_the_protocol() -> None:
    augment = FlowAugment(FlowAugmentConfig(), (320, 384))
    side = 10**7  # large, so that sides are equal only if their factors are
    sizes = np.array([augment._draw_size(side, side, np.random.default_rng(seed)) for seed in range(4000)])
    factors = np.log2(sizes / side)
    untouched = (sizes == side).all(axis=1)
    assert abs(untouched.mean() - 0.2) < 0.03  # not scaled
    common = sizes[:, 0] == sizes[:, 1]
    assert abs(common.mean() - 0.36) < 0.04  # not stretched: 0.2 + 0.8 x 0.2
    assert factors.min() >= -0.401
    assert factors.max() <= 0.701
    scale = factors[common & ~untouched].mean(axis=1)
    assert scale.min() > -0.201
    assert scale.max() < 0.501
    assert abs(scale.mean() - 0.15) < 0.03
    small = [augment._draw_size(384, 512, np.random.default_rng(seed)) for seed in range(500)]
    assert min(height for height, _ in small) == 328
    assert min(width for _, width in small) == round(512 * 328 / 384)


def test_flips_and_places_follow_the_protocol() -> None:
    config = replace(STILL, horizontal_flip_p=0.5, vertical_flip_p=0.1)
    numbers = torch.arange(12 * 12, dtype=torch.uint8).view(12, 12)
    sample = FlowSample(*[numbers.expand(3, 12, 12)] * 2, torch.ones(2, 12, 12))
    augment = FlowAugment(config, (10, 9))
    places, signs = set(), []
    for seed in range(1000):
        made = augment(sample, "dense", np.random.default_rng(seed))
        assert made.flow is not None
        sign = made.flow[:, 0, 0].tolist()
        signs.append(sign)
        places.add((*sign, int(made.source[0].min())))
    share = (np.array(signs) < 0).mean(axis=0)
    assert abs(share[0] - 0.5) < 0.05
    assert abs(share[1] - 0.1) < 0.03
    corners = {y * 12 + x for y, x in product(range(3), range(4))}
    assert {place for u, v, place in places if (u, v) == (1, 1)} == corners


def test_colours_are_jittered_alike_or_apart() -> None:
    sample = affine_pair()
    same = FlowSample(sample.source, sample.source, sample.flow)
    colours = replace(STILL, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.5 / 3.14)
    alike = []
    for seed in range(300):
        made = FlowAugment(colours, (8, 8)).jitter(
            FlowSample(same.source[:, :8, :8], same.target[:, :8, :8], torch.zeros(2, 8, 8)),
            np.random.default_rng(seed),
        )
        alike.append(torch.equal(made.source, made.target))
    assert abs(np.mean(alike) - 0.8) < 0.07
    made = FlowAugment(replace(colours, asymmetric_p=1), (8, 8)).jitter(sample, np.random.default_rng(0))
    assert made.source.shape == sample.source.shape
    assert made.flow is not None
    assert torch.equal(made.flow, sample.flow)  # type: ignore[arg-type]


def test_brightness_is_within_its_range() -> None:
    grey = torch.full((3, 4, 4), 100, dtype=torch.uint8)
    augment = FlowAugment(replace(STILL, brightness=0.4), (4, 4))
    values = [
        int(augment.jitter(FlowSample(grey, grey, torch.zeros(2, 4, 4)), np.random.default_rng(k)).source[0, 0, 0])
        for k in range(300)
    ]
    assert min(values) in range(60, 64)
    assert max(values) in range(137, 141)


def sizes(config: FlowAugmentConfig, image: tuple[int, int], crop: tuple[int, int], number: int = 400) -> np.ndarray:
    """(number, 2): the (height, width) that images are resized to, told by flow that is 1 everywhere before."""
    found = []
    sample = FlowSample(*[torch.zeros(3, *image, dtype=torch.uint8)] * 2, torch.ones(2, *image))
    for seed in range(number):
        flow = FlowAugment(config, crop)(sample, "dense", np.random.default_rng(seed)).flow
        assert flow is not None
        found.append([float(flow[1, 0, 0]) * image[0], float(flow[0, 0, 0]) * image[1]])
    return np.rint(found)


def test_earlier_runs_stretched_what_is_not_scaled_too() -> None:
    config = replace(STILL, scale_p=0.8, stretch_p=0.8, resizing="independent")
    found = sizes(config, (100, 100), (16, 16))
    assert abs((found == 100).all(axis=1).mean() - 0.04) < 0.03
    assert abs((found[:, 0] == found[:, 1]).mean() - 0.2) < 0.08


WARPED = replace(GEOMETRY, warp_p=1.0, max_warp=6.0)


@pytest.mark.parametrize("seed", range(12))
def test_a_bent_source_agrees_with_its_flow(seed: int) -> None:
    sample = affine_pair()
    made = FlowAugment(WARPED, (48, 64))(sample, "dense", np.random.default_rng(seed))
    assert made.source.shape == made.target.shape == (3, 48, 64)
    assert made.flow is not None
    assert made.flow.isfinite().all(0).float().mean() > 0.8
    assert np.nanmax(disagreement(made)) < 0.06
    # No affine motion describes it.
    valid = made.flow.isfinite().all(0)
    y, x = torch.meshgrid(torch.arange(48.0), torch.arange(64.0), indexing="ij")
    known = torch.stack([x[valid], y[valid], torch.ones(int(valid.sum()))], dim=1)
    found = made.flow[:, valid].T
    rest = found - known @ torch.linalg.lstsq(known, found).solution
    assert rest.abs().max() > 0.1


def test_a_warp_never_folds_and_is_no_longer_than_asked() -> None:
    """Also where the points of a field lie close together in a small crop."""
    resting = FlowSample(affine_pair().source, affine_pair().source, torch.zeros(2, HEIGHT, WIDTH))
    longest = []
    for seed in range(200):
        config = replace(STILL, warp_p=1.0, max_warp=50.0 if seed % 2 else 3.0)
        flow = FlowAugment(config, (24, 40))(resting, "dense", np.random.default_rng(seed)).flow
        assert flow is not None
        assert (flow[0].diff(dim=1).nan_to_num() > -1).all()
        assert (flow[1].diff(dim=0).nan_to_num() > -1).all()
        if seed % 2 == 0:
            longest.append(float(flow.nan_to_num().abs().max()))
    assert max(longest) <= 3.0 * 1.5  # between its control points a bicubic field goes a little further than at them
    assert max(longest) > 2.0


def test_warped_sparse_flow_is_not_interpolated() -> None:
    sample = affine_pair()
    assert sample.flow is not None
    kept = torch.rand(HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0)) < 0.3
    sparse = FlowSample(sample.source, sample.target, sample.flow.where(kept, float("nan")))
    config = replace(STILL, warp_p=1.0, max_warp=4.0)
    made = FlowAugment(config, (48, 64))(sparse, "sparse", np.random.default_rng(3))
    assert made.flow is not None
    assert 0.2 < made.flow.isfinite().all(0).float().mean() < 0.4
    assert np.nanmax(disagreement(made)) < 0.08
    # Interpolated, one vector in a hundred would be left.
    assert FlowAugment(config, (48, 64))(sparse, "dense", np.random.default_rng(3)).flow.isfinite().float().mean() < 0.1


def test_without_warps_the_draws_are_those_of_before_there_were_any() -> None:
    """Runs of earlier versions go on with the same pairs; the figures are of one."""
    rng = np.random.default_rng(5)
    made = FlowAugment(FlowAugmentConfig(), (48, 64))(affine_pair(), "dense", rng)
    assert rng.random() == 0.5555961169207234
    assert made.flow is not None
    assert float(made.flow.nansum()) == pytest.approx(-41886.71, abs=1)
    assert int(made.source.sum()) == pytest.approx(1520562, abs=200)


def test_the_protocol_enlarges_both_sides_by_the_larger_ratio() -> None:
    config = replace(STILL, scale_p=1.0, min_scale=-2.0, max_scale=-2.0)
    assert sizes(config, (40, 100), (32, 32), 3).tolist() == [[40, 100]] * 3  # 40 / 40 is more than 40 / 100
    assert sizes(replace(config, resizing="independent"), (40, 100), (32, 32), 3).tolist() == [[40, 40]] * 3
    # Nothing drawn, and too small: enlarged alike as well.
    assert sizes(STILL, (20, 100), (32, 32), 3).tolist() == [[40, 200]] * 3


def test_still_pairs_and_black_bars_rest() -> None:
    """Bars lie at opposite sides, within a third each, black in both frames whatever the colours; between them nothing
    changes, and without them nothing is drawn that was not drawn before."""
    plain = FlowAugment(GEOMETRY, (48, 64))
    augment = FlowAugment(replace(FlowAugmentConfig(), vertical_flip_p=0.5, letterbox_p=0.5, still_p=0.3), (48, 64))
    quiet = replace(GEOMETRY, letterbox_p=1.0)
    kinds = set()
    for seed in range(40):
        whole = plain(affine_pair(), "dense", np.random.default_rng(seed))
        boxed = FlowAugment(quiet, (48, 64))(affine_pair(), "dense", np.random.default_rng(seed))
        bars = (boxed.source.sum(0) == 0) & (boxed.target.sum(0) == 0) & (boxed.flow == 0).all(0)
        rows, columns = bars.all(1), bars.all(0)
        kinds.add("rows" if rows.any() else "columns")
        shown = ~rows if rows.any() else ~columns
        inside = shown.nonzero().flatten().tolist()
        assert inside == list(range(inside[0], inside[-1] + 1))
        assert 1 <= inside[0] <= len(shown) // 3
        assert 1 <= len(shown) - 1 - inside[-1] <= len(shown) // 3
        dim = 1 if rows.any() else 2
        for one, other in zip(boxed.tensors().values(), whole.tensors().values(), strict=True):
            index = torch.tensor(inside)
            torch.testing.assert_close(one.index_select(dim, index), other.index_select(dim, index))
        made = augment(affine_pair(), "dense", np.random.default_rng(seed))
        still = bool((made.flow == 0).all())
        kinds.add("still" if still else "moving")
        kinds.add("bars" if (made.source[:, 0] == 0).all() or (made.source[:, :, 0] == 0).all() else "none")
    assert kinds == {"rows", "columns", "still", "moving", "bars", "none"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resizing": "plain"}, r"augment\.resizing='plain' must be one of protocol, independent"),
        ({"scale_p": 1.2}, r"augment\.scale_p=1\.2 must be between 0 and 1"),
        ({"asymmetric_p": -0.1}, r"augment\.asymmetric_p"),
        ({"hue": 0.7}, r"augment\.hue=0\.7 must be between 0 and 0\.5"),
        ({"contrast": -1.0}, r"augment\.contrast"),
        ({"max_stretch": -1.0}, r"augment\.max_stretch"),
        ({"min_scale": 0.6}, r"augment\.min_scale=0\.6 is above"),
        ({"max_scale": float("nan")}, r"augment\.max_scale"),
    ],
)
def test_values_that_cannot_be_drawn_from_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_augment(replace(FlowAugmentConfig(), **changes))  # type: ignore[arg-type]


def test_what_cannot_be_augmented_is_refused() -> None:
    sample = affine_pair()
    with pytest.raises(InputError, match="without flow"):
        FlowAugment(STILL, (8, 8))(FlowSample(sample.source, sample.target, None), "dense", np.random.default_rng(0))
    with pytest.raises(ConfigError, match="crop"):
        FlowAugment(STILL, (0, 8))
