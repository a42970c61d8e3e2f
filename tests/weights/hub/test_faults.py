"""Everything that goes wrong between the Hub and the cache: right weights or a clear error, never anything partial."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import midway_zoo as mz
from midway_zoo.errors import CheckpointError, MidwayZooError, WeightsUnavailableError
from midway_zoo.weights import hub as hub_weights
from midway_zoo.weights.archive import open_archive
from midway_zoo.weights.released import Parts
from tests.weights.hub.hub_server import HubServer
from tests.weights.released_files import assert_same_state

REPO, FILE, NAME = "lab/weights", "tiny.pth", "midway_nano.tiny"


def leftovers() -> list[Path]:
    """Files in the cache that are neither complete parts nor bookkeeping."""
    files = [path for path in hub_weights.cache_root().rglob("*") if path.is_file() and path.suffix != ".lock"]
    complete = {path for path in files if path.suffix == ".safetensors" and path.with_suffix(".json") in files}
    return [
        path
        for path in files
        if path not in complete and path.with_suffix(".safetensors") not in complete and path.parent.name != "refs"
    ]


def right_weights(tiny: Path, **options) -> None:
    assert_same_state(
        mz.create_model(NAME, pretrained=True, **options).state_dict(), mz.load_checkpoint(tiny).state_dict()
    )
    assert leftovers() == []


def offset_of_a_weight(path: Path) -> int:
    """Where in the file the teacher's first MLP weight lies."""
    with open_archive(path) as archive:
        ref = Parts(archive).tensors("teacher")["backbone.blocks.0.mlp.fc1.weight"]
        return archive.storage_entry(ref.storage).header_offset + 256


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "cut", "at": 1000, "times": 3},
        {"kind": "cut", "at": 100_000, "times": 3, "after": 2},
        {"kind": "cut", "at": 1000, "times": 3, "reset": True},
        {"kind": "drop", "times": 3},
        {"kind": "status", "status": 500, "times": 3},
        {"kind": "status", "status": 503, "times": 3, "host": "cdn"},
        {"kind": "status", "status": 429, "retry_after": 0, "times": 3},
        {"kind": "expire", "times": 2},
        {"kind": "expire", "times": 1, "after": 2},
    ],
    ids=lambda fault: "-".join(map(str, fault.values())),
)
def test_passing_faults_cost_time_only(published: HubServer, tiny: Path, fault: dict) -> None:
    injected = published.faults.add(fault.pop("kind"), **fault)
    right_weights(tiny)
    assert injected.hits >= 1


def test_retry_after_is_honoured(published: HubServer, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("midway_zoo.weights.remote.time.sleep", waits.append)
    published.faults.add("status", status=429, retry_after=7, host="cdn")
    published.faults.add("status", status=429, retry_after=3, host="hub")
    right_weights(tiny)
    assert waits == [3.0, 7.0]


def test_a_new_commit_in_between_does_not_matter(published: HubServer, tiny: Path, other: Path) -> None:
    published.faults.add("commit", host="cdn", content=other, after=1)
    published.faults.add("expire", after=2)
    right_weights(tiny)


@pytest.mark.parametrize("after", [0, 3])
def test_refused_ranges_download_the_whole_file(
    published: HubServer, tiny: Path, caplog: pytest.LogCaptureFixture, after: int
) -> None:
    published.faults.add("ignore_range", times=None, after=after)
    right_weights(tiny)
    assert "refuses range requests; downloading all" in caplog.text


def test_a_damaged_whole_file_is_removed(published: HubServer, tiny: Path) -> None:
    published.faults.add("ignore_range", times=None)
    published.faults.add("flip", at=offset_of_a_weight(tiny), after=1)  # the first reply is not read
    with pytest.raises(CheckpointError, match=r"sha256 [0-9a-f]{64}, [0-9a-f]{64} is expected"):
        mz.create_model(NAME, pretrained=True)
    assert leftovers() == []
    right_weights(tiny)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"kind": "flip"}, "CRC-32"),
        ({"kind": "truncate", "at": 200_000, "times": None}, "truncated|shorter|damaged"),
        ({"kind": "swap", "after": 2, "content": b"x" * 10_000_000, "times": None}, "changed on the server"),
        ({"kind": "cut", "at": 0, "times": None, "host": "cdn"}, "cannot be reached"),
        ({"kind": "status", "status": 500, "times": None}, "cannot be reached"),
        ({"kind": "status", "status": 404, "times": None}, "refused|no such"),
        ({"kind": "expire", "times": None}, "cannot be reached"),
    ],
    ids=lambda value: value["kind"] + str(value.get("status", "")) if isinstance(value, dict) else "",
)
def test_lasting_faults_are_clear_and_leave_nothing(
    published: HubServer, tiny: Path, fault: dict, message: str
) -> None:
    if fault["kind"] == "flip":
        fault = {**fault, "at": offset_of_a_weight(tiny)}
    published.faults.add(**fault)
    with pytest.raises(MidwayZooError, match=message):
        mz.create_model(NAME, pretrained=True)
    assert leftovers() == []
    published.faults.clear()
    right_weights(tiny)


def test_gated_repository(hub: HubServer, tiny: Path) -> None:
    hub.add_repo("lab/gated", gated=True)
    hub.add_file("lab/gated", FILE, tiny, lfs=True)
    mz.register_weights("midway_nano.gated", repo_id="lab/gated", file=FILE, overwrite=True)
    with pytest.raises(WeightsUnavailableError, match=r"gated.*lab/gated.*token="):
        mz.create_model("midway_nano.gated", pretrained=True)
    mz.create_model("midway_nano.gated", pretrained=True, token=hub.TOKEN)
    assert any(request.authorized for request in hub.requests if request.host == "hub")
    assert not any(request.authorized for request in hub.requests if request.host == "cdn")


def test_what_is_not_there(published: HubServer) -> None:
    for options, message in (
        ({"repo_id": "lab/none", "file": "x.pth"}, "no such repository"),
        ({"repo_id": REPO, "file": "x.pth"}, "no such file"),
        ({"repo_id": REPO, "file": FILE, "revision": "none"}, "no such revision"),
        ({"repo_id": "a/b/c", "file": FILE}, "org/name"),
    ):
        mz.register_weights("midway_nano.none", overwrite=True, **options)
        with pytest.raises(WeightsUnavailableError, match=message):
            mz.create_model("midway_nano.none", pretrained=True)


def _full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("writer", ["write_safetensors", "write_json", "sha256_of"])
def test_disk_full(published: HubServer, tiny: Path, monkeypatch: pytest.MonkeyPatch, writer: str) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(hub_weights, writer, _full)
        with pytest.raises(WeightsUnavailableError, match=r"No space left.*cache_dir="):
            mz.create_model(NAME, pretrained=True)
        assert leftovers() == []
    right_weights(tiny)


def test_read_only_cache(published: HubServer, tiny: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(self: Path, *_: object, **__: object) -> None:  # the tests may run as root, whom no mode stops
        if not self.is_dir():
            raise PermissionError(errno.EACCES, "Permission denied", str(self))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", refuse)
        with pytest.raises(WeightsUnavailableError, match=r"Permission denied.*cache_dir="):
            mz.create_model(NAME, pretrained=True)
    right_weights(tiny, cache_dir=tmp_path / "mine")
    assert list((tmp_path / "mine").rglob("*.safetensors"))
    with monkeypatch.context() as patch:  # reading a cache that cannot be written to
        patch.setattr(Path, "mkdir", refuse)
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        right_weights(tiny, cache_dir=tmp_path / "mine")


def test_a_file_in_place_of_the_cache(published: HubServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(WeightsUnavailableError, match="cache_dir="):
        mz.create_model(NAME, pretrained=True, cache_dir=tmp_path / "file")


SCRIPT = f"""
import midway_zoo as mz
mz.register_weights("{NAME}", repo_id="{REPO}", file="{FILE}")
mz.create_model("{NAME}", pretrained=True)
"""


@pytest.fixture
def process(published: HubServer) -> Callable[[], "subprocess.Popen[bytes]"]:
    """Starts another process that creates the model with the same cache."""
    environ = {**published.environ(os.environ["HF_HOME"]), "OMP_NUM_THREADS": "1"}
    return lambda: subprocess.Popen([sys.executable, "-c", SCRIPT], env=environ, stderr=subprocess.PIPE)


def test_two_processes_download_once(published: HubServer, tiny: Path, process) -> None:
    published.faults.add("slow", times=None, delay=0.02, host="cdn")
    first, second = process(), process()
    for running in (first, second):
        _, errors = running.communicate(timeout=60)
        assert running.returncode == 0, errors.decode()
    sent = published.bytes_sent("cdn")
    right_weights(tiny)
    assert published.bytes_sent("cdn") == sent
    assert sent < tiny.stat().st_size


def test_kill_during_download(published: HubServer, tiny: Path, process) -> None:
    slow = published.faults.add("slow", times=None, delay=0.2, chunk=4096, after=2)
    running = process()
    deadline = time.monotonic() + 60
    while not slow.hits and time.monotonic() < deadline:
        time.sleep(0.05)
    running.send_signal(signal.SIGKILL)
    running.communicate(timeout=20)
    published.faults.clear()
    (place,) = hub_weights.cache_root().rglob("*.lock")
    (place.parent / f".{FILE}.teacher.safetensors.abc.part").write_bytes(b"half")  # as if killed while writing
    (place.parent / f"{FILE}.teacher.safetensors").write_bytes(b"half")
    right_weights(tiny)
