"""Motion along a clip is the motion of its neighbouring frames, each encoded once."""

import copy
import gc
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import midway_zoo as mz
from midway_zoo.errors import InputError, InputTypeError, MissingExtraError, MissingFileError
from midway_zoo.inference import motion as clips
from midway_zoo.inference.images import to_tensor
from midway_zoo.inference.video import VideoFrame, read_video
from tests.inference.test_video import write_video

T = 5


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    """(T, 64, 64, 3) uint8: a smooth pattern that drifts to the right over noise."""
    random = np.random.default_rng(0)
    columns = np.arange(64)
    waves = np.stack([127 + 90 * np.sin((columns - 3 * step) / 6) for step in range(T)])
    noise = random.integers(0, 38, (T, 64, 64, 3))
    return (waves[:, None, :, None] + noise).astype(np.uint8)


@pytest.fixture(scope="module")
def paired(nano: mz.MidwayNetwork) -> mz.MidwayNetwork:
    """A network in paired mode whose target encoder differs from its source encoder."""
    torch.manual_seed(2)
    network = mz.create_model("midway_nano", paired=True)
    network.encoder.load_state_dict(nano.encoder.state_dict())
    network.dynamics.load_state_dict(nano.dynamics.state_dict())
    with torch.no_grad():
        for mine, theirs in zip(network.target_encoder.parameters(), network.encoder.parameters(), strict=True):
            mine.copy_(theirs + 0.3 * theirs.std(correction=0) * torch.randn_like(theirs))
    return network


def consecutive(network: mz.MidwayNetwork, clip: Any, **kwargs: Any) -> mz.MotionLatent:
    return mz.infer_motion_latent(network, clip[:-1], clip[1:], **kwargs)


def assert_same_motion(found: mz.MotionLatent, expected: mz.MotionLatent, atol: float = 1e-5) -> None:
    torch.testing.assert_close(found.tokens, expected.tokens, rtol=0, atol=atol)
    torch.testing.assert_close(found.pooled, expected.pooled, rtol=0, atol=atol)
    assert list(found.levels) == [2, 1, 0]
    for level, tokens in found.levels.items():
        torch.testing.assert_close(tokens, expected.levels[level], rtol=0, atol=atol)
    assert found.grid == expected.grid


def as_folder(frames: np.ndarray, folder: Path) -> Path:
    """Named so that neither time nor creation order is the order of the names; with files that are no frames."""
    folder.mkdir()
    for index in reversed(range(len(frames))):
        Image.fromarray(frames[index]).save(folder / f"frame_{index:03}.{'png' if index % 2 else 'PNG'}")
    (folder / "notes.txt").write_text("no frame")
    (folder / "masks").mkdir()
    return folder


CLIPS: dict[str, Callable[[np.ndarray, Path], Any]] = {
    "list of arrays": lambda frames, _: list(frames),
    "tuple of PIL images": lambda frames, _: tuple(Image.fromarray(frame) for frame in frames),
    "list of mixed kinds": lambda frames, _: [frames[0], to_tensor(frames[1]), *map(Image.fromarray, frames[2:])],
    "array (T, H, W, 3)": lambda frames, _: frames,
    "tensor (T, 3, H, W)": lambda frames, _: torch.from_numpy(frames).permute(0, 3, 1, 2),
    "float tensor (T, 3, H, W)": lambda frames, _: torch.from_numpy(frames).permute(0, 3, 1, 2) / 255,
    "folder": lambda frames, folder: as_folder(frames, folder / "frames"),
    "folder as str": lambda frames, folder: str(as_folder(frames, folder / "frames")),
    "list of paths": lambda frames, folder: sorted(as_folder(frames, folder / "frames").glob("*.[pP]*")),
}


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


def test_the_network_method_is_the_function(nano: mz.MidwayNetwork, frames: np.ndarray) -> None:
    found = nano.infer_motion_latents(frames, stride=2, batch_size=2)
    assert_same_motion(found, mz.infer_motion_latents(nano, frames, stride=2), atol=1e-5)


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

    monkeypatch.setattr(clips, "read_video", endless)
    monkeypatch.setattr(clips, "to_tensor", recorded)
    found = mz.infer_motion_latents(nano, "endless.mp4", size="full", batch_size=batch_size)
    gc.collect()
    assert found.tokens.shape == (length - 1, 10, 48)
    assert batch_size <= most <= 2 * batch_size + 2
    assert len(alive) <= 1


# Refusals.


def test_frames_of_different_sizes_are_refused_with_both(nano: mz.MidwayNetwork) -> None:
    clip = [torch.rand(3, 64, 64), torch.rand(3, 64, 64), torch.rand(3, 64, 72)]
    for batch_size in (1, 3):
        with pytest.raises(InputError, match=r"\(64, 64\) and \(64, 72\).*one size"):
            mz.infer_motion_latents(nano, clip, batch_size=batch_size)


@pytest.mark.parametrize(
    ("clip", "kwargs", "named"),
    [
        ([np.zeros((8, 8, 3))], {}, "1 frame"),
        (np.zeros((1, 8, 8, 3)), {}, "1 frame"),
        (np.zeros((4, 8, 8, 3)), {"stride": 4}, "stride=4"),
        ([], {}, "empty"),
        (torch.zeros(0, 3, 8, 8), {}, "empty"),
    ],
    ids=["list of one", "array of one", "stride beyond the end", "empty list", "empty tensor"],
)
def test_fewer_than_two_frames_are_refused(
    nano: mz.MidwayNetwork, clip: Any, kwargs: dict[str, Any], named: str
) -> None:
    with pytest.raises(InputError, match=named):
        mz.infer_motion_latents(nano, clip, **kwargs)


@pytest.mark.parametrize(
    ("kwargs", "named"),
    [
        ({"stride": 0}, "stride=0"),
        ({"stride": -1}, "stride=-1"),
        ({"stride": 1.0}, "stride=1.0"),
        ({"fps": 5, "stride": 2}, "not both"),
        ({"fps": 0}, "fps=0"),
        ({"fps": 5}, "fps needs a video.*pass stride"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 2.0}, "batch_size=2.0"),
        ({"size": 0}, "size=0"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(
    nano: mz.MidwayNetwork, frames: np.ndarray, kwargs: dict[str, Any], named: str
) -> None:
    with pytest.raises(InputError, match=named):
        mz.infer_motion_latents(nano, frames, **kwargs)


def test_fps_is_refused_for_a_folder(nano: mz.MidwayNetwork, frames: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="fps needs a video"):
        mz.infer_motion_latents(nano, as_folder(frames, tmp_path / "frames"), fps=5)


@pytest.mark.parametrize(
    "image",
    [Image.new("RGB", (64, 64)), np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64), np.uint8), torch.zeros(3, 64, 64)],
    ids=["PIL", "array", "grey array", "tensor"],
)
def test_a_single_image_is_no_clip(nano: mz.MidwayNetwork, image: Any) -> None:
    with pytest.raises(InputTypeError, match=r"a clip is a list of images.*single image"):
        mz.infer_motion_latents(nano, image)


@pytest.mark.parametrize(
    "clip", [None, 5, {"a": 1}, {1, 2}, (frame for frame in ())], ids=lambda clip: type(clip).__name__
)
def test_other_types_are_refused_as_no_clip(nano: mz.MidwayNetwork, clip: Any) -> None:
    with pytest.raises(InputTypeError, match=r"a clip is a list of images") as caught:
        mz.infer_motion_latents(nano, clip)
    assert type(clip).__name__ in str(caught.value)


def test_a_model_of_another_type_is_refused(frames: np.ndarray) -> None:
    with pytest.raises(InputTypeError, match="create_model"):
        mz.infer_motion_latents(torch.nn.Identity(), frames)


@pytest.mark.parametrize("names", [[], ["notes.txt"]], ids=["empty", "no images"])
def test_a_folder_without_images_is_named(nano: mz.MidwayNetwork, tmp_path: Path, names: list[str]) -> None:
    folder = tmp_path / "nothing here"
    folder.mkdir()
    for name in names:
        (folder / name).write_text("no frame")
    with pytest.raises(InputError, match=r"nothing here.* no image"):
        mz.infer_motion_latents(nano, folder)


@pytest.mark.parametrize("clip", ["nowhere.mp4", Path("nowhere") / "frames", ["nowhere.png", "nowhere.png"]], ids=str)
def test_a_path_that_does_not_exist_is_named(nano: mz.MidwayNetwork, clip: Any) -> None:
    with pytest.raises(MissingFileError, match="nowhere"):
        mz.infer_motion_latents(nano, clip)


def test_without_pyav_a_video_says_what_to_install(
    nano: mz.MidwayNetwork, frames: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_video(tmp_path / "clip.mp4", list(frames))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'midway-zoo\[video\]'"):
        mz.infer_motion_latents(nano, path)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("stacked", [False, True], ids=["list", "tensor"])
def test_a_frame_that_is_refused_is_named_by_its_place_in_the_clip(
    nano: mz.MidwayNetwork, stacked: bool, stride: int
) -> None:
    clip = torch.rand(5, 3, 64, 64)
    clip[4] += 2
    with pytest.raises(InputError, match="image 4"):
        mz.infer_motion_latents(nano, clip if stacked else list(clip), stride=stride)


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


def test_a_video_that_breaks_off_is_an_error_and_no_shorter_result(
    nano: mz.MidwayNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Iterator[VideoFrame]:
        for index in range(3):
            yield VideoFrame(torch.zeros(3, 16, 16, dtype=torch.uint8), index / 10, index)
        raise InputError("damaged")

    monkeypatch.setattr(clips, "read_video", broken)
    with pytest.raises(InputError, match="damaged"):
        mz.infer_motion_latents(nano, "broken.mp4", batch_size=1)
