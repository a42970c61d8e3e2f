"""A folder of small videos, and settings of a run that takes a second."""

from collections.abc import Callable
from pathlib import Path

import pytest

from midway_zoo.train.config import load_config
from midway_zoo.train.tasks.pretrain.config import PretrainConfig
from midway_zoo.train.tasks.pretrain.task import PretrainTask
from tests.train.videos import write_video

TINY_NETWORK = [
    "network.overrides={embed_dim: 24, depth: 4, feature_blocks: [0, 1, 2, 3], motion_dim: 24, motion_tokens: 2, "
    "midway_depth: 1, forward_depth: 2}",
    *("head.hidden=16", "head.bottleneck=8", "head.out=32"),
    *("views.dynamics_size=32", "views.global_size=32", "views.local_size=16", "views.local_crops=1"),
]
TINY = [*TINY_NETWORK, "batch_size=4", "num_workers=0", "schedule_steps=8", "trackers=[]", "save_every=100"]


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three videos of 40 frames, indexed."""
    folder = tmp_path_factory.mktemp("videos")
    for seed in range(3):
        write_video(folder / f"{seed}.mp4", seed=seed)
    return folder


@pytest.fixture
def settings(videos: Path, tmp_path: Path) -> list[str]:
    """Overrides of the nano recipe for a run of eight steps in ``tmp_path / "run"``."""
    return [*TINY, f"data.root={videos}", f"out={tmp_path / 'run'}"]


@pytest.fixture
def make_task(settings: list[str]) -> Callable[..., PretrainTask]:
    """A tiny pretraining task; further overrides as arguments."""

    def build(*more: str) -> PretrainTask:
        return PretrainTask(load_config(PretrainConfig, "nano", [*settings, *more]))

    return build
