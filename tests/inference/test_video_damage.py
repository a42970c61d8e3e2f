"""Damage: what is read of a bad file, what of it says so, and one warning."""

import re
from pathlib import Path

import numpy as np
import pytest

from midway_zoo.inference.video import read_video
from tests.inference.footage import cut, damage_packet, grey, level, packets, with_sound, write

FRAMES, GOP = 30, 8


def noisy(path: Path, codec: str = "libx264", bframes: int = 0, **options: str) -> Path:
    images = [grey(k, noise=True) for k in range(FRAMES)]
    return write(path, images, codec=codec, bframes=bframes, gop=GOP, options=options)


@pytest.mark.parametrize(("codec", "suffix"), [("libx264", "mp4"), ("libx264", "mkv"), ("mpeg4", "mp4")])
def test_frames_from_the_damage_to_the_next_key_frame_say_so(
    tmp_path: Path, codec: str, suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = noisy(tmp_path / f"video.{suffix}", codec)
    damage_packet(path, 11)
    frames = list(read_video(path))
    assert [frame.index for frame in frames if frame.concealed] == [11, 12, 13, 14, 15]
    assert len(frames) == FRAMES
    (record,) = caplog.records
    assert re.search(rf"video\.{suffix} is damaged at 0\.55 s: 5 frames are concealed", record.getMessage())


def test_frames_that_are_shown_before_the_damaged_one_but_build_on_it_say_so(tmp_path: Path) -> None:
    """With B-frames, the frame that is stored first in its group is shown last."""
    path = noisy(tmp_path / "video.mkv", bframes=2)
    whole = [frame.image for frame in read_video(path)]
    damage_packet(path, GOP + 1)
    frames = list(read_video(path))
    concealed = [frame.index for frame in frames if frame.concealed]
    assert concealed == list(range(GOP + 1, 2 * GOP))
    for frame in frames:
        if not frame.concealed:
            assert frame.image.equal(whole[frame.index]), frame.index


def test_a_damaged_file_is_warned_of_once_however_little_is_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = noisy(tmp_path / "video.mp4")
    damage_packet(path, 3)
    damage_packet(path, 19)
    list(read_video(path, stride=7))
    assert len(caplog.records) == 1
    caplog.clear()
    assert not [frame for frame in read_video(path, end=0.1) if frame.concealed]
    assert not caplog.records  # the damage was not met


def test_a_sound_file_is_not_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a.mp4", "a.mkv", "a.mov", "a.ts", "a.avi", "a.flv", "a.264"):
        assert not any(frame.concealed for frame in read_video(noisy(tmp_path / name, bframes=2)))
    times = np.cumsum([0, 40, 900, 15, 300, 33]).tolist()
    list(read_video(write(tmp_path / "vfr.mkv", [grey(k) for k in range(6)], milliseconds=times)))
    list(read_video(write(tmp_path / "vfr.mp4", [grey(k) for k in range(6)], milliseconds=times)))
    assert not caplog.records


@pytest.mark.parametrize("name", ["video.mkv", "video.mp4", "video.avi", "video.webm"])
def test_a_file_that_breaks_off_is_read_so_far_with_one_warning(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"movflags": "faststart"} if name.endswith("mp4") else {}
    path = noisy(tmp_path / name, "libvpx-vp9" if name.endswith("webm") else "libx264", **options)
    cut(path, 0.6)
    frames = list(read_video(path))
    assert 5 < len(frames) < FRAMES
    assert [level(frame.image) for frame in frames if not frame.concealed] == list(
        range(sum(not frame.concealed for frame in frames))
    )
    (record,) = caplog.records
    assert re.search(rf"{name} .*breaks off at \d\.\d\d s, \d\.\d\d s before its end", record.getMessage())


def test_sound_that_breaks_off_hides_no_frames(tmp_path: Path) -> None:
    """The sound of every moment is behind the pictures; reading it would end the video at its first second."""
    path = with_sound(tmp_path / "phone.mp4", [grey(k, noise=True) for k in range(FRAMES)])
    content, last = path.read_bytes(), packets(path)[-1][1]
    path.write_bytes(content[: content.index(last) + len(last)])  # no sound at all
    assert [level(frame.image) for frame in read_video(path)] == list(range(FRAMES))


def test_a_gap_between_joined_recordings_is_no_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The transport stream's counters jump where the second begins: something may be missing there, nowhere else."""
    one, two = (
        write(tmp_path / f"{name}.ts", [grey(k, noise=True) for k in range(FRAMES)], gop=GOP) for name in ("one", "two")
    )
    joined = tmp_path / "joined.ts"
    joined.write_bytes(one.read_bytes() + two.read_bytes())
    frames = list(read_video(joined))
    assert [level(frame.image) for frame in frames] == 2 * list(range(FRAMES))
    (record,) = caplog.records
    assert "is damaged at" in record.getMessage()
    assert "breaks off" not in record.getMessage()
