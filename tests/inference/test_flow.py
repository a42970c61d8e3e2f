"""Flow of images and clips of any size: tiles, both directions, shared encodings."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

import midway_zoo as mz
from midway_zoo.errors import InputError, MissingFileError
from midway_zoo.flow import consistency_mask
from midway_zoo.inference import tiles
from midway_zoo.inference.batches import normaliser
from midway_zoo.inference.tiles import Frames, Tile, starts
from midway_zoo.inference.video_writer import write_video
from tests.models.test_flow_head import TINY

SIDE = TINY.flow_size  # 32 x 48


@pytest.fixture(scope="module")
def network() -> mz.MidwayNetwork:
    torch.manual_seed(2)
    network = mz.MidwayNetwork(TINY).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn_like(parameter) / parameter[0].numel() ** 0.5)
    return network


@pytest.fixture
def encoded(network: mz.MidwayNetwork, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each pass through the encoder held."""
    passes: list[int] = []
    encode = network.encode

    def counted(images: Tensor, **kwargs: Any) -> list[Tensor]:
        passes.append(len(images))
        return encode(images, **kwargs)

    monkeypatch.setattr(network, "encode", counted)
    return passes


def images(height: int, width: int, count: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(height * 1000 + width)
    return torch.rand(count, 3, height, width, generator=generator)


def close(found: Any, expected: Any, atol: float = 1e-4) -> None:
    torch.testing.assert_close(found, expected, atol=atol, rtol=0)


def raw(network: mz.MidwayNetwork, source: Tensor, target: Tensor) -> Tensor:
    normalise = normaliser(network)
    with torch.no_grad():
        return network.flow(normalise(source), normalise(target))


# An oracle in the head's place: what it says of each tile must come out as said of the image.


class Oracle:
    """Returns the true flow of every tile, in the tile's own pixels, as a perfect head would.

    With ``blind``, a head that cannot know: where the flow leaves the tile it returns nonsense, and says so.
    """

    def __init__(self, given: tuple[int, int], *, shift: float = 0.0, blind: bool = False) -> None:
        self.given, self.shift, self.blind, self.tiles = given, shift, blind, 0

    def flow(self, x: Tensor, y: Tensor) -> Tensor:
        height, width = self.given
        u = self.shift + 0.05 * x - 0.08 * y + 0.5 * torch.sin(3 * y / height)
        v = -1.5 + 0.04 * x + 0.1 * y * (self.shift == 0) + 0.5 * torch.sin(2 * x / width)
        return torch.stack([u, v])

    def true(self) -> Tensor:
        y, x = torch.meshgrid(torch.arange(self.given[0]) + 0.0, torch.arange(self.given[1]) + 0.0, indexing="ij")
        return self.flow(x, y)

    def __call__(
        self, source: Frames, target: Frames, places: list[Tile], side: tuple[int, int], *, both: bool
    ) -> list[Tensor]:
        assert not both
        self.tiles += len(places)
        scale = torch.tensor([size / given for size, given in zip(source.size, self.given, strict=True)])
        found = []
        for place in places:
            for corner in (place.source, place.target):
                assert all(0 <= p <= size - edge for p, size, edge in zip(corner, source.size, side, strict=True))
            y, x = torch.meshgrid(torch.arange(side[0]) + 0.0, torch.arange(side[1]) + 0.0, indexing="ij")
            at = [(v + corner + 0.5) / s - 0.5 for v, corner, s in zip((y, x), place.source, scale, strict=True)]
            flow = self.flow(at[1], at[0]) * scale.flip(0).view(2, 1, 1)
            flow[0] -= place.target[1] - place.source[1]
            flow[1] -= place.target[0] - place.source[0]
            sure = torch.randn(1, *side) * 3
            if self.blind and source.size != side:
                end = torch.stack([x, y]) + flow
                lost = (end < -0.5).any(dim=0) | (end[0] > side[1] - 0.5) | (end[1] > side[0] - 0.5)
                flow[:, lost] = 20.0
                sure = torch.where(lost, 25.0, -25.0)[None]
            found.append(torch.cat([flow, sure]))
        return [torch.stack(found)]


def epe(one: Tensor, other: Tensor) -> Tensor:
    return torch.linalg.vector_norm(one - other, dim=-3)


SIZES = [(32, 48), (100, 130), (33, 49), (71, 48), (32, 97), (20, 30), (5, 7), (1, 1), (90, 11), (13, 120), (640, 31)]


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("given", SIZES, ids=str)
def test_a_perfect_head_gives_perfect_flow_at_any_size(
    network: mz.MidwayNetwork, monkeypatch: pytest.MonkeyPatch, given: tuple[int, int], coarse: bool
) -> None:
    oracle = Oracle(given)
    monkeypatch.setattr(tiles, "raw_tiles", oracle)
    found = mz.predict_flow(network, *images(*given), coarse=coarse)
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
    monkeypatch.setattr(tiles, "raw_tiles", oracle)
    found = mz.predict_flow(network, *images(70, 75), tile=tile, overlap=overlap, size=size, batch_size=3)
    # An image that is made smaller loses what bends between its pixels, and its outermost half pixel.
    assert epe(found.flow[0], oracle.true()).mean() < 0.05


@pytest.mark.parametrize("shift", [90.0, -120.0])
def test_coarse_follows_motion_that_leaves_the_tile(
    network: mz.MidwayNetwork, monkeypatch: pytest.MonkeyPatch, shift: float
) -> None:
    oracle = Oracle((50, 300), shift=shift, blind=True)
    monkeypatch.setattr(tiles, "raw_tiles", oracle)
    true = oracle.true()
    start = torch.stack(torch.meshgrid(torch.arange(50) + 0.0, torch.arange(300) + 0.0, indexing="ij")).flip(0)
    # Pixels that stay in the image. At its border a single tile holds them, and its own border cuts what moves
    # otherwise than its median.
    last = torch.tensor([299.0, 49.0]).view(2, 1, 1)
    stays = torch.stack([(at > 6) & (at < last - 6) for at in (start, start + true)]).all(dim=0).all(dim=0)
    errors = [
        epe(mz.predict_flow(network, *images(50, 300), coarse=coarse).flow[0], true)[stays].mean()
        for coarse in (False, True)
    ]
    assert errors[0] > 20
    assert errors[1] < 0.05


def test_a_diverged_head_gives_nan_not_another_error(
    network: mz.MidwayNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(source: Frames, target: Frames, places: list[Tile], side: tuple[int, int], *, both: bool) -> list[Tensor]:
        return [torch.full((len(places), 3, *side), float("nan"))] * (1 + both)

    monkeypatch.setattr(tiles, "raw_tiles", lost)
    assert mz.predict_flow(network, *images(50, 90), coarse=True).flow.isnan().all()


def test_pairs_of_a_batch_keep_their_own_flow(network: mz.MidwayNetwork) -> None:
    """Tiles of several pairs share a batch; each pair alone gives the same."""
    source, target = images(40, 70, 6).chunk(2)
    together = mz.predict_flow(network, source, target, batch_size=4)
    for index in range(3):
        alone = mz.predict_flow(network, source[index], target[index], batch_size=1)
        close(together.flow[index], alone.flow[0])
        close(together.confidence[index], alone.confidence[0])


def test_pairs_of_different_sizes_give_lists(network: mz.MidwayNetwork) -> None:
    sizes = [(32, 48), (40, 60), (20, 20)]
    source, target = ([images(*size)[side] for size in sizes] for side in (0, 1))
    found = mz.predict_flow(network, source, target, bidirectional=True)
    for field, channels in (("flow", 2), ("confidence", 1), ("backward", 2), ("consistent", 1)):
        assert [tuple(value.shape) for value in getattr(found, field)] == [(channels, *size) for size in sizes]


# The head itself.


def test_an_image_of_the_training_size_is_predicted_directly(network: mz.MidwayNetwork) -> None:
    source, target = images(*SIDE)
    expected = raw(network, source[None], target[None])
    found = mz.predict_flow(network, source, target)
    close(found.flow, expected[:, :2])
    close(found.confidence, torch.sigmoid(-expected[:, 2:]))
    assert found.grid == (4, 6)
    assert found.backward is found.consistent is found.pts_seconds is None


def test_a_smaller_image_is_enlarged_and_its_flow_brought_back(network: mz.MidwayNetwork) -> None:
    """24 x 30 keeps its aspect ratio: both sides by 1.6, to 38 x 48, which takes two tiles; 16 x 24 needs one."""
    source, target = images(16, 24)
    larger = [F.interpolate(v[None], SIDE, mode="bicubic", antialias=True).clamp(0, 1) for v in (source, target)]
    expected = F.interpolate(raw(network, *larger)[:, :2], (16, 24), mode="bilinear", align_corners=False) / 2
    close(mz.predict_flow(network, source, target).flow, expected)


def test_size_resizes_and_flow_is_that_of_the_given_image(network: mz.MidwayNetwork) -> None:
    source, target = images(64, 48)
    smaller = [F.interpolate(v[None], SIDE, mode="bicubic", antialias=True).clamp(0, 1) for v in (source, target)]
    expected = F.interpolate(raw(network, *smaller)[:, :2], (64, 48), mode="bilinear", align_corners=False)
    close(mz.predict_flow(network, source, target, size=SIDE).flow, expected * torch.tensor([1, 2]).view(2, 1, 1))


def test_tiles_are_blended_by_confidence(network: mz.MidwayNetwork) -> None:
    """Two tiles by hand: weights exp(-20 (sigmoid(c / 5) - 1 / 2))."""
    source, target = images(32, 60)
    parts = [raw(network, source[None, ..., x : x + 48], target[None, ..., x : x + 48]) for x in (0, 12)]
    weights = [torch.exp(-20 * (torch.sigmoid(part[:, 2:] / 5) - 0.5)) for part in parts]
    total, weight = torch.zeros(1, 3, 32, 60), torch.zeros(1, 1, 32, 60)
    for x, part, share in zip((0, 12), parts, weights, strict=True):
        total[..., x : x + 48] += part * share
        weight[..., x : x + 48] += share
    expected = total / weight
    found = mz.predict_flow(network, source, target)
    close(found.flow, expected[:, :2])
    close(found.confidence, torch.sigmoid(-expected[:, 2:]))


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


@pytest.mark.parametrize("given", [(32, 48), (40, 60), (20, 25)])
def test_both_directions_are_those_of_two_calls(network: mz.MidwayNetwork, given: tuple[int, int]) -> None:
    source, target = images(*given)
    for options in ({}, {"coarse": True}):
        found = mz.predict_flow(network, source, target, bidirectional=True, **options)
        there = mz.predict_flow(network, source, target, **options)
        back = mz.predict_flow(network, target, source, **options)
        close(found.flow, there.flow, atol=1e-3)
        close(found.backward, back.flow, atol=1e-3)
        close(found.backward_confidence, back.confidence)
        assert torch.equal(found.consistent, consistency_mask(found.flow, found.backward))


def test_perturbation_has_both_directions_too(network: mz.MidwayNetwork, encoded: list[int]) -> None:
    source, target = images(32, 40)
    found = mz.predict_flow(network, source, target, method="perturbation", size="full", bidirectional=True)
    assert sum(encoded) == 2
    back = mz.predict_flow(network, target, source, method="perturbation", size="full")
    close(found.backward, back.flow, atol=1e-3)
    close(found.backward_confidence, back.confidence)
    assert found.method == "perturbation"


@pytest.mark.parametrize(("given", "expected"), [((32, 48), 2), ((32, 60), 4)])
def test_both_directions_share_one_encoding(
    network: mz.MidwayNetwork, encoded: list[int], given: tuple[int, int], expected: int
) -> None:
    mz.predict_flow(network, *images(*given), bidirectional=True)
    assert sum(encoded) == expected


def test_paired_networks_encode_each_frame_in_its_role() -> None:
    network = mz.MidwayNetwork(replace(TINY, paired=True)).eval()
    with torch.no_grad():
        network.target_encoder.patch_embed.proj.weight.mul_(-3)
    source, target = images(*SIDE)
    found = mz.predict_flow(network, source, target, bidirectional=True)
    close(found.flow, raw(network, source[None], target[None])[:, :2])
    close(found.backward, raw(network, target[None], source[None])[:, :2])


def test_auto_is_the_head_where_there_is_one(
    network: mz.MidwayNetwork, nano: mz.MidwayNetwork, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="midway_zoo"):
        assert mz.predict_flow(network, *images(*SIDE)).method == "head"
        assert caplog.text == ""
        assert mz.predict_flow(nano, *images(16, 16), size="full").method == "perturbation"
        assert caplog.text.count("perturbation") == 1
        list(mz.predict_flows(nano, images(16, 16, 4), size="full", batch_size=1))
        assert caplog.text.count("perturbation") == 2
    assert mz.predict_flow(network, *images(16, 16), method="perturbation", size="full").method == "perturbation"


def test_half_precision_gives_single_precision_results() -> None:
    network = mz.MidwayNetwork(TINY).eval().to(torch.bfloat16)
    found = mz.predict_flow(network, *images(40, 60), coarse=True)
    assert found.flow.dtype == found.confidence.dtype == torch.float32
    assert ((found.confidence >= 0) & (found.confidence <= 1)).all()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"tile": 30}, "multiples of the patch, 8 pixels"),
        ({"tile": 0}, "tile=0"),
        ({"tile": (32, 48, 3)}, "tile="),
        ({"tile": True}, "tile=True"),
        ({"tile": "32"}, "tile="),
        ({"tile": (32.0, 48)}, "tile="),
        ({"overlap": 1}, "overlap=1"),
        ({"overlap": -0.1}, "overlap=-0.1"),
        ({"overlap": "much"}, "overlap='much'"),
        ({"method": "perturbation", "tile": 32}, "for the flow head"),
        ({"method": "perturbation", "coarse": True}, "for the flow head"),
        ({"method": "raft"}, "method='raft'"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"window": -1}, "window=-1"),
    ],
)
@pytest.mark.parametrize("clip", [False, True])
def test_arguments_that_make_no_sense_are_named(
    network: mz.MidwayNetwork, options: dict[str, Any], named: str, clip: bool
) -> None:
    pair = images(*SIDE)
    with pytest.raises(InputError, match=named):  # of a clip before the first result is asked for
        mz.predict_flows(network, pair, **options) if clip else mz.predict_flow(network, *pair, **options)


def test_an_image_that_cannot_be_enlarged_to_a_tile_is_refused(network: mz.MidwayNetwork) -> None:
    """32 x 200000 pixels would be 100,000 patches."""
    line = torch.zeros(3, 1, 6250)
    with pytest.raises(InputError, match=r"1 x 6250 pixels would become 32 x 200000 to hold a tile of 32 x 48"):
        mz.predict_flow(network, line, line)


# Clips.


@pytest.mark.parametrize("given", [(32, 48), (36, 50), (16, 24)])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_a_clip_gives_the_flow_of_each_pair(network: mz.MidwayNetwork, given: tuple[int, int], batch_size: int) -> None:
    clip = images(*given, 5)
    found = list(mz.predict_flows(network, clip, batch_size=batch_size, bidirectional=True))
    expected = mz.predict_flow(network, clip[:-1], clip[1:], bidirectional=True)
    assert len(found) == 4
    for index, result in enumerate(found):
        for field in ("flow", "confidence", "backward", "backward_confidence"):
            close(getattr(result, field)[0], getattr(expected, field)[index], atol=1e-3)
        assert result.pts_seconds is None


@pytest.mark.parametrize("method", ["head", "perturbation"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_each_frame_of_a_clip_is_encoded_once(
    network: mz.MidwayNetwork, encoded: list[int], method: str, batch_size: int
) -> None:
    list(mz.predict_flows(network, images(*SIDE, 5), method=method, batch_size=batch_size, bidirectional=True))
    assert sum(encoded) == 5


def test_a_clip_is_read_as_results_are_asked_for(network: mz.MidwayNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    from midway_zoo.inference import flow as flow_prediction

    read = []

    def frames(*_: Any) -> tuple[Iterator[Any], None]:
        def each() -> Iterator[Any]:
            for index in range(1000):
                read.append(index)
                yield images(*SIDE)[index % 2], index / 10

        return each(), None

    monkeypatch.setattr(flow_prediction, "read_frames", frames)
    flows = mz.predict_flows(network, "video.mp4", batch_size=2)
    assert read == []
    first, second = next(flows), next(flows)
    assert len(read) <= 4
    assert first.pts_seconds.tolist() == [[0.0, 0.1]]
    assert second.pts_seconds.tolist() == [[0.1, 0.2]]


def test_a_suspended_clip_leaves_modes_alone(network: mz.MidwayNetwork) -> None:
    network.dynamics.train()
    flows = mz.predict_flows(network, images(*SIDE, 4), batch_size=1)
    next(flows)
    assert torch.is_grad_enabled()
    assert network.dynamics.training
    network.eval()


def test_a_video_has_times(network: mz.MidwayNetwork, tmp_path: Path) -> None:
    frames = images(*SIDE, 5).mul(255).to(torch.uint8)
    assert write_video(tmp_path / "clip.mp4", list(frames), fps=5) == 5
    found = list(mz.predict_flows(network, tmp_path / "clip.mp4", stride=2))
    assert [result.pts_seconds.tolist() for result in found] == [[[0.0, 0.4]], [[0.4, 0.8]]]
    assert network.predict_flows(tmp_path / "clip.mp4", fps=2.5).__next__().pts_seconds.tolist() == [[0.0, 0.4]]


def test_clips_that_cannot_be_used(network: mz.MidwayNetwork, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="1 frame"):
        list(mz.predict_flows(network, images(*SIDE, 1)))
    with pytest.raises(InputError, match="stride=0"):
        mz.predict_flows(network, images(*SIDE, 3), stride=0)
    with pytest.raises(MissingFileError, match="nothing"):
        list(mz.predict_flows(network, tmp_path / "nothing.mp4"))
    with pytest.raises(InputError, match="all must have one size"):
        list(mz.predict_flows(network, [images(*SIDE)[0], images(32, 40)[0]]))
