"""``midway-zoo benchmark load``: a network from the cache, against ``load_file`` of the same tensors.

The cached files are written here, filled with zeros, into a temporary folder that serves as the cache; nothing is
downloaded.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor

from midway_zoo.benchmarks.measuring import Comparison, How, Way, compare
from midway_zoo.config import ARCHITECTURES, MidwayConfig, architecture_config
from midway_zoo.errors import ConfigError, nearest
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.storage import empty_network
from midway_zoo.weights.cache import Place, cache_root, load_part, store
from midway_zoo.weights.own import register_weights
from midway_zoo.weights.registry import create_model

_REPO, _COMMIT = "lab/benchmark", "0" * 40
_ROOMS = {"teacher": "encoder.", "dynamics": "dynamics."}


def measure(how: How, *, model: str = "midway_vitb") -> Iterator[Comparison]:
    """The encoder alone, and the network with its dynamics."""
    if model not in ARCHITECTURES:
        raise ConfigError(f"load measures an architecture, not {model!r}.{nearest(model, ARCHITECTURES)}")
    how = How(rounds=how.rounds, warmup=how.warmup)  # files are read to the CPU
    # Changes this process only, which runs nothing but the command.
    name = f"{model}.benchmark"
    register_weights(name, repo_id=_REPO, file=f"{model}.pth", revision=_COMMIT, overwrite=True)
    with tempfile.TemporaryDirectory() as folder:
        files = _cached(name, Path(folder))
        yield _encoder(name, folder, files["teacher"], how)
        yield _network(name, folder, list(files.values()), how)


def _encoder(name: str, folder: str, path: Path, how: How) -> Comparison:
    model = name.partition(".")[0]
    plain, plainly = timm.create_model(model), "load_file into an existing timm model"
    ways = [
        Way("load_file", lambda: load_file(path)),
        Way("load_file, every number read", lambda: _read(load_file(path))),
        Way(plainly, lambda: plain.load_state_dict(load_file(path))),
        Way("midway_zoo.create_model", _created(name, folder, dynamics=False)),
        Way("midway_zoo.create_model, verify=False", _created(name, folder, dynamics=False, verify=False)),
        Way("timm.create_model", lambda: timm.create_model(name, pretrained=True, cache_dir=folder)),
        Way("timm.create_model, random weights", lambda: timm.create_model(model)),
        Way("cached part, SHA-256 computed", lambda: load_part(path, rehash=True)),
    ]
    title = f"encoder of {model} from the cache, {path.stat().st_size / 1e6:.0f} MB"
    return compare(title, ways, how, unit="loads", peer=plainly)


def _network(name: str, folder: str, paths: list[Path], how: How) -> Comparison:
    plain, plainly = (
        MidwayNetwork(architecture_config(name.partition(".")[0])),
        "load_file into an existing network",
    )
    rooms = (plain.encoder, plain.require_dynamics())
    ways = [
        Way("load_file, every number read", lambda: [_read(load_file(path)) for path in paths]),
        Way(plainly, lambda: [room.load_state_dict(load_file(path)) for room, path in zip(rooms, paths, strict=True)]),
        Way("midway_zoo.create_model", _created(name, folder)),
    ]
    size = sum(path.stat().st_size for path in paths)
    title = f"{name.partition('.')[0]} with dynamics from the cache, {size / 1e6:.0f} MB"
    return compare(title, ways, how, unit="loads", peer=plainly)


def _created(name: str, folder: str, **options: Any) -> Any:
    return lambda: create_model(name, pretrained=True, cache_dir=folder, **options)


def _read(tensors: dict[str, Tensor]) -> float:
    """Read all tensors: ``load_file`` only maps a file, and reads numbers on first use."""
    return sum(float(tensor.sum()) for tensor in tensors.values())


def _cached(name: str, folder: Path) -> dict[str, Path]:
    """The parts of a released file, as a download leaves them in the cache."""
    model = name.partition(".")[0]
    config = architecture_config(model)
    state = empty_network(MidwayNetwork, config).state_dict()
    place = Place(cache_root(folder) / _REPO.replace("/", "--") / _COMMIT, f"{model}.pth")
    place.folder.mkdir(parents=True)
    for part, room in _ROOMS.items():
        shapes = {key.removeprefix(room): value.shape for key, value in state.items() if key.startswith(room)}
        tensors = {key: torch.full(shape, 0.5) for key, shape in shapes.items()}
        store(place, part, tensors, _facts(name, part, config), None)
    return {part: place.weights(part) for part in _ROOMS}


def _facts(name: str, part: str, config: MidwayConfig) -> dict[str, Any]:
    return {
        "part": part,
        "name": name,
        "repo_id": _REPO,
        "commit": _COMMIT,
        "file": f"{name.partition('.')[0]}.pth",
        "source_size_bytes": None,
        "sha256_claimed_by_hub": None,
        "config": (config.to_dict() | {"dynamics": False}) if part == "teacher" else config.to_dict(),
        "filled": [],
    }
