"""A stream of frames gives what a clip of the same frames gives."""

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor

import midway_zoo as mz
from midway_zoo.errors import InputError, InputTypeError
from midway_zoo.inference.video import VideoFrame
from tests.inference.flows import SIDE, close, images


def test_latents_are_those_of_the_clip(network: mz.MidwayNetwork, encoded: list[int]) -> None:
    clip = images(40, 56, 4)
    stream = mz.MotionStream(network)
    found = [stream.push(frame) for frame in clip]
    assert sum(encoded) == 4
    assert found[0] is None
    expected = mz.infer_motion_latents(network, clip)
    close(torch.cat([latent.tokens for latent in found[1:]]), expected.tokens)
    close(torch.cat([latent.pooled for latent in found[1:]]), expected.pooled)
    assert found[1].grid == expected.grid


@pytest.mark.parametrize("given", [SIDE, (40, 60)], ids=str)
@pytest.mark.parametrize("method", ["head", "perturbation"])
def test_flow_is_that_of_the_clip(network: mz.MidwayNetwork, given: tuple[int, int], method: Any) -> None:
    clip = images(*given, 3)
    stream = mz.MotionStream(network, flow=True, method=method, bidirectional=True)
    found = [stream.push(frame) for frame in clip]
    expected = list(mz.predict_flows(network, clip, method=method, bidirectional=True))
    assert found[0] is None
    for (latent, flow), one in zip(found[1:], expected, strict=True):
        assert latent.tokens.shape == (1, 10, 12)
        assert flow.method == method
        close(flow.flow, one.flow, atol=1e-3)
        close(flow.backward, one.backward, atol=1e-3)


def test_a_frame_of_one_size_for_both_is_encoded_once(network: mz.MidwayNetwork, encoded: list[int]) -> None:
    stream = mz.MotionStream(network, size=SIDE, flow=True)
    for frame in images(*SIDE, 3):
        stream.push(frame)
    assert sum(encoded) == 3


def test_frames_of_a_video_have_times_and_memory_does_not_grow(network: mz.MidwayNetwork) -> None:
    stream = mz.MotionStream(network, size="full")
    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
    for index in range(8):
        image = images(16, 16)[0].mul(255).to(torch.uint8)
        alive.add(image)
        latent = stream.push(VideoFrame(image, index / 10, index))
        del image
        gc.collect()
        assert len(alive) <= 1
    torch.testing.assert_close(latent.pts_seconds, torch.tensor([[0.6, 0.7]], dtype=torch.float64))


def test_another_size_is_refused_until_the_stream_is_reset(network: mz.MidwayNetwork) -> None:
    stream = mz.MotionStream(network)
    stream.push(images(32, 32)[0])
    with pytest.raises(InputError, match=r"one size"):
        stream.push(images(32, 40)[0])
    assert stream.push(images(32, 32)[1]) is not None
    stream.reset()
    assert stream.push(images(32, 40)[0]) is None


def test_what_cannot_be_used_is_refused_at_once(network: mz.MidwayNetwork) -> None:
    with pytest.raises(InputTypeError, match="flow=True"):
        mz.MotionStream(network, overlap=0.5)
    with pytest.raises(InputTypeError, match="Did you mean 'overlap'"):
        mz.MotionStream(network, flow=True, overlop=0.5)
    with pytest.raises(InputTypeError, match="pass a PIL image"):
        mz.MotionStream(network).push(5)
