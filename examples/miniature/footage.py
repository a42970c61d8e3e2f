"""Real footage that nothing is trained on, warped by known smooth flow; and what no network at all would reach."""

import importlib.util
from functools import cache
from pathlib import Path
from types import ModuleType

import rows
import torch
from torch import Tensor

import midway_zoo as mz
from midway_zoo.flow import FlowMetrics
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.train.config import load_config
from midway_zoo.train.tasks.flow.config import FlowConfig


class Floors:
    """End-point errors in pixels of "zero_epe", nothing moves, and "translation_epe", the best single vector of each
    pair, found from the truth."""

    def __init__(self) -> None:
        self._zero, self._single = FlowMetrics(), FlowMetrics()

    def update(self, true: Tensor) -> None:
        """Add true flow (B, 2, H, W)."""
        self._zero.update(torch.zeros_like(true), true)
        self._single.update(generalisation().translation(true), true)

    def compute(self) -> dict[str, float]:
        """Over all that was added."""
        return {"zero_epe": self._zero.compute()["epe"], "translation_epe": self._single.compute()["epe"]}


def measure(network: MidwayNetwork, path: Path, budget: rows.Budget) -> dict[str, float]:
    """End-point error in pixels of the flow head on crops of a video or folder of frames, and its floors.

    Crops are of the size, and vectors about as long as the longest of an object, of the scenes that flow is trained on.
    """
    config = load_config(FlowConfig, rows.RECIPES / "flow.yaml", [*budget.flow, "out=unused", "initial=random"])
    metrics, floors, longest = FlowMetrics(), Floors(), config.data.scenes.motion
    for source, target, true in generalisation().warped(path, tuple(config.data.crop), budget.media_frames, longest):
        found = mz.predict_flow(network, source, target, method="head", tile=tuple(true.shape[-2:])).flow
        metrics.update(found.to(true.device), true)
        floors.update(true)
    return {"epe": metrics.compute()["epe"]} | floors.compute()


@cache
def generalisation() -> ModuleType:
    """The example beside this folder, which warps footage."""
    path = Path(__file__).parents[1] / "flow_generalisation.py"
    spec = importlib.util.spec_from_file_location("flow_generalisation", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
