"""That flow is learned at all: the whole chain, from generated pairs to small errors."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from midway_zoo.train.config import load_config
from midway_zoo.train.data.loading import Sample
from midway_zoo.train.journal import read_log
from midway_zoo.train.loop import fit
from midway_zoo.train.tasks.flow.config import FlowConfig
from midway_zoo.train.tasks.flow.task import FlowTask, flow_batch

PAIRS = 64
SETTINGS = [
    "data.augment={scale_p: 0, stretch_p: 0, horizontal_flip_p: 0, vertical_flip_p: 0, brightness: 0, contrast: 0, "
    "saturation: 0, hue: 0}",
    "data.crop=[32, 32]",
    "data.scenes={height: 32, width: 32, objects: [1, 1], size: [0.2, 0.35], motion: 3, rotation: 0, zoom: 0, "
    "camera: 2}",
    *("network.overrides={grid: [8, 8], gate_bias: 4.0}", "network.dynamics_init=released", "network.head_init=plain"),
    *("schedule_steps=700", "batch_size=8", "optim.lr=1.5e-3", "optim.weight_decay=0"),
    *("num_workers=0", "trackers=[]", "save_every=1000000"),
    *("picture_every=null", "validation.scenes=0"),
]


class Repeated(Dataset[Sample]):
    """A few samples again and again, in an order of its own in each pass."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = samples

    def __getitem__(self, number: int) -> Sample:
        passed, place = divmod(number, len(self.samples))
        return self.samples[int(np.random.default_rng([7, passed]).permutation(len(self.samples))[place])]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_nano_learns_64_pairs_by_heart(tmp_path: Path) -> None:
    """From random weights to less than 0.3 pixels where knowing nothing is off by more than one: four minutes of a
    core. The camera's motion is learned first, then that of the objects."""
    task = FlowTask(load_config(FlowConfig, "flow_scenes_nano", [*SETTINGS, f"out={tmp_path / 'run'}"]))
    few = task.dataset.__getitems__(list(range(PAIRS)))  # type: ignore[attr-defined]
    task.dataset = Repeated(few)
    still = torch.stack([torch.linalg.vector_norm(sample["flow"], dim=0).mean() for sample in few]).mean()
    assert still > 1
    fit(task)
    log = read_log(tmp_path / "run" / "log.jsonl")
    first, last = (np.mean([line["epe"] for line in part]) for part in (log[:8], log[-8:]))
    assert first > 0.8 * still
    batch = flow_batch(few)
    task.observe(batch)
    task.model.eval()
    with torch.no_grad():
        epe = task.model(task.to_inputs(batch, 0))["epe"].item()
    assert epe < 0.3, (float(still), first, last)
