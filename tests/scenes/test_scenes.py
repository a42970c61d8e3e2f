"""Generated scenes: the flow is exact, occlusion and labels mean what they say, and an index is one scene."""

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from midway_zoo.errors import InputError, InputTypeError
from midway_zoo.scenes import SceneBatch, SceneGenerator, ScenesConfig, generator

SIZE = 48


def plain(**changes: Any) -> ScenesConfig:
    """Scenes whose pictures show nothing but the layers."""
    return ScenesConfig(**{"height": SIZE, "width": SIZE + 8, "lighting": 0.0, "noise": 0.0, **changes})


def pixels(config: ScenesConfig, count: int) -> tuple[Tensor, Tensor]:
    y, x = torch.meshgrid(torch.arange(config.height), torch.arange(config.width), indexing="ij")
    return x.expand(count, -1, -1).float(), y.expand(count, -1, -1).float()


def uniform(instances: Tensor) -> Tensor:
    """bool (..., H, W): all of a pixel's neighbours show what it shows."""
    maps = instances.flatten(0, -3)[:, None].float()
    same = F.max_pool2d(maps, 3, 1, 1) == -F.max_pool2d(-maps, 3, 1, 1)
    return same[:, 0].reshape(instances.shape)


def corners(instances: Tensor, x: Tensor, y: Tensor) -> list[Tensor]:
    """What the four pixels around (x, y) show, (B, H, W) each; -1 outside."""
    height, width = instances.shape[-2:]
    found = []
    for column in (x.floor().long(), x.floor().long() + 1):
        for row in (y.floor().long(), y.floor().long() + 1):
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            at = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
            found.append(instances.flatten(1).gather(1, at.flatten(1)).view_as(at).where(inside, -1))
    return found


def assert_equal(a: SceneBatch, b: SceneBatch) -> None:
    for name in ("frames", "flow", "occlusion", "labels", "instances"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=0, atol=0)


@pytest.mark.parametrize("frames", [2, 5])
def test_flow_takes_each_visible_point_to_where_it_is_next(frames: int) -> None:
    """Without antialiasing every visible pixel must agree, up to the very outlines."""
    config = plain(frames=frames, stretch=1.5, antialias=False)
    scenes, indices = SceneGenerator(config, 3), range(12)
    batch = scenes.render(indices)
    x, y = pixels(config, len(indices))
    for t in range(frames - 1):
        there = x + batch.flow[:, t, 0], y + batch.flow[:, t, 1]
        colour, instance = scenes.sample(indices, t + 1, *there)
        visible = ~batch.occlusion[:, t]
        assert visible.float().mean() > 0.7
        same = instance == batch.instances[:, t]
        assert (visible & ~same).sum() <= 1  # a point on its own outline, to rounding
        error = (colour - batch.frames[:, t]).abs().amax(dim=1)
        assert error[visible & same].max() < 0.1 / 255


def test_flow_of_smooth_textures_warps_the_target_onto_the_source() -> None:
    """With waves long enough for bilinear interpolation, the ordinary backward warp has less than 1/255 of error."""
    config = plain(height=96, width=96, period=(48.0, 64.0), sharpness=(0.4, 0.6), size=(0.2, 0.3), antialias=False)
    scenes, indices = SceneGenerator(config, 0), range(8)
    batch = scenes.render(indices)
    x, y = pixels(config, len(indices))
    there = x + batch.flow[:, 0, 0], y + batch.flow[:, 0, 1]
    grid = torch.stack([there[0] * 2 / 95 - 1, there[1] * 2 / 95 - 1], dim=-1)
    warped = F.grid_sample(batch.frames[:, 1], grid, mode="bilinear", padding_mode="border", align_corners=True)
    inner = ~batch.occlusion[:, 0]
    for corner in corners(batch.instances[:, 1], *there):
        inner &= corner == batch.instances[:, 0]
    error = (warped - batch.frames[:, 0]).abs().amax(dim=1)
    assert inner.float().mean() > 0.7
    assert error[inner].max() < 1 / 255
    assert (batch.frames[:, 1] - batch.frames[:, 0]).abs().amax(dim=1)[inner].mean() > 3 / 255


def test_occluded_is_what_something_else_covers_or_what_left() -> None:
    config = plain(objects=(4, 6))
    scenes, indices = SceneGenerator(config, 1), range(16)
    batch = scenes.render(indices)
    x, y = pixels(config, len(indices))
    there = x + batch.flow[:, 0, 0], y + batch.flow[:, 0, 1]
    outside = (there[0] < -0.5) | (there[0] > config.width - 0.5)
    outside |= (there[1] < -0.5) | (there[1] > config.height - 0.5)
    seen = scenes.sample(indices, 1, *there)[1]
    expected = outside | (seen != batch.instances[:, 0])
    assert (expected != batch.occlusion[:, 0]).sum() <= 2  # a point on an outline, to rounding
    # Held against the next frame's map as well, where the nearest pixel leaves no doubt.
    column, row = (place.round().long() for place in there)
    inside = (column >= 0) & (column < config.width) & (row >= 0) & (row < config.height)
    at = row.clamp(0, config.height - 1) * config.width + column.clamp(0, config.width - 1)
    nearest = batch.instances[:, 1].flatten(1).gather(1, at.flatten(1)).view_as(at)
    sure = inside & uniform(batch.instances[:, 1]).flatten(1).gather(1, at.flatten(1)).view_as(at)
    assert sure.float().mean() > 0.5
    agrees = (nearest != batch.instances[:, 0]) == batch.occlusion[:, 0]
    assert agrees[sure].float().mean() > 0.999  # a thin tip passes between the centres of pixels
    covered = batch.occlusion[:, 0] & ~outside
    assert 0.005 < covered.float().mean() < 0.3
    assert (seen > batch.instances[:, 0])[covered].float().mean() > 0.99  # by what is nearer


def test_a_scene_depends_on_its_index_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    config = ScenesConfig(height=32, width=40, frames=3)
    together = SceneGenerator(config, 7).render([4, 11, 0, 7, 2**40])
    for place, index in enumerate([4, 11, 0, 7, 2**40]):
        alone = SceneGenerator(config, 7).render(torch.tensor([index]))
        assert_equal(alone, SceneBatch(*(getattr(together, n)[place : place + 1] for n in vars(together))))
    monkeypatch.setitem(generator._CHUNK, "cpu", 2 * 3 * 32 * 40)
    assert_equal(SceneGenerator(config, 7).render([4, 11, 0, 7, 2**40]), together)
    other = SceneGenerator(config, 8).render([4, 11, 0, 7, 2**40])
    assert (other.frames - together.frames).abs().flatten(1).mean(dim=1).min() > 0.05


def test_scenes_differ_from_index_to_index() -> None:
    batch = SceneGenerator(plain(), 0).render(range(40))
    flat = F.avg_pool2d(batch.frames[:, 0], 8).flatten(1)
    assert torch.pdist(flat).min() > 0.3


def test_shapes_dtypes_and_ranges() -> None:
    batch = SceneGenerator(ScenesConfig(height=24, width=40, frames=3, lighting=1.0, noise=0.2), 0).render(range(5))
    assert batch.frames.shape == (5, 3, 3, 24, 40)
    assert batch.frames.dtype == batch.flow.dtype == torch.float32
    assert batch.flow.shape == (5, 2, 2, 24, 40)
    assert batch.occlusion.shape == (5, 2, 24, 40)
    assert batch.occlusion.dtype == torch.bool
    assert batch.labels.shape == batch.instances.shape == (5, 3, 24, 40)
    assert batch.labels.dtype == batch.instances.dtype == torch.int64
    assert batch.frames.min() >= 0
    assert batch.frames.max() <= 1
    assert batch.flow.isfinite().all()
    assert len(batch) == 5
    assert repr(batch).startswith("SceneBatch(frames=float32[5, 3, 3, 24, 40], flow=")


def test_single_frames_and_empty_scenes() -> None:
    batch = SceneGenerator(plain(frames=1, objects=(0, 0)), 0).render([0, 1])
    assert batch.flow.shape == (2, 0, 2, SIZE, SIZE + 8)
    assert batch.occlusion.shape == (2, 0, SIZE, SIZE + 8)
    assert not batch.labels.any()
    assert batch.frames.std() > 0.02


def test_each_object_has_one_class_and_classes_are_even() -> None:
    config = plain(height=32, width=32, objects=(3, 3), motion=0.0)
    batch = SceneGenerator(config, 0).render(range(400))
    assert ((batch.labels == 0) == (batch.instances == 0)).all()
    classes = []
    for labels, instances in zip(batch.labels, batch.instances, strict=True):
        for instance in instances.unique().tolist():
            if instance:
                of_it = labels[instances == instance].unique()
                assert len(of_it) == 1
                classes.append(int(of_it))
    counts = np.bincount(classes, minlength=13)
    assert counts[0] == 0
    assert len(counts) == 13
    expected = len(classes) / 12
    assert ((counts[1:] - expected) ** 2 / expected).sum() < 31  # chi-squared, 11 degrees of freedom: p = 0.001
    assert len(classes) > 1000


def test_colour_says_nothing_about_the_class() -> None:
    batch = SceneGenerator(plain(height=32, width=32, objects=(3, 3), antialias=False), 0).render(range(300))
    colours, classes = [], []
    for frame, labels, instances in zip(batch.frames[:, 0], batch.labels[:, 0], batch.instances[:, 0], strict=True):
        for instance in range(1, 4):
            here = instances == instance
            if here.sum() >= 20:
                colours.append(frame[:, here].mean(dim=1))
                classes.append(int(labels[here][0]))
    table, kinds = torch.stack(colours), torch.tensor(classes)
    between = torch.stack([table[kinds == c].mean(dim=0) for c in range(1, 13)]).std(dim=0)
    # Means of unrelated colours differ by their standard error.
    assert (between < 2 * table.std(dim=0) / (len(kinds) / 12) ** 0.5).all()


def test_labels_hold_still_relative_to_their_objects() -> None:
    batch = SceneGenerator(plain(frames=4), 2).render(range(6))
    for labels, instances in zip(batch.labels, batch.instances, strict=True):
        for instance in instances.unique().tolist():
            assert len(labels[instances == instance].unique()) == 1


@pytest.mark.parametrize("acceleration", [0.0, 1.0])
def test_motion_is_as_large_as_said(acceleration: float) -> None:
    still = {"camera": 0.0, "camera_rotation": 0.0, "camera_zoom": 0.0, "rotation": 0.0, "zoom": 0.0}
    config = plain(frames=6, motion=9.0, acceleration=acceleration, **still)
    batch = SceneGenerator(config, 0).render(range(64))
    background = (batch.instances[:, :-1] == 0)[:, :, None].expand_as(batch.flow)
    assert (batch.flow[background] == 0).all()
    length = batch.flow.norm(dim=2)
    assert length.max() <= 9.0 + 1e-4
    assert length.max() > 7.5
    assert length[batch.instances[:, :-1] > 0].std() > 1.5
    changes = (batch.flow[:, 1:] - batch.flow[:, :-1]).norm(dim=2)
    stays = (batch.instances[:, 1:-1] == batch.instances[:, :-2]) & (batch.instances[:, 1:-1] > 0)
    assert (changes[stays].max() > 1) == bool(acceleration)


def test_the_camera_moves_the_background() -> None:
    config = plain(objects=(0, 0), camera=5.0, camera_rotation=0.0, camera_zoom=0.0)
    flow = SceneGenerator(config, 0).render(range(64)).flow[:, 0]
    assert flow.flatten(2).std(dim=2).max() < 1e-4
    length = flow[:, :, 0, 0].norm(dim=1)
    assert 4 < length.max() <= 5 + 1e-4
    assert length.min() < 1


def test_light_and_noise_change_pictures_and_nothing_else() -> None:
    bare = SceneGenerator(plain(), 0).render(range(8))
    lit = SceneGenerator(plain(lighting=0.3), 0).render(range(8))
    noisy = SceneGenerator(plain(noise=0.02), 0).render(range(8))
    for other in (lit, noisy):
        torch.testing.assert_close(other.flow, bare.flow, rtol=0, atol=0)
        assert (other.labels == bare.labels).all()
    gain = (lit.frames / bare.frames.clamp_min(0.02)).mean(dim=(2, 3, 4))
    assert gain.std() > 0.05
    assert (gain[:, 1] - gain[:, 0]).abs().mean() > 0.02
    inner = (bare.frames > 0.1) & (bare.frames < 0.9)
    noise = torch.where(inner, noisy.frames - bare.frames, torch.nan)
    assert noise[inner].std().item() == pytest.approx(0.02, rel=0.03)
    assert noise[inner].mean().abs() < 1e-3
    a, b = noise[:, 0].flatten(), noise[:, 1].flatten()
    both = a.isfinite() & b.isfinite()
    assert torch.corrcoef(torch.stack([a[both], b[both]]))[0, 1].abs() < 0.03


def test_antialiasing_mixes_at_outlines_alone() -> None:
    hard = SceneGenerator(plain(antialias=False), 0).render(range(6))
    soft = SceneGenerator(plain(), 0).render(range(6))
    inner = uniform(hard.instances)[:, :, None].expand_as(hard.frames)
    change = (hard.frames - soft.frames).abs()
    # A thin tip touches pixels whose neighbours' centres it misses.
    assert (change[inner] > 1e-6).float().mean() < 0.005
    assert change.max() > 0.05
    assert (hard.instances == soft.instances).all()


def test_a_generator_survives_pickling() -> None:
    scenes = SceneGenerator(ScenesConfig(height=16, width=16), 5)
    assert_equal(pickle.loads(pickle.dumps(scenes)).render([3]), scenes.render([3]))


@pytest.mark.parametrize("indices", [[], [-1], [2**63], [1.5], [True], torch.tensor([0.5])])
def test_indices_that_are_none(indices: Any) -> None:
    with pytest.raises(InputError, match="integer"):
        SceneGenerator(ScenesConfig(), 0).render(indices)


def test_wrong_arguments() -> None:
    with pytest.raises(InputTypeError, match="seed="):
        SceneGenerator(ScenesConfig(), 0.5)  # type: ignore[arg-type]
    points = torch.zeros(1, 2, 2)
    with pytest.raises(InputError, match="frame=2"):
        SceneGenerator(ScenesConfig(), 0).sample([0], 2, points, points)
    with pytest.raises(InputError, match=r"\[2, H, W\]"):
        SceneGenerator(ScenesConfig(), 0).sample([0, 1], 0, points, points)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_renders_the_same_scenes() -> None:
    config = ScenesConfig(frames=3)
    cpu, cuda = (SceneGenerator(config, 0, device).render(range(16)) for device in ("cpu", "cuda"))
    assert cuda.frames.is_cuda
    same = cpu.instances == cuda.instances.cpu()
    assert same.float().mean() > 0.9999
    assert ((cpu.frames - cuda.frames.cpu()).abs() > 1e-3).float().mean() < 1e-3
    torch.testing.assert_close(
        cpu.flow[same[:, :-1, None].expand_as(cpu.flow)],
        cuda.flow.cpu()[same[:, :-1, None].expand_as(cpu.flow)],
        rtol=0,
        atol=1e-4,
    )


RICH = {"parts": 0.8, "border": 1.5, "textures": "natural", "natural": 4, "texture_size": 64, "objects": (2, 4)}


def test_flow_and_occlusion_are_exact_with_rims_and_parts() -> None:
    config = plain(antialias=False, **RICH)
    scenes, indices = SceneGenerator(config, 3), range(12)
    batch = scenes.render(indices)
    x, y = pixels(config, len(indices))
    colour, instance = scenes.sample(indices, 1, x + batch.flow[:, 0, 0], y + batch.flow[:, 0, 1])
    visible = ~batch.occlusion[:, 0]
    same = instance == batch.instances[:, 0]
    assert (visible & ~same).sum() <= 1
    error = (colour - batch.frames[:, 0]).abs().amax(dim=1)
    assert error[visible & same].quantile(0.999) < 0.5 / 255  # a point on the outline of a part, to rounding
    assert batch.instances.max() <= 4
    bare = SceneGenerator(plain(antialias=False, **{**RICH, "parts": 0.0, "border": 0.0}), 3).render(indices)
    assert torch.equal(bare.labels.amax((1, 2, 3)), batch.labels.amax((1, 2, 3)))
    assert (batch.instances > 0).float().mean() > (bare.instances > 0).float().mean()  # rims add to objects
    assert (batch.frames - bare.frames).abs().mean() > 0.01


def test_shadows_darken_what_is_behind_and_nothing_else() -> None:
    indices = range(8)
    bare = SceneGenerator(plain(**RICH), 3).render(indices)
    shaded = SceneGenerator(plain(**RICH, shadow=0.5), 3).render(indices)
    for name in ("flow", "occlusion", "labels", "instances"):
        assert torch.equal(getattr(bare, name), getattr(shaded, name))
    ratio = (shaded.frames / bare.frames).where(bare.frames > 0.05, torch.ones(())).amin(2)
    assert ratio.max() < 1.001
    assert ratio.min() > 0.5**4 - 1e-3  # of at most four objects
    nearest = bare.instances == bare.instances.amax((1, 2, 3), keepdim=True)
    assert ratio[nearest & (bare.instances > 0)].min() > 0.99
    assert 0.4 < ratio[bare.instances == 0].quantile(0.05) < 0.9
    soft = ratio[bare.instances == 0]
    assert ((soft > 0.6) & (soft < 0.95)).float().mean() > 0.05


def test_blur_by_motion_is_along_the_motion_and_changes_nothing_else() -> None:
    settings = {**RICH, "objects": (0, 0), "camera_rotation": 0.0, "camera_zoom": 0.0, "camera": 12.0}
    indices = range(12)
    sharp, blurred = (SceneGenerator(plain(**settings, shutter=s), 3).render(indices) for s in (0.0, 1.0))
    for name in ("flow", "occlusion", "labels", "instances"):
        assert torch.equal(getattr(sharp, name), getattr(blurred, name))
    flow = sharp.flow[:, 0].mean((-2, -1))
    along = flow[:, 0].abs() > 3 * flow[:, 1].abs()
    fast = flow.norm(dim=1) > 4
    rest = [
        float(
            blurred.frames[along & fast].diff(dim=d).square().mean()
            / sharp.frames[along & fast].diff(dim=d).square().mean()
        )
        for d in (-1, -2)
    ]
    assert rest[0] < 0.6 * rest[1]
    assert rest[0] < 0.3
    slow = flow.norm(dim=1) < 2
    assert (sharp.frames - blurred.frames)[slow].abs().mean() < (sharp.frames - blurred.frames)[fast].abs().mean() / 2
