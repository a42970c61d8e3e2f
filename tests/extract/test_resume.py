"""Nothing is lost and nothing is there twice, however an extraction ends."""

import copy
import errno
import json
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from filelock import FileLock

import midway_zoo as mz
from midway_zoo.errors import ConfigError, DiskFullError, InputError, InterruptedWorkError, MissingFileError
from midway_zoo.extract import Extracted, Summary, work
from midway_zoo.extract import run as whole
from midway_zoo.extract.places import Results
from midway_zoo.extract.processes import Process
from tests.extract.runs import Rows, assert_same, failures, rows, run

SMALL = {"shard_items": 2}
Put = Callable[[Results, str, Callable[[Path], None]], None]


class Killed(BaseException):
    """Nobody may catch it: the process is gone."""


@pytest.fixture(scope="module")
def expected(nano: mz.MidwayNetwork, clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """Of a run that nothing stopped."""
    out = tmp_path_factory.mktemp("whole") / "out"
    run(nano, clips, out)
    return rows(out)


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one chunk, so that a unit has several."""
    monkeypatch.setattr(whole, "Job", lambda *args, **more: work.Job(*args[:3], 2**27, 4, **more))


@pytest.mark.parametrize("after", [False, True], ids=["before renaming", "after renaming"])
def test_killed_at_any_write(
    nano: mz.MidwayNetwork, clips: Path, expected: Rows, tmp_path: Path, monkeypatch, after: bool
) -> None:
    """Again and again, one write further each time: all rows once, bit for bit as of a run that nothing stopped."""
    put, kills = Results.put, 0

    def killed(self: Results, name: str, write: Callable[[Path], None]) -> None:
        nonlocal writes
        writes += 1
        if writes < 6:
            return put(self, name, write)
        if after:
            put(self, name, write)
        else:
            (self.local / name).parent.mkdir(exist_ok=True)
            write(self.local / (Path(name).parent / f".{Path(name).name}.x.part"))
        raise Killed

    monkeypatch.setattr(Results, "put", killed)
    out = tmp_path / "out"
    while True:
        writes = 0
        try:
            run(nano, clips, out, running=SMALL)
            break
        except Killed:
            kills += 1
            if (out / "extract.json").exists():
                rows(out)  # none twice, at any time
    assert kills >= 2
    assert_same(rows(out), expected)
    assert not list(out.rglob(".*.part"))
    assert json.loads((out / "index.json").read_text())["items"] == 4


def test_interrupted(nano: mz.MidwayNetwork, clips: Path, expected: Rows, tmp_path: Path, monkeypatch) -> None:
    """What is whole is written, and the message says how far it got."""
    add, count = work._Writer.add, 0

    def interrupting(self: work._Writer, row: object) -> bool:
        nonlocal count
        count += 1
        if count == 4:
            raise KeyboardInterrupt
        return add(self, row)

    monkeypatch.setattr(work._Writer, "add", interrupting)
    with pytest.raises(InterruptedWorkError, match=r"2 of 4 items"):
        run(nano, clips, tmp_path / "out", running=SMALL)
    assert len(rows(tmp_path / "out")) == 3
    assert not list((tmp_path / "out" / "attempts").glob("*"))
    run(nano, clips, tmp_path / "out", running=SMALL)
    assert_same(rows(tmp_path / "out"), expected)


def test_disk_full(nano: mz.MidwayNetwork, clips: Path, expected: Rows, tmp_path: Path, monkeypatch) -> None:
    """An error that says so; with room again, the same command goes on."""
    write, full = work.write_shard, True

    def failing(path: Path, *args: object) -> None:
        if full and len(list((tmp_path / "out" / "data").glob("part*"))) == 2:
            path.write_bytes(b"half a file")
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, *args)

    monkeypatch.setattr(work, "write_shard", failing)
    with pytest.raises(DiskFullError, match=r"make room .* of 4 items were settled"):
        run(nano, clips, tmp_path / "out")
    assert len(list((tmp_path / "out" / "data").iterdir())) == 2
    full = False
    run(nano, clips, tmp_path / "out")
    assert_same(rows(tmp_path / "out"), expected)


def test_failures_are_listed_and_tried_again(
    nano: mz.MidwayNetwork, clips: Path, expected: Rows, tmp_path: Path
) -> None:
    """Never fatal; what was there of a failed one is not made twice."""
    source = tmp_path / "in"
    shutil.copytree(clips, source)
    good = (source / "a2.mp4").read_bytes()
    (source / "a2.mp4").write_bytes(b"no video")
    (source / "new.png").write_bytes(b"no picture")
    summary = run(nano, source, tmp_path / "out", what=("features", "motion"), images="clip")
    assert (summary.items, summary.failed) == (3, 2)
    assert failures(tmp_path / "out").keys() == {"a2.mp4", "."}
    assert "cannot be decoded" in failures(tmp_path / "out")["a2.mp4"]
    (source / "a2.mp4").write_bytes(good)
    assert run(nano, source, tmp_path / "out", images="clip").failed == 2
    summary = run(nano, source, tmp_path / "out", images="clip", running={"retry_failed": True})
    assert (summary.items, summary.failed, summary.new.items) == (4, 1, 2)
    assert failures(tmp_path / "out").keys() == {"."}
    assert_same(rows(tmp_path / "out"), expected)


def test_failing_in_the_middle(
    nano: mz.MidwayNetwork, clips: Path, expected: Rows, tmp_path: Path, monkeypatch
) -> None:
    """The chunks before it are kept, and not made again."""
    add = work.ClipExtraction.add

    def failing(self: work.ClipExtraction, batch: object) -> object:
        if batch.item.key == "a10.mp4" and batch.first >= 8 and broken:
            raise RuntimeError("out of luck")
        return add(self, batch)

    monkeypatch.setattr(work.ClipExtraction, "add", failing)
    broken = True
    assert run(nano, clips, tmp_path / "out").failed == 1
    assert failures(tmp_path / "out") == {"a10.mp4": "RuntimeError: out of luck"}
    assert {chunk for item, chunk in rows(tmp_path / "out") if item == "a10.mp4"} == {0}
    with pytest.raises(InputError, match=r"a10\.mp4 failed: RuntimeError: out of luck"):
        Extracted(tmp_path / "out")["a10.mp4"]
    broken = False
    summary = run(nano, clips, tmp_path / "out", running={"retry_failed": True})
    assert (summary.failed, summary.items) == (0, 4)
    assert_same(rows(tmp_path / "out"), expected)


def test_what_ends_the_process_is_left_out(
    nano: mz.MidwayNetwork, clips: Path, expected: Rows, tmp_path: Path, monkeypatch
) -> None:
    """A decoder that crashes: after the third time the item is a failure, and the others are there."""
    add = work.ClipExtraction.add

    def crashing(self: work.ClipExtraction, batch: object) -> object:
        if batch.item.key == "a2.mp4":
            raise Killed
        return add(self, batch)

    monkeypatch.setattr(work.ClipExtraction, "add", crashing)
    for _ in range(3):
        with pytest.raises(Killed):
            run(nano, clips, tmp_path / "out")
    assert run(nano, clips, tmp_path / "out").items == 3
    assert "the process died twice" in failures(tmp_path / "out")["a2.mp4"]
    assert_same(rows(tmp_path / "out"), {key: value for key, value in expected.items() if key[0] != "a2.mp4"})
    assert not list((tmp_path / "out" / "attempts").glob("*"))


def test_other_settings_are_refused(nano: mz.MidwayNetwork, clips: Path, tmp_path: Path) -> None:
    """Naming what differs, and what is there stays."""
    run(nano, clips / "a1.mp4", tmp_path / "out")
    with pytest.raises(ConfigError, match="size: 32 there, 64 now"):
        run(nano, clips / "a1.mp4", tmp_path / "out", size=64)
    with pytest.raises(ConfigError, match="input: "):
        run(nano, clips, tmp_path / "out")
    other = mz.create_model("midway_nano")
    with pytest.raises(ConfigError, match="weights_sha256: "):
        run(other, clips / "a1.mp4", tmp_path / "out")
    assert run(nano, clips / "a1.mp4", tmp_path / "out", running={"batch_size": 1}).new.items == 0


def test_new_items_are_added(nano: mz.MidwayNetwork, clips: Path, expected: Rows, tmp_path: Path) -> None:
    source = tmp_path / "in"
    shutil.copytree(clips, source)
    (source / "a10.mp4").rename(tmp_path / "later.mp4")
    assert run(nano, source, tmp_path / "out").items == 3
    (tmp_path / "later.mp4").rename(source / "a10.mp4")
    summary = run(nano, source, tmp_path / "out")
    assert (summary.items, summary.new.items) == (4, 1)
    assert_same(rows(tmp_path / "out"), expected)


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_shard_that_was_deleted_is_made_again(
    nano: mz.MidwayNetwork, clips: Path, expected: Rows, tmp_path: Path, lost: int
) -> None:
    run(nano, clips, tmp_path / "out")
    shards = sorted((tmp_path / "out" / "data").glob("part-000002-*"))
    assert len(shards) == 3
    shards[lost].unlink()
    run(nano, clips, tmp_path / "out")
    assert_same(rows(tmp_path / "out"), expected)


def test_launched_processes_share_the_units(
    nano: mz.MidwayNetwork, clips: Path, expected: Rows, tmp_path: Path, monkeypatch
) -> None:
    """Each its own; they wait for each other before the work and after it, and one writes an index of all."""
    meeting = threading.Barrier(2)

    def wait() -> None:
        meeting.wait(60)

    def launched(engine: str) -> Process:
        return Process(int(threading.current_thread().name), 2, nano.device, wait)

    def work_at_it(index: int) -> Summary:
        threading.current_thread().name = str(index)
        return run(copy.deepcopy(nano), clips, tmp_path / "out")

    monkeypatch.setattr(whole, "launched", launched)
    with ThreadPoolExecutor(2) as pool:
        for summary in pool.map(work_at_it, range(2)):
            assert (summary.items, summary.new.items, summary.planned, summary.frames) == (4, 2, 4, 28)
    assert_same(rows(tmp_path / "out"), expected)
    assert json.loads((tmp_path / "out" / "index.json").read_text())["items"] == 4


def test_one_at_a_time(nano: mz.MidwayNetwork, clips: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with FileLock(str(tmp_path / "out" / ".lock")), pytest.raises(InputError, match="another extraction"):
        run(nano, clips, tmp_path / "out")


def test_what_is_no_folder_of_results(nano: mz.MidwayNetwork, clips: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine").touch()
    with pytest.raises(InputError, match="give an empty folder"):
        run(nano, clips, tmp_path)
    with pytest.raises(MissingFileError, match=r"extract\.json"):
        Extracted(tmp_path / "data")
