"""A very small network, and the ONNX files of it that several tests read: torch takes seconds to write one."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

import midway_zoo as mz


@pytest.fixture(scope="session")
def tiny() -> mz.MidwayNetwork:
    """Weights large enough that every path matters."""
    torch.manual_seed(3)
    network = mz.create_model(
        "midway_nano",
        **{"depth": 4, "feature_blocks": (0, 1, 2, 3), "levels": (2, 0), "midway_depth": 1, "forward_depth": 2},
        **{"embed_dim": 24, "motion_dim": 12, "grid": (4, 4), "flow_head": (4, 4, 4, 4, 4), "flow_size": (32, 48)},
    )
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn_like(parameter) / parameter[0].numel() ** 0.5)
    return network


@pytest.fixture(scope="session")
def encoder_file(tiny: mz.MidwayNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "encoder.onnx"
    mz.export(tiny, path, part="encoder", size=(32, 48))
    return path


@pytest.fixture(scope="session")
def stream_file(tiny: mz.MidwayNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "stream.onnx"
    mz.export(tiny, path, part="stream")
    return path


@pytest.fixture(scope="session")
def example() -> ModuleType:
    path = Path(__file__).parents[2] / "examples" / "onnx_inference.py"
    spec = importlib.util.spec_from_file_location("onnx_inference", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
