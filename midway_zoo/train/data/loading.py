"""The data loader of every task: workers that live as long as the run, pinned memory, batches made ahead."""

import signal
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from midway_zoo.train.stopping import StopRequest


def make_loader(
    dataset: Dataset[Any],
    batches: Sampler[list[int]],
    collate: Callable[[Any], Any],
    *,
    num_workers: int,
) -> Iterable[Any]:
    """A loader that gives the batches of a batch sampler in order.

    Args:
        dataset: its samples depend on their number alone, never on the worker.
        batches: numbers of each batch.
        collate: makes a batch of samples.
        num_workers: 0 loads in this process.
    """
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=num_workers > 0,
        prefetch_factor=4 if num_workers else None,
        worker_init_fn=_one_thread,
    )


def _one_thread(worker: int) -> None:
    """Workers are what runs in parallel; threads inside them would only compete."""
    torch.set_num_threads(1)
    # Launchers and schedulers signal the whole process group. The run answers by a last step, for which it needs its
    # workers; they end with the loader, or with their parent.
    for name in StopRequest.SIGNALS:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
