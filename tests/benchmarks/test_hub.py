"""The generated file and the line that it is fetched over."""

import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import midway_zoo as mz
from midway_zoo.benchmarks import hub
from midway_zoo.benchmarks.line import FILE, REPO, Line
from midway_zoo.benchmarks.measuring import How
from midway_zoo.benchmarks.released_file import write_like_released
from midway_zoo.config import ARCHITECTURES


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hub") / FILE
    write_like_released(path, ARCHITECTURES["midway_nano"], prototypes=16)
    return path


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    source = tmp_path / "file"
    source.write_bytes(bytes(range(256)) * 8)
    with Line(source) as line:
        yield line


def test_the_file_is_read_as_a_released_one(released: Path) -> None:
    network = mz.load_checkpoint(released)
    assert network.config.embed_dim == ARCHITECTURES["midway_nano"].embed_dim
    assert [path.name for path in released.parent.iterdir()] == [FILE]
    with zipfile.ZipFile(released) as archive:
        storages = [name.partition("/data/")[2] for name in archive.namelist() if "/data/" in name]
    assert storages == sorted(storages)
    assert storages.index("10") < storages.index("2")


def test_the_line_answers_as_the_hub_does(line: Line) -> None:
    url = f"{line.endpoint}/{REPO}/resolve/main/{FILE}"
    request = urllib.request.Request(url, headers={"Range": "bytes=10-19"})
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 206
        assert answer.headers["Content-Range"] == "bytes 10-19/2048"
        assert answer.read() == bytes(range(10, 20))
    assert (line.requests, line.sent) == (2, 10)
    with urllib.request.urlopen(url) as answer:
        assert len(answer.read()) == 2048
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{line.endpoint}/{REPO}/resolve/main/other")


def test_the_line_is_as_slow_as_was_asked(line: Line) -> None:
    line.rate, line.latency = 2048 * 8 / 0.2, 0.05
    start = time.perf_counter()
    with urllib.request.urlopen(f"{line.endpoint}/{REPO}/resolve/main/{FILE}") as answer:
        answer.read()
    assert time.perf_counter() - start > 0.2 + 2 * 0.1


def test_downloads_are_processes_with_empty_caches(released: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "write_like_released", lambda path, *_: shutil.copy(released, path))
    homes = []

    def run(command: list[str], env: dict[str, str], **_: object) -> subprocess.CompletedProcess[str]:
        homes.append(env["HF_HOME"])
        with urllib.request.urlopen(f"{env['HF_ENDPOINT']}/{command[-2]}/resolve/main/{command[-1]}") as answer:
            found = {"seconds": 2.0, "bytes": len(answer.read())}
        return subprocess.CompletedProcess(command, 0, json.dumps(found), "")

    monkeypatch.setattr(subprocess, "run", run)
    (found,) = hub.measure(How(rounds=1), model="midway_nano", mbits=0, latency=0, prototypes=16)
    assert [row.name for row in found.rows] == list(hub.WANTED)
    assert len(set(homes)) == 3
    assert all("(1.000 x) in 2 requests" in note for note in found.notes)
    failing = lambda command, **_: subprocess.CompletedProcess(command, 1, "", "no line")  # noqa: E731
    monkeypatch.setattr(subprocess, "run", failing)
    with pytest.raises(RuntimeError, match="no line"):
        next(hub.measure(How(rounds=1), model="midway_nano", mbits=0, latency=0, prototypes=16))


@pytest.mark.slow
def test_what_is_fetched_is_what_is_needed() -> None:
    (found,) = hub.measure(How(rounds=1), model="midway_nano", mbits=0, latency=0, prototypes=4096)
    whole, encoder, network = found.notes
    assert whole.startswith("hf_hub_download, whole file")
    sent = [float(note.partition("sent ")[2].partition(" MB")[0]) for note in (whole, encoder, network)]
    assert sent[1] <= sent[2] < sent[0]
