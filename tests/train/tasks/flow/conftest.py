"""Flow runs that take a second: a tiny network on generated scenes of 32 x 32 pixels."""

from collections.abc import Callable
from pathlib import Path

import pytest

from midway_zoo.train.config import load_config
from midway_zoo.train.tasks.flow.config import FlowConfig
from midway_zoo.train.tasks.flow.task import FlowTask

NETWORK = (
    "network.overrides={embed_dim: 24, depth: 4, feature_blocks: [0, 1, 2, 3], motion_dim: 24, motion_tokens: 2, "
    "midway_depth: 1, forward_depth: 2, grid: [4, 4]}"
)
TINY = [
    NETWORK,
    *("network.flow_head=[4, 4, 4, 4, 8]", "network.head_init=plain"),
    *("data.crop=[32, 32]", "data.scenes.height=36", "data.scenes.width=36"),
    *("data.scenes.motion=3", "data.scenes.camera=1", "validation.scenes=4"),
    *("batch_size=4", "num_workers=0", "schedule_steps=8", "trackers=[]", "save_every=100", "picture_every=null"),
]


@pytest.fixture
def settings(tmp_path: Path) -> list[str]:
    """Overrides of the recipe flow_scenes_nano for a run of eight steps in ``tmp_path / "run"``."""
    return [*TINY, f"out={tmp_path / 'run'}"]


@pytest.fixture
def make_task(settings: list[str]) -> Callable[..., FlowTask]:
    """A tiny flow task; further overrides as arguments."""

    def build(*more: str) -> FlowTask:
        return FlowTask(load_config(FlowConfig, "flow_scenes_nano", [*settings, *more]))

    return build
