"""The rank of this process among those that `accelerate launch` or torchrun started."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch

from midway_zoo.errors import InputError, MissingExtraError
from midway_zoo.extras import install_command


@dataclass(frozen=True)
class Process:
    """One of the processes that share the units of a plan."""

    index: int
    count: int
    device: torch.device
    wait: Callable[[], None]
    """Wait until all processes have called it."""

    @property
    def first(self) -> bool:
        return self.index == 0


def launched(engine: str) -> Process:
    """This process, as it was launched; a single one without a launcher.

    Raises:
        MissingExtraError: if it was launched and Accelerate is missing.
        InputError: if it was launched to use Ray, which starts its own workers.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return Process(0, 1, device, lambda: None)
    if engine == "ray":
        raise InputError("Ray starts its own workers: start one process, without accelerate launch or torchrun.")
    try:
        from accelerate import PartialState
    except ImportError as error:
        raise MissingExtraError(f"several processes need accelerate: {install_command('scale')} ({error}).") from error
    # Processes wait for each other at the end, where one may have finished its share weeks before the others.
    options: dict[str, Any] = {"timeout": timedelta(days=365)}
    state = PartialState(cpu=not torch.cuda.is_available(), **options)
    return Process(state.process_index, state.num_processes, state.device, state.wait_for_everyone)
