"""The same on Ray: workers and nodes that die, one that has no room. Nothing may outlive a test."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import midway_zoo as mz
from midway_zoo.errors import InputError
from tests.extract.conftest import drifting
from tests.extract.runs import Rows, assert_same, failures, rows, run
from tests.inference.footage import write

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
ray = pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

RAY = {"engine": "ray", "workers": 2, "shard_items": 2}


@pytest.fixture(autouse=True)
def _nothing_stays(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Workers import the tests' network from here; Ray and what it started is gone after a test."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH")])))  # noqa: PTH109
    monkeypatch.setenv("RAY_worker_niceness", "0")  # else they wait for every other program
    before = {process.pid for process in psutil.process_iter()}
    yield
    ray.shutdown()
    left = [one for one in psutil.Process().children(recursive=True) if one.pid not in before]
    for process in left:
        process.kill()
    psutil.wait_procs(left, timeout=20)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen clips of eight frames, and a broken one."""
    folder = tmp_path_factory.mktemp("many")
    for index in range(16):
        write(folder / f"{index:02}.mp4", drifting(8, index))
    (folder / "bad.mp4").write_bytes(b"no video")
    return folder


@pytest.fixture(scope="module")
def expected(nano: mz.MidwayNetwork, many: Path, tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """Of one process."""
    out = tmp_path_factory.mktemp("local") / "out"
    assert run(nano, many, out).items == 16
    return rows(out)


def workers() -> list[psutil.Process]:
    """Ray's actors that hold a network."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any(word.startswith("ray::Map") for word in process.info["cmdline"] or ()):
            found.append(process)
    return found


def once(condition: object, seconds: float = 600) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def shards(out: Path) -> int:
    return len(list((out / "data").glob("part-*")))


def test_the_same_as_one_process(nano: mz.MidwayNetwork, many: Path, expected: Rows, tmp_path: Path) -> None:
    summary = run(nano, many, tmp_path / "ray", running=RAY)
    assert (summary.items, summary.failed, summary.new.items) == (16, 1, 17)
    assert_same(rows(tmp_path / "ray"), expected)
    assert failures(tmp_path / "ray").keys() == {"bad.mp4"}
    assert not ray.is_initialized()


def test_a_worker_is_killed(nano: mz.MidwayNetwork, many: Path, expected: Rows, tmp_path: Path) -> None:
    """Ray starts another one, which goes on with what is missing."""
    killed: list[int] = []

    def kill() -> None:
        once(lambda: shards(tmp_path / "ray") >= 2 and workers())
        victim = workers()[0]
        victim.kill()
        killed.append(victim.pid)

    thread = threading.Thread(target=kill)
    thread.start()
    summary = run(nano, many, tmp_path / "ray", running=RAY)
    thread.join()
    assert killed
    assert (summary.items, summary.failed) == (16, 1)
    assert_same(rows(tmp_path / "ray"), expected)


def test_a_node_is_killed(nano: mz.MidwayNetwork, many: Path, expected: Rows, tmp_path: Path) -> None:
    """Two raylets on this machine, one of which ends with its worker; the other does the rest."""
    from ray.cluster_utils import Cluster

    before: list[int] = []
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        second = cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()

        def kill() -> None:
            once(lambda: shards(tmp_path / "ray") >= 2)
            before.append(shards(tmp_path / "ray"))
            cluster.remove_node(second, allow_graceful=False)

        thread = threading.Thread(target=kill)
        thread.start()
        summary = run(nano, many, tmp_path / "ray", running={**RAY, "ray_address": cluster.address})
        thread.join()
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert before[0] < 9  # there was something left
    assert (summary.items, summary.failed) == (16, 1)
    assert_same(rows(tmp_path / "ray"), expected)


def test_the_driver_is_killed(nano: mz.MidwayNetwork, many: Path, expected: Rows, tmp_path: Path) -> None:
    """With SIGKILL in mid-shard; its workers end, and the same command goes on."""
    out, model = tmp_path / "ray", tmp_path / "model"
    nano.save_pretrained(model)
    command = [sys.executable, "-m", "midway_zoo", "extract", str(many), str(out), "--model", str(model)]
    command += ["--what", "features,motion", "--size", "32", "--chunk", "4", "--batch-size", "3"]
    command += ["--engine", "ray", "--workers", "2", "--shard-items", "2"]
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        once(lambda: shards(out) >= 2)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        before = len(rows(out))
        once(lambda: not workers())
    finally:
        driver.kill()
    assert 0 < before < 16 * 2
    assert subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode == 3
    assert_same(rows(out), expected)
    assert json.loads((out / "index.json").read_text())["items"] == 16


def test_no_cluster_there(nano: mz.MidwayNetwork, many: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no Ray cluster answers"):
        run(nano, many, tmp_path / "ray", running={**RAY, "ray_address": "127.0.0.1:1"})
