"""Tiles: what a head says of each must come out as said of the image."""

import logging
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

import midway_zoo as mz
from midway_zoo.inference.batches import normaliser
from midway_zoo.inference.tiles import starts
from tests.inference.flows import images


class Oracle:
    """In the head's place: the true flow of every tile, in the tile's own pixels, as a perfect head would give it.

    It reads from the pictures themselves where a tile lies: they hold their own coordinates, so that nothing of how
    tiles are made has to be known. With ``blind``, a head that cannot know: where the flow leaves the tile it returns
    nonsense, and says so.
    """

    def __init__(self, given: tuple[int, int], *, shift: float = 0.0, blind: bool = False) -> None:
        self.given, self.shift, self.blind, self.tiles = given, shift, blind, 0

    def pictures(self) -> tuple[Tensor, Tensor]:
        height, width = self.given
        y, x = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
        image = torch.stack([x, y, torch.full_like(x, 0.5)])
        return image, image

    def put_into(self, network: mz.MidwayNetwork, monkeypatch: pytest.MonkeyPatch) -> tuple[Tensor, Tensor]:
        """Give the network this head; returns the pictures to predict."""
        normal, patch = normaliser(network), network.config.patch_size
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (normal.mean, normal.std))

        def encode(pixels: Tensor, *, target: bool = False) -> list[Tensor]:
            patches = F.unfold(pixels * std + mean, patch, stride=patch).transpose(1, 2)
            return [F.pad(patches, (0, 0, 1, 0))] * 4

        def decode(source: list[Tensor], target: list[Tensor], grid: tuple[int, int]) -> Tensor:
            side = grid[0] * patch, grid[1] * patch
            pairs = [F.fold(t[0][:, 1:].transpose(1, 2), side, patch, stride=patch) for t in (source, target)]
            return torch.stack([self.answer(one, other) for one, other in zip(*pairs, strict=True)])

        monkeypatch.setattr(network, "encode", encode)
        monkeypatch.setattr(network, "flow_from_tokens", decode)
        return self.pictures()

    def flow(self, x: Tensor, y: Tensor) -> Tensor:
        height, width = self.given
        u = self.shift + 0.05 * x - 0.08 * y + 0.5 * torch.sin(3 * y / height)
        v = -1.5 + 0.04 * x + 0.1 * y * (self.shift == 0) + 0.5 * torch.sin(2 * x / width)
        return torch.stack([u, v])

    def true(self) -> Tensor:
        y, x = torch.meshgrid(torch.arange(self.given[0]) + 0.0, torch.arange(self.given[1]) + 0.0, indexing="ij")
        return self.flow(x, y)

    def answer(self, source: Tensor, target: Tensor) -> Tensor:
        """(3, h, w) for a tile (3, h, w) of either picture."""
        self.tiles += 1
        side = source.shape[1:]
        (size, corner), (same, other) = place_of(source), place_of(target)
        assert size == same
        for start in (corner, other):
            assert all(0 <= first <= whole - edge for first, whole, edge in zip(start, size, side, strict=True))
        y, x = torch.meshgrid(torch.arange(side[0]) + 0.0, torch.arange(side[1]) + 0.0, indexing="ij")
        scale = [whole / given for whole, given in zip(size, self.given, strict=True)]
        at = [(v + first + 0.5) / s - 0.5 for v, first, s in zip((y, x), corner, scale, strict=True)]
        flow = self.flow(at[1], at[0]) * torch.tensor(scale[::-1]).view(2, 1, 1)
        flow -= torch.tensor([other[1] - corner[1], other[0] - corner[0]]).view(2, 1, 1)
        sure = torch.randn(1, *side) * 3
        if self.blind and size != side:
            end = torch.stack([x, y]) + flow
            lost = (end < -0.5).any(dim=0) | (end[0] > side[1] - 0.5) | (end[1] > side[0] - 0.5)
            flow[:, lost] = 20.0
            sure = torch.where(lost, 25.0, -25.0)[None]
        return torch.cat([flow, sure])


def place_of(tile: Tensor) -> tuple[tuple[int, int], tuple[int, int]]:
    """(height, width) of the picture that a tile is from, and the tile's corner (y, x) there, from its middle: a
    resized picture is bent at its border."""
    size, corner = [], []
    for values in (tile[1].mean(dim=1), tile[0].mean(dim=0)):
        first, last = 3 * len(values) // 8, 5 * len(values) // 8
        whole = round((last - first) / float(values[last] - values[first]))
        size.append(whole)
        corner.append(round(float(values[last]) * whole - 0.5 - last))
    return (size[0], size[1]), (corner[0], corner[1])


def epe(one: Tensor, other: Tensor) -> Tensor:
    return torch.linalg.vector_norm(one - other, dim=-3)


SIZES = [(32, 48), (100, 130), (33, 49), (71, 48), (32, 97), (20, 30), (5, 7), (90, 11), (13, 120), (310, 31)]


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("given", SIZES, ids=str)
def test_a_perfect_head_gives_perfect_flow_at_any_size(
    network: mz.MidwayNetwork, monkeypatch: pytest.MonkeyPatch, given: tuple[int, int], coarse: bool
) -> None:
    oracle = Oracle(given)
    found = mz.predict_flow(network, *oracle.put_into(network, monkeypatch), coarse=coarse)
    assert found.flow.shape == (1, 2, *given)
    assert found.method == "head"
    assert epe(found.flow[0], oracle.true()).max() < 0.05
    assert oracle.tiles >= 1


@pytest.mark.parametrize("tile", [40, (24, 64)])
@pytest.mark.parametrize("overlap", [0, 0.5, 0.9])
@pytest.mark.parametrize("size", [None, 56, "full", (64, 72)])
def test_a_perfect_head_gives_perfect_flow_whatever_the_options(
    network: mz.MidwayNetwork, monkeypatch: pytest.MonkeyPatch, tile: Any, overlap: float, size: Any
) -> None:
    oracle = Oracle((70, 75))
    pictures = oracle.put_into(network, monkeypatch)
    found = mz.predict_flow(network, *pictures, tile=tile, overlap=overlap, size=size, batch_size=3)
    # An image that is made smaller loses what bends between its pixels, and its outermost half pixel.
    assert epe(found.flow[0], oracle.true()).mean() < 0.05


@pytest.mark.parametrize("shift", [90.0, -120.0])
def test_coarse_follows_motion_that_leaves_the_tile(
    network: mz.MidwayNetwork, monkeypatch: pytest.MonkeyPatch, shift: float
) -> None:
    oracle = Oracle((50, 300), shift=shift, blind=True)
    pictures = oracle.put_into(network, monkeypatch)
    true = oracle.true()
    start = torch.stack(torch.meshgrid(torch.arange(50) + 0.0, torch.arange(300) + 0.0, indexing="ij")).flip(0)
    # Pixels that stay in the image. At its border a single tile holds them, and its own border cuts what moves
    # otherwise than its median.
    last = torch.tensor([299.0, 49.0]).view(2, 1, 1)
    stays = torch.stack([(at > 6) & (at < last - 6) for at in (start, start + true)]).all(dim=0).all(dim=0)
    errors = [
        epe(mz.predict_flow(network, *pictures, coarse=coarse).flow[0], true)[stays].mean() for coarse in (False, True)
    ]
    assert errors[0] > 20
    assert errors[1] < 0.05


def test_a_diverged_head_gives_nan_not_another_error(
    network: mz.MidwayNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(source: list[Tensor], target: list[Tensor], grid: tuple[int, int]) -> Tensor:
        return torch.full((len(source[0]), 3, 8 * grid[0], 8 * grid[1]), float("nan"))

    monkeypatch.setattr(network, "flow_from_tokens", lost)
    assert mz.predict_flow(network, *images(50, 90), coarse=True).flow.isnan().all()


@pytest.mark.parametrize(
    ("length", "side", "overlap", "expected"),
    [
        (48, 48, 0.7, [0]),
        (49, 48, 0.7, [0, 1]),
        (436, 320, 0.7, [0, 58, 116]),
        (1024, 384, 0.7, [0, 107, 213, 320, 427, 533, 640]),
        (100, 50, 0, [0, 50]),
        (101, 50, 0, [0, 26, 51]),
        (416, 320, 0.7, [0, 96]),
    ],
)
def test_places_of_tiles(length: int, side: int, overlap: float, expected: list[int]) -> None:
    """n = 1 + ceil((L - w) / ((1 - o) w)), evenly spread (the validation of Sintel: 3 x 7 tiles)."""
    found = starts(length, side, overlap)
    assert len(found) == len(expected)
    assert max(abs(a - b) for a, b in zip(found, expected, strict=True)) <= 1
    assert (found[0], found[-1]) == (0, length - side)
    assert all(b - a <= side for a, b in pairwise(found))


def test_without_an_overlap_tiles_fade_out_and_no_seam_shows(
    network: mz.MidwayNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tiles that disagree by 4 pixels: the largest step between neighbouring pixels is a small part of that."""
    Oracle((32, 120)).put_into(network, monkeypatch)
    tile = iter(range(100))

    def decode(source: list[Tensor], target: list[Tensor], grid: tuple[int, int]) -> Tensor:
        flat = [torch.full((3, 32, 48), 4.0 * (next(tile) % 2)) for _ in source[0]]
        return torch.stack(flat) * torch.tensor([1.0, 1.0, 0.0]).view(3, 1, 1)

    monkeypatch.setattr(network, "flow_from_tokens", decode)
    pair = images(32, 120)
    steps = {o: mz.predict_flow(network, *pair, overlap=o).flow.diff(dim=-1).abs().max() for o in (0.25, None)}
    assert steps[0.25] > 1.9
    assert steps[None] < 0.5


def test_large_images_are_worked_at_in_a_few_tiles(
    network: mz.MidwayNetwork, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """128 x 288 is four tiles of 32 x 48 high: three are taken, with one line in the log; "full" takes every pixel."""
    oracle = Oracle((128, 288))
    pictures = oracle.put_into(network, monkeypatch)
    with caplog.at_level(logging.INFO, logger="midway_zoo"):
        found = mz.predict_flow(network, *pictures)
    assert len(caplog.records) == 1
    assert "288 x 128 pixels is computed at 216 x 96" in caplog.text
    assert found.flow.shape == (1, 2, 128, 288)
    assert epe(found.flow[0], oracle.true()).mean() < 0.05
    few, oracle.tiles = oracle.tiles, 0
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="midway_zoo"):
        assert epe(mz.predict_flow(network, *pictures, size="full").flow[0], oracle.true()).max() < 0.05
    assert not caplog.records
    assert oracle.tiles > 1.5 * few
