"""J and F by hand, with empty masks and pictures' borders."""

import math

import pytest
import torch

from midway_zoo.errors import InputError
from midway_zoo.readouts.masks import boundary, boundary_accuracy, region_similarity, sequence_scores


def square(top: int, left: int, side: int, size: tuple[int, int] = (40, 60)) -> torch.Tensor:
    mask = torch.zeros(size, dtype=torch.bool)
    mask[top : top + side, left : left + side] = True
    return mask


def test_region_similarity() -> None:
    assert region_similarity(square(0, 0, 10), square(0, 0, 10)) == 1
    assert region_similarity(square(0, 0, 10), square(0, 5, 10)) == pytest.approx(50 / 150)
    assert region_similarity(square(0, 0, 10), square(20, 20, 5)) == 0
    nothing = torch.zeros(40, 60, dtype=torch.bool)
    assert region_similarity(nothing, nothing) == 1
    assert region_similarity(nothing, square(0, 0, 1)) == 0


def test_boundary_is_the_pixel_before_a_change() -> None:
    found = boundary(square(2, 3, 2, (6, 7)))
    expected = torch.zeros(6, 7, dtype=torch.bool)
    for y, x in [(1, 2), (1, 3), (1, 4), (2, 2), (2, 4), (3, 2), (3, 3), (3, 4)]:
        expected[y, x] = True
    assert torch.equal(found, expected)


def test_a_mask_that_ends_at_the_border_has_no_boundary_there() -> None:
    mask = torch.zeros(5, 5, dtype=torch.bool)
    mask[3:] = True
    assert boundary(mask).nonzero().tolist() == [[2, column] for column in range(5)]
    assert not boundary(torch.ones(5, 5, dtype=torch.bool)).any()


def test_boundary_accuracy_has_a_tolerance() -> None:
    radius = math.ceil(0.008 * math.hypot(40, 60))  # 1 pixel
    assert radius == 1
    assert boundary_accuracy(square(10, 10, 12), square(10, 10, 12)) == 1
    assert boundary_accuracy(square(10, 10, 12), square(10, 11, 12)) == 1
    assert 0 < boundary_accuracy(square(10, 10, 12), square(10, 14, 12)) < 1
    assert boundary_accuracy(square(10, 10, 12), square(10, 14, 12), bound=4) == 1
    assert boundary_accuracy(square(0, 0, 5), square(30, 40, 5)) == 0


def test_boundary_accuracy_of_empty_masks() -> None:
    nothing = torch.zeros(40, 60, dtype=torch.bool)
    assert boundary_accuracy(nothing, nothing) == 1
    assert boundary_accuracy(nothing, square(5, 5, 5)) == 0
    assert boundary_accuracy(square(5, 5, 5), nothing) == 0


def test_tolerance_is_a_disk() -> None:
    one, other = torch.zeros(41, 41, dtype=torch.bool), torch.zeros(41, 41, dtype=torch.bool)
    one[:20, :20] = True
    # The corner of the boundary lies at (19, 19); a single pixel 4 rows and 4 columns on is within 5 only as a square.
    other[24:, 24:] = True
    from midway_zoo.readouts.masks import _dilate

    point = torch.zeros(41, 41, dtype=torch.bool)
    point[20, 20] = True
    y, x = torch.meshgrid(torch.arange(41), torch.arange(41), indexing="ij")
    assert torch.equal(_dilate(point, 5), (y - 20) ** 2 + (x - 20) ** 2 <= 25)


def test_sequences_leave_out_both_ends() -> None:
    truth = [square(0, 0, 10).long() for _ in range(4)]
    found = [torch.zeros(40, 60).long(), truth[1], square(0, 5, 10).long(), torch.zeros(40, 60).long()]
    scores = sequence_scores(found, truth, 1)[1]
    assert scores["J"] == pytest.approx((1 + 1 / 3) / 2)
    with pytest.raises(InputError, match="three or more"):
        sequence_scores(found[:2], truth[:2], 1)


def test_other_kinds_of_mask_are_refused() -> None:
    with pytest.raises(InputError, match="bool masks"):
        region_similarity(square(0, 0, 3).float(), square(0, 0, 3))
    with pytest.raises(InputError, match="one size"):
        boundary_accuracy(square(0, 0, 3), square(0, 0, 3, (41, 60)))
