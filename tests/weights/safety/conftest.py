"""A small released file, and places for what is made of it."""

import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from midway_zoo.weights import archive
from tests.weights.released_files import expected_state, write_released
from tests.weights.safety.hostile import PLACES, Directory, Tiny


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    def add_places(checkpoint: dict[str, Any]) -> None:
        checkpoint["extra"] = PLACES["top level"]
        checkpoint["optimizer"] = {"state": {0: {"exp_avg": torch.randn(50), "step": PLACES["optimizer"]}}}
        checkpoint["student"]["module.dino_head.extra"] = PLACES["unread part"]

    folder = tmp_path_factory.mktemp("safety")
    path = folder / "tiny.pth"
    overrides = {"experiment": PLACES["args"]}
    checkpoint = write_released(path, optimizer=False, args_overrides=overrides, edit=add_places)
    with zipfile.ZipFile(path) as file:
        pickled = file.read("tiny/data.pkl")
    tiny = Tiny(path.read_bytes(), pickled, expected_state(checkpoint), folder)
    tiny.check(tiny.with_pickle(path, pickled))  # what only the first call imports is not an effect of a later file
    return tiny


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a test writes its file."""
    return tmp_path / "file.pth"


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """What a payload creates if it ever runs."""
    return tmp_path / "marker"


@pytest.fixture(scope="session")
def directory(tiny: Tiny) -> Directory:
    return Directory(tiny.data)


@pytest.fixture(scope="session")
def keys(tiny: Tiny) -> dict[str, str]:
    """Entries of the zip that hold a kept tensor and one that is not kept."""
    path = tiny.write(tiny.folder / "keys.pth")
    with archive.open_archive(path) as opened:
        teacher, optimizer = opened.content["teacher"], opened.content["optimizer"]
        found = {
            "kept": teacher["backbone.blocks.1.attn.qkv.weight"],
            "same size": teacher["backbone.blocks.2.attn.qkv.weight"],
            "optimizer": optimizer["state"][0]["exp_avg"],
        }
    return {name: f"data/{ref.storage.key}" for name, ref in found.items()}
