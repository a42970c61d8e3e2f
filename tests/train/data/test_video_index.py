"""The index: what it says of good and bad files, and that it stays true and quick."""

import json
import logging
import os
from pathlib import Path

import pytest

from midway_zoo.errors import InputError, MissingFileError
from midway_zoo.inference.video_file import VideoFile
from midway_zoo.train.data import video_index as module
from midway_zoo.train.data import video_probe
from midway_zoo.train.data.indexed_video import IndexedVideo
from midway_zoo.train.data.runs import Runs, packed, unpacked
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
    (root / "cut.mp4").write_bytes(whole[: len(whole) // 2])  # is used as far as it goes
    write_video(root / "three.mp4", 3)
    write_folder(root / "lone", 1)
    index = build_index(root)
    reasons = {reject.path: reject.reason for reject in index.rejects}
    assert sorted(reasons) == ["empty.mp4", "lone", "none.mp4", "one.mp4", "sound.mkv", "text.mp4"]
    assert reasons["sound.mkv"] == "has no video stream"
    assert "only one frame" in reasons["one.mp4"]
    assert "only one frame" in reasons["lone"]
    assert "corrupt" in reasons["text.mp4"]
    assert reasons["empty.mp4"] == "is empty. Get the file again"
    report = index.report(min_seconds=0.5)
    assert report.startswith("3 videos, ")
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
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "data")
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


@pytest.fixture
def packets_read(monkeypatch) -> list[str]:
    """Names of files, once per packet that is read of them."""
    read: list[str] = []
    packets = VideoFile.packets

    def counted(self):
        for packet in packets(self):
            read.append(self.path.name)
            yield packet

    monkeypatch.setattr(VideoFile, "packets", counted)
    return read


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_headers_say_it_without_the_rest_of_the_file(tmp_path, monkeypatch, packets_read, suffix) -> None:
    write_video(tmp_path / f"even{suffix}", 200)
    uneven = [50 * index + (7 * index * index) % 23 for index in range(200)]
    write_video(tmp_path / f"uneven{suffix}", 200, milliseconds=uneven)
    quick = build_index(tmp_path, workers=1)
    assert max(map(packets_read.count, set(packets_read))) < 60
    packets_read.clear()
    monkeypatch.setattr(video_probe, "_header", lambda video: [])
    assert build_index(tmp_path, workers=1) == quick
    assert min(map(packets_read.count, set(packets_read))) >= 200
    assert [video.frames for video in quick.videos] == [200, 200]


def test_headers_do_not_do_where_frames_are_stored_in_another_order(tmp_path, packets_read) -> None:
    write_video(tmp_path / "b.mp4", 200, bframes=2)
    assert build_index(tmp_path).videos[0].frames == 200
    assert len(packets_read) >= 200


def test_interrupted_and_begun_again(root, tmp_path, monkeypatch) -> None:
    part = tmp_path / "index.part"
    write_video(root / "c.mp4")
    real, probed = module.probe, []

    def interrupted(base, source):
        if source.path == "c.mp4" and not part.exists():
            raise KeyboardInterrupt
        probed.append(source.path)
        return real(base, source)

    monkeypatch.setattr(module, "probe", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build_index(root, workers=1, partial=part)
    assert probed == ["a.mp4", "b.mp4"]
    probed.clear()
    index = build_index(root, workers=1, partial=part)
    assert probed == ["c.mp4"]
    assert [video.path for video in index.videos] == ["a.mp4", "b.mp4", "c.mp4"]
    assert not part.exists()


def test_seventy_thousand_names_are_looked_at_by_one_process(tmp_path, monkeypatch) -> None:
    clip = {"kind": "video", "size": 1, "changed_ns": 1, "frames": 1200, "height": 720, "width": 1280, "rotation": 0}
    clip |= {"tick": 1 / 600, "first": 0, "last": 23980, "keyframes": [[0, 1], [30, 39]]}
    index = Index(tmp_path, tuple(IndexedVideo(path=f"train/{i:05d}.mov", **clip) for i in range(70_000)))
    index.save(tmp_path / INDEX_NAME)
    looked: list[str] = []

    def stamp(path, kind):
        looked.append(path.name)
        return 1, 1

    monkeypatch.setattr(module, "stamp", stamp)
    other = load_or_build_index(tmp_path, refresh=False)
    assert looked == []
    assert other.fingerprint == index.fingerprint
    assert load_or_build_index(tmp_path).fingerprint == index.fingerprint
    assert len(looked) == 70_000


def test_uneven_times_take_little_memory() -> None:
    """A phone's: 40 s at 30 fps in ticks of 1 / 600 s, hardly two distances alike."""
    steps = [19 + (index * index) % 4 for index in range(1199)]
    runs = packed(steps)
    assert unpacked(runs).tolist() == steps
    assert runs.nbytes <= 4 * len(steps)
    assert Runs([[10**12, 3]]).tolist() == [[10**12, 3]]
