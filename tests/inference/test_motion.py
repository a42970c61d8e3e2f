"""Motion latents of pairs; motion along a clip is that of its neighbouring frames, each encoded once."""

import copy
import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import midway_zoo as mz
from midway_zoo.errors import InputError, InputTypeError
from midway_zoo.inference.images import to_tensor
from midway_zoo.inference.video import VideoFrame, read_video
from tests.inference.calls import close, normalised, pair
from tests.inference.clips import CLIPS, T, assert_same_motion, consecutive
from tests.inference.test_video import write_video


def test_motion_latents_are_those_of_the_network_on_normalised_input(nano: mz.MidwayNetwork) -> None:
    source, target = pair(64, 96, 3)
    found = mz.infer_motion_latent(nano, source, target)
    with torch.no_grad():
        expected = nano(normalised(source), normalised(target)).motion_latents
    assert found.tokens.shape == (3, 10, 48)
    assert list(found.levels) == [2, 1, 0]
    for level in (2, 1, 0):
        close(found.levels[level], expected[level])
    close(found.tokens, expected[0])
    close(found.pooled, expected[0].mean(dim=1))
    assert found.grid == (8, 12)
    assert found.pts_seconds is None


def test_motion_has_a_direction(nano: mz.MidwayNetwork) -> None:
    source, target = pair(64, 64)
    there, back = mz.infer_motion_latent(nano, source, target), mz.infer_motion_latent(nano, target, source)
    assert (there.tokens - back.tokens).abs().max() > 1e-2


@pytest.mark.parametrize("kind", CLIPS)
def test_every_kind_of_clip_gives_the_motion_of_consecutive_frames(
    nano: mz.MidwayNetwork, frames: np.ndarray, tmp_path: Path, kind: str
) -> None:
    found = mz.infer_motion_latents(nano, CLIPS[kind](frames, tmp_path), batch_size=3)
    assert found.tokens.shape == (T - 1, 10, 48)
    assert found.pooled.shape == (T - 1, 48)
    assert found.grid == (8, 8)
    assert found.pts_seconds is None
    assert not found.tokens.requires_grad
    assert_same_motion(found, consecutive(nano, list(frames)))


def test_the_direction_of_time_matters(nano: mz.MidwayNetwork, frames: np.ndarray) -> None:
    """What makes the comparisons in this file mean something: pairs differ, and so do their two directions."""
    there = mz.infer_motion_latents(nano, frames).tokens
    back = mz.infer_motion_latents(nano, frames[::-1]).tokens.flip(0)
    assert (there - back).abs().amax(dim=(1, 2)).min() > 1e-2
    assert (there[1:] - there[:-1]).abs().amax(dim=(1, 2)).min() > 1e-2


@pytest.mark.parametrize("as_path", [str, Path])
def test_a_video_gives_the_motion_of_its_frames_and_their_times(
    nano: mz.MidwayNetwork, frames: np.ndarray, tmp_path: Path, as_path: type
) -> None:
    path = write_video(tmp_path / "clip.mp4", list(frames))
    found = mz.infer_motion_latents(nano, as_path(path), batch_size=2)
    assert_same_motion(found, consecutive(nano, [frame.image for frame in read_video(path)]))
    assert found.pts_seconds.dtype == torch.float64
    expected = [[0.0, 0.1], [0.1, 0.2], [0.2, 0.3], [0.3, 0.4]]
    torch.testing.assert_close(found.pts_seconds, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize(("sampling", "taken"), [({"fps": 5}, [0, 2, 4]), ({"stride": 2}, [0, 2, 4])])
def test_a_video_is_sampled_by_fps_or_stride(
    nano: mz.MidwayNetwork, frames: np.ndarray, tmp_path: Path, sampling: dict[str, Any], taken: list[int]
) -> None:
    path = write_video(tmp_path / "clip.mp4", list(frames))
    decoded = [frame.image for frame in read_video(path)]
    found = mz.infer_motion_latents(nano, path, **sampling)
    assert_same_motion(found, consecutive(nano, [decoded[index] for index in taken]))
    torch.testing.assert_close(found.pts_seconds, torch.tensor([[0.0, 0.2], [0.2, 0.4]], dtype=torch.float64))


@pytest.mark.parametrize("stride", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", ["list of arrays", "tensor (T, 3, H, W)", "folder"])
def test_stride_takes_every_nth_frame(
    nano: mz.MidwayNetwork, frames: np.ndarray, tmp_path: Path, kind: str, stride: int
) -> None:
    found = mz.infer_motion_latents(nano, CLIPS[kind](frames, tmp_path), stride=stride)
    assert_same_motion(found, consecutive(nano, list(frames[::stride])))


@pytest.mark.parametrize("batch_size", range(1, T + 2))
@pytest.mark.parametrize("name", ["nano", "paired"])
def test_the_batch_size_changes_nothing(
    request: pytest.FixtureRequest, frames: np.ndarray, name: str, batch_size: int
) -> None:
    network = request.getfixturevalue(name)
    expected = consecutive(network, list(frames))
    assert_same_motion(mz.infer_motion_latents(network, frames, batch_size=batch_size), expected)


def test_paired_mode_sees_targets_with_the_target_encoder(
    nano: mz.MidwayNetwork, paired: mz.MidwayNetwork, frames: np.ndarray
) -> None:
    """The fixture's two encoders differ, so a mix-up shows."""
    one = mz.infer_motion_latents(nano, frames).tokens
    two = mz.infer_motion_latents(paired, frames).tokens
    assert (one - two).abs().max() > 1e-2


@pytest.mark.parametrize(("size", "grid"), [(None, (8, 12)), (32, (4, 6)), ((40, 64), (5, 8)), ("full", (6, 9))])
def test_size_is_that_of_the_pairwise_function(nano: mz.MidwayNetwork, size: Any, grid: tuple[int, int]) -> None:
    clip = torch.rand(3, 3, 48, 72)
    found = mz.infer_motion_latents(nano, clip, size=size, batch_size=2)
    assert found.grid == grid
    assert_same_motion(found, consecutive(nano, clip, size=size))


def encoded_batches(encoder: torch.nn.Module) -> tuple[list[int], Callable[[], None]]:
    """Lengths of the batches that pass the encoder's first layer from now on, and how to stop counting."""
    lengths: list[int] = []
    hook = encoder.patch_embed.register_forward_hook(lambda _, inputs, __: lengths.append(len(inputs[0])))
    return lengths, hook.remove


@pytest.mark.parametrize("batch_size", range(1, T + 2))
def test_every_frame_is_encoded_once_and_no_more_than_a_batch_at_a_time(
    nano: mz.MidwayNetwork, frames: np.ndarray, batch_size: int
) -> None:
    lengths, stop = encoded_batches(nano.encoder)
    mz.infer_motion_latents(nano, frames, batch_size=batch_size)
    stop()
    assert sum(lengths) == T
    assert max(lengths) <= batch_size


@pytest.mark.parametrize("batch_size", [1, 2, T])
def test_paired_encoders_see_every_frame_at_most_once(
    paired: mz.MidwayNetwork, frames: np.ndarray, batch_size: int
) -> None:
    counted = [encoded_batches(encoder) for encoder in (paired.encoder, paired.target_encoder)]
    mz.infer_motion_latents(paired, frames, batch_size=batch_size)
    for lengths, stop in counted:
        stop()
        assert T - 1 <= sum(lengths) <= T
        assert max(lengths) <= batch_size


def test_a_long_video_is_never_held_in_memory(nano: mz.MidwayNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames alive at any time: what waits for its batch, and the batch before it while that is replaced."""
    batch_size, length = 4, 60
    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
    most = 0

    def endless(*_: Any, **__: Any) -> Iterator[VideoFrame]:
        nonlocal most
        for index in range(length):
            image = torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8)
            alive.add(image)
            most = max(most, len(alive))
            yield VideoFrame(image, index / 10, index)

    def recorded(image: Tensor) -> Tensor:
        nonlocal most
        result = to_tensor(image)
        alive.add(result)
        most = max(most, len(alive))
        return result

    monkeypatch.setattr("midway_zoo.inference.video.read_video", endless)
    monkeypatch.setattr("midway_zoo.inference.frames.to_tensor", recorded)
    found = mz.infer_motion_latents(nano, "endless.mp4", size="full", batch_size=batch_size)
    gc.collect()
    assert found.tokens.shape == (length - 1, 10, 48)
    assert batch_size <= most <= 2 * batch_size + 2
    assert len(alive) <= 1


def test_a_model_of_another_type_is_refused(frames: np.ndarray) -> None:
    with pytest.raises(InputTypeError, match="create_model"):
        mz.infer_motion_latents(torch.nn.Identity(), frames)


@pytest.mark.parametrize(
    ("brightest", "outcome"), [(1, nullcontext()), (2, pytest.raises(InputError))], ids=["result", "error"]
)
def test_modes_are_put_back(nano: mz.MidwayNetwork, brightest: float, outcome: AbstractContextManager[Any]) -> None:
    """Training mode of one part of the network and gradient mode survive success and failure."""
    network = copy.deepcopy(nano)
    network.dynamics.midway.train()
    before = {name: module.training for name, module in network.named_modules()}
    clip = torch.rand(4, 3, 16, 16)
    clip[3, 0, 0, 0] = brightest
    with outcome:
        mz.infer_motion_latents(network, clip, size="full", batch_size=2)
    assert {name: module.training for name, module in network.named_modules()} == before
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
@pytest.mark.parametrize("gap", [1, 2, 4])
def test_gap_compares_every_frame_with_a_later_one(
    nano: mz.MidwayNetwork, frames: np.ndarray, gap: int, batch_size: int
) -> None:
    lengths, stop = encoded_batches(nano.encoder)
    found = mz.infer_motion_latents(nano, iter(list(frames)), gap=gap, batch_size=batch_size)
    stop()
    assert sum(lengths) == T
    assert_same_motion(found, mz.infer_motion_latent(nano, list(frames[:-gap]), list(frames[gap:])))


def test_a_gap_beyond_the_end_is_refused(nano: mz.MidwayNetwork, frames: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"5 frame\(s\).*at least 6, for gap=5"):
        mz.infer_motion_latents(nano, frames, gap=5)
    with pytest.raises(InputError, match="gap=0"):
        mz.infer_motion_latents(nano, frames, gap=0)
