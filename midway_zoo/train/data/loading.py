"""Loading of samples for every task: their numbers per step, the loader, and the handling of failures."""

import atexit
import logging
import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from midway_zoo.errors import ConfigError, DataError, MidwayZooError
from midway_zoo.train.data.shared_memory import PREFETCH
from midway_zoo.train.distributed import StopRequest

Sample: TypeAlias = dict[str, Any]
Failure: TypeAlias = tuple[str, str]
"""(path, reason)"""

_log = logging.getLogger(__name__)

GRACE = 500
"""Minimum number of samples that a share refers to, so that one bad file does not stop a run at its start."""
_NAMED = 5


def make_loader(
    dataset: Dataset[Any],
    batches: Sampler[list[int]],
    collate: Callable[[Any], Any],
    *,
    num_workers: int,
    spawn: bool = False,
) -> Iterable[Any]:
    """A loader that yields the batches of a batch sampler in order; errors of this package are raised unchanged.

    Args:
        dataset: a data set whose samples depend only on their number, never on the worker.
        batches: numbers of each batch.
        collate: makes a batch from samples.
        num_workers: 0 loads in this process.
        spawn: start workers as new processes, which can use a GPU; forked ones cannot if this process has used it.
    """
    loader: DataLoader[Any] = DataLoader(
        _Telling(dataset),
        batch_sampler=batches,
        collate_fn=partial(_collate, collate),
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=num_workers > 0,
        prefetch_factor=PREFETCH if num_workers else None,
        worker_init_fn=_one_thread,
        multiprocessing_context="spawn" if spawn and num_workers else None,
    )
    return _Batches(loader)


@dataclass(frozen=True)
class _Failed:
    """Returned instead of a batch: if a worker raised the error, its message would contain the traceback."""

    error: MidwayZooError


class _Telling(Dataset[Any]):
    """Lists of samples of a data set, or the error instead."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __getitems__(self, numbers: Sequence[int]) -> Any:
        try:
            if hasattr(self.dataset, "__getitems__"):
                return self.dataset.__getitems__(numbers)
            return [self.dataset[number] for number in numbers]
        except MidwayZooError as error:
            return _Failed(error)


def _collate(collate: Callable[[Any], Any], samples: Any) -> Any:
    return samples if isinstance(samples, _Failed) else collate(samples)


class _Batches:
    """The batches of a loader; raises errors that were returned instead."""

    def __init__(self, loader: Iterable[Any]) -> None:
        self._loader = loader

    def __iter__(self) -> Iterator[Any]:
        others = set(multiprocessing.active_children())
        batches = iter(self._loader)
        for worker in set(multiprocessing.active_children()) - others:
            # At exit Python sends SIGTERM to its children and waits for them. The workers ignore the signal, and if an
            # error keeps the loader alive (as a traceback does), it cannot end them: Python would wait forever.
            atexit.register(worker.kill)
        for batch in batches:
            if isinstance(batch, _Failed):
                raise batch.error
            yield batch


def _one_thread(worker: int) -> None:
    """Use one thread per worker: workers already run in parallel, and threads inside them would compete."""
    torch.set_num_threads(1)
    # Launchers and schedulers signal the whole process group. The run then does a last step, for which it needs its
    # workers; they end with the loader, or with their parent.
    for name in StopRequest.SIGNALS:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def collate(samples: Sequence[Sample]) -> dict[str, Any]:
    """Stack samples to a batch; ``failures`` are concatenated to one list of (path, reason)."""
    batch = {key: torch.stack([sample[key] for sample in samples]) for key in samples[0] if key != "failures"}
    return {**batch, "failures": [failure for sample in samples for failure in sample["failures"]]}


class StepBatches(Sampler[list[int]]):
    """Batch sampler: the pair numbers of one process, step by step.

    At step s the run sees pairs ``s * batch_size`` to ``(s + 1) * batch_size``, of which process ``rank``
    of ``world`` takes the ``rank``-th part. Thus the sequence is the same for any number of processes and after
    resuming.

    Args:
        first_step: step to start at.
        batch_size: pairs per step over all processes.
        rank: rank of this process.
        world: number of processes.
        last_step: step to stop before; None for an endless sequence.
        parts: number of micro-batches per step and process (gradient accumulation).

    Raises:
        ConfigError: if the batch does not divide among processes and parts.
    """

    def __init__(
        self,
        first_step: int,
        batch_size: int,
        rank: int = 0,
        world: int = 1,
        *,
        last_step: int | None = None,
        parts: int = 1,
    ) -> None:
        if batch_size < 1 or batch_size % (world * parts):
            raise ConfigError(
                f"batch_size={batch_size} does not divide among {world} processes with {parts} part(s) each; "
                f"take a multiple of {world * parts}."
            )
        self.first_step, self.last_step = first_step, last_step
        self.batch_size, self.rank, self.world, self.parts = batch_size, rank, world, parts

    def __iter__(self) -> Iterator[list[int]]:
        share = self.batch_size // self.world
        size = share // self.parts
        step = self.first_step
        while self.last_step is None or step < self.last_step:
            first = step * self.batch_size + self.rank * share
            for part in range(self.parts):
                yield list(range(first + part * size, first + (part + 1) * size))
            step += 1


class FailureCounter:
    """Counts failed samples, and stops a run if there are too many.

    Each file is logged once. The count is saved in checkpoints.

    Args:
        max_share: largest share of samples that may fail, in [0, 1].

    Raises:
        ConfigError: for a share outside [0, 1].
    """

    def __init__(self, max_share: float) -> None:
        if not 0 <= max_share <= 1:
            raise ConfigError(f"max_failure_share={max_share} must lie between 0 and 1.")
        self.max_share = max_share
        self.tried = 0
        self.failed = 0
        self.files: dict[str, list[Any]] = {}
        """{path: [failures, first reason]}"""

    def update(self, failures: Sequence[tuple[str, str]], pairs: int) -> None:
        """Count a batch: ``batch["failures"]`` and the number of its pairs.

        Raises:
            DataError: if the share of failures is above the limit.
        """
        self.tried += pairs + len(failures)
        self.failed += len(failures)
        for path, reason in failures:
            if path not in self.files:
                _log.warning("cannot be read and is replaced by another sample: %s (%s)", path, reason)
                self.files[path] = [0, reason]
            self.files[path][0] += 1
        if self.failed > self.max_share * max(self.tried, GRACE):
            raise DataError(self._complaint())

    def state_dict(self) -> dict[str, Any]:
        """State for :meth:`load_state_dict`, in plain JSON values."""
        return {
            "tried": self.tried,
            "failed": self.failed,
            "files": {path: list(at) for path, at in self.files.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the result of :meth:`state_dict`."""
        self.tried, self.failed = int(state["tried"]), int(state["failed"])
        self.files = {path: list(at) for path, at in state["files"].items()}

    def _complaint(self) -> str:
        worst = sorted(self.files.items(), key=lambda item: -item[1][0])[:_NAMED]
        named = "; ".join(f"{path} ({count} times: {reason})" for path, (count, reason) in worst)
        return (
            f"{self.failed} of {self.tried} samples could not be read, more than max_failure_share={self.max_share} "
            f"allows. In {len(self.files)} files, the worst: {named}. Restore or remove them and index the data again, "
            "or raise data.max_failure_share."
        )
