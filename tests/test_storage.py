"""Folders that the package writes: bit-exact round trips, clear refusals, nothing half written."""

import json
import re
import resource
import shutil
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from midway_zoo import MidwayNetwork, MidwayZooError, load_checkpoint, storage
from midway_zoo.errors import CheckpointError, ConfigError, MissingFileError
from midway_zoo.reading import METADATA_KEY
from midway_zoo.storage import load_file as load_weights
from midway_zoo.storage import load_folder
from midway_zoo.weights.sharing import save_network
from tests.weights.released_files import TINY, assert_same_state

GRIDS = {"square": TINY, "not square": replace(TINY, grid=(2, 3), gate_bias=2.0, motion_tokens=6)}


def network_of(*, paired: bool = False, seed: int = 0, **shape: Any) -> MidwayNetwork:
    """An untrained network in which no two tensors are alike."""
    torch.manual_seed(seed)
    network = MidwayNetwork(replace(TINY, paired=paired, **shape)).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return network


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, MidwayNetwork]]:
    """Saved networks, with one encoder and with two; tests change copies."""
    root = tmp_path_factory.mktemp("folders")
    made = {}
    for name, paired in (("single", False), ("paired", True)):
        network = network_of(paired=paired)
        network.save_pretrained(root / name)
        made[name] = root / name, network
    return made


@pytest.fixture
def folder(folders: dict[str, tuple[Path, MidwayNetwork]], tmp_path: Path) -> Path:
    """A copy of a saved network with one encoder."""
    return shutil.copytree(folders["single"][0], tmp_path / "folder")


def metadata_of(folder: Path) -> dict[str, Any]:
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        return json.loads(file.metadata()[METADATA_KEY])


def rewrite(
    folder: Path,
    *,
    tensors: Callable[[dict[str, torch.Tensor]], Any] | None = None,
    config: dict[str, Any] | None = None,
    metadata: dict[str, str] | None = None,
) -> None:
    """Change the tensors, the configuration or all metadata of a saved network."""
    state, saved = load_file(folder / "model.safetensors"), metadata_of(folder)
    if tensors is not None:
        tensors(state)
    saved["config"] |= config or {}
    save_file(
        state,
        folder / "model.safetensors",
        metadata={METADATA_KEY: json.dumps(saved)} if metadata is None else metadata,
    )


def refused(path: Path, match: str, kind: type[MidwayZooError] = CheckpointError) -> None:
    """Assert that both ways to read a folder refuse it with the same kind of error."""
    for load in (load_checkpoint, *([MidwayNetwork.from_pretrained] if path.is_dir() else [])):
        with pytest.raises(kind, match=match):
            load(path)


# Round trips


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("paired", [False, True], ids=["single", "paired"])
@pytest.mark.parametrize("shape", GRIDS)
def test_round_trip_is_bit_exact(tmp_path: Path, shape: str, paired: bool, dtype: torch.dtype) -> None:
    config = GRIDS[shape]
    network = network_of(
        paired=paired, grid=config.grid, gate_bias=config.gate_bias, motion_tokens=config.motion_tokens
    ).to(dtype)
    network.save_pretrained(tmp_path / "saved")
    for loaded in (
        MidwayNetwork.from_pretrained(tmp_path / "saved"),
        MidwayNetwork.from_pretrained(str(tmp_path / "saved")),
        load_checkpoint(tmp_path / "saved", paired=paired),
        load_checkpoint(tmp_path / "saved" / "model.safetensors", paired=paired),
    ):
        assert loaded.config == network.config == replace(config, paired=paired)
        assert loaded.dtype == dtype
        assert not loaded.training
        assert_same_state(loaded.state_dict(), network.state_dict())


def test_loaded_network_computes_the_same(folders: dict[str, tuple[Path, MidwayNetwork]]) -> None:
    path, network = folders["paired"]
    frames = torch.randn(2, 1, 3, *TINY.img_size)
    with torch.no_grad():
        expected, found = network(*frames), MidwayNetwork.from_pretrained(path)(*frames)
    assert torch.equal(found.predictions[0], expected.predictions[0])
    assert torch.equal(found.motion_latents[0], expected.motion_latents[0])


def test_a_loaded_network_can_be_saved_again(folder: Path, tmp_path: Path) -> None:
    MidwayNetwork.from_pretrained(folder).save_pretrained(tmp_path / "again")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize("encoder", ["teacher", "student"])
def test_paired_folder_read_with_one_encoder(folders: dict[str, tuple[Path, MidwayNetwork]], encoder: str) -> None:
    path, network = folders["paired"]
    loaded = load_checkpoint(path, encoder=encoder)  # type: ignore[arg-type]
    chosen = network.encoder if encoder == "student" else network.target_encoder
    assert loaded.config == replace(network.config, paired=False)
    assert loaded.target_encoder is None
    assert_same_state(loaded.encoder.state_dict(), chosen.state_dict())
    assert_same_state(loaded.dynamics.state_dict(), network.dynamics.state_dict())
    assert all(parameter.requires_grad for parameter in loaded.encoder.parameters())


def test_single_folder_is_not_paired(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"model\.safetensors holds one encoder.*paired=True"):
        load_checkpoint(folder, paired=True)


def test_the_other_encoder_is_not_in_a_single_folder(tmp_path: Path) -> None:
    save_network(network_of(), tmp_path, {"encoder": "teacher"})
    assert_same_state(load_folder(MidwayNetwork, tmp_path).state_dict(), network_of().state_dict())
    with pytest.raises(CheckpointError, match=r"holds the teacher encoder; encoder='student' is not in it"):
        load_checkpoint(tmp_path, encoder="student")


def test_which_encoder_it_was_survives_saving(folders: dict[str, tuple[Path, MidwayNetwork]], tmp_path: Path) -> None:
    """Asked for the student, a folder must not answer with the teacher."""
    load_checkpoint(folders["paired"][0], encoder="teacher").save_pretrained(tmp_path / "teacher")
    with pytest.raises(CheckpointError, match="encoder='student'"):
        load_checkpoint(tmp_path / "teacher", encoder="student")


def test_double_precision_is_read_as_single(tmp_path: Path) -> None:
    network_of().double().save_pretrained(tmp_path)
    assert_same_state(MidwayNetwork.from_pretrained(tmp_path).state_dict(), network_of().state_dict())


@pytest.mark.parametrize("paired", [False, True], ids=["single", "paired"])
def test_same_network_same_bytes(tmp_path: Path, paired: bool) -> None:
    for name in ("one", "two"):
        network_of(paired=paired).save_pretrained(tmp_path / name)
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two
    assert one.keys() >= {"model.safetensors", "config.json"}
    network_of(paired=paired, seed=1).save_pretrained(tmp_path / "two")
    assert (tmp_path / "two" / "model.safetensors").read_bytes() != one["model.safetensors"]


def test_weights_file_alone_is_enough(folder: Path, folders: dict[str, tuple[Path, MidwayNetwork]]) -> None:
    (folder / "config.json").unlink()
    expected = folders["single"][1].state_dict()
    assert_same_state(load_checkpoint(folder).state_dict(), expected)
    assert_same_state(MidwayNetwork.from_pretrained(folder).state_dict(), expected)


def test_config_json_describes_the_network(folder: Path) -> None:
    described = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert described == {"library": "midway-zoo", **TINY.to_dict()}
    assert metadata_of(folder)["config"] == TINY.to_dict()


def test_saving_over_an_older_network(folder: Path) -> None:
    network = network_of(paired=True, seed=2)
    network.save_pretrained(folder)
    assert_same_state(MidwayNetwork.from_pretrained(folder).state_dict(), network.state_dict())


# Folders that are not what they should be


def test_nothing_there(tmp_path: Path) -> None:
    refused(tmp_path, r"model\.safetensors.*save_pretrained", MissingFileError)
    refused(tmp_path / "model.safetensors", re.escape(str(tmp_path / "model.safetensors")), MissingFileError)
    with pytest.raises(MissingFileError, match="no file"):
        load_weights(MidwayNetwork, tmp_path / "model.safetensors")


def test_mistyped_folder_is_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="mistyped"):
        MidwayNetwork.from_pretrained(tmp_path / "mistyped")


def test_config_argument_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"config= is for released \.pth files"):
        load_checkpoint(folder, config={"grid": (2, 2)})
    with pytest.raises(ConfigError, match="takes no 'colour'"):
        MidwayNetwork.from_pretrained(folder, colour=3)


@pytest.mark.parametrize("text", ["{", "[]", '{"grid": 5}', '{"num_heads": 5}', "\N{BOM}{}", '{"depth": "x"}'])
def test_damaged_config_json(folder: Path, folders: dict[str, tuple[Path, MidwayNetwork]], text: str) -> None:
    """It is for people and the Hub; the weights file has the configuration that counts."""
    (folder / "config.json").write_text(text, encoding="utf-8")
    expected = folders["single"][1].state_dict()
    assert_same_state(load_checkpoint(folder).state_dict(), expected)
    try:
        loaded = MidwayNetwork.from_pretrained(folder)
    except MidwayZooError:
        return
    assert_same_state(loaded.state_dict(), expected)


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"format": "pt"},
        {METADATA_KEY: ""},
        {METADATA_KEY: "no JSON"},
        {METADATA_KEY: "[]"},
        {METADATA_KEY: "null"},
        {METADATA_KEY: "{}"},
        {METADATA_KEY: json.dumps({"config": TINY.to_dict()})},
        {METADATA_KEY: json.dumps({"config": None, "provenance": {}})},
        {METADATA_KEY: json.dumps({"config": {}, "provenance": []})},
        {METADATA_KEY: "[" * 100_000},
        {METADATA_KEY: '{"config": {"depth": ' + "9" * 5000 + '}, "provenance": {}}'},
    ],
    ids=lambda metadata: str(metadata)[:50],
)
def test_no_configuration_in_the_metadata(folder: Path, metadata: dict[str, str]) -> None:
    rewrite(folder, metadata=metadata)
    refused(folder, r"model\.safetensors was not written by midway-zoo")


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"grids": [2, 2]}, "'grids'.*'grid'"),
        ({"grid": 5}, "grid"),
        ({"grid": [2, 0]}, "grid"),
        ({"grid": [2, "2"]}, "grid"),
        ({"feature_blocks": None}, "feature_blocks"),
        ({"depth": "4"}, "depth"),
        ({"num_heads": 5}, "num_heads"),
        ({"encoder": "resnet18"}, "encoder"),
        ({"encoder": None}, "encoder"),
        ({"paired": "yes"}, "paired"),
        ({"gate_bias": float("nan")}, "gate_bias"),
        ({"depth": 100_000}, "depth|blocks"),
        ({"motion_tokens": 2**70}, "motion_tokens"),
        ({"motion_tokens": 2**60}, "motion_tokens"),
    ],
    ids=str,
)
def test_impossible_configuration_in_the_metadata(folder: Path, config: dict[str, Any], named: str) -> None:
    rewrite(folder, config=config)
    with pytest.raises((ConfigError, CheckpointError), match=named):
        load_checkpoint(folder)


def test_configuration_of_another_network(folder: Path) -> None:
    rewrite(folder, config={"grid": [3, 3]})
    refused(folder, r"tensor .*pos_embed has shape \[1, .*\], expected \[1, .*\]")


def put(name: str, value: Any) -> Callable[[dict[str, torch.Tensor]], None]:
    return lambda state: state.update({name: value(state.get(name)) if callable(value) else value})


BIAS = "dynamics.motion_proj.bias"
BAD_TENSORS: dict[str, tuple[Callable[[dict[str, torch.Tensor]], Any], str]] = {
    "missing": (lambda state: state.pop(BIAS), f"misses 1 .*{BIAS}"),
    "unexpected": (put("dynamics.extra", torch.zeros(1)), r"unexpected 1 .*dynamics\.extra"),
    "longer": (put(BIAS, torch.zeros(25)), rf"{BIAS} has shape \[25\], expected \[24\]"),
    "another dimension": (put(BIAS, torch.zeros(24, 1)), rf"{BIAS} has shape \[24, 1\]"),
    "NaN": (put(BIAS, torch.tensor([float("nan")] + 23 * [0.0])), f"{BIAS} holds NaN"),
    "infinity": (put(BIAS, torch.full((24,), -float("inf"))), f"{BIAS} holds NaN or infinity"),
    "infinity in bfloat16": (put(BIAS, torch.full((24,), float("inf")).bfloat16()), f"{BIAS} holds NaN or infinity"),
    "int64": (put(BIAS, torch.zeros(24).long()), f"{BIAS} is .*(int64|I64)"),
    "float8": (put(BIAS, torch.zeros(24).to(torch.float8_e4m3fn)), f"{BIAS} is .*(float8|F8)"),
}


@pytest.mark.parametrize("kind", BAD_TENSORS)
def test_bad_tensor_is_named(folder: Path, kind: str) -> None:
    change, message = BAD_TENSORS[kind]
    rewrite(folder, tensors=change)
    refused(folder, rf"model\.safetensors.* {message}")


def test_foreign_safetensors(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(3)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    refused(tmp_path, "not written by midway-zoo")
    (tmp_path / "config.json").write_bytes(b"\xff\xfe\x00")  # of whatever program wrote them
    with pytest.raises(CheckpointError, match="not written by midway-zoo"):
        load_checkpoint(tmp_path)


def test_encoder_folder_gets_the_hint(tmp_path: Path) -> None:
    encoder = timm.create_model("midway_nano")
    timm.models.save_for_hf(encoder, str(tmp_path), safe_serialization=True)
    refused(tmp_path, re.escape(f"timm.create_model('local-dir:{tmp_path}', pretrained=True)"))
    assert timm.create_model(f"local-dir:{tmp_path}", pretrained=True).embed_dim == encoder.embed_dim


# Damaged weights files


def header_of(data: bytes) -> tuple[dict[str, Any], bytes]:
    length = struct.unpack_from("<Q", data)[0]
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def with_header(data: bytes, change: Callable[[dict[str, Any]], Any]) -> bytes:
    """The file with a changed header and the same content."""
    header, content = header_of(data)
    change(header)
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + content


def entries(header: dict[str, Any]) -> list[dict[str, Any]]:
    """Header entries in the order of their content."""
    return sorted((value for key, value in header.items() if key != "__metadata__"), key=lambda e: e["data_offsets"])


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "three bytes": lambda data: data[:3],
    "header cut": lambda data: data[:100],
    "only the header": lambda data: data[: 8 + struct.unpack_from("<Q", data)[0]],
    "content cut by one byte": lambda data: data[:-1],
    "content cut in half": lambda data: data[: len(data) // 2],
    "one byte more": lambda data: data + b"x",
    "header longer than the file": lambda data: struct.pack("<Q", len(data)) + data[8:],
    "absurd header length": lambda data: struct.pack("<Q", 2**63) + data[8:],
    "no header": lambda data: bytes(8) + data[8:],
    "header is not JSON": lambda data: data[:8] + b"x" + data[9:],
    "header is not UTF-8": lambda data: data.replace(b"motion_proj", b"motion\xff\xferoj"),
    "offsets out of range": lambda data: with_header(
        data, lambda header: entries(header)[-1]["data_offsets"].__setitem__(1, 10**9)
    ),
    "offsets overlap": lambda data: with_header(
        data, lambda header: entries(header)[1].update(data_offsets=entries(header)[0]["data_offsets"])
    ),
    "offsets reversed": lambda data: with_header(data, lambda header: entries(header)[0]["data_offsets"].reverse()),
    "offsets negative": lambda data: with_header(data, lambda header: entries(header)[0].update(data_offsets=[-8, 0])),
    "shape too large": lambda data: with_header(data, lambda header: entries(header)[0].update(shape=[10**6])),
    "shape beyond 64 bits": lambda data: with_header(
        data, lambda header: entries(header)[0].update(shape=[2**40, 2**40])
    ),
    "unknown dtype": lambda data: with_header(data, lambda header: entries(header)[0].update(dtype="F7")),
    "web page": lambda data: b"<!DOCTYPE html>" + bytes(100),
    "git-lfs pointer": lambda data: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
    "pickle": lambda data: b"\x80\x02}q\x00." + bytes(100),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_weights_file(folder: Path, damage: str) -> None:
    path = folder / "model.safetensors"
    data = path.read_bytes()
    changed = DAMAGES[damage](data)
    assert changed != data
    path.write_bytes(changed)
    for file in (folder, path):
        refused(file, r"model\.safetensors is (empty|not a valid safetensors file.*again|.* in place of the file)")


# Nothing half written


def listing(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@contextmanager
def half_written() -> Iterator[None]:
    """Weights are larger than a file may be, which takes the path of a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_failed_save_leaves_the_old_network(folder: Path, folders: dict[str, tuple[Path, MidwayNetwork]]) -> None:
    before = listing(folder)
    with half_written(), pytest.raises(OSError, match="File too large"):
        network_of(seed=3).save_pretrained(folder)
    assert listing(folder)["model.safetensors"] == before["model.safetensors"]
    assert listing(folder).keys() <= before.keys()
    assert_same_state(load_checkpoint(folder).state_dict(), folders["single"][1].state_dict())


def test_failed_first_save_leaves_no_weights(tmp_path: Path) -> None:
    with half_written(), pytest.raises(OSError, match="File too large"):
        network_of().save_pretrained(tmp_path)
    assert listing(tmp_path) == {}


def test_large_numbers_are_finite_though_their_sum_is_not() -> None:
    large = torch.full((4,), 3e38)
    assert not large.sum().isfinite()
    assert storage._finite(large)
    for bad in (float("nan"), float("inf"), -float("inf")):
        large[2] = bad
        assert not storage._finite(large)
    assert not storage._finite(torch.tensor([float("inf"), -float("inf")]))
