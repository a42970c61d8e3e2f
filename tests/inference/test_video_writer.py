"""Written videos are read back; what cannot be written leaves nothing."""

import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from midway_zoo.errors import InputError, MissingExtraError, OutputExistsError
from midway_zoo.inference.video import read_video
from midway_zoo.inference.video_writer import VideoWriter, write_video


@pytest.mark.parametrize("fps", [1, 10, 29.97, 30000 / 1001])
def test_frames_and_times_come_back(tmp_path: Path, fps: float) -> None:
    shades = [torch.full((3, 32, 48), value, dtype=torch.uint8) for value in (20, 120, 220)]
    assert write_video(tmp_path / "x.mp4", iter(shades), fps=fps) == 3
    found = list(read_video(tmp_path / "x.mp4"))
    assert [round(float(frame.image.float().mean())) for frame in found] == pytest.approx([20, 120, 220], abs=4)
    assert [frame.pts_seconds for frame in found] == pytest.approx([index / fps for index in range(3)], abs=2e-3)
    assert [path.name for path in tmp_path.iterdir()] == ["x.mp4"]


def test_colours_keep_their_channels(tmp_path: Path) -> None:
    frame = torch.zeros(3, 32, 32, dtype=torch.uint8)
    frame[0] = 200
    write_video(tmp_path / "x.mp4", [frame] * 2, fps=5)
    red, green, blue = next(iter(read_video(tmp_path / "x.mp4"))).image.float().mean(dim=(1, 2)).tolist()
    assert red > 180
    assert max(green, blue) < 20


def test_mpeg4_where_there_is_no_h264(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import av

    monkeypatch.setattr(av, "codecs_available", {"mpeg4"})
    write_video(tmp_path / "x.mp4", [torch.zeros(3, 33, 31, dtype=torch.uint8)] * 3, fps=30000 / 1001)
    with av.open(str(tmp_path / "x.mp4")) as container:
        assert container.streams.video[0].codec_context.name == "mpeg4"
    assert [tuple(frame.image.shape) for frame in read_video(tmp_path / "x.mp4")] == [(3, 34, 32)] * 3


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = torch.zeros(3, 32, 32, dtype=torch.uint8)
    with pytest.raises(InputError, match="no frames"):
        write_video(tmp_path / "x.mp4", [], fps=5)
    with pytest.raises(InputError, match="fps=0"):
        write_video(tmp_path / "x.mp4", [frame], fps=0)
    with pytest.raises(InputError, match="one size"):
        write_video(tmp_path / "x.mp4", [frame, frame[:, :30]], fps=5)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "x.mp4").write_bytes(b"precious")
    with pytest.raises(OutputExistsError):
        write_video(tmp_path / "x.mp4", [frame], fps=5)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtraError, match=r"midway-zoo\[video\]"):
        write_video(tmp_path / "y.mp4", [frame], fps=5)


def test_frames_are_shown_at_their_times(tmp_path: Path) -> None:
    times = [3.0, 3.1, 3.9, 4.0, 5.5]
    shown = [
        (torch.full((3, 32, 48), 40 * k, dtype=torch.uint8), start, stop)
        for k, (start, stop) in enumerate(zip(times, [*times[1:], 5.8], strict=True))
    ]
    assert write_video(tmp_path / "x.mp4", shown) == 5
    found = list(read_video(tmp_path / "x.mp4"))
    assert [round(float(frame.image.float().mean()) / 40) for frame in found] == [0, 1, 2, 3, 4]
    assert [frame.pts_seconds for frame in found] == pytest.approx([0, 0.1, 0.9, 1.0, 2.5], abs=1e-4)
    with av.open(str(tmp_path / "x.mp4")) as file:
        stream = file.streams.video[0]
        assert float(stream.duration * stream.time_base) == pytest.approx(2.8, abs=1e-3)
        written = next(file.decode(video=0))
        assert (written.colorspace, written.color_range) == (1, 1)


def test_times_that_go_back_are_refused(tmp_path: Path) -> None:
    frame = torch.zeros(3, 32, 32, dtype=torch.uint8)
    with pytest.raises(InputError, match="times must ascend"):
        write_video(tmp_path / "x.mp4", [(frame, 0.0, 1.0), (frame, 0.0, 2.0)])
    assert list(tmp_path.iterdir()) == []


def test_times_before_zero_begin_at_zero(tmp_path: Path) -> None:
    pictures = [np.full((48, 64, 3), 20 * index, np.uint8) for index in range(4)]
    with VideoWriter(tmp_path / "x.mp4", rate=Fraction(20), tick=Fraction(1, 1000)) as writer:
        for index, pixels in enumerate(pictures):
            picture = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
            writer.add(picture, 50 * index - 2000)
    assert [round(frame.pts_seconds, 3) for frame in read_video(tmp_path / "x.mp4")] == [0.0, 0.05, 0.1, 0.15]
