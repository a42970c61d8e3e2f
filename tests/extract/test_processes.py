"""Real processes: several that a launcher starts, killed ones, and a disk that has no more room."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import midway_zoo as mz
from tests.extract.conftest import drifting
from tests.extract.runs import Rows, assert_same, failures, rows, run
from tests.inference.footage import write

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

COUNT, FRAMES = 24, 24
FAILED = 3
"""Exit code where some items failed: the broken clip."""
LAUNCHER = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
"""What ``accelerate launch`` calls for several GPUs; by itself it starts several processes on these alone."""


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips, and a broken one."""
    folder = tmp_path_factory.mktemp("many")
    for index in range(COUNT):
        write(folder / f"{index:02}.mp4", drifting(FRAMES, index))
    (folder / "bad.mp4").write_bytes(b"no video")
    return folder


@pytest.fixture(scope="module")
def expected(nano: mz.MidwayNetwork, many: Path, tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """Of one process that nothing stopped."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert run(nano, many, out).items == COUNT
    return rows(out)


@pytest.fixture(scope="module")
def model(nano: mz.MidwayNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "nano"
    nano.save_pretrained(path)
    return path


def command(many: Path, out: Path, model: Path, *before: str) -> list[str]:
    """As :func:`run` does it."""
    words = [sys.executable, *before, "-m", "midway_zoo", "extract", str(many), str(out)]
    words += ["--model", str(model), "--what", "features,motion", "--size", "32", "--chunk", "4"]
    return [*words, "--batch-size", "3", "--shard-items", "1", "--quiet", "--device", "cpu"]


def started(words: list[str]) -> subprocess.Popen[str]:
    """In a group of its own, so that all of it can be ended."""
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)


def shards(out: Path) -> int:
    return len(list((out / "data").glob("part-*")))


def once(condition: Callable[[], object], process: subprocess.Popen[str], seconds: float = 600) -> None:
    """Wait until something is so, as long as the process runs."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.01)


def assert_whole(out: Path, expected: Rows) -> None:
    """All rows once, bit for bit, and an index that says so."""
    assert_same(rows(out), expected)
    assert failures(out).keys() == {"bad.mp4"}
    index = json.loads((out / "index.json").read_text())
    assert (index["items"], index["failed"], index["frames"]) == (COUNT, 1, COUNT * FRAMES)
    assert not list(out.rglob(".*.part"))


def children(pid: int) -> list[int]:
    """Processes that a process started and that run Python."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found]


def test_two_launched_processes(many: Path, expected: Rows, model: Path, tmp_path: Path) -> None:
    """Each the units of its rank; together all of them, once."""
    out = tmp_path / "out"
    done = subprocess.run(command(many, out, model, *LAUNCHER), capture_output=True, check=False)
    assert done.returncode  # an item failed, and that ended nobody's work
    assert_whole(out, expected)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="processes are found in /proc")
def test_one_of_two_launched_processes_is_killed(many: Path, expected: Rows, model: Path, tmp_path: Path) -> None:
    """The launcher ends the other; the same command goes on."""
    out, words = tmp_path / "out", command(many, tmp_path / "out", model, *LAUNCHER)
    launcher = started(words)
    try:
        once(lambda: shards(out) >= 3, launcher)
        os.kill(children(launcher.pid)[-1], signal.SIGKILL)
        launcher.communicate(timeout=600)
    finally:
        if launcher.poll() is None:
            os.killpg(launcher.pid, signal.SIGKILL)
    assert 0 < len(rows(out)) < len(expected)
    subprocess.run(words, capture_output=True, check=False)
    assert_whole(out, expected)


def test_killed_again_and_again(many: Path, expected: Rows, model: Path, tmp_path: Path) -> None:
    """One process, with SIGKILL, at whatever it is doing."""
    out, words = tmp_path / "out", command(many, tmp_path / "out", model)
    for further in (1, 5, 9):
        process, before = started(words), shards(out)
        once(lambda until=before + further: shards(out) >= until, process)
        process.kill()
        process.communicate()
        rows(out)  # none twice, at any time
    assert subprocess.run(words, capture_output=True, check=False).returncode == FAILED
    assert_whole(out, expected)


_APART = ["unshare", "--map-root-user", "--mount"]
"""A command after it sees mounts of its own, and needs no rights for them where the system lets users have that."""
_FULL = """
mount -t tmpfs -o size=400k tmpfs "$PLACE" || exit 99
"$@" >"$KEPT/first" 2>&1; echo $? >"$KEPT/codes"
mount -o remount,size=64m "$PLACE" || exit 99
"$@" >"$KEPT/second" 2>&1; echo $? >>"$KEPT/codes"
cp -r "$PLACE/out" "$KEPT/out"
"""


def _mounts() -> bool:
    try:
        script = "mount -t tmpfs tmpfs /mnt"
        return not subprocess.run([*_APART, "sh", "-c", script], check=False, capture_output=True).returncode
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not _mounts(), reason="no small disk can be mounted here")
def test_a_disk_that_is_full(many: Path, expected: Rows, model: Path, tmp_path: Path) -> None:
    """A real one, of 400 kB: the error says so, and with room the same command goes on."""
    place, kept = tmp_path / "disk", tmp_path / "kept"
    for folder in (place, kept):
        folder.mkdir()
    words = [*_APART, "sh", "-c", _FULL, "sh", *command(many, place / "out", model)]
    environment = {**os.environ, "PLACE": str(place), "KEPT": str(kept)}
    subprocess.run(words, check=True, capture_output=True, env=environment)
    said = (kept / "first").read_text()
    assert (kept / "codes").read_text().split() == ["1", str(FAILED)], said
    assert "make room" in said
    assert "Traceback" not in said
    assert_whole(kept / "out", expected)
