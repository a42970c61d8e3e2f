"""Frames by their times: the right ones, bit for bit, whatever else is asked for."""

from pathlib import Path

import numpy as np
import pytest
import torch

from midway_zoo.errors import InputError
from midway_zoo.inference.sources import Source
from midway_zoo.inference.video import read_video
from midway_zoo.train.data import indexed_video
from midway_zoo.train.data.indexed_video import IndexedVideo
from midway_zoo.train.data.video_index import build_index
from tests.inference.test_video import CLOCKWISE, set_display_matrix
from tests.train.data.videos import damage, shown, write_folder, write_video


def indexed(path: Path) -> IndexedVideo:
    index = build_index(path)
    assert not index.rejects, index.rejects
    return index.videos[0]


def check_frames(path: Path) -> None:
    """Any frames, alone and together, are those that decoding from the start gives."""
    expected = [frame.image for frame in read_video(path)]
    clip = indexed(path)
    assert clip.frames == len(expected)
    assert (clip.height, clip.width) == tuple(expected[0].shape[1:])
    for wanted in ([len(expected) - 1, 0, 7, 8], [3], [9, 10, 11, 30, 9], range(len(expected))):
        images, failed = clip.read(path.parent, list(wanted))
        assert not failed
        assert sorted(images) == sorted(set(wanted))
        for index, image in images.items():
            assert torch.equal(image, expected[index]), index


@pytest.mark.parametrize(
    ("codec", "suffix", "bframes"),
    [("libx264", "mp4", 0), ("libx264", "mp4", 3), ("libx264", "mkv", 2), ("libx264", "ts", 2), ("mpeg4", "avi", 0)],
)
def test_frames_are_those_of_decoding_from_the_start(tmp_path: Path, codec: str, suffix: str, bframes: int) -> None:
    check_frames(write_video(tmp_path / f"video.{suffix}", codec=codec, bframes=bframes))


def test_grey_video(tmp_path: Path) -> None:
    check_frames(write_video(tmp_path / "grey.mkv", codec="ffv1", pixels="gray"))


def test_odd_size(tmp_path: Path) -> None:
    check_frames(write_video(tmp_path / "odd.mp4", codec="libx264", pixels="yuv444p", size=(37, 53)))


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotated_video(tmp_path: Path, degrees: int) -> None:
    path = write_video(tmp_path / "turned.mp4")
    set_display_matrix(path, CLOCKWISE[degrees])
    check_frames(path)
    clip = indexed(path)
    assert clip.rotation == -degrees % 360
    images, _ = clip.read(tmp_path, [0], 24)
    assert images[0].shape == ((3, 24, 32) if degrees == 180 else (3, 32, 24))
    corner = {90: (0, -1), 180: (-1, -1), 270: (-1, 0)}[degrees]
    assert images[0][:, corner[0], corner[1]].min() > 200


def test_variable_frame_rate(tmp_path: Path) -> None:
    times = np.cumsum(np.random.default_rng(0).integers(20, 200, 40)).tolist()
    path = write_video(tmp_path / "vfr.mkv", milliseconds=times)
    check_frames(path)
    clip = indexed(path)
    assert clip.steps is not None
    np.testing.assert_allclose(clip.seconds(30.0), np.array(times) / 1000)


def test_rounded_times_are_an_even_grid(tmp_path: Path) -> None:
    """Matroska rounds to milliseconds: 33, 33, 34, ... is still 30 frames per second."""
    path = write_video(tmp_path / "30.mkv", rate=30)
    assert indexed(path).steps is None
    check_frames(path)


def test_it_seeks_only_over_keyframes_and_converts_only_what_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_video(tmp_path / "video.mp4", gop=8)
    clip = indexed(path)
    seeks, converted = [], []
    seek, upright = indexed_video._OrderedReader._seek, indexed_video.upright
    monkeypatch.setattr(indexed_video._OrderedReader, "_seek", lambda self, key: (seeks.append(key), seek(self, key)))
    monkeypatch.setattr(indexed_video, "upright", lambda *a, **b: (converted.append(1), upright(*a, **b))[1])
    clip.read(tmp_path, [2, 6, 30, 17, 18])
    assert seeks == [0, 2, 3]  # 2 and 6 share keyframe 0, 17 and 18 keyframe 16; 30 has 24
    assert len(converted) == 5


def test_damage_costs_only_the_frames_that_need_it(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.mkv", 80, noise=True, size=(96, 128))
    clip = indexed(path)
    whole, _ = clip.read(tmp_path, range(80))
    damage(path, 0.45, 0.55)
    clip = IndexedVideo(**{**vars(clip), "changed_ns": path.stat().st_mtime_ns})
    together, failed = clip.read(tmp_path, range(80))
    assert failed
    assert all("video.mkv" in reason for reason in failed.values())
    assert set(together) >= {*range(24), *range(64, 80)}
    for index in range(80):
        alone, _ = clip.read(tmp_path, [index])
        assert (index in alone) == (index in together), index
    assert all(torch.equal(together[index], whole[index]) for index in (*range(24), *range(64, 80)))


def test_file_that_breaks_off_later(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.mkv", noise=True)
    clip = indexed(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    clip = IndexedVideo(**{**vars(clip), "size": path.stat().st_size, "changed_ns": path.stat().st_mtime_ns})
    images, failed = clip.read(tmp_path, [1, 39])
    assert shown(images[1]) == 1
    assert list(failed) == [39]


def test_changed_file_is_not_read_by_an_old_index(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.mp4")
    clip = indexed(path)
    write_video(path, 20)
    with pytest.raises(InputError, match="changed since it was indexed"):
        clip.read(tmp_path, [1])


def test_frame_folder_reads_like_a_video(tmp_path: Path) -> None:
    write_folder(tmp_path / "frames", 12)
    (clip,) = build_index(tmp_path).videos
    assert Source(clip.path, clip.kind) == Source("frames", "frames")
    np.testing.assert_allclose(clip.seconds(10.0), np.arange(12) / 10)
    images, _ = clip.read(tmp_path, [11, 2])
    assert {index: shown(image) for index, image in images.items()} == {11: 11, 2: 2}
