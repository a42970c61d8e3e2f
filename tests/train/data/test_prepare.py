"""Re-encoded data: the same frames at the same times, smaller, with keyframes close together."""

from pathlib import Path

import numpy as np
import pytest

from midway_zoo.errors import ConfigError, InputError
from midway_zoo.train.data.prepare import prepare
from midway_zoo.train.data.video_index import build_index
from tests.inference.test_video import CLOCKWISE, set_display_matrix
from tests.train.data.videos import shown, write_folder, write_video

TIMES = np.cumsum(np.random.default_rng(0).integers(20, 200, 30)).tolist()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A plain, a rotated, an odd-sized, a variable-rate and a bad video, and a frame folder."""
    folder = tmp_path / "data"
    write_video(folder / "sub" / "plain.mkv", 30, gop=30, bframes=2)
    write_video(folder / "turned.mp4", 30)
    set_display_matrix(folder / "turned.mp4", CLOCKWISE[90])
    write_video(folder / "odd.mp4", 30, pixels="yuv444p", size=(37, 53))
    write_video(folder / "vfr.mkv", 30, milliseconds=TIMES)
    (folder / "bad.mp4").write_bytes(b"bad")
    write_folder(folder / "walk", 30)
    return folder


@pytest.mark.parametrize("format_", ["video", "frames"])
def test_outputs_keep_frames_times_and_way_up(root: Path, tmp_path: Path, format_: str) -> None:
    out = tmp_path / "out"
    report = prepare(root, out, height=24, gop=5, workers=2, format=format_, frames_fps=10, crf=2)
    assert (report.done, report.skipped, report.frames) == (5, 0, 150)
    assert [path for path, _ in report.failed] == ["bad.mp4"]
    assert report.bytes_before > 0 < report.bytes_after
    assert "5 videos prepared" in str(report)

    videos = {clip.path.removesuffix(".mp4"): clip for clip in build_index(out).videos}
    assert sorted(videos) == ["odd", "sub/plain", "turned", "vfr", "walk"]
    assert {name: (clip.height, clip.width) for name, clip in videos.items()} == {
        "odd": (24, 34),
        "sub/plain": (24, 32),
        "turned": (32, 24),
        "vfr": (24, 32),
        "walk": (24, 32),
    }
    passed = {name: clip.seconds(1.0) - clip.seconds(1.0)[0] for name, clip in videos.items()}
    np.testing.assert_allclose(passed["sub/plain"], np.arange(30) / 20, atol=1e-3)
    np.testing.assert_allclose(passed["walk"], np.arange(30) / 10, atol=1e-3)
    np.testing.assert_allclose(passed["vfr"], (np.array(TIMES) - TIMES[0]) / 1000, atol=1e-3)
    for clip in videos.values():
        images, failed = clip.read(out, range(30))
        assert not failed
        assert [shown(images[index]) for index in range(30)] == list(range(30)), clip.path
        if format_ == "video":
            assert clip.keyframes == [[0, 1], [5, 5]]
    corner = videos["turned"].read(out, [3])[0][3][:, :6, -6:]
    assert corner.float().mean() > 200


def test_second_run_does_only_what_is_missing(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(root, out, height=24)
    kept = (out / "turned.mp4").stat().st_mtime_ns
    (out / "vfr.mp4").unlink()
    report = prepare(root, out, height=24)
    assert (report.done, report.skipped, len(report.failed)) == (1, 4, 1)
    assert (out / "turned.mp4").stat().st_mtime_ns == kept
    assert not [path for path in out.rglob("*") if path.name.endswith(".part")]
    with pytest.raises(ConfigError, match="choose another folder"):
        prepare(root, out, height=32)


@pytest.mark.parametrize("format_", ["video", "frames"])
def test_failed_video_leaves_nothing(tmp_path: Path, format_: str) -> None:
    path = write_video(tmp_path / "data" / "cut.mp4", noise=True)
    path.write_bytes(path.read_bytes()[:64])
    report = prepare(path.parent, tmp_path / "out", format=format_)
    assert len(report.failed) == 1
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["midway_prepare.json"]


def test_names_that_would_collide_keep_their_suffix(tmp_path: Path) -> None:
    write_video(tmp_path / "data" / "a.mp4", 3)
    write_video(tmp_path / "data" / "a.mkv", 3)
    prepare(tmp_path / "data", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").glob("*.mp4")) == ["a.mkv.mp4", "a.mp4.mp4"]


def test_list_cannot_write_outside_the_output_folder(tmp_path: Path) -> None:
    write_video(tmp_path / "else" / "a.mkv", 3)
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "train.txt").write_text(f"../else/a.mkv\n{tmp_path}/else/a.mkv\n")
    report = prepare(tmp_path / "lists" / "train.txt", tmp_path / "out")
    assert report.done == 2
    assert {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("a.mp4")} == {"out"}


def test_output_inside_the_data_and_senseless_options_are_errors(root: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="lies in the data folder"):
        prepare(root, root / "out")
    with pytest.raises(ConfigError, match="height=0"):
        prepare(root, tmp_path / "out", height=0)
    with pytest.raises(ConfigError, match="format='png'"):
        prepare(root, tmp_path / "out", format="png")
