"""Frames of videos that are written here with PyAV: which, in what order, when, and which way up."""

import os
import re
import struct
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from types import GeneratorType
from typing import Any

import av
import numpy as np
import pytest
import torch
from torch import Tensor

from midway_zoo.errors import InputError, InputTypeError, MidwayZooError, MissingExtraError, MissingFileError
from midway_zoo.extras import install_command
from midway_zoo.inference.video import VideoFrame, read_video
from tests.inference import footage

FRAMES = 12
STEP = 20
"""Grey levels between neighbouring frames, far more than a codec's error."""


def grey_frames(number: int = FRAMES, height: int = 48, width: int = 64) -> list[np.ndarray]:
    """Frame i is flat grey of level ``STEP * i``."""
    return [np.full((height, width, 3), STEP * index, np.uint8) for index in range(number)]


def write_video(
    path: Path,
    frames: Sequence[np.ndarray],
    *,
    rate: int | Fraction = 10,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    milliseconds: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """Encode RGB frames at a constant rate, or at the given times."""
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixels
        if milliseconds is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for index, pixels_of_frame in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels_of_frame, format="rgb24")
            if milliseconds is not None:
                frame.pts, frame.time_base = milliseconds[index], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve frames at ten per second."""
    return write_video(tmp_path_factory.mktemp("video") / "grey.mp4", grey_frames())


def shown(frames: Sequence[VideoFrame]) -> list[int]:
    """Which of :func:`grey_frames` each picture shows."""
    return [round(float(frame.image.float().mean()) / STEP) for frame in frames]


@pytest.mark.parametrize(("codec", "suffix"), [("libx264", "mp4"), ("mpeg4", "mp4"), ("ffv1", "mkv"), ("mpeg4", "avi")])
def test_every_frame_comes_once_in_order_with_its_time(tmp_path: Path, codec: str, suffix: str) -> None:
    frames = list(read_video(write_video(tmp_path / f"video.{suffix}", grey_frames(), codec=codec)))
    assert shown(frames) == [frame.index for frame in frames] == list(range(FRAMES))
    assert [frame.pts_seconds for frame in frames] == pytest.approx([index / 10 for index in range(FRAMES)])


def test_frames_are_uint8_rgb(tmp_path: Path) -> None:
    red = np.zeros((48, 64, 3), np.uint8)
    red[..., 0] = 255
    path = write_video(tmp_path / "red.mp4", [red, red], codec="libx264rgb", pixels="rgb24")
    image = next(read_video(path)).image
    assert image.dtype == torch.uint8
    assert image.shape == (3, 48, 64)
    assert image.is_contiguous()
    assert image.flatten(1).float().mean(dim=1).tolist() == pytest.approx([255, 0, 0], abs=2)


@pytest.mark.parametrize("as_path", [str, Path])
def test_path_may_be_str_or_path(video: Path, as_path: type) -> None:
    assert len(list(read_video(as_path(video)))) == FRAMES


def test_frames_are_decoded_as_they_are_asked_for(video: Path) -> None:
    frames = read_video(video)
    assert isinstance(frames, GeneratorType)
    assert next(frames).index == 0
    frames.close()


@pytest.mark.parametrize("stride", [1, 2, 5, 11, 12, 100])
def test_stride_takes_every_nth_frame_from_the_first(video: Path, stride: int) -> None:
    frames = list(read_video(video, stride=stride))
    assert shown(frames) == [frame.index for frame in frames] == list(range(0, FRAMES, stride))
    assert [frame.pts_seconds for frame in frames] == pytest.approx([index / 10 for index in range(0, FRAMES, stride)])


@pytest.mark.parametrize(
    ("fps", "expected"),
    [
        (0.1, [0]),
        (2, [0, 5, 10]),
        (3, [0, 4, 7, 10]),  # ticks at 0, 1/3, 2/3, 1 s
        (5, [0, 2, 4, 6, 8, 10]),
        (7.5, [0, 2, 3, 4, 6, 7, 8, 10, 11]),
        (10, list(range(FRAMES))),
        (25, list(range(FRAMES))),
        (1000, list(range(FRAMES))),
    ],
)
def test_fps_takes_the_first_frame_at_or_after_each_tick(video: Path, fps: float, expected: list[int]) -> None:
    frames = list(read_video(video, fps=fps))
    assert shown(frames) == [frame.index for frame in frames] == expected


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
@pytest.mark.parametrize("rate", [24, 30, Fraction(30000, 1001)], ids=["24", "30", "29.97"])
def test_fps_of_the_video_itself_takes_every_frame(tmp_path: Path, suffix: str, rate: Fraction) -> None:
    """Matroska rounds times to milliseconds: frame 1 of a 30 fps video is at 0.033 s, before the tick at 1 / 30."""
    path = write_video(tmp_path / f"video.{suffix}", grey_frames(), rate=rate, codec="mpeg4")
    assert [frame.index for frame in read_video(path, fps=float(rate))] == list(range(FRAMES))


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_half_the_fps_takes_every_second_frame(tmp_path: Path, suffix: str) -> None:
    path = write_video(tmp_path / f"video.{suffix}", grey_frames(), rate=30, codec="mpeg4")
    assert [frame.index for frame in read_video(path, fps=15)] == list(range(0, FRAMES, 2))


IRREGULAR = [0, 100, 150, 600, 610, 1000]


@pytest.mark.parametrize(
    ("fps", "expected"),
    [(None, [0, 1, 2, 3, 4, 5]), (2, [0, 3, 5]), (5, [0, 3, 5]), (10, [0, 1, 3, 5]), (1000, [0, 1, 2, 3, 4, 5])],
)
def test_variable_frame_rate_goes_by_the_times_of_the_frames(tmp_path: Path, fps: Any, expected: list[int]) -> None:
    path = write_video(tmp_path / "irregular.mp4", grey_frames(len(IRREGULAR)), milliseconds=IRREGULAR)
    frames = list(read_video(path, fps=fps))
    assert shown(frames) == [frame.index for frame in frames] == expected
    assert [frame.pts_seconds for frame in frames] == pytest.approx([IRREGULAR[index] / 1000 for index in expected])


def test_fps_ticks_start_at_the_first_frame(tmp_path: Path) -> None:
    times = [5050, 5150, 5250, 5350, 5450]
    path = write_video(tmp_path / "late.mkv", grey_frames(len(times)), milliseconds=times, codec="ffv1")
    frames = list(read_video(path, fps=4))
    assert frames[0].pts_seconds == pytest.approx(5.05)
    assert shown(frames) == [0, 3]  # from zero, the tick at 5.25 s would take frame 2


# Display matrices of the tkhd box, [a b u c d v x y w] (ISO/IEC 14496-12, 8.3.2): a stored point (p, q) is shown at
# (a p + c q + x, b p + d q + y). A quarter turn clockwise takes the upper left corner to the upper right.
HEIGHT, WIDTH = 48, 64
CLOCKWISE = {
    0: (1, 0, 0, 0, 1, 0, 0, 0, 1),
    90: (0, 1, 0, -1, 0, 0, HEIGHT, 0, 1),
    180: (-1, 0, 0, 0, -1, 0, WIDTH, HEIGHT, 1),
    270: (0, -1, 0, 1, 0, 0, 0, WIDTH, 1),
}


def set_display_matrix(path: Path, matrix: Sequence[int]) -> None:
    """Overwrite the 36-byte matrix of the only track: 16.16 fixed point, the third column 2.30."""
    content = bytearray(path.read_bytes())
    box = content.index(b"tkhd")
    assert content.count(b"tkhd") == 1
    assert content[box + 4] == 0  # version 0: 32-bit times
    start = box + 4 + 4 + 20 + 8 + 8  # type, version and flags, times to duration, reserved, layer to reserved
    units = (1 << 16, 1 << 16, 1 << 30) * 3
    assert struct.unpack_from(">9i", content, start)[0::4] == (1 << 16, 1 << 16, 1 << 30)
    struct.pack_into(">9i", content, start, *(value * unit for value, unit in zip(matrix, units, strict=True)))
    path.write_bytes(content)


def as_displayed(stored: np.ndarray, matrix: Sequence[int]) -> np.ndarray:
    """Move each pixel's centre as the matrix says."""
    a, b, _, c, d, _, x, y, _ = matrix
    height, width = stored.shape[:2]
    result = np.zeros((abs(b) * width + abs(d) * height, abs(a) * width + abs(c) * height, 3), np.uint8)
    for q in range(height):
        for p in range(width):
            column = a * (p + 0.5) + c * (q + 0.5) + x - 0.5
            row = b * (p + 0.5) + d * (q + 0.5) + y - 0.5
            result[int(row), int(column)] = stored[q, p]
    return result


@pytest.mark.parametrize("degrees", CLOCKWISE)
def test_rotation_flag_is_applied(tmp_path: Path, degrees: int) -> None:
    """A telephone held upright stores a lying picture and the turn that puts it upright."""
    stored = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    stored[:16, :16] = 255  # upper left corner white, upper right grey
    stored[:16, 48:] = 128
    path = write_video(tmp_path / "turned.mp4", [stored] * 3)
    set_display_matrix(path, CLOCKWISE[degrees])
    with av.open(str(path)) as container:
        # PyAV gives av_display_rotation_get: degrees counter-clockwise, in [-180, 180].
        assert next(container.decode(video=0)).rotation % 360 == -degrees % 360

    image = next(read_video(path)).image
    expected = torch.from_numpy(as_displayed(stored, CLOCKWISE[degrees])).permute(2, 0, 1)
    assert image.shape == expected.shape
    assert image.is_contiguous()
    torch.testing.assert_close(image.float(), expected.float(), rtol=0, atol=40)
    white = {0: (0, 0), 90: (0, -1), 180: (-1, -1), 270: (-1, 0)}[degrees]
    corner = image[:, white[0], white[1]]
    assert corner.min() > 240


def test_grey_video_has_three_equal_channels(tmp_path: Path) -> None:
    path = write_video(tmp_path / "grey.mkv", grey_frames(), codec="ffv1", pixels="gray")
    frames = list(read_video(path))
    assert shown(frames) == list(range(FRAMES))
    for frame in frames:
        assert frame.image.shape == (3, 48, 64)
        assert frame.image[0].equal(frame.image[1])
        assert frame.image[0].equal(frame.image[2])


@pytest.mark.parametrize(("codec", "suffix"), [("ffv1", "mkv"), ("mpeg4", "mp4")])
@pytest.mark.parametrize(("height", "width"), [(47, 63), (48, 61), (33, 64), (17, 19)])
def test_odd_sizes_keep_every_pixel_row_and_column(
    tmp_path: Path, codec: str, suffix: str, height: int, width: int
) -> None:
    frames = list(read_video(write_video(tmp_path / f"odd.{suffix}", grey_frames(3, height, width), codec=codec)))
    assert shown(frames) == [0, 1, 2]
    for index, frame in enumerate(frames):
        assert frame.image.shape == (3, height, width)
        assert_flat(frame.image, STEP * index)


def assert_flat(image: Tensor, level: int) -> None:
    torch.testing.assert_close(image.float(), torch.full(image.shape, float(level)), rtol=0, atol=4)


def test_a_single_frame_is_a_video_too(tmp_path: Path) -> None:
    path = write_video(tmp_path / "one.mp4", grey_frames(1))
    assert [frame.index for frame in read_video(path, fps=3)] == [0]


# Refusals.


@pytest.mark.parametrize(
    ("sampling", "named"),
    [
        ({"stride": 0}, "stride=0"),
        ({"stride": -2}, "stride=-2"),
        ({"stride": 1.5}, "stride=1.5"),
        ({"stride": True}, "stride=True"),
        ({"stride": None}, "stride=None"),
        ({"fps": 0}, "fps=0"),
        ({"fps": -1.0}, "fps=-1.0"),
        ({"fps": float("nan")}, "fps=nan"),
        ({"fps": float("inf")}, "fps=inf"),
        ({"fps": "25"}, "fps='25'"),
        ({"fps": True}, "fps=True"),
        ({"fps": 5, "stride": 2}, "stride=2 or fps=5, not both"),
    ],
)
def test_sampling_that_makes_no_sense_is_refused_at_once(video: Path, sampling: dict[str, Any], named: str) -> None:
    """At once: before the first frame is asked for."""
    with pytest.raises(InputError) as caught:
        read_video(video, **sampling)
    assert named in str(caught.value)


def test_a_missing_file_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"nowhere\.mp4") as caught:
        read_video(tmp_path / "nowhere.mp4")
    assert isinstance(caught.value, FileNotFoundError)


def test_a_pipe_is_refused_with_what_to_do(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "live.ts")
    with pytest.raises(InputError, match=r"live\.ts is a pipe or a device: .* Save it"):
        read_video(tmp_path / "live.ts")


def test_a_recording_that_did_not_end_is_told_from_other_damage(tmp_path: Path) -> None:
    """An MP4's index is written last: a camera whose battery was taken out, a download that stopped."""
    path = footage.write(tmp_path / "phone.mp4", [footage.grey(k) for k in range(3)])
    content = path.read_bytes()
    path.write_bytes(content[: content.rindex(b"moov") - 4])
    with pytest.raises(InputError, match=r"its index \(moov\).* is missing"):
        list(read_video(path))
    path.write_bytes(b"\0" * 100 + content[100:])
    with pytest.raises(InputError, match="it is corrupt, or no video"):
        list(read_video(path))


def test_a_folder_is_no_video(tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    with pytest.raises(MidwayZooError, match="frames is a folder"):
        read_video(tmp_path / "frames")


def sound_only(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.int16), format="s16", layout="mono")
        frame.rate, frame.pts = 8000, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def without_frames(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        container.start_encoding()


def without_end(path: Path) -> None:
    write_video(path, grey_frames())
    path.write_bytes(path.read_bytes()[:600])


def without_codec(path: Path) -> None:
    write_video(path, grey_frames())
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"stsd") - 4])


@pytest.mark.parametrize(
    ("name", "make", "named"),
    [
        ("notes.mp4", lambda path: path.write_text("no video"), "cannot be decoded"),
        ("notes.txt", lambda path: path.write_text("no video"), "cannot be decoded"),
        ("empty.mp4", lambda path: path.write_bytes(b""), "is empty"),
        ("sound.wav", sound_only, "no video stream"),
        ("nothing.avi", without_frames, "no video frame"),
        ("cut.mp4", without_end, "cannot be decoded"),
        ("cut.mkv", without_end, "no video frame"),
        ("strange.mp4", without_codec, "a codec that is not known"),
    ],
)
def test_a_file_without_frames_is_refused_by_name(tmp_path: Path, name: str, make: Any, named: str) -> None:
    make(tmp_path / name)
    with pytest.raises(InputError, match=named) as caught:
        next(read_video(tmp_path / name))
    assert str(tmp_path / name) in str(caught.value)
    assert isinstance(caught.value, ValueError)


def noise_frames() -> list[np.ndarray]:
    """Frames that do not compress, so that each has its share of the file."""
    return list(np.random.default_rng(0).integers(0, 256, (FRAMES, 48, 64, 3), dtype=np.uint8))


def damage_middle(path: Path) -> None:
    write_video(path, noise_frames(), codec="mpeg4")
    content = bytearray(path.read_bytes())
    start, stop = content.index(b"mdat") + 4, content.index(b"moov") - 4
    middle = (start + stop) // 2
    content[middle:stop] = bytes(stop - middle)
    path.write_bytes(content)


def stop_download(path: Path) -> None:
    """The header comes first and promises twelve frames; the file ends in the middle of one."""
    write_video(path, noise_frames(), codec="mpeg4", options={"movflags": "faststart"})
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])


@pytest.mark.parametrize("spoil", [damage_middle, stop_download])
def test_a_clip_is_never_silently_shorter_than_its_file_says(
    tmp_path: Path, spoil: Any, caplog: pytest.LogCaptureFixture
) -> None:
    spoil(tmp_path / "damaged.mp4")
    given = list(read_video(tmp_path / "damaged.mp4"))
    assert [frame.index for frame in given] == list(range(len(given)))
    assert 0 < len(given) < FRAMES
    assert not given[0].concealed
    assert given[-1].concealed
    (record,) = caplog.records  # one warning, with the file, the time and the number
    assert "damaged.mp4" in record.getMessage()
    assert re.search(r"at 0\.[0-9]+ s", record.getMessage())


def test_without_pyav_the_error_says_what_to_install(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtraError) as caught:
        next(read_video(video))
    assert install_command("video") in str(caught.value)
    assert isinstance(caught.value, ImportError)


def test_what_is_no_path_and_sizes_beyond_the_scaler_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputTypeError, match="NoneType: the path of a video"):
        read_video(None)  # type: ignore[arg-type]
    for size in (10**7, (64, 10**7)):
        with pytest.raises(InputError, match="16384 pixels a side at most"):
            read_video(tmp_path / "any.mp4", size=size)
