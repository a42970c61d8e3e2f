"""Rendered pairs: a pure function of the seed and the pair's number."""

import pytest
import torch

from midway_zoo.errors import ConfigError
from midway_zoo.scenes import SceneGenerator, ScenesConfig
from midway_zoo.scenes.draws import Draws
from midway_zoo.train.data.loading import StepBatches
from midway_zoo.train.data.scene_pairs import SceneViews, scene_batches, scenes_fingerprint
from midway_zoo.train.data.views import ViewsConfig

VIEWS = ViewsConfig(dynamics_size=32, global_size=32, local_size=16, local_crops=1, initial_area=(0.5, 1.0))
KEYS = ("dynamics", "globals", "locals", "photometric", "index")


def dataset(seed: int = 0, **scenes) -> SceneViews:
    return SceneViews(ScenesConfig(height=32, width=32, **scenes), VIEWS, seed)


def assert_same(first: dict, second: dict, rows: slice = slice(None)) -> None:
    for key in KEYS:
        assert torch.equal(first[key][rows], second[key]), key


def test_frames_alone_are_those_of_render() -> None:
    generator = SceneGenerator(ScenesConfig(height=96, width=96, frames=3), seed=4)
    assert torch.equal(generator.frames(range(7, 17)), generator.render(range(7, 17)).frames)


def test_views_depend_on_seed_and_number_alone() -> None:
    whole = dataset().__getitems__(range(8))
    assert_same(whole, dataset().__getitems__([5, 6, 7]), slice(5, 8))
    one = dataset()[3]
    assert torch.equal(one["globals"], whole["globals"][3])
    other = dataset(seed=1).__getitems__(range(8))
    assert not torch.equal(other["dynamics"], whole["dynamics"])
    assert not torch.equal(other["photometric"], whole["photometric"])
    assert len(whole["dynamics"].flatten(1).unique(dim=0)) == 8


def test_processes_workers_and_resuming_change_nothing() -> None:
    whole = list(scene_batches(dataset(), StepBatches(0, 4, last_step=3), num_workers=0))
    parts = [
        list(scene_batches(dataset(), StepBatches(1, 4, rank, 2, last_step=3), num_workers=1)) for rank in range(2)
    ]
    assert [len(part) for part in parts] == [2, 2]
    for step in (1, 2):
        joined = {key: torch.cat([part[step - 1][key] for part in parts]) for key in KEYS}
        assert_same(whole[step], joined)


def test_longer_clips_give_any_two_frames() -> None:
    config = {"frames": 4, "noise": 0.0, "lighting": 0.0}
    pairs = dataset(**config)
    clips = torch.arange(4.0).expand(500, -1)  # frames as their own numbers
    chosen = pairs._pair(clips, Draws(0, torch.arange(500).numpy()))
    distance = chosen[:, 1] - chosen[:, 0]
    assert sorted(distance.unique().tolist()) == [1, 2, 3]
    assert all((distance == step).sum() > 120 for step in (1, 2, 3))
    assert len(pairs.__getitems__([0, 1])["dynamics"]) == 2
    with pytest.raises(ConfigError, match="at least 2"):
        dataset(frames=1)


def test_fingerprint() -> None:
    assert scenes_fingerprint(ScenesConfig()) == scenes_fingerprint(ScenesConfig())
    assert scenes_fingerprint(ScenesConfig()) != scenes_fingerprint(ScenesConfig(motion=9.0))
