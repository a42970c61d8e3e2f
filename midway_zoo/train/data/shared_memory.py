"""Check that /dev/shm can hold the batches of data workers, which otherwise die with a bus error."""

import logging
import os
import shutil
from pathlib import Path

from midway_zoo.errors import ConfigError
from midway_zoo.train.data.photometric import Column
from midway_zoo.train.data.views import ViewsConfig

PREFETCH = 4
"""Batches that each worker prepares ahead."""
_FOLDER = Path("/dev/shm")
_log = logging.getLogger(__name__)


def bytes_per_pair(views: ViewsConfig) -> int:
    """Size of one pair's views as passed on by workers."""
    sides = [views.dynamics_size] * 2 + [views.global_size] * 4 + [views.local_size] * (2 * views.local_crops)
    return sum(3 * side * side for side in sides) + 4 * len(Column) * len(sides)


def check_shared_memory(batch_bytes: int, workers: int, *, folder: Path = _FOLDER) -> None:
    """Before a run, compare what the workers of all processes on this machine may use with what is free.

    Args:
        batch_bytes: size of one batch of one process.
        workers: workers per process; 0 needs no shared memory.
        folder: location of shared memory; if a system does not have it, nothing is checked.

    Raises:
        ConfigError: if not even one batch per worker fits.
    """
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if not workers or not folder.is_dir():
        return
    free, least = shutil.disk_usage(folder).free, batch_bytes * workers * processes
    most = (PREFETCH + 1) * least
    remedy = "give the container more (docker run --shm-size), or lower num_workers"
    if least > free:
        raise ConfigError(
            f"{folder} has {_mib(free)} MiB free; {workers} data workers of {processes} process(es) need "
            f"{_mib(least)} MiB at least and {_mib(most)} MiB at most: {remedy}."
        )
    if most > free:
        _log.warning(
            "%s has %d MiB free; %d data workers of %d process(es) may need up to %d MiB: %s if the run ends with a "
            "bus error",
            *(folder, _mib(free), workers, processes, _mib(most), remedy),
        )


def _mib(size: int) -> int:
    return round(size / 2**20)
