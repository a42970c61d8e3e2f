"""The weights that ship in the package: every door leads to them, nothing else is needed, damage is noticed."""

import copy
import importlib.util
import json
import socket
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import timm
import torch
from safetensors.torch import load_file

import midway_zoo as mz
from midway_zoo import manifest
from midway_zoo.cli import main
from midway_zoo.cli.manifest_schema import validate
from midway_zoo.config import ARCHITECTURES, MidwayConfig, override
from midway_zoo.errors import CheckpointError, ConfigError, WeightsUnavailableError
from midway_zoo.files import write_png
from midway_zoo.inference.golden import TOLERANCE, check_golden, compare, golden_file, golden_pair
from midway_zoo.train.checkpoints import mark_best, save_checkpoint
from midway_zoo.train.weights import network_from
from midway_zoo.weights.sharing import network_card
from tests.weights.released_files import assert_same_state

NAME = "midway_nano.scenes"


@pytest.fixture
def entry() -> dict:
    return manifest.find(NAME)


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No network, and no place for a cache."""

    def refuse(*arguments: object) -> None:
        raise AssertionError("a connection was opened")

    (tmp_path / "file").touch()
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_ASSETS_CACHE", str(tmp_path / "file" / "assets"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "file" / "hub"))


@pytest.fixture(scope="module")
def bundled() -> mz.MidwayNetwork:
    return mz.create_model(NAME, pretrained=True)


@pytest.fixture
def damaged(entry: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the bundled file with one bit turned, in the place of the original."""
    path = tmp_path / entry["file"]
    data = bytearray(manifest.bundled_file(entry).read_bytes())
    data[-1] ^= 64
    path.write_bytes(data)
    monkeypatch.setitem(entry, "file", str(path))
    return path


def test_stored_in_half_loaded_in_single(entry: dict, bundled: mz.MidwayNetwork) -> None:
    path = manifest.bundled_file(entry)
    stored = load_file(path)
    assert {value.dtype for value in stored.values()} == {torch.float16}
    assert_same_state(bundled.state_dict(), {key: value.float() for key, value in stored.items()})
    assert bundled.dtype == torch.float32
    assert not bundled.training
    assert path.stat().st_size == entry["size_bytes"] <= 12_000_000
    assert golden_file(entry).stat().st_size < 150_000
    assert bundled.config == override(ARCHITECTURES["midway_nano"], entry["config"])
    assert bundled.provenance["source"] == entry["file"]
    assert bundled.provenance["sha256_verified"] == entry["sha256"]


def test_names(bundled: mz.MidwayNetwork) -> None:
    assert NAME in mz.list_models(pretrained=True)
    assert_same_state(mz.create_model("midway_nano", pretrained=True).state_dict(), bundled.state_dict())
    source, target = golden_pair(64, 64)
    expected = mz.infer_motion_latent(bundled, source, target).tokens
    assert torch.equal(mz.infer_motion_latent(NAME, source, target).tokens, expected)
    with pytest.raises(ConfigError, match="taken"):
        mz.register_weights(NAME, path="x")


def test_keywords(bundled: mz.MidwayNetwork, caplog: pytest.LogCaptureFixture) -> None:
    assert bundled.flow_head is not None
    assert_same_state(mz.create_model(NAME, pretrained=True, flow_head=True).state_dict(), bundled.state_dict())
    assert caplog.text == ""
    config = mz.create_model(NAME, pretrained=True, flow_size=(32, 64), gate_bias=3.0).config
    assert config == override(bundled.config, {"flow_size": (32, 64), "gate_bias": 3.0})
    alone = mz.create_model(NAME, pretrained=True, dynamics=False, verify=False)
    assert_same_state(alone.encoder.state_dict(), bundled.encoder.state_dict())
    assert alone.dynamics is None
    assert alone.flow_head is None
    for options in ({"paired": True}, {"encoder": "student"}):
        with pytest.raises(ConfigError, match="holds one encoder"):
            mz.create_model(NAME, pretrained=True, **options)
    with pytest.raises(ConfigError, match="no revision 'main'"):
        mz.create_model(NAME, pretrained=True, revision="main")
    with pytest.raises(ConfigError, match="cannot replace it"):
        mz.create_model(NAME, pretrained=True, flow_head=(8, 8, 8, 8, 8))
    with pytest.raises(CheckpointError, match="shape"):
        mz.create_model(NAME, pretrained=True, grid=(4, 4))


def test_timm(bundled: mz.MidwayNetwork) -> None:
    model = timm.create_model("midway_nano", pretrained=True, num_classes=10)
    assert model.head.out_features == 10
    encoder = bundled.encoder.state_dict()
    assert_same_state({key: value for key, value in model.state_dict().items() if key in encoder}, encoder)
    assert_same_state(timm.create_model(NAME, pretrained=True).state_dict(), encoder)
    assert len(timm.create_model(NAME, pretrained=True, features_only=True)(torch.zeros(1, 3, 64, 64))) == 4
    assert timm.models.is_model_pretrained("midway_nano")
    assert model.pretrained_cfg["license"] == "apache-2.0"


def test_initial_weights_of_a_run(bundled: mz.MidwayNetwork) -> None:
    network = network_from(NAME, paired=True)
    assert_same_state(network.encoder.state_dict(), bundled.encoder.state_dict())
    assert_same_state(network.target_encoder.state_dict(), bundled.encoder.state_dict())


def test_golden_outputs(entry: dict, bundled: mz.MidwayNetwork) -> None:
    """Tolerance: see ``golden.TOLERANCE``. It is not so loose that rows taken for columns would pass."""
    assert check_golden(NAME, entry, bundled) <= TOLERANCE
    wrong = copy.deepcopy(bundled)
    with torch.no_grad():
        table = wrong.encoder.pos_embed[:, 1:]
        table.copy_(table.clone().unflatten(1, (8, 8)).transpose(1, 2).flatten(1, 2))
    with pytest.raises(CheckpointError, match="golden"):
        check_golden(NAME, entry, wrong)
    golden = load_file(golden_file(entry))
    assert {name.partition(".")[2] for name in golden} >= {
        "motion",
        "flow",
        "confidence",
        "heatmap",
        "backward2",
        "cls",
    }
    with pytest.raises(CheckpointError, match=r"another version.*square\.cls"):
        compare({key: value for key, value in golden.items() if key != "square.cls"}, golden)
    broken = golden | {"wide.flow": golden["wide.flow"] * float("nan")}
    assert not compare(broken, golden)["wide.flow"] <= TOLERANCE


def test_damage_is_noticed(entry: dict, damaged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CheckpointError, match=rf"sha256 [0-9a-f]{{64}}.*{entry['sha256']}.*Reinstall"):
        mz.create_model(NAME, pretrained=True)
    with pytest.raises(CheckpointError, match="Reinstall"):
        timm.create_model("midway_nano", pretrained=True)
    assert main(["verify", NAME]) == 1
    assert entry["sha256"] in capsys.readouterr().err
    assert damaged.is_file()  # the package's own files are not ours to remove
    damaged.unlink()
    with pytest.raises(WeightsUnavailableError, match=r"is missing.*Reinstall"):
        mz.create_model(NAME, pretrained=True)


def test_damaged_golden_outputs(
    entry: dict, bundled: mz.MidwayNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(entry, "file", str(tmp_path / entry["file"]))
    golden_file(entry).write_bytes(b"half")
    with pytest.raises(CheckpointError, match="cannot be read"):
        check_golden(NAME, entry, bundled)


def test_commands(entry: dict, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "x.png"
    write_png(picture, torch.zeros(3, 16, 16, dtype=torch.uint8))

    def said(*arguments: str, status: int = 0) -> str:
        assert main(list(arguments)) == status
        captured = capsys.readouterr()
        return captured.err if status else captured.out

    path = manifest.bundled_file(entry)
    before = path.stat()
    assert NAME in said("list", "--pretrained").split()
    text = said("info", NAME)
    assert "part of this package" in text
    assert "flow head    widths 24, 32, 48, 64, 32" in text
    assert f"midway-zoo train flow --recipe {entry['flow_recipe']}" in text
    assert json.loads(said("info", "midway_nano", "--json"))["weights"]["name"] == NAME
    assert f"nothing needs to be fetched: {path}" in said("download", "midway_nano")
    assert "holds one encoder" in said("download", NAME, "--encoder", "student", status=1)
    assert "no revision" in said("download", NAME, "--revision", "main", status=1)
    text = said("verify", NAME)
    assert entry["sha256"] in text
    assert "agree with the golden ones" in text
    assert "4 models, valid" in said("manifest", "check")
    nowhere = str(tmp_path / "file" / "cache")  # below a file: it cannot be made
    assert said("cache", "--cache-dir", nowhere) == ""
    assert said("cache", "--clear", "all", "--cache-dir", nowhere) == "0.0 MB freed\n"
    assert "midway-zoo download" in said("verify", "midway_vits", "--cache-dir", nowhere, status=1)
    output = ["-o", str(tmp_path / "out.safetensors")]
    assert "holds one encoder" in said("features", NAME, str(picture), *output, "--paired", status=1)
    assert "unknown configuration key" in said(
        "features", NAME, str(picture), *output, "--config", "num_hads=1", status=1
    )
    assert path.stat() == before


def test_convert(bundled: mz.MidwayNetwork, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", NAME, str(tmp_path / "out")]) == 0
    assert_same_state(mz.load_checkpoint(tmp_path / "out").state_dict(), bundled.state_dict())
    encoder = timm.create_model(f"local-dir:{tmp_path / 'out' / 'encoder'}", pretrained=True)
    assert_same_state(encoder.state_dict(), bundled.encoder.state_dict())
    assert main(["convert", NAME, str(tmp_path / "other"), "--paired"]) == 1
    assert "one encoder" in capsys.readouterr().err
    assert main(["convert", NAME, str(tmp_path / "other"), "--config", "num_heads=2"]) == 1
    assert "carries its configuration" in capsys.readouterr().err


def test_card(bundled: mz.MidwayNetwork) -> None:
    card = network_card(bundled)
    assert "license: apache-2.0" in card
    assert "Trained by the midway-zoo project" in card


def test_pin_takes_size_and_digest_from_the_file(entry: dict, tmp_path: Path) -> None:
    content = copy.deepcopy(manifest.load_manifest())
    content["models"] = {NAME: content["models"][NAME] | {"size_bytes": 1, "sha256": "0" * 64}}
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    assert main(["manifest", "pin", str(path)]) == 0
    assert json.loads(path.read_text(encoding="utf-8"))["models"][NAME] == entry


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format", "boxed", '"released-pth" or "boxed-safetensors"'),
        ("format", ["boxed-safetensors"], "format="),
        ("sha256", None, "64 hexadecimal"),
        ("sha256", "F" * 64, "64 hexadecimal"),
        ("size_bytes", None, "size_bytes=None must be a positive integer"),
        ("size_bytes", True, "positive integer"),
        ("file", "../x.safetensors", "without a folder"),
        ("repo_id", "a/b", "unknown key 'repo_id'"),
        ("epochs", 3, "unknown key 'epochs'"),
        ("flow_recipe", 3, "flow head"),
        ("architecture", "midway_vits", "ARCHITECTURE.TAG"),
        ("citation", "x", "citations"),
        ("metrics", [{"name": "x"}], "value is missing"),
    ],
)
def test_the_manifest_is_strict(key: str, value: object, message: str) -> None:
    content = copy.deepcopy(manifest.load_manifest())
    content["models"][NAME][key] = value
    assert any(message in problem for problem in validate(content)), validate(content)


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    path = Path(__file__).parents[2] / "examples" / "miniature" / "bundle.py"
    spec = importlib.util.spec_from_file_location("bundle", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(tmp_path: Path) -> Callable[[MidwayConfig], Path]:
    """Makes a run folder whose better checkpoint, the first, holds a random network of a configuration."""

    def make(config: MidwayConfig) -> Path:
        out, network = tmp_path / "run", mz.MidwayNetwork(config)
        for step, epe in ((5, 1.0), (9, 2.0)):
            state = {key: value * (step == 5) for key, value in network.state_dict().items()}
            facts = {"network": config.to_dict(), "identity": {"task": "flow"}, "validation": {"epe": epe}}
            facts["provenance"] = {"midway_zoo": "0", "torch": "0", "written": "now", "command": f"train {tmp_path}"}
            model = {f"network.{key}": value for key, value in state.items()}
            save_checkpoint(out, step, model=model, optimizer={}, state=facts, config="")
        mark_best(out, "epe")
        return out

    return make


def test_boxing_a_run(maker: ModuleType, run, entry: dict, tmp_path: Path) -> None:
    package = manifest.bundled_file(entry).stat()
    path = run(override(ARCHITECTURES["midway_nano"], {"paired": True, "flow_head": True, "flow_size": (64, 64)}))
    files = maker.bundle([path], NAME, tmp_path / "out")
    assert [file.name for file in files] == [entry["file"], golden_file(entry).name, "weights_manifest.json"]
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == sorted(file.name for file in files)
    trained = load_file(path / "checkpoints" / "step_00000005" / "model.safetensors")
    stored = load_file(files[0])
    assert torch.equal(stored["encoder.pos_embed"], trained["network.target_encoder.pos_embed"].half())
    assert not [key for key in stored if key.startswith("target_encoder.")]
    assert str(tmp_path) not in files[0].read_bytes()[:4096].decode("latin-1")
    written = json.loads(files[2].read_text(encoding="utf-8"))
    assert validate(written) == []
    assert written["models"][NAME]["config"]["flow_size"] == [64, 64]
    assert "paired" not in written["models"][NAME]["config"]
    assert written["models"][NAME]["size_bytes"] == files[0].stat().st_size
    assert load_file(files[1]).keys() == load_file(golden_file(entry)).keys()
    assert manifest.bundled_file(entry).stat() == package


def test_the_mean_of_two(maker: ModuleType, tmp_path: Path) -> None:
    states = []
    for seed in range(2):
        torch.manual_seed(seed)
        network = mz.create_model("midway_nano")
        network.save_pretrained(tmp_path / str(seed))
        states.append(network.state_dict())
    mean = maker.mean([tmp_path / "0", tmp_path / "1"]).state_dict()
    assert mean.keys() == states[0].keys()
    for name, value in mean.items():
        torch.testing.assert_close(value, (states[0][name] + states[1][name]) / 2, rtol=0, atol=1e-6)
    mz.create_model("midway_nano", flow_head=True).save_pretrained(tmp_path / "head")
    with pytest.raises(ConfigError, match=r"head and .*0 have different configurations"):
        maker.mean([tmp_path / "0", tmp_path / "head"])


def test_what_cannot_be_boxed(maker: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = mz.MidwayNetwork(override(ARCHITECTURES["midway_nano"], {"grid": (4, 4), "dynamics": False}))
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(ConfigError, match="not that of midway_nano"):
        maker.bundle([tmp_path / "other"], NAME, tmp_path / "out")
    with pytest.raises(ConfigError, match="no boxed-safetensors entry"):
        maker.bundle([tmp_path / "other"], "midway_vits.bdd100k", tmp_path / "out")
    network = mz.create_model("midway_nano")
    network.save_pretrained(tmp_path / "net")
    with monkeypatch.context() as patch:
        patch.setattr(maker, "golden_outputs", lambda network: {})
        patch.setattr(maker, "LARGEST_BYTES", 1000)
        with pytest.raises(CheckpointError, match="bundled weights may have 1000"):
            maker.bundle([tmp_path / "net"], NAME, tmp_path / "out")
    with torch.no_grad():
        network.encoder.pos_embed[0, 0, 0] = 1e6
    with pytest.raises(CheckpointError, match=r"encoder\.pos_embed.*float16"):
        maker.stored(network)
    assert list((tmp_path / "out").iterdir()) == []


def test_the_folder_holds_nothing_else(entry: dict) -> None:
    """What lies there is in every wheel."""
    path = manifest.bundled_file(entry)
    assert {file.name for file in path.parent.iterdir()} == {path.name, golden_file(entry).name}
