"""Animated pictures: what of a file that is cut off is read, and where they count as clips."""

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import midway_zoo as mz
from midway_zoo.cli import main
from midway_zoo.errors import InputError
from midway_zoo.inference.animations import is_animation, read_animation
from midway_zoo.inference.folders import frame_files
from midway_zoo.inference.sources import find_sources
from midway_zoo.inference.video import read_video
from midway_zoo.train.data.indexed_video import IndexedVideo
from midway_zoo.train.data.prepare import prepare
from midway_zoo.train.data.video_index import build_index
from tests.inference.footage import grey, level

FRAMES = 8
SUFFIXES = (".gif", ".webp", ".png", ".apng")


def moving(path: Path) -> Path:
    """Noise in the upper half, so that every frame takes some hundred bytes."""
    images = [Image.fromarray(grey(number, noise=True)) for number in range(FRAMES)]
    more = {"lossless": True} if path.suffix == ".webp" else {}
    kind = "PNG" if path.suffix == ".apng" else None
    images[0].save(path, format=kind, save_all=True, append_images=images[1:], duration=100, **more)
    return path


def whole(path: Path, share: float) -> int:
    """Cut a file, and say of how many frames it still has everything."""
    content = path.read_bytes()
    path.write_bytes(content[: round(len(content) * share)])
    return len(list(read_animation(path, warn=False)))


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("share", [0.4, 0.5, 0.6, 0.9])
def test_frames_before_the_cut_are_read(
    tmp_path: Path, suffix: str, share: float, caplog: pytest.LogCaptureFixture
) -> None:
    path = moving(tmp_path / f"a{suffix}")
    before = [frame.image for frame in read_video(path)]
    assert not caplog.records
    count = whole(path, share)
    assert FRAMES * share - 2 < count < FRAMES
    frames = list(read_video(path))
    assert all(frame.image.equal(image) for frame, image in zip(frames, before, strict=False))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"breaks off at {count / 10:.2f} s: {count} frames could be read" in record.getMessage()
    assert str(path) in record.getMessage()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_cut_between_two_frames_is_noticed(tmp_path: Path, suffix: str, caplog: pytest.LogCaptureFixture) -> None:
    path = moving(tmp_path / f"a{suffix}")
    content = path.read_bytes()
    ends = {
        ".gif": lambda: content.index(b"\x21\xf9\x04", content.index(b"\x21\xf9\x04") + 1),  # graphic control
        ".webp": lambda: content.index(b"ANMF", content.index(b"ANMF") + 1),
    }
    second = ends.get(suffix, lambda: content.index(b"fcTL", content.index(b"fcTL") + 1) - 4)()
    path.write_bytes(content[:second])
    assert [level(frame.image) for frame in read_video(path)] == [0]
    assert "breaks off at 0.10 s: 1 frame could be read" in caplog.text


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_training_leaves_out_what_is_cut_off(tmp_path: Path, suffix: str) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    path = moving(folder / f"a{suffix}")
    count = whole(path, 0.6)
    listed = tmp_path / "list.txt"
    listed.write_text(f"data/a{suffix}\n")  # a PNG in a folder is a frame
    (video,) = build_index(listed).videos
    assert isinstance(video, IndexedVideo)
    assert video.frames == count
    images, failed = video.read(tmp_path, range(count))
    assert [level(images[number]) for number in range(count)] == list(range(count))
    assert not failed
    report = prepare(listed, tmp_path / "prepared")
    assert report.frames == count
    assert not report.failed


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_without_one_whole_frame_is_refused(tmp_path: Path, suffix: str) -> None:
    path = moving(tmp_path / f"a{suffix}")
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(InputError, match=f"a{suffix}"):
        list(read_video(path))
    assert not is_animation(path)


@pytest.mark.parametrize("error", [IndexError, KeyError, EOFError, ZeroDivisionError])
def test_whatever_pillow_raises_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(grey(3)).save(path)

    def failing(*_: object) -> None:
        raise error("index out of range")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", failing)
    with pytest.raises(InputError, match=r"a\.png"):
        mz.extract_features("midway_nano.scenes", path)


def test_where_animations_count_as_clips(tmp_path: Path) -> None:
    """A WebP among frames is one unless it moves; its header says so, and no other file is opened."""
    for suffix in (".gif", ".webp", ".apng"):
        moving(tmp_path / f"a{suffix}")
    for number in range(2):
        Image.fromarray(grey(number)).save(tmp_path / f"still{number}.webp")
    assert frame_files(tmp_path) == ["still0.webp", "still1.webp"]
    found = [(source.path, source.kind) for source in find_sources(tmp_path)]
    assert sorted(found) == [(".", "frames"), ("a.apng", "video"), ("a.gif", "video"), ("a.webp", "video")]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_features_of_one_animation_are_those_of_its_frames(tmp_path: Path, suffix: str) -> None:
    path, out = moving(tmp_path / f"a{suffix}"), tmp_path / "F.NPZ"
    assert main(["features", "midway_nano.scenes", str(path), "-o", str(out), "--stride", "2", "--blocks", "1"]) == 0
    with np.load(out) as saved:  # whatever the case of its ending says
        assert saved["cls"].shape[0] == 4
        assert saved["pts_seconds"].tolist() == pytest.approx([0, 0.2, 0.4, 0.6])


def test_several_videos_are_for_another_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    film, image, out = tmp_path / "a.mp4", tmp_path / "a.png", tmp_path / "f.npz"
    film.write_bytes(b"")
    Image.fromarray(grey(1)).save(image)
    assert main(["features", "midway_nano.scenes", str(film), str(image), "-o", str(out)]) == 1
    assert "is a video: pass one alone" in capsys.readouterr().err
    assert main(["features", "midway_nano.scenes", str(tmp_path / "b.mp4"), "-o", str(out)]) == 1
    assert "there is no video" in capsys.readouterr().err
