"""The recipes of tables 1 and 2 are the published protocols."""

import pytest

from midway_zoo.train.config import load_config
from midway_zoo.train.optim import poly
from midway_zoo.train.tasks.segmentation.config import SegmentationConfig

FROZEN = ("linear_bdd100k", "linear_cityscapes", "upernet_bdd100k", "upernet_cityscapes")
FINETUNED = ("upernet_ade20k", "upernet_wtsem")


@pytest.mark.parametrize("name", [*FROZEN, *FINETUNED])
def test_protocol(name: str) -> None:
    config = load_config(SegmentationConfig, name, ["out=x", "data.root=x"])
    head, _, dataset = name.partition("_")
    optim, data = config.optim, config.data
    assert (config.head.kind, data.source) == (head, dataset)
    assert (config.batch_size, config.schedule_steps, data.crop, tuple(data.scale)) == (16, 60_000, 512, (0.5, 2.0))
    assert (optim.lr, optim.weight_decay, optim.warmup_steps, optim.power) == (3e-5, 0.05, 1500, 1)
    assert data.max_class_share == 0.75
    assert config.features.source == ("backward" if head == "linear" else "encoder")
    assert head == "linear" or list(config.features.blocks) == [3, 5, 7, 11]
    assert (config.head.dropout, config.head.auxiliary) == (0.1, 0.4)
    tuned = name in FINETUNED
    assert (config.network.finetune, config.network.drop_path) == ((True, 0.1) if tuned else (False, 0.0))
    assert optim.layer_decay == (0.9 if tuned else 1)
    assert poly(1499, 60_000, optim.lr, warmup=1500) == pytest.approx(3e-5 * (1 - 1499 / 60_000))
