"""Real footage: training, the index and preparation read it as inference does."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from midway_zoo.cli import main
from midway_zoo.errors import InputError
from midway_zoo.inference.video import read_video
from midway_zoo.train.data.indexed_video import IndexedVideo
from midway_zoo.train.data.prepare import prepare
from midway_zoo.train.data.video_index import INDEX_NAME, Index, build_index, index_path, load_or_build_index
from tests.inference.footage import cut, damage_packet, grey, level, packets, write
from tests.inference.test_video import set_display_matrix
from tests.inference.test_video_pictures import CODED, ORIENTATIONS, corners, flat
from tests.train.data.videos import write_folder

FRAMES = 30


def indexed(path: Path) -> IndexedVideo:
    index = build_index(path)
    assert not index.rejects, index.rejects
    return index.videos[0]


def footage(path: Path, **options: object) -> Path:
    return write(path, [grey(k, noise=True) for k in range(FRAMES)], **options)


@pytest.mark.parametrize(
    ("codec", "name", "bframes"),
    [
        *(("libx264", "a.avi", 3), ("mpeg4", "a.avi", 2), ("libx264", "a.avi", 0), ("libx264", "a.ts", 2)),
        *(("mpeg4", "a.ts", 2), ("libx264", "a.flv", 2), ("mjpeg", "a.avi", 0), ("libx264", "a.mov", 2)),
    ],
)
def test_inference_training_and_preparation_agree(tmp_path: Path, codec: str, name: str, bframes: int) -> None:
    pixels = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    (tmp_path / "data").mkdir()
    path = footage(tmp_path / "data" / name, codec=codec, bframes=bframes, pixels=pixels)
    shown = list(read_video(path))
    video = indexed(path)
    assert video.frames == FRAMES
    np.testing.assert_allclose(video.seconds(1.0), [frame.pts_seconds for frame in shown], atol=1e-6)
    for wanted in (range(FRAMES), [29, 3, 17], [9], [10, 11, 25]):
        images, failed = video.read(path.parent, list(wanted))
        assert not failed
        assert all(torch.equal(images[index], shown[index].image) for index in wanted)
    report = prepare(path.parent, tmp_path / "out", gop=5, crf=4)
    assert (report.done, report.frames, report.damaged) == (1, FRAMES, 0)
    prepared = list(read_video(tmp_path / "out" / "a.mp4"))
    assert [level(frame.image) for frame in prepared] == list(range(FRAMES))
    np.testing.assert_allclose(np.diff([frame.pts_seconds for frame in prepared]), 1 / 20, atol=2e-3)


@pytest.mark.parametrize(("codec", "name"), [("libx264", "a.264"), ("mpeg2video", "a.mpg")])
def test_streams_without_a_time_for_every_frame_are_prepared(tmp_path: Path, codec: str, name: str) -> None:
    """In an MPEG program stream several frames share a packet with one time; FFmpeg guesses the others, and guesses
    otherwise after a seek, so that training would take neighbours for them."""
    path = footage(tmp_path / name, codec=codec, bframes=2)
    (reject,) = build_index(path).rejects
    assert "train prepare" in reject.reason
    prepare(path, tmp_path / "out")
    prepared = list(read_video(tmp_path / "out" / "a.mp4"))
    assert [level(frame.image) for frame in prepared] == list(range(FRAMES))
    times = np.array([frame.pts_seconds for frame in prepared])
    np.testing.assert_allclose(times - times[0], np.arange(FRAMES) / 20, atol=1e-3)


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_all_eight_orientations(tmp_path: Path, name: str) -> None:
    (tmp_path / "data").mkdir()
    path = write(tmp_path / "data" / "a.mp4", [corners()] * 20)
    set_display_matrix(path, ORIENTATIONS[name])
    expected = next(read_video(path)).image
    images, _ = indexed(path).read(path.parent, [3])
    assert torch.equal(images[3], list(read_video(path))[3].image)
    prepare(path.parent, tmp_path / "out", crf=4)
    prepared = next(read_video(tmp_path / "out" / "a.mp4")).image
    assert prepared.shape == expected.shape
    assert (prepared.float() - expected.float()).abs().mean() < 4


@pytest.mark.parametrize("name", CODED)
def test_a_prepared_file_decodes_to_the_colours_of_its_source(tmp_path: Path, name: str) -> None:
    import av

    (tmp_path / "data").mkdir()
    path = write(tmp_path / "data" / ("a.mkv" if "container" in CODED[name] else "a.mp4"), [flat()] * 3, **CODED[name])
    prepare(path.parent, tmp_path / "out")
    source, prepared = (next(read_video(file)).image.float() for file in (path, tmp_path / "out" / "a.mp4"))
    assert (source - prepared).abs().max() <= 4
    with av.open(str(path)) as before, av.open(str(tmp_path / "out" / "a.mp4")) as after:
        given, written = next(before.decode(video=0)), next(after.decode(video=0))
        assert int(written.colorspace) in (1, 5, 6, 9)
        assert int(written.color_range) in (1, 2)
        if "matrix" in CODED[name]:
            assert (written.colorspace, written.color_range) == (given.colorspace, given.color_range)
        assert (written.color_primaries, written.color_trc) == (given.color_primaries, given.color_trc)


def test_training_refuses_from_the_damage_to_the_next_key_frame(tmp_path: Path) -> None:
    path = footage(tmp_path / "a.mp4", gop=8)
    whole, _ = indexed(path).read(tmp_path, range(FRAMES))
    damage_packet(path, 11)
    video = indexed(path)
    images, failed = video.read(tmp_path, range(FRAMES))
    assert sorted(failed) == [11, 12, 13, 14, 15]
    assert "a.mp4: frame at 0.550 s: it is damaged" in failed[11]
    assert all(torch.equal(images[index], whole[index]) for index in images)
    for index in range(FRAMES):  # whether a frame can be read never depends on the others that are wanted
        alone, _ = video.read(tmp_path, [index])
        assert (index in alone) == (index in images), index


@pytest.mark.parametrize("number", [8, 9, 10, 11, 20])
def test_damage_with_b_frames_costs_the_same_frames_however_they_are_asked_for(tmp_path: Path, number: int) -> None:
    path = footage(tmp_path / "a.mkv", bframes=2, gop=8)
    whole, _ = indexed(path).read(tmp_path, range(FRAMES))
    damage_packet(path, number)
    video = indexed(path)
    images, failed = video.read(tmp_path, range(FRAMES))
    assert failed
    assert sorted(failed) == [frame.index for frame in read_video(path) if frame.concealed]
    assert all(torch.equal(images[index], whole[index]) for index in images)
    for index in range(FRAMES):
        alone, _ = video.read(tmp_path, [index])
        assert (index in alone) == (index in images), index


def test_a_gap_in_a_broadcast_costs_the_frames_behind_it(tmp_path: Path) -> None:
    """A receiver misses a few packets of the transport stream; the rest of the recording is sound."""
    path = footage(tmp_path / "a.ts", gop=8)
    whole, _ = indexed(path).read(tmp_path, range(FRAMES))
    content = path.read_bytes()
    middle = content.index(packets(path)[12][1][-150:-20]) // 188 * 188
    path.write_bytes(content[:middle] + content[middle + 188 :])
    images, failed = indexed(path).read(tmp_path, range(FRAMES))
    assert set(failed) >= {12, 13, 14, 15}
    assert set(images) >= {*range(11), *range(16, FRAMES)}
    assert all(torch.equal(images[index], whole[index]) for index in images)


def test_preparation_leaves_damaged_frames_out_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    path = footage(tmp_path / "data" / "a.mp4", gop=8)
    damage_packet(path, 11)
    report = prepare(path.parent, tmp_path / "out", crf=4)
    assert (report.done, report.frames, report.damaged) == (1, 25, 5)
    assert "5 damaged frames were left out" in str(report)
    times = [frame.pts_seconds for frame in read_video(tmp_path / "out" / "a.mp4")]
    kept = [k / 20 for k in range(FRAMES) if k not in range(11, 16)]
    np.testing.assert_allclose(times, kept, atol=2e-3)


def test_recordings_that_were_joined_are_mended(tmp_path: Path) -> None:
    """`train index` refuses them and names this remedy."""
    (tmp_path / "data").mkdir()
    one, two = (footage(tmp_path / f"{name}.ts", gop=8) for name in ("one", "two"))
    (tmp_path / "data" / "joined.ts").write_bytes(one.read_bytes() + two.read_bytes())
    report = prepare(tmp_path / "data", tmp_path / "out")
    assert (report.done, report.frames + report.damaged) == (1, 2 * FRAMES)
    assert indexed(tmp_path / "out" / "joined.mp4").frames == report.frames


def test_a_truncated_video_is_indexed_so_far_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = footage(tmp_path / "a.mkv")
    cut(path, 0.6)
    video = indexed(path)
    assert 5 < video.frames < FRAMES
    assert len([record for record in caplog.records if "breaks off" in record.getMessage()]) == 1


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "ts", "avi"])
@pytest.mark.parametrize("share", [0.55, 0.7, 0.83])
@pytest.mark.parametrize("bframes", [0, 2])
def test_a_video_cut_anywhere_is_used_as_far_as_it_goes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, suffix: str, share: float, bframes: int
) -> None:
    """Also in the middle of a packet, whose frame takes no part: what is read is what the whole video shows, and what
    cannot be read is refused, at the end alone."""
    (tmp_path / "data").mkdir()
    options = {"movflags": "faststart"} if suffix == "mp4" else {}
    path = footage(tmp_path / "data" / f"a.{suffix}", gop=8, bframes=bframes, options=options)
    whole = {round(frame.pts_seconds, 3): frame.image for frame in read_video(path)}
    cut(path, share)
    video = indexed(path)
    assert 0.4 * share * FRAMES < video.frames < FRAMES
    images, failed = video.read(path.parent, range(video.frames))
    assert all(index >= video.frames - 1 - bframes for index in failed)
    times = video.seconds(1.0).tolist()
    start = min(whole) - times[0]
    assert all(torch.equal(images[index], whole[round(times[index] + start, 3)]) for index in images)
    report = prepare(path.parent, tmp_path / "out", crf=4)
    assert not report.failed
    assert report.frames == video.frames - len(failed)
    assert suffix in ("ts", "avi") or any("breaks off" in record.getMessage() for record in caplog.records)


def test_a_recording_that_begins_between_key_frames_is_indexed_from_the_first(tmp_path: Path) -> None:
    path = footage(tmp_path / "a.ts", gop=8)
    content = path.read_bytes()
    header = content[: 188 * 3]
    path.write_bytes(header + content[len(content) // 188 // 4 * 188 :])
    shown = list(read_video(path))
    video = indexed(path)
    assert video.frames == len(shown) < FRAMES
    images, failed = video.read(tmp_path, range(video.frames))
    assert not failed
    assert all(torch.equal(images[index], shown[index].image) for index in images)


def test_an_animated_picture_is_a_video(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    images = [Image.fromarray(grey(k)) for k in range(12)]
    images[0].save(tmp_path / "data" / "a.gif", save_all=True, append_images=images[1:], duration=100)
    video = indexed(tmp_path / "data")
    np.testing.assert_allclose(video.seconds(1.0), np.arange(12) / 10)
    read, failed = video.read(tmp_path / "data", [2, 11])
    assert not failed
    assert [level(read[index]) for index in (2, 11)] == [2, 11]
    prepare(tmp_path / "data", tmp_path / "out", crf=4)
    assert [level(frame.image) for frame in read_video(tmp_path / "out" / "a.mp4")] == list(range(12))


def test_strays_beside_frames_change_nothing(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "walk", 6)
    video = indexed(tmp_path)
    for name in (".DS_Store", "._frame0.png", "Thumbs.db", "notes.pdf", "data.h5", "clip.txt"):
        (folder / name).write_bytes(b"stray")
    images, failed = video.read(tmp_path, range(6))
    assert len(images) == 6
    assert not failed
    assert indexed(tmp_path) == video


@pytest.mark.parametrize("change", ["new", "gone", "other"])
def test_changed_frames_are_noticed(tmp_path: Path, change: str) -> None:
    folder = write_folder(tmp_path / "walk", 6)
    video = indexed(tmp_path)
    if change == "new":
        shutil.copy(folder / "frame1.png", folder / "frame9.png")
    elif change == "gone":
        (folder / "frame1.png").unlink()
    else:
        Image.new("RGB", (64, 48)).save(folder / "new.png")
        (folder / "new.png").replace(folder / "frame1.png")
    with pytest.raises(InputError, match="changed since it was indexed"):
        video.read(tmp_path, [0])


NAMES = [os.fsencode("été 映像.mp4"), b"caf\xe9.mp4"]


def test_videos_of_any_name_are_indexed_kept_and_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "data"
    root.mkdir()
    for name in NAMES:
        footage(tmp_path / "a.mp4").rename(root / os.fsdecode(name))
    (root / os.fsdecode(b"bad\xff.mp4")).write_bytes(b"no video")
    index = load_or_build_index(root)
    assert load_or_build_index(root) == index
    assert Index.load(root / INDEX_NAME, root).videos == index.videos
    assert {os.fsencode(video.path) for video in index.videos} == set(NAMES)
    for video in index.videos:
        assert level(video.read(root, [4])[0][4]) == 4
    assert prepare(root, tmp_path / "out").done == 2
    assert main(["train", "index", str(root)]) == 0
    assert "2 videos" in capsys.readouterr().out


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfa.mp4\r\nb #1.mp4\r\n",
        "a.mp4\nb #1.mp4\n".encode("utf-16"),
        b"# mine\n\n  a.mp4  # first\nb #1.mp4",
        b"a.mp4\rb #1.mp4\r",
    ],
    ids=["byte order mark", "UTF-16", "comments", "old Macintosh"],
)
def test_lists_are_read_as_editors_write_them(tmp_path: Path, content: bytes) -> None:
    footage(tmp_path / "a.mp4")
    footage(tmp_path / "b #1.mp4")
    (tmp_path / "list.txt").write_bytes(content)
    assert [video.path for video in build_index(tmp_path / "list.txt").videos] == ["a.mp4", "b #1.mp4"]


def test_lists_of_other_encodings_find_the_file_or_say_what_is_wrong(tmp_path: Path) -> None:
    footage(tmp_path / "café.mp4")
    (tmp_path / "list.txt").write_bytes("café.mp4\n".encode("cp1252"))
    assert [video.path for video in build_index(tmp_path / "list.txt").videos] == ["café.mp4"]
    footage(tmp_path / "a.mp4").rename(tmp_path / os.fsdecode(NAMES[1]))
    (tmp_path / "café.mp4").unlink()
    assert [os.fsencode(video.path) for video in build_index(tmp_path / "list.txt").videos] == [NAMES[1]]
    (tmp_path / "list.txt").write_bytes(b"gone\xe9.mp4\n")
    with pytest.raises(InputError, match=r"neither UTF-8 nor a file.*save it as UTF-8"):
        build_index(tmp_path / "list.txt")


def test_lists_may_have_the_separators_of_windows(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    footage(tmp_path / "sub" / "a.mp4")
    (tmp_path / "list.txt").write_text("sub\\a.mp4\n")
    assert [video.path for video in build_index(tmp_path / "list.txt").videos] == ["sub/a.mp4"]


def test_index_of_an_earlier_release_is_read_and_brought_up_to_date(tmp_path: Path) -> None:
    footage(tmp_path / "a.mp4")
    footage(tmp_path / "b.avi", bframes=3)
    write_folder(tmp_path / "walk", 6)
    index = load_or_build_index(tmp_path)
    content = json.loads((tmp_path / INDEX_NAME).read_text())
    content["format"] = 1
    for clip in content["clips"]:
        del clip["stored"]
        if clip["path"] == "walk":
            clip["changed_ns"] = (tmp_path / "walk").stat().st_mtime_ns
    (tmp_path / INDEX_NAME).write_text(json.dumps(content))
    assert Index.load(tmp_path / INDEX_NAME, tmp_path).videos[0] == index.videos[0]  # not probed again
    assert load_or_build_index(tmp_path) == index
    assert json.loads((tmp_path / INDEX_NAME).read_text())["format"] == 2


def test_fingerprint_is_that_of_earlier_releases() -> None:
    """A run that is taken up again compares it."""
    fields = {"size": 1, "changed_ns": 2, "frames": 40, "height": 48, "width": 64, "rotation": 0, "tick": 0.05}
    video = IndexedVideo("a.mp4", "video", **fields, first=0, last=39, keyframes=[[0, 1], [8, 4]])
    assert Index(Path("data"), (video,)).fingerprint == "2167b34e3daf1222"


def test_train_index_writes_where_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    footage(tmp_path / "data" / "a.mp4")
    assert main(["train", "index", str(tmp_path / "data"), "--index", str(tmp_path / "new" / "i.json")]) == 0
    assert (tmp_path / "new" / "i.json").is_file()
    assert not (tmp_path / "data" / INDEX_NAME).exists()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "data")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("MIDWAY_ZOO_INDEXES", raising=False)
    assert main(["train", "index", str(tmp_path / "data")]) == 0
    assert index_path(tmp_path / "data").parent == tmp_path / "cache" / "midway_zoo" / "indexes"
    assert index_path(tmp_path / "data").is_file()
