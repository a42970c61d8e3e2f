"""Publishing on the loopback Hub and reading back; the commands about weights; the manifest's schema."""

import copy
import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import midway_zoo as mz
from midway_zoo.cli import main
from midway_zoo.cli.manifest_schema import validate
from midway_zoo.errors import CheckpointError, ConfigError, WeightsUnavailableError
from midway_zoo.manifest import load_manifest
from midway_zoo.weights import cache
from midway_zoo.weights import hub as hub_weights
from midway_zoo.weights.convert import convert
from midway_zoo.weights.sharing import network_card, push_folder
from tests.weights.hub.hub_server import HubServer
from tests.weights.released_files import assert_same_state

REPO, FILE, NAME = "lab/weights", "tiny.pth", "midway_nano.tiny"


@pytest.fixture
def writable(published: HubServer, monkeypatch: pytest.MonkeyPatch) -> HubServer:
    """The server, with a token that may write."""
    monkeypatch.setenv("HF_TOKEN", published.TOKEN)
    return published


def card_of(repo_id: str) -> str:
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(repo_id, "README.md")).read_text(encoding="utf-8")


def test_network_there_and_back(writable: HubServer, tiny: Path) -> None:
    network = mz.load_checkpoint(tiny)
    network.push_to_hub("lab/mine")
    again = mz.create_model("hf-hub:lab/mine")
    assert_same_state(again.state_dict(), network.state_dict())
    at = mz.create_model(f"hf-hub:lab/mine@{writable.sha('lab/mine')}")
    assert_same_state(at.state_dict(), network.state_dict())
    card = card_of("lab/mine")
    assert "library_name: midway-zoo" in card
    assert "source: `tiny.pth`" in card
    assert "license:" not in card  # nobody said one
    assert "hf-hub:lab/mine" in card
    with pytest.raises(ConfigError):
        mz.create_model("hf-hub:lab/mine", paired=True)
    with pytest.raises(WeightsUnavailableError, match="no such repository"):
        mz.create_model("hf-hub:lab/none")


def test_card_is_true_for_the_model_at_hand(nano: mz.MidwayNetwork) -> None:
    assert "may be untrained" in network_card(nano)
    network = mz.create_model("midway_nano")
    network.provenance = {"source": "midway-bdd-vit-s-ep300.pth"}
    card = network_card(network)
    assert "license: cc-by-4.0" in card
    assert "BDD100K, 300 epochs" in card


def test_push_refused(published: HubServer, nano_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    convert(nano_file, tmp_path)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(WeightsUnavailableError, match="lab/encoder"):
        push_folder(tmp_path / "encoder", "lab/encoder")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("model.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
        ("model.safetensors", "no weights", "not what `midway-zoo convert` writes"),
        ("config.json", "<!doctype html><html></html>", "download link"),
        ("config.json", "{", "not what `midway-zoo convert` writes"),
        ("config.json", '{"architecture": "midway_vits", "pretrained_cfg": {}}', "loading state_dict"),
        ("config.json", '{"architecture": "midway_none", "pretrained_cfg": {}}', "config.json with .*midway_none"),
        ("config.json", '{"architecture": "midway_nano", "pretrained_cfg": []}', "config.json with "),
        ("config.json", '{"architecture": "midway_nano", "model_args": [1]}', "config.json with "),
        ("config.json", '{"architecture": 7, "pretrained_cfg": {}}', "config.json with "),
        ("config.json", '{"architecture": null}', "config.json with "),
        ("config.json", '{"architecture": "midway_nano", "model_args": {"num_heads": 7}}', "config.json with "),
        ("config.json", '{"architecture": "midway_nano", "model_args": {"num_heads": 0}}', "config.json with "),
        *(("config.json", text, "neither a network nor an encoder") for text in ("7", "[]", "{}", '"architecture"')),
    ],
)
def test_nothing_damaged_is_pushed(
    writable: HubServer, nano_file: Path, tmp_path: Path, file: str, content: str, message: str
) -> None:
    convert(nano_file, tmp_path)
    (tmp_path / "encoder" / file).write_text(content)
    assert_not_pushed(writable, tmp_path / "encoder", message)


@pytest.mark.parametrize("text", ["[]", "7", '{"provenance": 3}', "{"])
def test_weights_whose_metadata_are_damaged_are_not_pushed(
    writable: HubServer, nano_file: Path, tmp_path: Path, text: str
) -> None:
    convert(nano_file, tmp_path)
    path = tmp_path / "encoder" / "model.safetensors"
    save_file(load_file(path), path, metadata={"midway_zoo": text})
    assert_not_pushed(writable, tmp_path / "encoder", r"model\.safetensors is not what .*: .*\w\)?\. Convert again\.$")


@pytest.mark.parametrize("text", ["{}", "[]", "7"])
def test_networks_whose_description_is_damaged_are_not_pushed(
    writable: HubServer, nano_file: Path, tmp_path: Path, text: str
) -> None:
    convert(nano_file, tmp_path)
    (tmp_path / "config.json").write_text(text)
    assert_not_pushed(writable, tmp_path, "neither a network nor an encoder")


def assert_not_pushed(server: HubServer, folder: Path, message: str) -> None:
    before = len(server.requests)
    with pytest.raises(CheckpointError, match=message) as caught:
        push_folder(folder, "lab/encoder")
    assert len(str(caught.value)) < 500
    assert len(server.requests) == before


def test_push_command(writable: HubServer, nano_file: Path, tmp_path: Path, capsys) -> None:
    convert(nano_file, tmp_path / "out")
    assert main(["push", str(tmp_path / "out"), "lab/network"]) == 0
    assert main(["push", str(tmp_path / "out" / "encoder"), "lab/encoder"]) == 0
    expected = mz.load_checkpoint(nano_file)
    assert_same_state(mz.create_model("hf-hub:lab/network").state_dict(), expected.state_dict())
    encoder = timm.create_model("hf-hub:lab/encoder", pretrained=True)
    assert_same_state(encoder.state_dict(), expected.encoder.state_dict())
    card = card_of("lab/encoder")
    assert "nano.pth" in card
    assert "library_name: timm" in card
    capsys.readouterr()
    assert main(["push", str(tmp_path), "lab/x"]) == 1
    assert "midway-zoo convert" in capsys.readouterr().err


def test_download_verify_cache(published: HubServer, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["verify", NAME]) == 1
    assert "midway-zoo download" in capsys.readouterr().err
    assert main(["download", NAME, "--part", "encoder", "--encoder", "student"]) == 0
    (student,) = map(Path, capsys.readouterr().out.split())
    assert main(["download", NAME]) == 0
    assert len(capsys.readouterr().out.split()) == 2
    published.reset()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert main(["verify", NAME]) == 0
    assert capsys.readouterr().out.count(": good  sha256") == 3
    assert main(["cache"]) == 0
    assert "dynamics, student, teacher" in capsys.readouterr().out
    data = bytearray(student.read_bytes())
    data[-1] ^= 1
    student.write_bytes(data)
    assert main(["verify", NAME]) == 1
    assert "expected" in capsys.readouterr().err
    assert main(["cache", "--clear", "midway_vits.bdd100k"]) == 1  # nothing of it is cached
    assert cache.list_cache()
    assert main(["cache", "--clear", NAME]) == 0
    assert cache.list_cache() == []
    assert published.requests == []


def test_verify_a_file(tiny: Path, tmp_path: Path, capsys) -> None:
    assert main(["verify", str(tiny)]) == 0
    assert "good  sha256" in capsys.readouterr().out
    (tmp_path / "cut.pth").write_bytes(tiny.read_bytes()[:-1000])
    assert main(["verify", str(tmp_path / "cut.pth")]) == 1


def test_the_manifest_is_valid(capsys) -> None:
    assert validate(load_manifest()) == []
    assert main(["manifest", "check"]) == 0
    assert "4 models, valid" in capsys.readouterr().out


def test_timm_knows_every_name_of_the_manifest() -> None:
    names = set(load_manifest()["models"])
    assert names <= set(timm.list_models("midway*", pretrained=True))
    assert names <= set(mz.list_models(pretrained=True))
    root = Path(__file__).parents[3]
    for document in ("README.md", "MODEL_CARD.md"):
        text = (root / document).read_text(encoding="utf-8")
        for name, entry in load_manifest()["models"].items():
            assert f"`{name}`" in text
            assert entry["file"] in text


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("schema_version",), 2, "schema_version"),
        (("extra",), 1, "unknown key 'extra'"),
        (("citations",), [], "mappings"),
        (("models", "midway_vits.bdd100k", "sha256"), "abc", "64 hexadecimal"),
        (("models", "midway_vits.bdd100k", "revision"), "main", "full commit"),
        (("models", "midway_vits.bdd100k", "epochs"), 0, "positive"),
        (("models", "midway_vits.bdd100k", "licence"), "x", "unknown key 'licence'"),
        (("models", "midway_vits.bdd100k", "architecture"), "midway_vitb", "ARCHITECTURE.TAG"),
        (("models", "midway_vits.bdd100k", "citation"), "x", "citations"),
        (("models", "midway_vits.bdd100k", "parts", "teacher", "size_bytes"), -1, "part teacher"),
        (("models", "midway_vits.bdd100k", "metrics", 0), {"name": "x"}, "value is missing"),
        (("models", "midway_vits.bdd100k"), None, "mapping"),
    ],
)
def test_what_is_wrong_with_a_manifest_is_said(path: tuple, value: object, message: str) -> None:
    manifest = copy.deepcopy(load_manifest())
    place = manifest
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert any(message in problem for problem in validate(manifest)), validate(manifest)


def test_pin(published: HubServer, tiny: Path, tmp_path: Path, capsys) -> None:
    manifest = copy.deepcopy(load_manifest())
    entry = manifest["models"]["midway_vits.bdd100k"] | {
        "architecture": "midway_nano",
        "repo_id": REPO,
        "file": FILE,
        "config": {},
    }
    manifest["models"] = {"midway_nano.tiny": entry}
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(manifest), encoding="utf-8")
    assert main(["manifest", "pin", str(path), "--parts"]) == 0
    assert f'+      "revision": "{published.sha(REPO)}"' in capsys.readouterr().out
    pinned = json.loads(path.read_text(encoding="utf-8"))
    assert validate(pinned) == []
    pinned = pinned["models"]["midway_nano.tiny"]
    assert pinned["size_bytes"] == tiny.stat().st_size
    assert all(facts["sha256"] and facts["size_bytes"] for facts in pinned["parts"].values())
    cache.clear_cache()
    hub_weights.fetch("midway_nano.tiny", pinned, ["teacher"])  # the digest is the same the second time


def test_registered_local_path_reaches_timm(nano_file: Path) -> None:
    mz.register_weights("midway_nano.disk", path=nano_file, overwrite=True)
    model = timm.create_model("midway_nano.disk", pretrained=True)
    assert torch.equal(model.pos_embed, mz.load_checkpoint(nano_file).encoder.pos_embed)
