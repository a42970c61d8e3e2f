"""Reference numbers and footage live outside the project, where MIDWAY_ZOO_SHARED points."""

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file


@pytest.fixture(scope="session")
def shared() -> Path:
    folder = os.environ.get("MIDWAY_ZOO_SHARED")
    if not folder:
        pytest.skip("MIDWAY_ZOO_SHARED is not set: the reference numbers are not on this machine")
    return Path(folder)


@pytest.fixture(scope="session", params=["checkpoint.pth", "checkpoint_as_trained.pth"])
def official(shared: Path, request: pytest.FixtureRequest) -> Path:
    """The small released-layout checkpoint, plain and as the authors' loop saved it."""
    return shared / "fixtures/official_nano" / request.param


@pytest.fixture(scope="session")
def official_inputs(shared: Path) -> dict[str, torch.Tensor]:
    return load_file(shared / "fixtures/official_nano/inputs.safetensors")


@pytest.fixture(scope="session")
def official_expected(shared: Path) -> dict[str, torch.Tensor]:
    return load_file(shared / "fixtures/official_nano/expected.safetensors")


@pytest.fixture(scope="session")
def formula_vits(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A full-size ViT-S checkpoint filled by formula, seed 0."""
    path = tmp_path_factory.mktemp("formula") / "vit_small.pth"
    torch.save(build_formula(shared, "vit_small"), path)
    return path


def build_formula(shared: Path, layout: str) -> dict[str, Any]:
    """A full-size checkpoint filled by formula, seed 0, in plain dicts and without optimizer."""
    spec = importlib.util.spec_from_file_location("formula_weights", shared / "fixtures/formula_weights.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    content: dict[str, Any] = module.build(json.loads((shared / f"fixtures/layouts/{layout}.json").read_text()), 0)
    return content
