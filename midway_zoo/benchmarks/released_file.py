"""A file with the size and structure of a released one, but without its numbers.

It includes the optimizer; storages are sorted as text and not aligned, as torch 2.2 wrote them: the positions of an
encoder's tensors determine how many ranges are requested.
"""

import math
import tempfile
import zipfile
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from midway_zoo.config import MidwayConfig
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.storage import empty_network
from midway_zoo.weights.released_writer import write_released

Shapes = Mapping[str, tuple[int, ...]]


def write_like_released(path: Path, config: MidwayConfig, prototypes: int = 65536) -> None:
    """Write the file; its numbers are zeros of sparse files, which are never in memory all at once."""
    state = {key: tuple(value.shape) for key, value in empty_network(MidwayNetwork, config).state_dict().items()}
    encoder = {key.removeprefix("encoder."): shape for key, shape in state.items() if key.startswith("encoder.")}
    dynamics = {key.removeprefix("dynamics."): shape for key, shape in state.items() if key.startswith("dynamics.")}
    head = _head(config.embed_dim, prototypes)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        zeros = _Zeros(Path(folder))
        trained = [*encoder.values(), *head.values(), *(s for key, s in dynamics.items() if "target" not in key)]
        modern = Path(folder) / path.name
        write_released(
            modern,
            config=config,
            student=zeros.all(encoder),
            teacher=zeros.all(encoder),
            dynamics=zeros.all(dynamics),
            student_head=zeros.all(head),
            teacher_head=zeros.all(head),
            center=torch.zeros(1, prototypes),
            epoch=300,
            args={},
            optimizer=_adamw(trained, zeros),
        )
        _as_torch_2_2(modern, path)


class _Zeros:
    """Tensors of zeros, each a sparse file in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.numbers = folder, count()

    def one(self, shape: tuple[int, ...]) -> Tensor:
        name = str(self.folder / f"zeros{next(self.numbers)}")
        return torch.from_file(name, shared=True, size=math.prod(shape)).view(shape)

    def all(self, shapes: Shapes) -> dict[str, Tensor]:
        return {key: self.one(shape) for key, shape in shapes.items()}


def _head(width: int, prototypes: int, hidden: int = 2048, bottleneck: int = 256) -> Shapes:
    layers = {0: (hidden, width), 2: (hidden, hidden), 4: (bottleneck, hidden)}
    shapes: dict[str, tuple[int, ...]] = {}
    for layer, shape in layers.items():
        shapes |= {f"mlp.{layer}.weight": shape, f"mlp.{layer}.bias": shape[:1]}
    last = "last_layer.parametrizations.weight.original"
    return shapes | {f"{last}0": (prototypes, 1), f"{last}1": (prototypes, bottleneck)}


def _adamw(shapes: list[tuple[int, ...]], zeros: _Zeros) -> dict[str, Any]:
    """The state of an AdamW in two groups, matrices first."""
    order = sorted(shapes, key=lambda shape: len(shape) < 2)
    matrices = sum(len(shape) >= 2 for shape in shapes)
    state = {
        place: {"step": torch.tensor(1000.0), "exp_avg": zeros.one(shape), "exp_avg_sq": zeros.one(shape)}
        for place, shape in enumerate(order)
    }
    settings = {"lr": 1e-4, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.04, "amsgrad": False}
    groups = [settings | {"params": list(range(matrices))}, settings | {"params": list(range(matrices, len(order)))}]
    return {"state": state, "param_groups": groups}


def _as_torch_2_2(modern: Path, path: Path) -> None:
    with zipfile.ZipFile(modern) as source, zipfile.ZipFile(path, "w") as target:
        entries = {info.filename.partition("/")[2]: info for info in source.infolist()}
        storages = sorted(name for name in entries if name.startswith("data/"))  # text: data/0, data/1, data/10, ...
        for name in ("data.pkl", "byteorder", *storages, "version", ".data/serialization_id"):
            target.writestr(zipfile.ZipInfo(f"{path.stem}/{name}"), source.read(entries[name]))
