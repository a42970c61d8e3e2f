"""Flow along clips: each frame encoded once, read as results are asked for."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import midway_zoo as mz
from midway_zoo.errors import InputError, MissingFileError
from midway_zoo.inference.video import VideoFrame
from midway_zoo.inference.video_writer import write_video
from tests.inference.flows import SIDE, close, images


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
    read = []

    def decoded(*_: Any, **__: Any) -> Iterator[VideoFrame]:
        for index in range(1000):
            read.append(index)
            yield VideoFrame(images(*SIDE)[index % 2], index / 10, index)

    monkeypatch.setattr("midway_zoo.inference.video.read_video", decoded)
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
    assert next(mz.predict_flows(network, tmp_path / "clip.mp4", fps=2.5)).pts_seconds.tolist() == [[0.0, 0.4]]


def test_clips_that_cannot_be_used(network: mz.MidwayNetwork, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="1 frame"):
        list(mz.predict_flows(network, images(*SIDE, 1)))
    with pytest.raises(InputError, match="stride=0"):
        mz.predict_flows(network, images(*SIDE, 3), stride=0)
    with pytest.raises(MissingFileError, match="nothing"):
        list(mz.predict_flows(network, tmp_path / "nothing.mp4"))
    with pytest.raises(InputError, match="all must have one size"):
        list(mz.predict_flows(network, [images(*SIDE)[0], images(32, 40)[0]]))


@pytest.mark.parametrize("batch_size", [1, 4])
def test_each_frame_of_a_tiled_clip_is_encoded_once(
    network: mz.MidwayNetwork, encoded: list[int], batch_size: int
) -> None:
    """36 x 50 pixels: four tiles of 32 x 48 a frame."""
    list(mz.predict_flows(network, images(36, 50, 5), batch_size=batch_size, bidirectional=True))
    assert sum(encoded) == 5 * 4


def test_a_generator_is_a_clip(network: mz.MidwayNetwork) -> None:
    clip = images(*SIDE, 5)
    found = list(mz.predict_flows(network, (frame for frame in clip), stride=2))
    for one, other in zip(found, mz.predict_flows(network, clip, stride=2), strict=True):
        close(one.flow, other.flow)
