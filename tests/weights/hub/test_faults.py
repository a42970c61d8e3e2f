"""Everything that goes wrong between the Hub and the cache: right weights or a clear error, never anything partial."""

import errno
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

import midway_zoo as mz
from midway_zoo.cli import main
from midway_zoo.errors import CheckpointError, MidwayZooError, WeightsUnavailableError
from midway_zoo.weights import cache
from midway_zoo.weights import hub as hub_weights
from midway_zoo.weights.archive import open_archive
from midway_zoo.weights.released import Parts
from midway_zoo.weights.transport import Answer, PassingError
from tests.weights.hub.conftest import configure_client
from tests.weights.hub.hub_server import HubServer
from tests.weights.released_files import assert_same_state

CLIENT_ERRORS = (400, 401, 403, 410)
REPO, FILE, NAME = "lab/weights", "tiny.pth", "midway_nano.tiny"


def leftovers() -> list[Path]:
    """Files in the cache that are neither complete parts nor bookkeeping."""
    files = [path for path in cache.cache_root().rglob("*") if path.is_file() and path.suffix != ".lock"]
    complete = {path for path in files if path.suffix == ".safetensors" and path.with_suffix(".json") in files}
    return [
        path
        for path in files
        if path not in complete
        and path.with_suffix(".safetensors") not in complete
        and path.parent.name != "refs"
        and not path.name.endswith(".source.json")
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
        {"kind": "status", "status": 429, "ratelimit": 0, "times": 2},
        {"kind": "expire", "times": 1},
        {"kind": "expire", "times": 1, "after": 2},
        *(
            {"kind": "status", "status": status, "times": 1, "after": 1, "host": "cdn"}
            for status in (400, 401, 403, 410)
        ),
        {"kind": "cut", "at": 10_000, "times": 12, "host": "cdn"},
        {"kind": "cut", "at": 10_000, "times": 12, "host": "cdn", "reset": True},
        {"kind": "short", "at": 30_000, "times": 9},
        {"kind": "if_range", "times": None},
        {"kind": "weak_etag", "times": None},
        {"kind": "weak_etag", "times": 2, "host": "cdn", "after": 1},
        {"kind": "no_etag", "times": None, "host": "cdn"},
        {"kind": "no_etag", "times": 1, "host": "cdn", "after": 1},
        {"kind": "long", "extra": 2**22, "times": None},
        {"kind": "long", "extra": -1, "times": None},
        {"kind": "no_commit", "times": None},
        {"kind": "status", "status": 405, "method": "HEAD", "times": None},
        *({"kind": "redirect", "status": status, "host": "hub", "times": None} for status in (301, 302, 307, 308)),
    ],
    ids=lambda fault: "-".join(map(str, fault.values())),
)
def test_passing_faults_cost_time_only(published: HubServer, tiny: Path, fault: dict) -> None:
    injected = published.faults.add(**fault)
    right_weights(tiny, token=published.TOKEN)
    assert injected.hits >= 1
    assert not any(request.authorized for request in published.requests if request.host != "hub")
    assert all(request.range for request in published.requests if request.host == "cdn")


def waits(caplog: pytest.LogCaptureFixture) -> list[float]:
    """Seconds that the log tells of waiting."""
    return [float(found) for found in re.findall(r"trying again in (\d+\.\d) s", caplog.text)]


def test_waits_that_are_asked_for(published: HubServer, tiny: Path, caplog: pytest.LogCaptureFixture) -> None:
    published.faults.add("status", status=429, retry_after=1, host="cdn")
    published.faults.add("status", status=503, retry_after=1, host="hub")
    published.faults.add("status", status=429, ratelimit=2, host="hub")
    right_weights(tiny)
    assert waits(caplog) == [1.0, 2.0, 1.0]
    assert "a token (HF_TOKEN, or token=) raises the limit; trying again in 2.0 s" in caplog.text


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"RateLimit": '"resolvers";r=0;t=211'}, 211.0),
        ({"RateLimit": '"resolvers";r=0;t=3000'}, 300.0),
        ({"Retry-After": "3000"}, 300.0),
        ({"Retry-After": "Fri, 31 Dec 2100 23:59:59 GMT"}, 300.0),
        ({}, None),
    ],
    ids=str,
)
def test_no_server_makes_anyone_wait_longer_than_five_minutes(headers: dict[str, str], wait: float | None) -> None:
    response = SimpleNamespace(status_code=429, headers=headers, url="https://hub.example/file")
    with pytest.raises(PassingError) as caught:
        Answer(response, iter(())).refuse()
    assert caught.value.wait == wait


def test_a_new_commit_in_between_does_not_matter(published: HubServer, tiny: Path, other: Path) -> None:
    published.faults.add("commit", host="cdn", content=other, after=1)
    published.faults.add("expire", after=2)
    right_weights(tiny)


WITHOUT_RANGES = [
    {"kind": "ignore_range", "times": None},
    {"kind": "ignore_range", "times": None, "after": 3},
    {"kind": "gzip", "times": 2, "host": "cdn"},
    {"kind": "status", "status": 403, "times": 2, "host": "cdn"},
]


@pytest.mark.parametrize("fault", WITHOUT_RANGES, ids=lambda fault: "-".join(map(str, fault.values())))
def test_refused_ranges_download_the_whole_file(
    published: HubServer, tiny: Path, caplog: pytest.LogCaptureFixture, fault: dict, tmp_path: Path
) -> None:
    """In the cache that was named, told in one line, and gone when the weights are cut out of it."""
    published.faults.add(**fault)
    right_weights(tiny, cache_dir=tmp_path / "mine")
    lines = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    (line,) = [line for line in lines if "trusted on first use" not in line]
    assert f"refuses range requests; downloading all {tiny.stat().st_size / 1e6:.1f} MB" in line
    assert ("AccessDenied" in line) == (fault["kind"] == "status")
    assert "Signature" not in line
    assert [path for path in (tmp_path / "mine").glob("models--*/**/*") if path.is_file()] == []


def test_the_whole_file_is_kept_on_demand(published: HubServer, tiny: Path, tmp_path: Path) -> None:
    published.faults.add("ignore_range", times=None)
    arguments = ["download", NAME, "--cache-dir", str(tmp_path / "mine")]
    assert main([*arguments, "--part", "encoder", "--keep-file"]) == 0
    (kept,) = (tmp_path / "mine").glob("models--*/snapshots/*/*.pth")
    assert kept.read_bytes() == tiny.read_bytes()
    assert main(arguments) == 0  # what was there before is left there, and used
    assert len([request for request in published.requests if request.host == "cdn" and not request.range]) == 1
    assert kept.is_file()


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
        ({"kind": "expire", "times": None}, "HTTP 403: .*Request has expired|403"),
        ({"kind": "status", "status": 429, "ratelimit": 0, "times": None}, "HTTP 429.*HF_TOKEN"),
        ({"kind": "page", "times": None}, r"HF_ENDPOINT=http://127.0.0.1:\d+ does not answer as a Hub: .* web page"),
        ({"kind": "drop", "times": None}, r"http://127.0.0.1:\d+/lab/weights at main .* cannot be reached"),
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


@pytest.mark.parametrize(
    "faults",
    [
        [{"kind": "expire", "times": None}],
        [{"kind": "status", "status": 401, "times": None, "host": "cdn"}],
        [{"kind": "ignore_range", "times": None}, {"kind": "status", "status": 400, "after": 1, "times": None}],
        [{"kind": "ignore_range", "times": None}, {"kind": "redirect", "host": "hub", "times": None}],
    ],
    ids=lambda faults: "-".join(fault["kind"] + str(fault.get("status", "")) for fault in faults),
)
def test_what_the_client_says_in_many_lines_is_one(published: HubServer, faults: list[dict]) -> None:
    for fault in faults:
        published.faults.add(**fault)
    with pytest.raises(WeightsUnavailableError) as caught:
        mz.create_model(NAME, pretrained=True)
    assert str(caught.value).isprintable()
    assert "Signature" not in str(caught.value)
    assert leftovers() == []


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


def test_a_mirror_without_commits_is_filed_by_etag(
    published: HubServer, tiny: Path, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is filed under the branch's name: what moves there is seen, what was there is found without network."""
    published.faults.add("no_commit", times=None)
    right_weights(tiny)
    assert sorted(path.name[:9] for path in (cache.cache_root() / "lab--weights").glob("[!r]*")) == [
        f"etag-{published.repos[REPO].at('main').files[FILE].sha256}"[:9]
    ]
    published.add_file(REPO, FILE, other, lfs=True)
    right_weights(other)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    right_weights(other)


def test_an_answer_without_commit_and_etag_is_refused(published: HubServer) -> None:
    published.faults.add("no_commit", times=None)
    published.faults.add("no_etag", times=None, host="hub")
    with pytest.raises(WeightsUnavailableError, match=r"HF_ENDPOINT=http://127.* does not answer as a Hub: .* ETag"):
        mz.create_model(NAME, pretrained=True)
    assert leftovers() == []


def test_a_longer_body_is_cut_off(published: HubServer, tiny: Path) -> None:
    published.faults.add("long", times=None, extra=2**29)
    right_weights(tiny)
    assert published.bytes_sent("cdn") < 2**27  # what the sockets held of 512 MiB for each request


@pytest.mark.parametrize("connections", [1, 8])
def test_a_finished_part_is_kept_when_the_next_fails(
    published: HubServer, tiny: Path, monkeypatch: pytest.MonkeyPatch, connections: int
) -> None:
    """Also where the damage comes in first, with a range that both parts have: the rest of the first is fetched."""
    monkeypatch.setattr("midway_zoo.weights.ranges.CONNECTIONS", connections)
    with open_archive(tiny) as archive:
        ref = Parts(archive).tensors("motion_loss")["motion_tokens"]
        at = archive.storage_entry(ref.storage).header_offset + 100
    published.faults.add("flip", at=at, times=None)
    with pytest.raises(CheckpointError, match="CRC-32"):
        mz.create_model(NAME, pretrained=True)
    assert [path.suffixes[-2] for path in cache.cache_root().rglob("*.safetensors")] == [".teacher"]
    assert leftovers() == []


def test_no_network_is_told_at_once(
    published: HubServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    environ = published.environ(os.environ["HF_HOME"]) | {"HF_ENDPOINT": "http://127.0.0.1:9"}  # nobody listens there
    configure_client(environ, monkeypatch)
    monkeypatch.setattr("midway_zoo.weights.transport.BACKOFF_SECONDS", 0.5)
    with pytest.raises(WeightsUnavailableError, match=r"http://127.0.0.1:9/lab/weights .* cannot be reached"):
        mz.create_model(NAME, pretrained=True)
    assert 0 < sum(waits(caplog)) < 2


@pytest.mark.parametrize("host", ["hub", "cdn"])
def test_a_server_that_never_answers(
    published: HubServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, host: str
) -> None:
    """Given up after a time that all tries share, with a line for each; here all times are a twentieth."""
    monkeypatch.setattr("midway_zoo.weights.transport.SILENCE_SECONDS", 0.95)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_ETAG_TIMEOUT", 0.5)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.5)
    published.faults.add("hang", times=None, host=host)
    with pytest.raises(WeightsUnavailableError, match=r"cannot be reached .*Timeout.* \(given up after") as caught:
        mz.create_model(NAME, pretrained=True)
    lines = [record for record in caplog.records if "trying again" in record.getMessage()]
    assert len(lines) <= 1  # none where the machine is so busy that the first try used up the time
    assert f"given up after {'2 tries' if lines else 'one try'}" in str(caught.value)
    assert leftovers() == []


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500])
def test_what_is_cached_is_used_whatever_the_hub_says(
    published: HubServer, tiny: Path, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    right_weights(tiny)
    published.faults.add("status", status=status, times=None)
    right_weights(tiny)
    assert "using the cached parts" in caplog.text


def test_a_full_disk_of_the_whole_file(published: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    published.faults.add("ignore_range", times=None)
    monkeypatch.setattr(hub_weights, "hf_hub_download", _full)
    with pytest.raises(WeightsUnavailableError, match=r"the disk is full.*cache_dir="):
        mz.create_model(NAME, pretrained=True)


def _full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("writer", ["write_safetensors", "write_json", "sha256_of"])
def test_disk_full(published: HubServer, tiny: Path, monkeypatch: pytest.MonkeyPatch, writer: str) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(cache, writer, _full)
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


def test_a_read_only_cache_needs_no_writing(
    published: HubServer, tiny: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither lock nor note is written when nothing is missing."""
    right_weights(tiny, cache_dir=tmp_path / "mine")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "mine").rglob("*")}
    with monkeypatch.context() as patch:
        patch.setattr(hub_weights, "FileLock", _full)
        right_weights(tiny, cache_dir=tmp_path / "mine")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "mine").rglob("*")} == before


SCRIPT = f"""
import midway_zoo as mz
mz.register_weights("{NAME}", repo_id="{REPO}", file="{FILE}")
mz.create_model("{NAME}", pretrained=True)
"""


@pytest.fixture
def process(published: HubServer) -> Callable[[], "subprocess.Popen[bytes]"]:
    """Starts another process that creates the model with the same cache."""
    environ = {**published.environ(os.environ["HF_HOME"]), "OMP_NUM_THREADS": "1"}
    # Whoever runs the tests in the background may ignore SIGINT, which a child inherits.
    script = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler); {SCRIPT}"
    return lambda: subprocess.Popen([sys.executable, "-c", script], env=environ, stderr=subprocess.PIPE)


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
    (place,) = cache.cache_root().rglob("*.lock")
    (place.parent / f".{FILE}.teacher.safetensors.abc.part").write_bytes(b"half")  # as if killed while writing
    (place.parent / f"{FILE}.teacher.safetensors").write_bytes(b"half")
    right_weights(tiny)


def test_interrupt_ends_soon(published: HubServer, process) -> None:
    slow = published.faults.add("slow", times=None, delay=30, chunk=4096, after=3, host="cdn")
    running = process()
    deadline = time.monotonic() + 60
    while not slow.hits and time.monotonic() < deadline:
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=20)  # a try of the client takes 10 s, what is sent takes minutes
    assert b"KeyboardInterrupt" in errors
    assert leftovers() == []
