"""Accelerate for one process of a run, however it was launched."""

import os
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, LoggerType

from midway_zoo.errors import ConfigError
from midway_zoo.train.config import RunConfig
from midway_zoo.train.sharding import check_launch


def make_accelerator(config: RunConfig) -> Accelerator:
    """Accelerate for this process, as launched by ``accelerate launch``, torchrun, SLURM or by itself.

    Raises:
        ConfigError: if the processes do not see each other, the batch does not divide among them, or the device has
            not the precision, or Accelerate was told to shard the model by itself.
    """
    check_launch()
    if config.precision == "fp16" and not torch.accelerator.is_available():
        raise ConfigError("precision=fp16 needs a GPU, and there is none here; use precision=bf16 or precision=no.")
    unknown = [name for name in config.trackers if name not in LoggerType.list()]
    if unknown or "all" in config.trackers:
        raise ConfigError(f"trackers={config.trackers}: known are {', '.join(sorted(LoggerType.list()))}, except all.")
    absent = [name for name in config.trackers if name not in map(str, get_available_trackers())]
    if absent:
        raise ConfigError(f"trackers={config.trackers}: {absent[0]} is not installed; pip install {absent[0]}.")
    accelerator = Accelerator(
        # Unless told so, Accelerate takes processes that torchrun starts on CPUs for as many runs of their own.
        cpu=not torch.accelerator.is_available(),
        mixed_precision=config.precision,
        log_with=list(config.trackers) or None,
        project_dir=config.out,
        # The center is averaged by hand, once a step; nothing else is a buffer that differs between processes.
        kwargs_handlers=[
            DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True),
            # The first process validates and saves while the others wait.
            InitProcessGroupKwargs(timeout=timedelta(hours=2)),
        ],
    )
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched != accelerator.num_processes:
        raise ConfigError(
            f"{launched} processes were launched, but Accelerate sees {accelerator.num_processes}: they would "
            "overwrite each other's run. Launch with `accelerate launch` or torchrun, and check `accelerate env`."
        )
    if config.batch_size % (accelerator.num_processes * config.accumulate):
        raise ConfigError(
            f"batch_size={config.batch_size} does not divide into {accelerator.num_processes} process(es) with "
            f"accumulate={config.accumulate} micro-batches each; choose a multiple of "
            f"{accelerator.num_processes * config.accumulate}."
        )
    return accelerator
