"""Samples: the frames that the stream names, the same for any workers, whatever becomes of the files."""

import logging
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from midway_zoo.errors import ConfigError, DataError
from midway_zoo.train.data.frame_pairs import MAX_ATTEMPTS, PairDataset, PairsConfig, pair_stream
from midway_zoo.train.data.loading import GRACE, FailureCounter, StepBatches, collate
from midway_zoo.train.data.video_index import build_index
from tests.train.data.videos import CYCLE, damage, drawn, which, write_folder, write_video


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four videos of 2 to 3 s, and a folder of frames."""
    for number in range(4):
        write_video(tmp_path / f"{number}.mkv", 40 + 5 * number, noise=True)
    write_folder(tmp_path / "frames", 45)
    return tmp_path


def dataset(root: Path, **options: object) -> PairDataset:
    config = PairsConfig(root=str(root), repeats=3, **options)
    return PairDataset(pair_stream(build_index(root), config, seed=5), which)


@pytest.mark.parametrize("starts", ["random", "all"])
def test_samples_show_the_frames_that_the_stream_names(root: Path, starts: str) -> None:
    data = dataset(root, starts=starts)
    for number, sample in enumerate(drawn(data, range(30))):
        pair = data.stream.pair(number)
        assert sample[:2] == (pair.source % CYCLE, pair.target % CYCLE)
        assert sample[3] == []


def test_a_visit_opens_its_file_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = dataset(root)
    opened = []
    clip_type = type(data.stream.videos[0])
    read = clip_type.read
    monkeypatch.setattr(clip_type, "read", lambda self, *args: (opened.append(self.path), read(self, *args))[1])
    data.__getitems__(list(range(15)))
    assert sorted(opened) == ["0.mkv", "1.mkv", "2.mkv", "3.mkv", "frames"]


def test_samples_do_not_depend_on_how_they_are_asked_for(root: Path) -> None:
    data = dataset(root)
    together = drawn(data, range(20))
    assert [drawn(data, [k])[0] for k in range(20)] == together
    assert drawn(data, range(7)) + drawn(data, range(7, 20)) == together
    assert drawn(data, list(range(20))[::-1]) == together[::-1]
    assert data[3]["index"].item() == 3


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_give_the_stream_of_the_process_itself(root: Path, method: str) -> None:
    (root / "2.mkv").write_bytes(b"gone bad")
    data = dataset(root) if method == "fork" else dataset(root, starts="all")
    (root / "1.mkv").unlink()

    def batches(workers: int) -> list[dict[str, object]]:
        sampler = StepBatches(2, 6, last_step=6)
        options = {"multiprocessing_context": method} if workers else {}
        return list(DataLoader(data, batch_sampler=sampler, collate_fn=collate, num_workers=workers, **options))

    expected, found = batches(0), batches(2)
    assert len(expected) == 4
    assert any(batch["failures"] for batch in expected)
    for one, other in zip(expected, found, strict=True):
        assert one["failures"] == other["failures"]
        assert all(torch.equal(one[key], other[key]) for key in ("frames", "draw", "index"))
    assert torch.cat([batch["index"] for batch in found]).tolist() == list(range(12, 36))


def test_file_deleted_in_mid_run_is_replaced(root: Path) -> None:
    data = dataset(root)
    before = drawn(data, range(15))
    (root / "1.mkv").unlink()
    after = drawn(data, range(15))
    lost = [k for k in range(15) if data.stream.videos[data.stream.pair(k).video].path == "1.mkv"]
    assert len(lost) == 3
    for k in range(15):
        if k in lost:
            path, reason = after[k][3][0]
            assert path == "1.mkv"
            assert "not there any more" in reason
        else:
            assert after[k] == before[k]
    assert [drawn(data, [k])[0] for k in lost] == [after[k] for k in lost]


def test_damage_in_the_middle_replaces_only_the_pairs_it_meets(root: Path) -> None:
    damage(root / "3.mkv", 0.4, 0.45)
    data = dataset(root, starts="all")
    stream = data.stream
    numbers = [k for k in range(stream.pairs_per_epoch) if stream.videos[stream.pair(k).video].path == "3.mkv"]
    samples = drawn(data, numbers)
    replaced = [sample for sample in samples if sample[3]]
    assert 0 < len(replaced) < len(samples)
    assert all(sample[3][0][0] == "3.mkv" for sample in replaced)
    assert [drawn(data, [k])[0] for k in numbers] == samples


def test_frames_of_different_sizes_are_no_pair(tmp_path: Path) -> None:
    write_folder(tmp_path / "good", 40)
    write_folder(tmp_path / "mixed", 40)
    write_folder(tmp_path / "mixed", 20, size=(32, 32))
    samples = drawn(dataset(tmp_path, min_seconds=0.7), range(12))
    reasons = [reason for sample in samples for _, reason in sample[3]]
    assert reasons
    assert all("differ in size" in reason for reason in reasons)


def test_attempts_are_bounded(root: Path) -> None:
    data = dataset(root)
    for path in root.glob("*.mkv"):
        path.unlink()
    for path in (root / "frames").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=f"{MAX_ATTEMPTS} attempts.*[Ii]ndex"):
        data[0]


def test_frames_are_scaled_when_decoded(root: Path) -> None:
    stream = dataset(root).stream
    sizes = PairDataset(stream, lambda a, b, rng: {"size": torch.tensor(a.shape)}, short_side=24)
    assert collate(sizes.__getitems__([0, 4]))["size"].tolist() == [[3, 24, 32]] * 2


def test_collate_stacks_and_joins_failures() -> None:
    failures = [("a.mp4", "gone")], [], [("b.mp4", "bad"), ("c.mp4", "bad")]
    samples = [{"x": torch.tensor([k]), "index": torch.tensor(k), "failures": failures[k]} for k in range(3)]
    batch = collate(samples)
    assert batch["x"].tolist() == [[0], [1], [2]]
    assert batch["index"].dtype == torch.int64
    assert [path for path, _ in batch["failures"]] == ["a.mp4", "b.mp4", "c.mp4"]


def test_too_many_failures_stop_the_run() -> None:
    counter = FailureCounter(0.1)
    counter.update([("a.mp4", "gone")] * int(0.1 * GRACE), 10)
    with pytest.raises(DataError, match=r"51 of 71 samples.*max_failure_share=0\.1.*a\.mp4 \(50 times: gone\).*index"):
        counter.update([("b.mp4", "bad")], 10)


def test_share_is_of_all_samples_tried() -> None:
    counter = FailureCounter(0.1)
    for _ in range(100):
        counter.update([("a.mp4", "gone")], 9)
    with pytest.raises(DataError):
        counter.update([("a.mp4", "gone")], 0)


def test_no_failure_is_allowed_at_share_zero() -> None:
    counter = FailureCounter(0)
    counter.update([], 100)
    with pytest.raises(DataError):
        counter.update([("a.mp4", "gone")], 100)
    with pytest.raises(ConfigError, match=r"max_failure_share=1\.5"):
        FailureCounter(1.5)


def test_each_file_is_logged_once_and_the_count_goes_on_after_a_resume(caplog: pytest.LogCaptureFixture) -> None:
    counter = FailureCounter(0.5)
    with caplog.at_level(logging.WARNING):
        counter.update([("a.mp4", "gone"), ("a.mp4", "gone")], 4)
        other = FailureCounter(0.5)
        other.load_state_dict(counter.state_dict())
        other.update([("a.mp4", "gone"), ("b.mp4", "bad")], 4)
    assert ["a.mp4 (gone)" in record.getMessage() for record in caplog.records] == [True, False]
    assert other.state_dict() == {"tried": 12, "failed": 4, "files": {"a.mp4": [3, "gone"], "b.mp4": [1, "bad"]}}
    assert counter.files == {"a.mp4": [2, "gone"]}
