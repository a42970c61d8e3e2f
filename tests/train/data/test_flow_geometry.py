"""Resizing, flips and crops of flow, on cases small enough to write down."""

import torch
from torch import Tensor

from midway_zoo.train.data.flow_augment import FlowSample, crop, flip, resize, resize_dense, resize_sparse

NAN = float("nan")


def image(*rows: list[int]) -> Tensor:
    return torch.tensor(rows, dtype=torch.uint8).expand(3, -1, -1)


def flow(u: list[list[float]], v: list[list[float]]) -> Tensor:
    return torch.tensor([u, v], dtype=torch.float32)


def same(found: Tensor | None, expected: Tensor) -> bool:
    return found is not None and torch.allclose(found, expected, equal_nan=True)


def test_dense_flow_grows_with_each_side() -> None:
    found = resize_dense(flow([[1, 1], [1, 1]], [[2, 2], [2, 2]]), (6, 4))
    assert found.shape == (2, 6, 4)
    assert same(found, torch.tensor([2.0, 6.0]).view(2, 1, 1).expand(2, 6, 4))


def test_dense_flow_is_interpolated_between_pixel_centres() -> None:
    found = resize_dense(flow([[0, 4]], [[0, 0]]), (1, 4))
    assert same(found, flow([[0, 2, 6, 8]], [[0, 0, 0, 0]]))  # weights 1, 3/4, 1/4, 0, times two


def test_what_an_invalid_vector_has_a_part_in_is_invalid() -> None:
    found = resize_dense(flow([[0, 0, NAN]], [[0, 0, NAN]]), (1, 6))
    assert found.isnan().all(0)[0].tolist() == [False, False, False, True, True, True]


def test_sparse_vectors_are_moved_not_mixed() -> None:
    given = flow([[1, NAN], [NAN, 3]], [[2, NAN], [NAN, 5]])
    found = resize_sparse(given, (4, 4))
    expected = torch.full((2, 4, 4), NAN)
    # The centre of pixel 0 falls on the border of pixels 0 and 1, and goes to the later one.
    expected[:, 1, 1] = torch.tensor([2.0, 4.0])
    expected[:, 3, 3] = torch.tensor([6.0, 10.0])
    assert same(found, expected)


def test_of_sparse_vectors_in_one_pixel_the_most_central_stays() -> None:
    given = flow([[1.0, 3.0, 5.0, 7.0, 9.0, 11.0]], [[0.0] * 6])
    assert same(resize_sparse(given, (1, 2)), flow([[1.0, 3.0]], [[0.0, 0.0]]))  # 3 and 9 of 1, 3, 5 | 7, 9, 11
    given[:, 0, 1] = NAN
    found = resize_sparse(given, (1, 2))
    assert found[0, 0, 0] in (given[0, 0, 0] / 3, given[0, 0, 2] / 3)
    assert found[0, 0, 1] == 3


def test_sparse_without_a_valid_vector() -> None:
    assert resize_sparse(torch.full((2, 3, 3), NAN), (5, 5)).isnan().all()


def test_nothing_changes_at_the_same_size() -> None:
    given = torch.randn(2, 5, 7)
    given[:, 2, 2] = NAN
    assert same(resize_dense(given, (5, 7)), given)
    assert same(resize_sparse(given, (5, 7)), given)


def test_images_shrink_over_all_pixels_or_the_nearest_and_keep_their_type() -> None:
    given = image([0, 90, 30, 60, 90, 240])
    found = resize(given, (1, 2), antialias=False)
    assert found.dtype == torch.uint8
    assert found.tolist() == image([90, 90]).tolist()  # pixels 1 and 4 lie under the centres
    averaged = resize(given, (1, 2), antialias=True)
    assert averaged.dtype == torch.uint8
    assert averaged[0, 0, 1] > 110 > averaged[0, 0, 0]
    for antialias in (False, True):
        assert torch.equal(resize(image([7, 7], [7, 7]), (5, 3), antialias=antialias), image(*[[7] * 3] * 5))


def test_flips_change_signs() -> None:
    sample = FlowSample(image([1, 2], [3, 4]), image([5, 6], [7, 8]), flow([[1, 2], [3, 4]], [[5, 6], [7, NAN]]))
    mirrored = flip(sample, horizontal=True, vertical=False)
    assert torch.equal(mirrored.source, image([2, 1], [4, 3]))
    assert torch.equal(mirrored.target, image([6, 5], [8, 7]))
    assert same(mirrored.flow, flow([[-2, -1], [-4, -3]], [[6, 5], [NAN, 7]]))
    upside_down = flip(sample, horizontal=False, vertical=True)
    assert torch.equal(upside_down.source, image([3, 4], [1, 2]))
    assert same(upside_down.flow, flow([[3, 4], [1, 2]], [[-7, NAN], [-5, -6]]))
    turned = flip(sample, horizontal=True, vertical=True)
    assert same(turned.flow, flow([[-4, -3], [-2, -1]], [[NAN, -7], [-6, -5]]))
    assert flip(sample, horizontal=False, vertical=False) is sample


def test_crops_are_of_the_same_place() -> None:
    numbers = torch.arange(20).view(4, 5)
    sample = FlowSample(*[numbers.to(torch.uint8).expand(3, 4, 5)] * 2, torch.stack([numbers, numbers]).float())
    found = crop(sample, 1, 2, (2, 3))
    for part in (found.source, found.target, found.flow):
        assert part is not None
        assert part[0].int().tolist() == [[7, 8, 9], [12, 13, 14]]
