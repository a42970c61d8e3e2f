"""Flow of pairs of images: sizes, directions, shared encodings."""

import logging
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

import midway_zoo as mz
from midway_zoo.flow import consistency_mask
from tests.inference.flows import SIDE, close, images, raw
from tests.models.test_flow_head import TINY


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
    found = mz.predict_flow(network, source, target, overlap=0.7)
    close(found.flow, expected[:, :2])
    close(found.confidence, torch.sigmoid(-expected[:, 2:]))


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
