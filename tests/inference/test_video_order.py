"""Order and times of frames, whatever the container knows of them."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import midway_zoo as mz
from midway_zoo.errors import InputError
from midway_zoo.inference.video import read_video
from midway_zoo.inference.video_entry import find_beginning
from tests.inference.footage import damage_packet, grey, level, write

FRAMES = 30


@pytest.mark.parametrize(
    ("codec", "name", "bframes"),
    [
        ("libx264", "video.avi", 3),
        ("libx264", "video.avi", 0),
        ("mpeg4", "video.avi", 2),
        ("libx264", "video.264", 3),
        ("libx264", "video.ts", 3),
        ("libx264", "video.mkv", 3),
        ("libx264", "video.mp4", 3),
        ("libx264", "video.mov", 3),
        ("libx264", "video.flv", 3),
        ("mpeg2video", "video.mpg", 2),
        ("mjpeg", "video.avi", 0),
        ("libvpx-vp9", "video.webm", 0),
    ],
)
def test_frames_come_in_the_order_in_which_they_are_shown(tmp_path: Path, codec: str, name: str, bframes: int) -> None:
    pixels = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    path = write(tmp_path / name, [grey(k) for k in range(FRAMES)], codec=codec, bframes=bframes, pixels=pixels)
    frames = list(read_video(path))
    assert [level(frame.image) for frame in frames] == list(range(FRAMES))
    times = np.array([frame.pts_seconds for frame in frames])
    np.testing.assert_allclose(times - times[0], np.arange(FRAMES) / 20, atol=2e-3)
    assert [frame.index for frame in read_video(path, fps=10)] == list(range(0, FRAMES, 2))
    assert_parts_are_parts(path)


def assert_parts_are_parts(path: Path) -> None:
    """Whether decoding begins at the file's start or at a key frame makes no difference to what is given."""
    whole = list(read_video(path))
    zero = whole[0].pts_seconds
    for start in (0.05, 0.4, 0.7, 0.8, 1.2, 1.4):
        part = list(read_video(path, start=start, end=start + 0.3))
        wanted = [frame for frame in whole if start - 2e-3 < frame.pts_seconds - zero < start + 0.3 - 2e-3]
        assert [frame.index for frame in part] == [frame.index for frame in wanted], start
        assert [frame.pts_seconds for frame in part] == [frame.pts_seconds for frame in wanted]
        assert [level(frame.image) for frame in part] == [level(frame.image) for frame in wanted]
        assert [frame.concealed for frame in part] == [frame.concealed for frame in wanted]


@pytest.mark.parametrize(
    "params", ["open-gop=1:bframes=3", "open-gop=0:bframes=3", "open-gop=1:bframes=2:b-pyramid=none"]
)
def test_a_part_begins_at_the_key_frame_before_it(
    tmp_path: Path, params: str, caplog: pytest.LogCaptureFixture
) -> None:
    further = {"x264-params": params + ":b-adapt=0:keyint=8:min-keyint=8:scenecut=0"}
    path = write(tmp_path / "video.mp4", [grey(k) for k in range(FRAMES)], bframes=3, further=further)
    assert_parts_are_parts(path)
    assert find_beginning(path, 1.3).entry.packets >= 16
    assert not caplog.records


def test_damage_before_a_part_is_not_its_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "video.mp4", [grey(k, noise=True) for k in range(FRAMES)])
    damage_packet(path, 3)
    assert any(frame.concealed for frame in read_video(path))
    caplog.clear()
    assert [frame.index for frame in read_video(path, start=1.0) if not frame.concealed] == list(range(20, FRAMES))
    assert not caplog.records


def test_avi_of_another_rate_keeps_its_times(tmp_path: Path) -> None:
    rate = Fraction(30000, 1001)
    path = write(tmp_path / "ntsc.avi", [grey(k) for k in range(FRAMES)], rate=rate, bframes=2)
    times = [frame.pts_seconds for frame in read_video(path)]
    np.testing.assert_allclose(times, np.arange(FRAMES) / float(rate), atol=1e-6)


def test_times_may_be_negative(tmp_path: Path) -> None:
    path = write(
        tmp_path / "early.mkv", [grey(k) for k in range(6)], milliseconds=[-100, -50, 0, 50, 100, 150], codec="mpeg4"
    )
    times = [frame.pts_seconds for frame in read_video(path)]
    np.testing.assert_allclose(np.diff(times), 0.05, atol=1e-3)


def test_joined_recordings_go_on_ascending(tmp_path: Path) -> None:
    one = write(tmp_path / "one.ts", [grey(k) for k in range(10)])
    two = write(tmp_path / "two.ts", [grey(k) for k in range(10, 20)])
    joined = tmp_path / "joined.ts"
    joined.write_bytes(one.read_bytes() + two.read_bytes())
    frames = list(read_video(joined))
    times = [frame.pts_seconds for frame in frames]
    assert [level(frame.image) for frame in frames] == list(range(20))
    assert (np.diff(times) > 0).all()
    assert_parts_are_parts(joined)


def test_a_part_of_a_video(tmp_path: Path) -> None:
    path = write(tmp_path / "video.mp4", [grey(k) for k in range(FRAMES)])
    assert [frame.index for frame in mz.read_video(path, start=0.5, end=0.75)] == [10, 11, 12, 13, 14]
    assert [frame.index for frame in mz.read_video(path, start=0.5, stride=4)] == [10, 14, 18, 22, 26]
    assert [frame.index for frame in mz.read_video(path, start=0.55, fps=5)] == [11, 15, 19, 23, 27]
    assert list(mz.read_video(path, start=100)) == []


def test_frames_are_brought_to_a_size(tmp_path: Path) -> None:
    path = write(tmp_path / "video.mp4", [grey(k) for k in range(3)])
    assert next(mz.read_video(path, size=24)).image.shape == (3, 24, 32)
    assert next(mz.read_video(path, size=96)).image.shape == (3, 96, 128)
    assert next(mz.read_video(path, size=(20, 60))).image.shape == (3, 20, 60)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"start": -1}, "start=-1"),
        ({"end": float("nan")}, "end=nan"),
        ({"start": 2, "end": 1}, "end must be later"),
        ({"size": 0}, "size=0"),
        ({"size": (1, 2, 3)}, r"size=\(1, 2, 3\)"),
        ({"size": "big"}, "size='big'"),
    ],
)
def test_a_part_that_makes_no_sense_is_refused_at_once(tmp_path: Path, arguments: dict, named: str) -> None:
    path = write(tmp_path / "video.mp4", [grey(0)])
    with pytest.raises(InputError, match=named):
        mz.read_video(path, **arguments)


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_animated_pictures_are_clips(tmp_path: Path, suffix: str) -> None:
    images = [Image.fromarray(grey(k)) for k in range(5)]
    path = tmp_path / f"moving{suffix}"
    more = {"lossless": True} if suffix == ".webp" else {}
    images[0].save(path, save_all=True, append_images=images[1:], duration=[50, 100, 50, 200, 50], **more)
    frames = list(read_video(path))
    assert [level(frame.image) for frame in frames] == list(range(5))
    np.testing.assert_allclose([frame.pts_seconds for frame in frames], [0, 0.05, 0.15, 0.2, 0.4])
    assert [frame.index for frame in read_video(path, stride=2)] == [0, 2, 4]
    assert next(read_video(path, size=24)).image.shape == (3, 24, 32)


def test_a_gif_without_times_moves_as_browsers_show_it(tmp_path: Path) -> None:
    images = [Image.fromarray(grey(k)) for k in range(3)]
    images[0].save(tmp_path / "fast.gif", save_all=True, append_images=images[1:], duration=0)
    assert [frame.pts_seconds for frame in read_video(tmp_path / "fast.gif")] == pytest.approx([0, 0.1, 0.2])


@pytest.mark.parametrize("name", [b"caf\xc3\xa9 \xe6\x98\xa0.mp4", b"caf\xe9.mp4", b"a b'#%.mp4"])
def test_files_of_any_name_are_read(tmp_path: Path, name: bytes) -> None:
    path = write(tmp_path / "video.mp4", [grey(k) for k in range(3)])
    renamed = path.rename(Path(__import__("os").fsdecode(bytes(tmp_path) + b"/" + name)))
    assert [level(frame.image) for frame in read_video(renamed)] == [0, 1, 2]
