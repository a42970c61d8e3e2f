"""Signals during a run: the first ends it after the step, and no number of them costs a checkpoint."""

import os
import signal
import stat

import pytest
import torch

from midway_zoo.train.checkpoints import latest_checkpoint, save_checkpoint
from midway_zoo.train.distributed import StopRequest


def test_a_second_ctrl_c_interrupts_but_not_a_save() -> None:
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.requested
        with stop.saving():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_files_of_checkpoints_follow_the_umask(tmp_path) -> None:
    before = os.umask(0o022)
    try:
        save_checkpoint(tmp_path, 3, model={"a": torch.zeros(2)}, optimizer={}, state={}, config="")
    finally:
        os.umask(before)
    folder = latest_checkpoint(tmp_path).path
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o644}
