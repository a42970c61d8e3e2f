"""The data loader of every task: workers that live as long as the run, pinned memory, batches made ahead."""

import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from midway_zoo.errors import MidwayZooError
from midway_zoo.train.distributed import StopRequest


def make_loader(
    dataset: Dataset[Any],
    batches: Sampler[list[int]],
    collate: Callable[[Any], Any],
    *,
    num_workers: int,
) -> Iterable[Any]:
    """A loader that gives the batches of a batch sampler in order; an error of this package is raised as it was.

    Args:
        dataset: its samples depend on their number alone, never on the worker.
        batches: numbers of each batch.
        collate: makes a batch of samples.
        num_workers: 0 loads in this process.
    """
    loader: DataLoader[Any] = DataLoader(
        _Telling(dataset),
        batch_sampler=batches,
        collate_fn=partial(_collate, collate),
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=num_workers > 0,
        prefetch_factor=4 if num_workers else None,
        worker_init_fn=_one_thread,
    )
    return _Batches(loader)


@dataclass(frozen=True)
class _Failed:
    """What comes in a batch's place. A worker that raises would have its traceback written into the message."""

    error: MidwayZooError


class _Telling(Dataset[Any]):
    """Lists of samples of a data set, or why there are none."""

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
    """Of a loader; raises what came in a batch's place."""

    def __init__(self, loader: Iterable[Any]) -> None:
        self._loader = loader

    def __iter__(self) -> Iterator[Any]:
        for batch in self._loader:
            if isinstance(batch, _Failed):
                raise batch.error
            yield batch


def _one_thread(worker: int) -> None:
    """Workers are what runs in parallel; threads inside them would only compete."""
    torch.set_num_threads(1)
    # Launchers and schedulers signal the whole process group. The run answers by a last step, for which it needs its
    # workers; they end with the loader, or with their parent.
    for name in StopRequest.SIGNALS:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
