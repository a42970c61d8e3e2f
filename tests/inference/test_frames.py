"""What is taken for a clip, and what is refused."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import midway_zoo as mz
from midway_zoo.errors import InputError, InputTypeError, MissingExtraError, MissingFileError
from midway_zoo.inference.video import VideoFrame
from tests.inference.clips import as_folder
from tests.inference.test_video import write_video


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
    with pytest.raises(InputTypeError, match=r"a clip is a list or iterator of images.*single image"):
        mz.infer_motion_latents(nano, image)


@pytest.mark.parametrize("clip", [None, 5, {"a": 1}, {1, 2}, b"clip"], ids=lambda clip: type(clip).__name__)
def test_other_types_are_refused_as_no_clip(nano: mz.MidwayNetwork, clip: Any) -> None:
    with pytest.raises(InputTypeError, match=r"a clip is a list or iterator of images") as caught:
        mz.infer_motion_latents(nano, clip)
    assert type(clip).__name__ in str(caught.value)


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
    with pytest.raises(MissingExtraError, match=r"pip install .*midway-zoo\[video\]"):
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


def test_a_video_that_breaks_off_is_an_error_and_no_shorter_result(
    nano: mz.MidwayNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Iterator[VideoFrame]:
        for index in range(3):
            yield VideoFrame(torch.zeros(3, 16, 16, dtype=torch.uint8), index / 10, index)
        raise InputError("damaged")

    monkeypatch.setattr("midway_zoo.inference.video.read_video", broken)
    with pytest.raises(InputError, match="damaged"):
        mz.infer_motion_latents(nano, "broken.mp4", batch_size=1)
