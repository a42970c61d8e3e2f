"""Pretraining that needs no data."""

import json
from collections.abc import Callable

import pytest
import torch

from midway_zoo.errors import ConfigError
from midway_zoo.train.checkpoints import latest_checkpoint
from midway_zoo.train.config import load_config
from midway_zoo.train.loop import fit
from midway_zoo.train.tasks.pretrain.config import PretrainConfig
from midway_zoo.train.tasks.pretrain.task import PretrainTask
from tests.train.conftest import TINY
from tests.train.test_resume import assert_same_weights, lines

SCENES = [*TINY, "schedule_steps=4", "data.scenes.height=40", "data.scenes.width=40"]


@pytest.fixture
def scenes_task(tmp_path) -> Callable[..., PretrainTask]:
    """A tiny run of four steps on scenes."""

    def build(*more: str, name: str = "run") -> PretrainTask:
        settings = [*SCENES, f"out={tmp_path / name}", *more]
        return PretrainTask(load_config(PretrainConfig, "nano_scenes", settings))

    return build


def test_resumed_run_is_the_same(scenes_task, tmp_path) -> None:
    fit(scenes_task())
    fit(scenes_task("max_steps=2", "num_workers=1", name="again"))
    assert fit(scenes_task("resume=must", name="again")).finished
    assert lines(tmp_path / "again") == lines(tmp_path / "run")
    assert_same_weights(tmp_path / "again", tmp_path / "run")
    state = json.loads((latest_checkpoint(tmp_path / "run").path / "state.json").read_text())
    assert state["identity"]["data"].startswith("scenes ")
    with pytest.raises(ConfigError, match="the data changed"):
        fit(scenes_task("data.scenes.motion=3"))


def test_recipe_needs_nothing_but_out(tmp_path) -> None:
    config = load_config(PretrainConfig, "nano_scenes", [f"out={tmp_path}"])
    assert config.data.root is None
    assert config.data.scenes.motion == 6
    assert config.midway_config().encoder == "midway_nano"


def test_pictures(scenes_task) -> None:
    task = scenes_task()
    batch = next(iter(task.batches(0, 1, rank=0, world=1)))
    task.observe(batch)
    assert task.pictures(batch)["views"].dtype == torch.uint8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["data.source=files"], "videos, scenes"),
        (["data.source=videos"], r"no value for data\.root"),
        (["schedule_steps=null"], "schedule_steps="),
        (["data.scenes.frames=1"], "at least 2"),
    ],
)
def test_refused(scenes_task, settings, message) -> None:
    with pytest.raises(ConfigError, match=message):
        scenes_task(*settings)
