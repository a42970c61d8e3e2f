"""What workers need of /dev/shm, told before a run."""

import logging
import shutil
from collections import namedtuple

import numpy as np
import pytest
import torch

from midway_zoo.errors import ConfigError
from midway_zoo.train.data import shared_memory as module
from midway_zoo.train.data.shared_memory import bytes_per_pair, check_shared_memory
from midway_zoo.train.data.views import ViewSampler, ViewsConfig


def test_a_pair_takes_what_is_said() -> None:
    config = ViewsConfig(dynamics_size=32, global_size=24, local_size=16, local_crops=3)
    frames = torch.randint(0, 256, (2, 3, 90, 120), dtype=torch.uint8)
    views = ViewSampler(config)(*frames, np.random.default_rng(0))
    assert bytes_per_pair(config) == sum(view.nbytes for view in views.values())
    assert bytes_per_pair(ViewsConfig()) == pytest.approx(1.35e6, rel=0.02)


def test_too_little_is_refused_and_little_warned_of(tmp_path, monkeypatch, caplog) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(64 << 20, 0, 64 << 20))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"64 MiB free; 10 data workers of 2 process.*80 MiB at least.*shm-size"):
        check_shared_memory(4 << 20, 10, folder=tmp_path)
    with caplog.at_level(logging.WARNING):
        check_shared_memory(1 << 20, 10, folder=tmp_path)
        assert "may need up to 100 MiB" in caplog.text
        caplog.clear()
        check_shared_memory(1 << 20, 2, folder=tmp_path)
        check_shared_memory(4 << 20, 0, folder=tmp_path)
        check_shared_memory(4 << 20, 99, folder=tmp_path / "none")
        assert not caplog.text
    assert module.PREFETCH == 4
