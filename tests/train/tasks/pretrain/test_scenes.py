"""Pretraining that needs no data."""

import json
from collections.abc import Callable

import pytest
import torch

from midway_zoo.errors import ConfigError
from midway_zoo.models.layers import Mlp
from midway_zoo.train.checkpoints import latest_checkpoint
from midway_zoo.train.config import load_config
from midway_zoo.train.loop import fit
from midway_zoo.train.tasks.pretrain import task
from midway_zoo.train.tasks.pretrain.config import PretrainConfig
from midway_zoo.train.tasks.pretrain.model import compiled_views, normalised_views
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


def test_the_teacher_s_temperature_rises(scenes_task) -> None:
    rising = ["objective.teacher_temperature_start=0.04", "objective.teacher_temperature=0.07"]
    task = scenes_task(*rising, "objective.teacher_temperature_epochs=50")  # of 100 in four steps
    assert [task.teacher_temperature(step) for step in range(4)] == pytest.approx([0.04, 0.055, 0.07, 0.07])
    batch = next(iter(task.batches(0, 1, rank=0, world=1)))
    first, last = (task.to_inputs(batch, step) for step in (0, 3))
    assert task.model(first)["teacher_entropy"] < task.model(last)["teacher_entropy"]
    plain = scenes_task()
    assert "teacher_temperature" not in plain.to_inputs(batch, 0)
    with pytest.raises(ConfigError, match="temperature"):
        scenes_task("objective.teacher_temperature_start=0")


def test_mlps_need_not_be_run_again(scenes_task) -> None:
    gradients = []
    for value in ("true", "false"):
        task = scenes_task(f"network.mlp_recompute={value}")
        assert {m.recompute for m in task.model.network.modules() if isinstance(m, Mlp)} == {value == "true"}
        inputs = task.to_inputs(next(iter(task.batches(0, 1, rank=0, world=1))), 0)
        task.model(inputs)["loss"].backward()
        gradients.append([p.grad for p in task.model.parameters() if p.grad is not None])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_videos_are_mixed_into_scenes(scenes_task, videos, tmp_path) -> None:
    mixed = [f"data.root={videos}", "data.min_seconds=0.05", "data.max_seconds=0.2"]
    task = scenes_task(*mixed, "data.mixture=0.5")
    steps = [next(iter(task.batches(step, step + 1, rank=0, world=1))) for step in range(8)]
    assert [batch["index"].tolist() for batch in steps] == [list(range(4 * step, 4 * step + 4)) for step in range(8)]
    scenes = scenes_task(name="scenes")
    filmed = 0
    for step, batch in enumerate(steps):
        alone = next(iter(scenes.batches(step, step + 1, rank=0, world=1)))
        same = (batch["dynamics"] == alone["dynamics"]).flatten(1).all(1)
        filmed += int((~same).sum())
        assert torch.equal(batch["globals"][same], alone["globals"][same])
    assert 8 <= filmed <= 24
    fit(task)
    fit(scenes_task(*mixed, "data.mixture=0.5", "max_steps=2", "num_workers=1", name="again"))
    assert fit(scenes_task(*mixed, "data.mixture=0.5", "resume=must", name="again")).finished
    assert lines(tmp_path / "again") == lines(tmp_path / "run")
    with pytest.raises(ConfigError, match="the data changed"):
        fit(scenes_task(*mixed, "data.mixture=0.4"))
    with pytest.raises(ConfigError, match="needs videos"):
        scenes_task("data.mixture=0.5")
    with pytest.raises(ConfigError, match="mixes videos into scenes"):
        scenes_task(*mixed, "data.source=videos", "data.mixture=0.5")


def test_photometry_is_compiled_with_the_step_where_it_is_not_on_a_cpu(scenes_task, monkeypatch) -> None:
    """Meta tensors stand for an accelerator's."""
    seen: list[set[str]] = []
    monkeypatch.setattr(task, "compiled_views", lambda: lambda batch: (seen.append(set(batch)), {})[1])
    monkeypatch.setattr(task, "normalised_views", lambda batch: {})
    plain, fast = scenes_task(), scenes_task("compile=true")
    batch = next(iter(plain.batches(0, 1, rank=0, world=1)))
    there = {key: value.to("meta") if isinstance(value, torch.Tensor) else value for key, value in batch.items()}
    plain.to_inputs(batch, 0)
    fast.to_inputs(batch, 0)
    plain.to_inputs(there, 0)
    assert seen == []
    fast.to_inputs(there, 0)
    assert seen == [{"dynamics", "globals", "locals", "photometric"}]


def test_compiled_views_are_the_same(scenes_task) -> None:
    batch = next(iter(scenes_task().batches(0, 1, rank=0, world=1)))
    tensors = {key: batch[key] for key in ("dynamics", "globals", "locals", "photometric")}
    expected, found = normalised_views(tensors), compiled_views("aot_eager")(tensors)
    assert found.keys() == expected.keys()
    for key, views in expected.items():
        torch.testing.assert_close(found[key], views, atol=1e-4, rtol=0)
