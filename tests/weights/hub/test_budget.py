"""How much is fetched: of a file with an optimizer, one encoder costs little more than its own bytes."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import midway_zoo as mz
from midway_zoo import manifest
from midway_zoo.errors import WeightsUnavailableError
from midway_zoo.weights import cache
from midway_zoo.weights import hub as hub_weights
from midway_zoo.weights.ranges import CONNECTIONS, plan
from tests.weights.hub.hub_server import HubServer
from tests.weights.released_files import write_released

CONFIG = mz.MidwayConfig(depth=6, feature_blocks=(1, 2, 4, 5))  # half of a ViT-S: a file of 0.6 GB


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.mktemp("large") / "large.pth"
    write_released(path, CONFIG)
    yield path
    path.unlink()


def test_bytes_and_requests(hub: HubServer, large: Path) -> None:
    hub.add_repo("lab/large")
    hub.add_file("lab/large", "large.pth", large, lfs=True)
    mz.register_weights("midway_vits.large", repo_id="lab/large", file="large.pth", overwrite=True)
    paths = hub_weights.fetch("midway_vits.large", manifest.find("midway_vits.large"), ["teacher"])
    encoder = 4 * sum(tensor.numel() for tensor in cache.load_part(paths["teacher"]).tensors.values())
    sent = hub.bytes_sent()
    assert sent <= 1.12 * encoder, (sent, encoder)
    assert sent <= 0.12 * large.stat().st_size
    assert len(hub.requests) < 60
    fetching = [request for request in hub.requests if request.host == "cdn"]
    assert len({request.client for request in fetching}) <= CONNECTIONS + 1  # and one that read the directory


def test_what_came_before_a_failure_is_not_fetched_again(
    hub: HubServer, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add_repo("lab/large")
    hub.add_file("lab/large", "large.pth", large, lfs=True)
    mz.register_weights("midway_vits.large", repo_id="lab/large", file="large.pth", overwrite=True)
    monkeypatch.setattr("midway_zoo.weights.transport.BACKOFF_SECONDS", 0.01)
    entry = manifest.find("midway_vits.large")
    hub.faults.add("status", status=503, times=None, after=4, host="cdn")
    with pytest.raises(WeightsUnavailableError):
        hub_weights.fetch("midway_vits.large", entry, ["teacher"])
    assert [path.suffixes[-2] for path in cache.cache_root().rglob("*.safetensors")] == [".unfinished"]
    hub.faults.clear()
    sent = hub.bytes_sent()
    paths = hub_weights.fetch("midway_vits.large", entry, ["teacher"])
    tensors = cache.load_part(paths["teacher"]).tensors
    encoder = 4 * sum(tensor.numel() for tensor in tensors.values())
    assert sent > 0.3 * encoder
    assert hub.bytes_sent() < 1.25 * encoder
    state = mz.load_checkpoint(large).encoder.state_dict()
    assert all(torch.equal(tensors[name], value) for name, value in state.items())
    assert [path.suffixes[-2] for path in cache.cache_root().rglob("*.safetensors")] == [".teacher"]


def _archive(sizes: list[int], wanted: list[int]) -> tuple[SimpleNamespace, dict]:
    """Entries one behind the other, and references to some of them."""
    starts = [sum(sizes[:index]) for index in range(len(sizes))]
    entries = [SimpleNamespace(header_offset=at, file_size=size) for at, size in zip(starts, sizes, strict=True)]
    archive = SimpleNamespace(
        all_entries=entries, directory_offset=sum(sizes), storage_entry=lambda storage: entries[storage]
    )
    return archive, {str(index): SimpleNamespace(storage=index) for index in wanted}


def test_the_smallest_gaps_are_fetched_first() -> None:
    """As few ranges as the bytes to spare allow."""
    sizes = [10**6, 3 * 10**5, 10**6, 10**5, 10**6, 2 * 10**5, 10**6, 10**3, 10**6]
    archive, refs = _archive(sizes, [0, 2, 4, 6, 8])
    spans = {
        spare: [(run.start, run.stop, run.names) for run in plan(archive, refs, spare)]
        for spare in (0, 101_000, 301_000, 601_000)
    }
    ends = [sum(sizes[: index + 1]) for index in range(len(sizes))]
    assert spans[0] == [
        (0, ends[0], ["0"]),
        (ends[1], ends[2], ["2"]),
        (ends[3], ends[4], ["4"]),
        (ends[5], ends[8], ["6", "8"]),
    ]
    assert [names for *_, names in spans[101_000]] == [["0"], ["2", "4"], ["6", "8"]]
    assert [names for *_, names in spans[301_000]] == [["0"], ["2", "4", "6", "8"]]
    assert spans[601_000] == [(0, ends[8], ["0", "2", "4", "6", "8"])]


def test_a_long_stretch_is_shared_out() -> None:
    archive, refs = _archive([2**24] * 10, list(range(10)))
    assert [run.stop - run.start for run in plan(archive, refs)] == [2**25] * 5


def test_an_unchanged_part_is_hashed_once_and_a_changed_one_again(tmp_path, monkeypatch) -> None:
    """What is written is what was hashed; only another file in its place has to be hashed before it is used."""
    path = tmp_path / "w.teacher.safetensors"
    place = cache.Place(tmp_path, "w")
    cache.store(place, "teacher", {"x": torch.arange(4.0)}, {"part": "teacher"}, None)
    calls: list[Path] = []
    original = cache.sha256_of
    monkeypatch.setattr(cache, "sha256_of", lambda file: calls.append(file) or original(file))
    cache.load_part(path)
    assert not calls
    cache.load_part(path, rehash=True)
    assert len(calls) == 1
    path.write_bytes(path.read_bytes())  # the same bytes, but another time
    cache.load_part(path)
    cache.load_part(path)
    assert len(calls) == 2
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(mz.MidwayZooError, match="sha256"):
        cache.load_part(path)
