"""MXF, in which FFmpeg guesses where frames are once the file's end, and with it the index, is missing."""

from pathlib import Path

import av
import pytest

from midway_zoo.inference.video import read_video
from midway_zoo.train.data.video_index import build_index
from tests.inference.footage import grey, level, write

FRAMES = 40


def footage(path: Path, bframes: int = 0, codec: str = "mpeg2video") -> Path:
    images = [grey(number, noise=True) for number in range(FRAMES)]
    return write(path, images, codec=codec, rate=25, bframes=bframes)


def cut_before(path: Path, number: int) -> None:
    """Cut a file between two packets: nothing of what is left is damaged."""
    with av.open(str(path)) as file:
        places = [packet.pos for packet in file.demux(file.streams.video[0]) if packet.size]
    path.write_bytes(path.read_bytes()[: places[number]])


@pytest.mark.parametrize("bframes", [0, 2])
@pytest.mark.parametrize("whole", [True, False])
def test_any_frame_is_the_one_that_is_asked_for(tmp_path: Path, bframes: int, whole: bool) -> None:
    path = footage(tmp_path / "a.mxf", bframes)
    if not whole:
        cut_before(path, 21)
    (video,) = build_index(path).videos
    expected = [level(frame.image) for frame in read_video(path)]
    assert len(expected) == video.frames == (FRAMES if whole else 21)
    for wanted in ([15], [3, 12, 18], [video.frames - 1, 0], range(video.frames)):
        images, failed = video.read(tmp_path, wanted)
        assert not failed
        assert {number: level(image) for number, image in images.items()} == {n: expected[n] for n in wanted}


@pytest.mark.parametrize(("codec", "bframes"), [("mpeg2video", 0), ("mpeg2video", 2), ("libx264", 0)])
def test_one_that_breaks_off_between_frames_is_warned_of(
    tmp_path: Path, codec: str, bframes: int, caplog: pytest.LogCaptureFixture
) -> None:
    path = footage(tmp_path / "a.mxf", bframes, codec)
    assert len(list(read_video(path))) == FRAMES
    assert not caplog.records
    cut_before(path, 20)
    frames = list(read_video(path))
    assert len(frames) == 20
    assert not any(frame.concealed for frame in frames)
    (record,) = caplog.records
    assert "breaks off at 0.8" in record.getMessage()  # s; a frame that is shown later may have come before
    assert "s before its end" in record.getMessage()
