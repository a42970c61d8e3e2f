"""Views of whole batches are what ``ViewSampler`` cuts one by one."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from midway_zoo.errors import InputError
from midway_zoo.scenes.draws import Draws
from midway_zoo.train.data.batched_views import BatchedViews, cut, random_boxes, shifted_boxes
from midway_zoo.train.data.photometric import Column
from midway_zoo.train.data.views import Box, ViewsConfig, random_box, shifted_box

ASPECT = (3 / 4, 4 / 3)


class Given:
    """Hands out given numbers, as a generator would."""

    def __init__(self, numbers: np.ndarray) -> None:
        self.numbers = iter(numbers)

    def random(self, count: int) -> np.ndarray:
        return next(self.numbers)


@pytest.mark.parametrize(("size", "area"), [((48, 64), (0.2, 0.4)), ((64, 64), (0.8, 1.0)), ((10, 90), (0.9, 1.0))])
def test_boxes_are_those_of_the_sampler(size, area) -> None:
    uniform = np.random.default_rng(0).random((50, 3, 10, 4))
    height, width = np.array([[size[0]]]), np.array([[size[1]]])
    boxes = random_boxes(height, width, area, ASPECT, uniform)
    for numbers, box in zip(uniform.reshape(-1, 10, 4), boxes.reshape(-1, 4), strict=True):
        assert tuple(box) == tuple(random_box(*size, area, ASPECT, Given(numbers)))


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
def config() -> ViewsConfig:
    return ViewsConfig(
        dynamics_size=24, global_size=16, local_size=8, local_crops=2, initial_area=(0.5, 1.0), solarise_p=(0, 1, 0)
    )


def test_order_sharing_and_kinds(config) -> None:
    same = torch.rand(3, 1, 3, 40, 40).expand(-1, 2, -1, -1, -1)
    batch = BatchedViews(config)(same, Draws(0, np.arange(3)))
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
    solarised = batch["photometric"][:, :, Column.SOLARISE]
    assert torch.equal(solarised, torch.tensor([0, 1, 0, 1, 0, 1, 0, 0, 0, 0.0]).expand(3, -1))
    assert len(batch["photometric"][..., Column.HUE].unique()) > 10


def test_frames_are_told_apart(config) -> None:
    frames = torch.stack([torch.zeros(2, 3, 40, 40), torch.ones(2, 3, 40, 40)], dim=1)
    batch = BatchedViews(config)(frames, Draws(0, np.arange(2)))
    means = [batch[key].float().mean((2, 3, 4)).tolist()[0] for key in ("dynamics", "globals", "locals")]
    assert means == [[0, 255], [0, 0, 255, 255], [0, 0, 255, 255]]


def test_no_local_crops_and_bad_frames(config) -> None:
    config.local_crops = 0
    views = BatchedViews(config)
    assert views(torch.rand(2, 2, 3, 40, 40), Draws(0, np.arange(2)))["locals"].shape == (2, 0, 3, 8, 8)
    with pytest.raises(InputError, match=r"\(B, 2, 3, H, W\)"):
        views(torch.rand(2, 3, 3, 40, 40), Draws(0, np.arange(2)))


@pytest.mark.parametrize("size", [(48, 64), (32, 32)])
def test_shifted_boxes_are_those_of_the_sampler(size) -> None:
    rng = np.random.default_rng(0)
    boxes = random_boxes(np.array([[size[0]]]), np.array([[size[1]]]), (0.2, 0.6), ASPECT, rng.random((200, 1, 10, 4)))
    uniform = rng.random((200, 1, 2))
    moved = shifted_boxes(boxes, np.array(size), 0.5, uniform)
    for box, numbers, found in zip(boxes[:, 0], uniform[:, 0], moved[:, 0], strict=True):
        assert tuple(found) == tuple(shifted_box(Box(*box.tolist()), *size, 0.5, Given(numbers[None])))
    assert (moved[..., 2:] == boxes[..., 2:]).all()
    assert (moved[..., :2] >= 0).all()
    assert (moved[..., :2] + moved[..., 2:] <= size).all()
    distance = np.abs(moved - boxes)[..., :2] / boxes[..., 2:]
    assert 0.2 < distance.max() <= 0.5


def test_a_shift_moves_the_dynamics_crop_of_the_target_alone(config) -> None:
    config.dynamics_area, config.dynamics_shift, config.aspect = (0.36, 0.36), 0.5, (1.0, 1.0)
    row = torch.arange(40) / 40
    ramp = torch.stack([row.expand(40, -1), row[:, None].expand(-1, 40), torch.zeros(40, 40)])
    same = ramp.expand(64, 2, -1, -1, -1)
    batch = BatchedViews(config)(same, Draws(0, np.arange(64)))
    source, target = batch["dynamics"].float().div(255 / 40).mean((-2, -1)).unbind(1)
    moved = (target - source)[:, :2]
    assert 5 < moved.abs().max() < 12.5
    assert moved.abs().mean() > 2
    assert torch.equal(batch["globals"][:, 0], batch["globals"][:, 2])
    config.dynamics_shift = 0.0
    still = BatchedViews(config)(same, Draws(0, np.arange(64)))
    assert torch.equal(still["dynamics"][:, 0], batch["dynamics"][:, 0])
    assert torch.equal(still["dynamics"][:, 0], still["dynamics"][:, 1])
