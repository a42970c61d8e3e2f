"""Checkpoints written while training continues: a copy of the state, and a thread that writes it."""

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from midway_zoo.errors import CheckpointError


def snapshot(values: Any) -> Any:
    """A copy in host memory of all tensors in nested mappings, lists and tuples; training may then change them.

    From a GPU they are copied into pinned memory all at once, and the copies are waited for.
    """
    copied = _copied(values)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return copied


def _copied(values: Any) -> Any:
    if isinstance(values, Tensor):
        source = values.detach()
        host = torch.empty_like(source, device="cpu", pin_memory=source.is_cuda)
        return host.copy_(source, non_blocking=True)
    if isinstance(values, Mapping):
        return {key: _copied(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [_copied(value) for value in values]
    return values


class BackgroundWriter:
    """Writes one checkpoint at a time in a thread of its own. Errors in it are raised by the next call."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._running: tuple[int, Future[None]] | None = None

    def start(self, step: int, write: Callable[[], None]) -> None:
        """Start writing the checkpoint of a step, once the previous one is complete."""
        self.wait()
        self._running = step, self._pool.submit(write)

    def check(self) -> None:
        """Raise :class:`CheckpointError` if a write has failed; does not wait for a write in progress."""
        if self._running is not None and self._running[1].done():
            self.wait()

    def wait(self) -> None:
        """Wait until nothing is being written.

        Raises:
            CheckpointError: if the write failed.
        """
        if self._running is None:
            return
        (step, writing), self._running = self._running, None
        try:
            writing.result()
        except Exception as error:
            raise CheckpointError(
                f"the checkpoint of step {step} could not be written ({type(error).__name__}: {error}). Make room on "
                "the disk, or repair the folder, and start the command again: it resumes from the previous checkpoint."
            ) from error

    def close(self) -> None:
        """Wait for a write and ignore its errors, while another error is being raised."""
        self._pool.shutdown(wait=True)
