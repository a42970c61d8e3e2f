"""The index: what it says of good and bad files, and that it stays true and quick."""

import json
import logging
import os
from pathlib import Path

import pytest

from midway_zoo.errors import InputError, MissingFileError
from midway_zoo.train.data import video_index as module
from midway_zoo.train.data.indexed_video import packed, unpacked
from midway_zoo.train.data.video_index import INDEX_NAME, Index, build_index, index_path, load_or_build_index
from tests.train.data.videos import write_audio, write_folder, write_video


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two videos."""
    write_video(tmp_path / "data" / "a.mp4")
    write_video(tmp_path / "data" / "b.mp4", gop=10, rate=10)
    return tmp_path / "data"


def test_it_says_what_a_video_is(root: Path) -> None:
    index = build_index(root, workers=2)
    first, second = index.videos
    assert (first.path, first.frames, first.height, first.width, first.rotation) == ("a.mp4", 40, 48, 64, 0)
    assert first.duration(1.0) == pytest.approx(39 / 20)
    assert second.duration(1.0) == pytest.approx(39 / 10)
    assert first.keyframes == [[0, 1], [8, 4]]
    assert second.keyframes == [[0, 1], [10, 3]]
    assert not index.rejects


def test_bad_files_are_rejected_with_reasons(root: Path) -> None:
    (root / "empty.mp4").touch()
    (root / "text.mp4").write_text("no video")
    write_audio(root / "sound.mkv")
    write_video(root / "none.mp4", 0)
    write_video(root / "one.mp4", 1)
    whole = write_video(root / "cut.mp4", noise=True).read_bytes()
    (root / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    write_video(root / "three.mp4", 3)
    write_folder(root / "lone", 1)
    index = build_index(root)
    reasons = {reject.path: reject.reason for reject in index.rejects}
    assert sorted(reasons) == ["cut.mp4", "empty.mp4", "lone", "none.mp4", "one.mp4", "sound.mkv", "text.mp4"]
    assert reasons["sound.mkv"] == "has no video stream"
    assert "only one frame" in reasons["one.mp4"]
    assert "only one frame" in reasons["lone"]
    assert all("corrupt" in reasons[name] for name in ("empty.mp4", "text.mp4", "cut.mp4"))
    report = index.report(min_seconds=0.5)
    assert report.startswith("2 videos, ")
    assert "three.mp4: too short for a pair: 0.10 s" in report
    assert all(path in report for path in reasons)


def test_saved_index_reads_back(root: Path) -> None:
    (root / "text.mp4").write_text("no video")
    index = build_index(root)
    index.save(index_path(root))
    assert index_path(root) == root / INDEX_NAME
    assert Index.load(index_path(root), root) == index
    assert len(json.loads(index_path(root).read_text())["clips"]) == 2


def test_second_start_probes_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = load_or_build_index(root)
    monkeypatch.setattr(module, "probe", None)
    assert load_or_build_index(root) == index
    assert build_index(root, known=index) == index


def test_changed_files_are_probed_again_and_lost_ones_stay(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = load_or_build_index(root)
    write_video(root / "a.mp4", 30)
    (root / "b.mp4").unlink()
    write_video(root / "c.mp4")
    with caplog.at_level(logging.WARNING):
        after = load_or_build_index(root)
    assert [(clip.path, clip.frames) for clip in after.videos] == [("a.mp4", 30), ("b.mp4", 40)]
    assert "gone, the first is b.mp4" in caplog.text
    assert "1 of 2 indexed videos changed" in caplog.text
    assert after.fingerprint != before.fingerprint
    assert load_or_build_index(root) == after
    assert [clip.path for clip in build_index(root, known=after).videos] == ["a.mp4", "c.mp4"]


def test_fingerprint_does_not_depend_on_the_place(root: Path) -> None:
    before = build_index(root).fingerprint
    moved = root.rename(root.with_name("moved"))
    os.utime(moved / "a.mp4")
    assert build_index(moved).fingerprint == before


def test_index_goes_where_it_is_told(root: Path, tmp_path: Path) -> None:
    index = load_or_build_index(root, tmp_path / "own.json")
    assert not (root / INDEX_NAME).exists()
    assert Index.load(tmp_path / "own.json", root) == index


def test_data_that_cannot_be_written_to_take_an_index_elsewhere(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setenv("MIDWAY_ZOO_INDEXES", str(tmp_path / "cache"))
    index = load_or_build_index(root)
    assert not (root / INDEX_NAME).exists()
    assert index_path(root).parent == tmp_path / "cache"
    assert Index.load(index_path(root), root) == index
    monkeypatch.setattr(module, "probe", None)
    assert load_or_build_index(root) == index
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"--index"):
        load_or_build_index(root, tmp_path / "file" / "index.json")


def test_index_of_a_lone_frame_folder_lies_beside_it(tmp_path: Path) -> None:
    write_folder(tmp_path / "walk", 5)
    index = load_or_build_index(tmp_path / "walk")
    assert index.videos[0].path == "."
    assert (tmp_path / f"walk.{INDEX_NAME}").is_file()
    assert load_or_build_index(tmp_path / "walk") == index


def test_index_of_a_list_lies_beside_it(root: Path) -> None:
    (root / "train.txt").write_text("b.mp4\n")
    assert [clip.path for clip in load_or_build_index(root / "train.txt").videos] == ["b.mp4"]
    assert (root / f"train.txt.{INDEX_NAME}").is_file()


@pytest.mark.parametrize(
    "content", ["", "[]", '{"format": 1}', '{"format": 99}', '{"format": 1, "clips": [{}], "rejects": []}']
)
def test_damaged_index_is_an_error_that_says_what_to_do(root: Path, content: str) -> None:
    index_path(root).write_text(content)
    with pytest.raises(InputError, match=r"[Ii]ndex the data again"):
        load_or_build_index(root)


def test_nothing_to_index_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no videos"):
        build_index(tmp_path)
    with pytest.raises(MissingFileError):
        load_or_build_index(tmp_path / "gone")


def test_frame_times_beside_a_folder_are_checked(tmp_path: Path) -> None:
    write_folder(tmp_path / "walk", 5)
    (tmp_path / "walk" / "frames.json").write_text('{"tick": 0.1, "pts": [0, 1, 2]}')
    (reject,) = build_index(tmp_path).rejects
    assert "3 times for 5 images" in reject.reason


def test_runs_pack_and_unpack() -> None:
    values = [3, 3, 3, 1, 2, 2]
    assert packed(values) == [[3, 3], [1, 1], [2, 2]]
    assert unpacked(packed(values)).tolist() == values
    assert unpacked(packed([])).tolist() == []
