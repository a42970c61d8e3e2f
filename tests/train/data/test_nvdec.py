"""Frames by torchcodec are those of PyAV, or PyAV's own.

Its decoder for CPUs stands in for the GPU's: what differs is the device alone. The last test wants a GPU.
"""

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from midway_zoo.errors import ConfigError, InputError
from midway_zoo.train.config import load_config
from midway_zoo.train.data import nvdec
from midway_zoo.train.data.frame_pairs import PairDataset, PairStream
from midway_zoo.train.data.indexed_video import IndexedVideo
from midway_zoo.train.data.loading import collate, make_loader
from midway_zoo.train.data.nvdec import DeviceReader, check_decoder
from midway_zoo.train.data.prepare import prepare
from midway_zoo.train.data.video_index import build_index
from midway_zoo.train.loop import fit
from midway_zoo.train.tasks.pretrain import data
from midway_zoo.train.tasks.pretrain.config import PretrainConfig
from midway_zoo.train.tasks.pretrain.task import PretrainTask
from tests.inference.test_video import CLOCKWISE, set_display_matrix
from tests.train.conftest import TINY
from tests.train.data.videos import drawn, which, write_folder, write_video
from tests.train.test_resume import lines

torchcodec = pytest.importorskip("torchcodec", reason="extra nvdec", exc_type=(ImportError, RuntimeError))  # type: ignore[arg-type]

FRAMES = [0, 7, 8, 14, 15, 30, 59]


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """A folder of three videos, as ``train prepare`` writes them."""
    for number in range(3):
        write_video(tmp_path / "given" / f"{number}.mp4", 60, size=(96, 128), rate=30, bframes=2)
    prepare(tmp_path / "given", tmp_path / "prepared", height=96)
    return tmp_path / "prepared"


def indexed(path: Path) -> IndexedVideo:
    (video,) = build_index(path).videos
    return video


class Decodings:
    """Counts what is decoded by the device."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, change: Callable[[Tensor], Tensor] = lambda image: image
    ) -> None:
        self.count = 0
        decoded = DeviceReader._decoded

        def counted(reader: DeviceReader, *args: object) -> dict[int, Tensor]:
            self.count += 1
            return {index: change(image) for index, image in decoded(reader, *args).items()}  # type: ignore[arg-type]

        monkeypatch.setattr(DeviceReader, "_decoded", counted)


def test_the_same_frames(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, index, seen = DeviceReader("cpu"), build_index(prepared), Decodings(monkeypatch)
    read(index.videos[0], index.base, [3])  # compared
    monkeypatch.setattr(IndexedVideo, "read", None)  # from now on PyAV is not asked
    found = [read(video, index.base, FRAMES) for video in index.videos]
    monkeypatch.undo()
    assert seen.count == 4
    for video, (images, failed) in zip(index.videos, found, strict=True):
        expected, _ = video.read(index.base, FRAMES)
        assert not failed
        assert list(images) == FRAMES
        assert all(torch.equal(images[number], expected[number]) for number in FRAMES)
        assert all(image.is_contiguous() for image in images.values())


@pytest.mark.parametrize(
    ("reason", "name", "made"),
    [
        ("has B-frames", "a.mp4", {"bframes": 2}),
        ("unevenly timed", "a.mkv", {"milliseconds": [k * 33 + 200 * (k > 20) for k in range(40)]}),
        ("codec is mpeg4", "a.mp4", {"codec": "mpeg4"}),
        ("pixels are yuv444p", "a.mp4", {"pixels": "yuv444p"}),
        ("does not say by which matrix", "a.mp4", {}),
    ],
)
def test_what_might_come_out_otherwise_is_read_by_pyav(
    reason: str,
    name: str,
    made: dict,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    video, seen = indexed(write_video(tmp_path / name, **made)), Decodings(monkeypatch)
    read = DeviceReader("cpu")
    for _ in range(2):
        images, _ = read(video, tmp_path, [3, 20])
    expected, _ = video.read(tmp_path, [3, 20])
    assert all(torch.equal(images[number], expected[number]) for number in (3, 20))
    assert seen.count == 0
    (line,) = [record.getMessage() for record in caplog.records if record.name == nvdec.__name__]
    assert reason in line


def test_turned_videos_are_read_by_pyav(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_display_matrix(prepared / "0.mp4", CLOCKWISE[90])
    video, seen = indexed(prepared / "0.mp4"), Decodings(monkeypatch)
    images, _ = DeviceReader("cpu")(video, prepared, [3])
    assert images[3].shape == (3, 128, 96)
    assert seen.count == 0


def test_folders_and_other_sizes_are_read_as_ever(prepared: Path, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    seen, read = Decodings(monkeypatch), DeviceReader("cpu")
    write_folder(prepared / "frames", 5)
    assert sorted(read(indexed(prepared / "frames"), prepared / "frames", [1, 4])[0]) == [1, 4]
    assert read(indexed(prepared / "0.mp4"), prepared, [1], 48)[0][1].shape == (3, 48, 64)
    assert seen.count == 0
    assert not caplog.records


def fails(image: Tensor) -> Tensor:
    raise RuntimeError("no room")


@pytest.mark.parametrize(
    ("change", "reason", "asked"), [(lambda image: image.flip(2), "other pictures of h264", 1), (fails, "(no room)", 3)]
)
def test_a_device_that_disagrees_or_fails(change, reason, asked, prepared: Path, monkeypatch, caplog) -> None:
    """What disagrees is not asked again."""
    seen, read, index = Decodings(monkeypatch, change), DeviceReader("cpu"), build_index(prepared)
    for video in index.videos:
        images, failed = read(video, index.base, FRAMES)
        expected, _ = video.read(index.base, FRAMES)
        assert not failed
        assert all(torch.equal(images[number], expected[number]) for number in FRAMES)
    (line,) = [record.getMessage() for record in caplog.records]
    assert reason in line
    assert seen.count == asked


def test_a_frame_of_another_time_is_not_taken(prepared: Path) -> None:
    """As where an index and a file disagree on times."""
    video, path = indexed(prepared / "0.mp4"), prepared / "0.mp4"
    layout = nvdec._look(video, path)
    assert isinstance(layout, nvdec.Layout)
    tick = round((video.last - video.first) / 59)
    assert list(DeviceReader("cpu")._decoded(video, path, [5, 20], layout)) == [5, 20]
    for later in (tick // 2, -(tick // 2)):
        with pytest.raises(ValueError, match="from where the index has it"):
            DeviceReader("cpu")._decoded(replace(video, first=video.first + later), path, [5, 20], layout)


def test_a_changed_file_is_an_error(prepared: Path) -> None:
    video = indexed(prepared / "0.mp4")
    write_video(prepared / "0.mp4", 20)
    with pytest.raises(InputError, match="changed since it was indexed"):
        DeviceReader("cpu")(video, prepared, [1])


def test_pairs_are_the_same_in_workers_of_their_own(prepared: Path) -> None:
    stream = PairStream(build_index(prepared), repeats=2)
    expected = drawn(PairDataset(stream, which), range(6))
    dataset = PairDataset(stream, which, read=DeviceReader("cpu"))
    assert drawn(pickle.loads(pickle.dumps(dataset)), range(6)) == expected
    batches = list(make_loader(dataset, [[0, 1], [2, 3], [4, 5]], collate, num_workers=1, spawn=True))
    frames = torch.cat([batch["frames"] for batch in batches])
    assert frames.tolist() == [list(sample[:2]) for sample in expected]


def test_refused_before_a_run(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"needs an NVIDIA GPU.*data\.decoder=pyav"):
        check_decoder(prepared)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    check_decoder(prepared)
    with pytest.raises(ConfigError, match="midway-zoo train prepare"):
        check_decoder(tmp_path / "given")


def test_a_run_is_the_same_by_either_decoder(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "check_decoder", lambda base: None)  # the run's device, a CPU, decodes by torchcodec too
    told = []
    for decoder, workers in (("pyav", 0), ("nvdec", 1)):
        settings = [*TINY, f"data.root={prepared}", f"out={tmp_path / decoder}", "data.decode_short_side=null"]
        settings += [f"data.decoder={decoder}", f"num_workers={workers}", "max_steps=2"]
        fit(PretrainTask(load_config(PretrainConfig, "nano", settings)))
        told.append(lines(tmp_path / decoder))
    assert told[0] == told[1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_the_gpu_gives_what_pyav_gives(prepared: Path, caplog: pytest.LogCaptureFixture) -> None:
    read, index = DeviceReader("cuda"), build_index(prepared)
    for video in index.videos:
        images, failed = read(video, index.base, FRAMES)
        expected, _ = video.read(index.base, FRAMES)
        assert not failed
        for number in FRAMES:
            assert (images[number].float() - expected[number].float()).abs().mean() < nvdec._CLOSE
    assert list(read._agrees.values()) == [True]
    assert not caplog.records
