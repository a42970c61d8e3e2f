"""Streams of old cameras, broadcasts and converters: the same frames wherever reading begins, at right times."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from midway_zoo.inference.video import read_video
from midway_zoo.train.data.video_index import build_index
from tests.inference.footage import cut, grey, level, write
from tests.inference.test_video_order import assert_parts_are_parts

FRAMES = 30
GREYS = [grey(k, noise=True) for k in range(FRAMES)]


def assert_right(path: Path, *, regular: bool = True, trained: bool = True) -> None:
    """Every frame in order and at its time, also in part, and training takes the same, one by one too."""
    shown = list(read_video(path))
    assert [level(frame.image) for frame in shown] == list(range(FRAMES))
    assert not any(frame.concealed for frame in shown)
    times = np.array([frame.pts_seconds for frame in shown])
    if regular:
        np.testing.assert_allclose(times - times[0], np.arange(FRAMES) / 20, atol=2e-3)
    assert_parts_are_parts(path)
    if trained:
        index = build_index(path)
        assert not index.rejects, index.rejects
        video = index.videos[0]
        np.testing.assert_allclose(video.seconds(1.0), times, atol=1e-2)
        for position in range(FRAMES):
            images, failed = video.read(path.parent, [position])
            assert not failed, failed
            assert torch.equal(images[position], shown[position].image), position


def begun_late(path: Path) -> Path:
    """A transport stream that begins in the middle of a group of frames, as a receiver records it."""
    content = path.read_bytes()
    path.write_bytes(content[: 188 * 3] + content[len(content) // 188 // 4 * 188 :])
    return path


@pytest.mark.parametrize("codec", ["mpeg4", "mpeg2video"])
def test_frames_do_not_build_on_what_was_not_read(tmp_path: Path, codec: str) -> None:
    """After a seek that lands behind a key frame these decoders make pictures of what they have, which is nothing."""
    assert_right(write(tmp_path / "a.ts", GREYS, codec=codec, bframes=2))


@pytest.mark.parametrize("codec", ["mpeg4", "mpeg2video", "libx264"])
def test_what_comes_before_the_first_key_frame_is_not_shown(tmp_path: Path, codec: str) -> None:
    path = begun_late(write(tmp_path / "a.ts", GREYS, codec=codec, bframes=2))
    shown = list(read_video(path))
    assert [level(frame.image) for frame in shown] == list(range(FRAMES))[-len(shown) :]
    assert_parts_are_parts(path)
    video = build_index(path).videos[0]
    assert video.frames == len(shown) < FRAMES
    for position in (0, 1, 7, video.frames - 1):
        assert torch.equal(video.read(tmp_path, [position])[0][position], shown[position].image)


@pytest.mark.parametrize("late", [False, True])
def test_streams_that_are_refreshed_little_by_little(tmp_path: Path, late: bool) -> None:
    """They say of frames that decoding can begin there, but show none until all of the picture was sent again."""
    further = {"x264-params": "intra-refresh=1:keyint=10:bframes=0"}
    path = write(tmp_path / "a.ts", GREYS, further=further)
    if not late:
        assert_right(path)
        return
    shown = list(read_video(begun_late(path)))
    assert 5 < len(shown) < FRAMES
    assert_parts_are_parts(path)
    assert build_index(path).videos[0].frames == len(shown)


def test_one_wrong_time_is_no_new_recording(tmp_path: Path) -> None:
    """The times of all frames behind it would be late by as much."""
    path = tmp_path / "a.mkv"
    source = write(tmp_path / "source.mp4", GREYS, bframes=2)
    with av.open(str(source)) as given, av.open(str(path), "w") as written:
        stream = written.add_stream_from_template(given.streams.video[0])
        keys = 0
        for packet in given.demux(given.streams.video[0]):
            if packet.size:
                keys += packet.is_keyframe
                if packet.is_keyframe and keys == 3:
                    packet.pts = packet.dts
                packet.stream = stream
                written.mux_one(packet)
    frames = list(read_video(path))
    assert [level(frame.image) for frame in frames] == list(range(FRAMES))
    times = np.array([frame.pts_seconds for frame in frames])
    np.testing.assert_allclose(times[18:] - times[0], np.arange(18, FRAMES) / 20, atol=2e-3)
    assert_parts_are_parts(path)


@pytest.mark.parametrize(("codec", "bframes"), [("libx264", 3), ("mpeg4", 2)])
def test_asf_knows_when_frames_are_decoded(tmp_path: Path, codec: str, bframes: int) -> None:
    assert_right(write(tmp_path / "a.asf", GREYS, codec=codec, bframes=bframes))


def packed(source: Path, path: Path) -> Path:
    """MPEG-4 with one B-frame as DivX writes it: with the frame that it precedes, and an empty one in its place."""
    with av.open(str(source)) as given, av.open(str(path), "w") as written:
        stream = written.add_stream_from_template(given.streams.video[0])
        found = [(bytes(packet), packet.is_keyframe) for packet in given.demux(given.streams.video[0]) if packet.size]
        kinds = [data[data.index(b"\0\0\1\xb6") + 4] >> 6 for data, _ in found]
        contents = []
        for (data, key), kind, (later, _), behind in zip(
            found, kinds, [*found[1:], (b"", False)], [*kinds[1:], 0], strict=True
        ):
            start = data.index(b"\0\0\1\xb6")
            marked = data[:start] + b"\0\0\1\xb2DivX503b1393p" + data[start:] if key else data
            contents.append((_empty_after(contents[-1][0]) if kind == 2 else marked + later * (behind == 2), key))
        for number, (data, key) in enumerate(contents):
            packet = av.Packet(data)
            packet.pts = packet.dts = number
            packet.time_base, packet.is_keyframe, packet.stream = Fraction(1, 20), key, stream
            written.mux_one(packet)
    return path


def _empty_after(data: bytes) -> bytes:
    """A frame that is not coded, at the time of the one before (ISO/IEC 14496-2, 6.2.5, 20 frames per second)."""
    start = data.index(b"\0\0\1\xb6") + 4
    bits = "".join(f"{byte:08b}" for byte in data[start : start + 8])
    ticks = bits.index("0", 2) + 2
    content = f"0101{bits[ticks : ticks + 5]}10".ljust(12, "0").ljust(16, "1")
    return b"\0\0\1\xb6" + int(content, 2).to_bytes(2, "big")


@pytest.mark.parametrize("suffix", ["avi", "mkv"])
def test_divx_packs_two_frames_into_one_packet(tmp_path: Path, suffix: str) -> None:
    source = write(tmp_path / "source.avi", GREYS, codec="mpeg4", bframes=1)
    assert_right(packed(source, tmp_path / f"a.{suffix}"))


def test_colours_of_a_palette_are_in_the_first_packet_alone(tmp_path: Path) -> None:
    path, palette = tmp_path / "a.avi", np.zeros((256, 4), np.uint8)
    palette[1] = 255
    with av.open(str(path), "w") as file:
        stream = file.add_stream("rawvideo", rate=20)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "pal8"
        for k in range(FRAMES):
            indices = np.full((48, 64), k % 2, np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray((indices, palette), format="pal8")))
        file.mux(stream.encode())
    shown = [int(frame.image.float().mean()) for frame in read_video(path)]
    assert shown == [0, 255] * (FRAMES // 2)
    assert [int(frame.image.float().mean()) for frame in read_video(path, start=1.0)] == shown[20:]
    video = build_index(path).videos[0]
    assert [int(video.read(tmp_path, [k])[0][k].float().mean()) for k in range(FRAMES)] == shown


@pytest.mark.parametrize("codec", ["mpeg4", "libx264", "mjpeg"])
def test_an_index_that_marks_no_key_frame(tmp_path: Path, codec: str) -> None:
    pixels = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    path = write(tmp_path / "a.avi", GREYS, codec=codec, pixels=pixels)
    content = bytearray(path.read_bytes())
    for place in range(content.rindex(b"idx1") + 8, len(content) - 15, 16):
        content[place + 4 : place + 8] = bytes(4)
    path.write_bytes(content)
    assert_right(path)


def test_an_avi_may_leave_frames_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It says with empty chunks that the frame before is shown longer: nothing is missing."""
    times = [0, 50, 100, 300, 350, 800, 850]
    path = write(tmp_path / "a.avi", GREYS[:7], codec="mpeg4", milliseconds=times)
    assert [round(frame.pts_seconds * 1000) for frame in read_video(path)] == times
    assert not caplog.records
    cut(path, 0.6)
    list(read_video(path))
    (record,) = caplog.records
    assert "breaks off" in record.getMessage()


@pytest.mark.parametrize("fps", [7, 15, 12.5])
def test_containers_that_count_frames_are_sampled_as_others(tmp_path: Path, fps: float) -> None:
    """Their ticks are a whole frame long, but nothing is rounded to them."""
    paths = [write(tmp_path / name, GREYS, codec="mpeg4") for name in ("a.mp4", "a.mkv", "a.avi")]
    taken = [[frame.index for frame in read_video(path, fps=fps, start=0.21)] for path in paths]
    assert taken[0][0] == 5
    assert taken[0] == taken[1] == taken[2]


def test_the_line_that_closes_a_mime_stream_is_no_damage(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "a.mpjpeg", GREYS, codec="mjpeg", pixels="yuvj420p", container="mpjpeg")
    assert_right(path, regular=False)
    assert not caplog.records
    cut(path, 0.6)
    shown = list(read_video(path))
    assert [level(frame.image) for frame in shown[:-1]] == list(range(len(shown) - 1))
    (record,) = caplog.records
    assert "breaks off" in record.getMessage()
