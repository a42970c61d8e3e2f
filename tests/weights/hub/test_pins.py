"""What is pinned is enforced, what is trusted on first use is remembered, and no claim is called a check."""

import hashlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import midway_zoo as mz
from midway_zoo import manifest
from midway_zoo.cli import main
from midway_zoo.errors import CheckpointError, WeightsUnavailableError
from midway_zoo.weights import cache
from midway_zoo.weights import hub as hub_weights
from midway_zoo.weights.cache import read_record, record_of
from midway_zoo.weights.pins import open_source, verify_source
from tests.weights.hub.hub_server import HubServer

REPO, FILE, NAME = "lab/weights", "tiny.pth", "midway_nano.tiny"


@pytest.fixture
def entry(published: HubServer) -> Iterator[dict[str, Any]]:
    """The entry of the published file, to be pinned by a test."""
    yield manifest.find(NAME)
    mz.register_weights(NAME, repo_id=REPO, file=FILE, overwrite=True)


def fetch(entry: dict[str, Any], *parts: str, **options: Any) -> dict[str, Path]:
    return hub_weights.fetch(NAME, entry, parts or ["teacher"], **options)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_right_pins_change_nothing(entry: dict[str, Any], tiny: Path, published: HubServer) -> None:
    path = fetch(entry)["teacher"]
    pins = {"size_bytes": path.stat().st_size, "sha256": sha256(path)}
    entry |= {"sha256": sha256(tiny), "size_bytes": tiny.stat().st_size, "revision": published.sha(REPO)}
    entry["parts"] = {"teacher": pins}
    assert fetch(entry)["teacher"] == path
    cache.clear_cache(NAME)
    assert fetch(entry)["teacher"] == path


def pin(key: str, value: Any, part: bool = False) -> dict[str, Any]:
    return {"parts": {"teacher": {key: value}}} if part else {key: value}


@pytest.mark.parametrize("key", ["sha256", "size_bytes"])
@pytest.mark.parametrize("part", [False, True], ids=["file", "part"])
@pytest.mark.parametrize("state", ["fresh", "added after it was cached", "added, offline"])
def test_a_wrong_pin_is_an_error_that_names_both(
    entry: dict[str, Any], tiny: Path, key: str, part: bool, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = fetch(entry)["teacher"]
    actual = sha256(path if part else tiny) if key == "sha256" else str((path if part else tiny).stat().st_size)
    if state == "fresh":
        cache.clear_cache(NAME)
        assert not path.exists()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", "offline" in state)
    wrong = "1" * 64 if key == "sha256" else 1234567
    entry |= pin(key, wrong, part)
    for _ in range(2):  # and it stays one
        with pytest.raises(CheckpointError) as caught:
            fetch(entry)
        assert str(wrong) in str(caught.value)
        assert actual in str(caught.value)


def test_an_etag_that_is_no_sha256_cannot_be_compared(published: HubServer, tiny: Path) -> None:
    published.add_file(REPO, "plain.pth", tiny, lfs=False)
    mz.register_weights("midway_nano.plain", repo_id=REPO, file="plain.pth", sha256=sha256(tiny), overwrite=True)
    with pytest.raises(CheckpointError, match=rf"pins sha256 {sha256(tiny)}.*ETag [0-9a-f]{{40}}.*not a SHA-256"):
        mz.create_model("midway_nano.plain", pretrained=True)
    mz.register_weights("midway_nano.plain", repo_id=REPO, file="plain.pth", overwrite=True)
    network = mz.create_model("midway_nano.plain", pretrained=True)
    assert network.provenance["sha256_claimed_by_hub"] is None
    # Pinned after it was cached without anything to compare: as wrong as another digest.
    mz.register_weights("midway_nano.plain", repo_id=REPO, file="plain.pth", sha256=sha256(tiny), overwrite=True)
    with pytest.raises(CheckpointError, match=rf"{sha256(tiny)}.*None"):
        mz.create_model("midway_nano.plain", pretrained=True)


def test_first_use_is_said_and_remembered(
    entry: dict[str, Any], tiny: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    path = fetch(entry)["teacher"]
    assert caplog.text.count("trusted on first use") == 1
    assert sha256(tiny) in caplog.text
    assert read_record(record_of(path, "teacher")) == {
        "size_bytes": tiny.stat().st_size,
        "etag": sha256(tiny),
        "sha256_claimed_by_hub": sha256(tiny),
        "parts": {"teacher": sha256(path)},
    }
    fetch(entry, "student")
    assert caplog.text.count("trusted on first use") == 1
    assert main(["info", NAME]) == 0
    assert "trusted on first use: not pinned yet are revision, size_bytes, sha256" in capsys.readouterr().out


def test_a_pinned_source_is_not_said_to_be_trusted(
    entry: dict[str, Any], tiny: Path, caplog: pytest.LogCaptureFixture
) -> None:
    entry["sha256"] = sha256(tiny)
    with caplog.at_level(logging.INFO):
        fetch(entry)
    assert "trusted" not in caplog.text


@pytest.mark.parametrize(("key", "value"), [("etag", "3" * 64), ("size_bytes", 5)])
def test_a_source_that_changed_under_the_same_revision(entry: dict[str, Any], key: str, value: Any, tiny: Path) -> None:
    record = record_of(fetch(entry)["teacher"], "teacher")
    record.write_text(json.dumps({**read_record(record), key: value}))
    with pytest.raises(CheckpointError, match=rf"changed under the same revision .*{value}.*cache --clear") as caught:
        fetch(entry, "student")
    assert str(tiny.stat().st_size if key == "size_bytes" else sha256(tiny)) in str(caught.value)
    assert main(["cache", "--clear", NAME]) == 0
    fetch(entry, "student")


def test_an_etag_that_was_missing_at_first_is_recorded_later(
    entry: dict[str, Any], tiny: Path, published: HubServer
) -> None:
    missing = published.faults.add("no_etag", times=None)
    record = record_of(fetch(entry)["teacher"], "teacher")
    assert read_record(record)["etag"] is None
    published.faults.remove(missing)
    fetch(entry, "student")
    assert read_record(record)["etag"] == read_record(record)["sha256_claimed_by_hub"] == sha256(tiny)
    published.faults.add("no_etag", times=None)
    with pytest.raises(CheckpointError, match=rf"ETag was {sha256(tiny)} .* now it is None"):
        fetch(entry, "dynamics")


def test_a_part_that_comes_out_differently_than_before(entry: dict[str, Any]) -> None:
    path = fetch(entry)["teacher"]
    record, digest = record_of(path, "teacher"), sha256(path)
    record.write_text(json.dumps({**read_record(record), "parts": {"teacher": "4" * 64}}))
    path.unlink()  # fetched again
    with pytest.raises(CheckpointError, match=rf"{digest}.*{'4' * 64}.*first fetched"):
        fetch(entry)


# The whole file


def test_verify_full(
    entry: dict[str, Any], tiny: Path, published: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert mz.create_model(NAME, pretrained=True).provenance["sha256_verified"] is None
    published.reset()
    assert main(["verify", NAME, "--full"]) == 0
    said = capsys.readouterr().out
    assert f"sha256 {sha256(tiny)} (all {tiny.stat().st_size} bytes" in said
    assert "teacher" in said  # the cached parts as well
    assert published.bytes_sent("cdn") == tiny.stat().st_size
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size == tiny.stat().st_size]
    provenance = mz.create_model(NAME, pretrained=True).provenance
    assert provenance["sha256_verified"] == provenance["sha256_claimed_by_hub"] == sha256(tiny)
    assert "sha256" not in provenance


def test_verify_full_needs_nothing_cached_and_finds_other_bytes(
    entry: dict[str, Any], tiny: Path, published: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("midway_zoo.weights.pins._CHUNK", 100_000)
    assert verify_source(NAME, entry).sha256 == sha256(tiny)
    published.add_file(REPO, "lying.pth", tiny, lfs=True, sha256="5" * 64)
    mz.register_weights("midway_nano.lying", repo_id=REPO, file="lying.pth", overwrite=True)
    with pytest.raises(CheckpointError, match=rf"have sha256 {sha256(tiny)}, the Hub says {'5' * 64}"):
        verify_source("midway_nano.lying", manifest.find("midway_nano.lying"))
    network = mz.create_model("midway_nano.lying", pretrained=True)  # its ranges have CRCs, and those are right
    assert network.provenance["sha256_claimed_by_hub"] == "5" * 64
    assert network.provenance["sha256_verified"] is None


def test_verify_full_without_ranges(entry: dict[str, Any], tiny: Path, published: HubServer) -> None:
    published.faults.add("ignore_range", match=FILE, times=None)
    assert verify_source(NAME, entry).sha256 == sha256(tiny)


# The release step


@pytest.fixture
def listing(published: HubServer, tmp_path: Path) -> Path:
    """A manifest of one entry, not pinned, whose file is published."""
    content = json.loads(manifest.manifest_path().read_text())
    model = content["models"]["midway_vits.bdd100k"]
    model |= {"architecture": "midway_nano", "repo_id": REPO, "file": FILE, "config": {}}
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({**content, "models": {NAME: model}}))
    return path


@pytest.mark.parametrize("options", [[], ["--full"]], ids=["claimed", "full"])
def test_pin_fills_everything_in(
    listing: Path, tiny: Path, published: HubServer, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["manifest", "pin", str(listing), *options]) == 0
    assert "+" in capsys.readouterr().out
    pinned = json.loads(listing.read_text())["models"][NAME]
    assert pinned["revision"] == published.sha(REPO)
    assert pinned["size_bytes"] == tiny.stat().st_size
    assert pinned["sha256"] == sha256(tiny)
    for part, path in hub_weights.fetch(NAME, pinned, ["teacher", "student", "dynamics"]).items():
        assert pinned["parts"][part] == {"size_bytes": path.stat().st_size, "sha256": sha256(path)}
    assert main(["manifest", "check", str(listing)]) == 0


def test_pin_of_a_file_without_sha256(listing: Path, tiny: Path, published: HubServer) -> None:
    published.add_file(REPO, FILE, tiny, lfs=False)
    before = listing.read_text()
    assert main(["manifest", "pin", str(listing)]) != 0
    assert listing.read_text() == before


@pytest.mark.parametrize("command", [["manifest", "pin"], ["verify", NAME, "--full"]], ids=["pin", "verify"])
def test_without_network_one_line(
    listing: Path, published: HubServer, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    published.faults.add("drop", times=None)
    before = listing.read_text()
    assert main([*command, str(listing)] if "pin" in command else command) != 0
    said = capsys.readouterr().err.strip()
    assert len(said.splitlines()) == 1, said
    assert "cannot be reached" in said
    assert listing.read_text() == before


def test_pin_says_where_a_repository_is_missing(listing: Path) -> None:
    content = json.loads(listing.read_text())
    content["models"][NAME]["repo_id"] = "lab/none"
    with pytest.raises(WeightsUnavailableError, match=r"lab/none.*no such repository"):
        open_source(NAME, content["models"][NAME])
