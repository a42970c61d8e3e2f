"""pretrained=True against the loopback Hub: the right numbers, from few bytes, kept and found again."""

import json
import logging
from pathlib import Path

import pytest
import timm
import torch

import midway_zoo as mz
from midway_zoo import manifest
from midway_zoo.errors import CheckpointError, ConfigError, WeightsUnavailableError
from midway_zoo.weights import hub as hub_weights
from midway_zoo.weights.load import encoder_state
from tests.weights.hub.hub_server import HubServer
from tests.weights.released_files import DROP, TINY, assert_same_state, write_released

REPO, FILE, NAME = "lab/weights", "tiny.pth", "midway_nano.tiny"


def test_network_is_that_of_the_file(published: HubServer, tiny: Path) -> None:
    network = mz.create_model(NAME, pretrained=True)
    assert_same_state(network.state_dict(), mz.load_checkpoint(tiny).state_dict())
    assert not network.training
    assert network.config == mz.load_checkpoint(tiny).config
    assert network.provenance["commit"] == published.sha(REPO)
    assert network.provenance["encoder"] == "teacher"


@pytest.mark.parametrize("longest", [2**12, 2**17])
def test_many_ranges_at_once(
    published: HubServer, nano_file: Path, monkeypatch: pytest.MonkeyPatch, longest: int
) -> None:
    monkeypatch.setattr("midway_zoo.weights.ranges._RUN", longest)
    mz.register_weights("midway_nano.full", repo_id=REPO, file="nano.pth", overwrite=True)
    network = mz.create_model("midway_nano.full", pretrained=True, paired=True)
    assert_same_state(network.state_dict(), mz.load_checkpoint(nano_file, paired=True).state_dict())
    assert len(published.requests) > 20


def test_paired_and_student(published: HubServer, tiny: Path) -> None:
    paired = mz.create_model(NAME, pretrained=True, paired=True)
    assert_same_state(paired.state_dict(), mz.load_checkpoint(tiny, paired=True).state_dict())
    published.reset()
    student = mz.create_model(NAME, pretrained=True, encoder="student")
    assert_same_state(student.state_dict(), mz.load_checkpoint(tiny, encoder="student").state_dict())
    assert published.bytes_sent("cdn") == 0


def test_dynamics_later_fetch_only_what_is_missing(published: HubServer) -> None:
    places = hub_weights.fetch(NAME, manifest.find(NAME), ["teacher"])
    before = places["teacher"].stat().st_mtime_ns
    mz.create_model(NAME, pretrained=True)
    assert places["teacher"].stat().st_mtime_ns == before
    assert sorted(path.suffixes[-2] for path in places["teacher"].parent.glob("*.safetensors")) == [
        ".dynamics",
        ".teacher",
    ]


def test_offline_uses_the_cache_without_a_request(published: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = mz.create_model(NAME, pretrained=True)
    published.reset()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert_same_state(mz.create_model(NAME, pretrained=True).state_dict(), expected.state_dict())
    assert published.requests == []
    with pytest.raises(WeightsUnavailableError) as caught:
        mz.create_model(NAME, pretrained=True, encoder="student")
    for words in (FILE, REPO, "midway-zoo download", "cache_dir=", "load_checkpoint", "HF_HUB_OFFLINE"):
        assert words in str(caught.value)
    assert published.requests == []


def test_a_pinned_commit_needs_no_request(published: HubServer) -> None:
    commit = published.sha(REPO)
    mz.create_model(NAME, pretrained=True, revision=commit)
    published.reset()
    mz.create_model(NAME, pretrained=True, revision=commit)
    assert published.requests == []


def test_no_network_uses_the_cache(published: HubServer, caplog: pytest.LogCaptureFixture) -> None:
    expected = mz.create_model(NAME, pretrained=True)
    published.faults.add("drop", times=None)
    with caplog.at_level(logging.INFO):
        assert_same_state(mz.create_model(NAME, pretrained=True).state_dict(), expected.state_dict())
    assert "using the cached parts" in caplog.text
    with pytest.raises(WeightsUnavailableError, match="cannot be reached"):
        mz.create_model(NAME, pretrained=True, encoder="student")


def test_a_new_commit_is_fetched(published: HubServer, other: Path) -> None:
    mz.create_model(NAME, pretrained=True)
    published.add_file(REPO, FILE, other, lfs=True)
    assert_same_state(mz.create_model(NAME, pretrained=True).state_dict(), mz.load_checkpoint(other).state_dict())


def test_timm(published: HubServer) -> None:
    mz.register_weights("midway_nano.full", repo_id=REPO, file="nano.pth", overwrite=True)
    expected = mz.create_model("midway_nano.full", pretrained=True).encoder.state_dict()
    model = timm.create_model("midway_nano.full", pretrained=True, num_classes=7)
    assert_same_state({k: v for k, v in model.state_dict().items() if not k.startswith("head.")}, expected)
    assert model.head.out_features == 7
    assert "state_dict" not in model.pretrained_cfg
    gray = timm.create_model("midway_nano.full", pretrained=True, in_chans=1)
    torch.testing.assert_close(gray.patch_embed.proj.weight, expected["patch_embed.proj.weight"].sum(1, keepdim=True))
    features = timm.create_model("midway_nano.full", pretrained=True, features_only=True)
    assert len(features(torch.zeros(1, 3, 64, 64))) == 4


def test_released_names_reach_the_authors_repository(published: HubServer) -> None:
    with pytest.raises(WeightsUnavailableError, match=r"midway-bdd-vit-s-ep300\.pth") as caught:
        timm.create_model("midway_vits", pretrained=True)
    assert "agentic-learning-ai-lab/Midway-Network" in str(caught.value)
    assert "agentic-learning-ai-lab/Midway-Network" in published.requests[0].path


def test_local_path(tiny: Path, tmp_path: Path) -> None:
    mz.register_weights("midway_nano.local", path=tiny, overwrite=True)
    network = mz.create_model("midway_nano.local", pretrained=True)
    assert_same_state(network.state_dict(), mz.load_checkpoint(tiny).state_dict())
    network.save_pretrained(tmp_path / "saved")
    mz.register_weights("midway_nano.local", path=tmp_path / "saved", overwrite=True)
    assert_same_state(mz.create_model("midway_nano.local", pretrained=True).state_dict(), network.state_dict())
    mz.register_weights("midway_nano.local", path=tmp_path / "gone", overwrite=True)
    with pytest.raises(WeightsUnavailableError, match="gone"):
        mz.create_model("midway_nano.local", pretrained=True)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet50.x", {"path": "x"}),
        ("midway_nano", {"path": "x"}),
        ("midway_vits.bdd100k", {"path": "x"}),
        ("midway_nano.x", {}),
        ("midway_nano.x", {"path": "x", "repo_id": "a/b", "file": "c"}),
        ("midway_nano.x", {"repo_id": "a/b"}),
        ("midway_nano.x", {"path": "x", "config": {"num_hads": 3}}),
    ],
)
def test_register_refuses(name: str, options: dict) -> None:
    with pytest.raises(ConfigError):
        mz.register_weights(name, **options)


def test_pinned_digests_are_enforced(published: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = manifest.find(NAME)
    path = hub_weights.fetch(NAME, entry, ["teacher"])["teacher"]
    digest = json.loads(path.with_suffix(".json").read_text())["sha256"]
    path.unlink()
    monkeypatch.setitem(entry, "parts", {"teacher": {"sha256": digest}})
    assert hub_weights.fetch(NAME, entry, ["teacher"])["teacher"].is_file()
    path.unlink()
    monkeypatch.setitem(entry, "parts", {"teacher": {"sha256": "0" * 64}})
    with pytest.raises(CheckpointError, match=f"{'0' * 64}.*{digest}"):
        hub_weights.fetch(NAME, entry, ["teacher"])
    assert not path.exists()
    monkeypatch.setitem(entry, "sha256", "1" * 64)
    with pytest.raises(CheckpointError, match="1" * 64):
        hub_weights.fetch(NAME, entry, ["teacher"])


def test_a_damaged_cache_is_noticed_and_replaced(published: HubServer) -> None:
    path = hub_weights.fetch(NAME, manifest.find(NAME), ["teacher"])["teacher"]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"sha256 .* expected .* removed"):
        mz.create_model(NAME, pretrained=True)
    assert not path.exists()
    mz.create_model(NAME, pretrained=True)
    path.write_bytes(data[:-5])  # a size that differs is seen before it is read
    mz.create_model(NAME, pretrained=True)


def test_config_overrides(published: HubServer) -> None:
    assert mz.create_model(NAME, pretrained=True, num_heads=2).config.num_heads == 2
    with pytest.raises(CheckpointError, match="shape"):
        mz.create_model(NAME, pretrained=True, grid=(4, 4))
    assert TINY.grid == (2, 2)


def test_encoder_alone(published: HubServer) -> None:
    full = mz.create_model(NAME, pretrained=True).state_dict()
    network = mz.create_model(NAME, pretrained=True, dynamics=False)
    assert network.dynamics is None
    assert_same_state(network.state_dict(), {name: value for name, value in full.items() if name.startswith("encoder")})


# What the file does not tell

DYNAMICS = {"midway_heads": 3, "backward_heads": 6, "forward_heads": 6, "gate_bias": 4.0}


@pytest.fixture
def silent(published: HubServer, tmp_path: Path) -> Path:
    """A published file, silent.pth, that says nothing of its dynamics and holds no student."""
    path = tmp_path / "silent.pth"
    write_released(
        path, args_overrides={"midway_model_configs": DROP}, edit=lambda checkpoint: checkpoint.pop("student")
    )
    published.add_file(REPO, "silent.pth", path, lfs=True)
    return path


def listed(**config: object) -> str:
    mz.register_weights("midway_nano.silent", repo_id=REPO, file="silent.pth", config=config, overwrite=True)
    return "midway_nano.silent"


def test_an_encoder_alone_needs_no_dynamics(silent: Path, published: HubServer) -> None:
    name = listed()
    expected = mz.load_checkpoint(silent, config={"dynamics": False})
    assert_same_state(mz.create_model(name, pretrained=True, dynamics=False).state_dict(), expected.state_dict())
    assert_same_state(encoder_state(name), expected.encoder.state_dict())
    with pytest.raises(ConfigError, match=r"silent\.pth.*num_motion_heads.*midway_heads"):
        mz.create_model(name, pretrained=True)
    mz.register_weights("midway_nano.silent", path=silent, overwrite=True)
    assert_same_state(encoder_state(name), expected.encoder.state_dict())


def test_the_listing_supplies_what_the_file_does_not_tell(silent: Path) -> None:
    name = listed(**DYNAMICS)
    expected = mz.load_checkpoint(silent, config=DYNAMICS)
    network = mz.create_model(name, pretrained=True)
    assert_same_state(network.state_dict(), expected.state_dict())
    assert network.config == expected.config == TINY
    listed(**DYNAMICS | {"gate_bias": 2.0})  # nothing in the file speaks against it
    assert mz.create_model(name, pretrained=True).config.gate_bias == 2.0
    mz.register_weights("midway_nano.silent", path=silent, config=DYNAMICS, overwrite=True)
    assert mz.create_model(name, pretrained=True).config == TINY


def test_a_listing_that_disagrees_with_the_file(published: HubServer, tiny: Path) -> None:
    message = "gate_bias=4.0.*gate_bias=2.0"
    for source in ({"repo_id": REPO, "file": FILE}, {"path": tiny}):
        mz.register_weights(NAME, **source, config={"gate_bias": 2.0}, overwrite=True)
        with pytest.raises(CheckpointError, match=message):
            mz.create_model(NAME, pretrained=True)
    mz.register_weights(NAME, repo_id=REPO, file=FILE, overwrite=True)
    mz.create_model(NAME, pretrained=True)
    mz.register_weights(NAME, repo_id=REPO, file=FILE, config={"gate_bias": 2.0}, overwrite=True)
    with pytest.raises(CheckpointError, match=message):  # found in the cache, too
        mz.create_model(NAME, pretrained=True)


def test_half_precision_loads_as_float32(published: HubServer, tmp_path: Path) -> None:
    write_released(tmp_path / "half.pth", dtype=torch.float16)
    published.add_file(REPO, "half.pth", tmp_path / "half.pth", lfs=True)
    mz.register_weights("midway_nano.half", repo_id=REPO, file="half.pth", overwrite=True)
    network = mz.create_model("midway_nano.half", pretrained=True)
    assert network.dtype == torch.float32
    assert_same_state(network.state_dict(), mz.load_checkpoint(tmp_path / "half.pth").state_dict())
