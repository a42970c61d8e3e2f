"""Batches that reach the device before their step: copied on a separate stream during earlier steps."""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from accelerate.utils import recursively_apply, send_to_device
from torch import Tensor

AHEAD = 2
"""Number of batches on their way to the device, or waiting there, in addition to the one in use."""


def batches_on(
    device: torch.device, batches: Iterable[Any], *, ahead: int = AHEAD, streams: Any = None
) -> Iterator[Any]:
    """The batches, on a device, in their order; each once.

    On a device with streams (CUDA, ROCm, XPU) a batch is copied asynchronously from pinned memory while earlier ones
    are processed, and the consumer's stream waits for the copy. Elsewhere a batch is moved when it is needed, and none
    is taken from ``batches`` before. An error of ``batches`` is raised after the batches that precede it.

    Args:
        device: target device.
        batches: nested lists, tuples and mappings of tensors and other things; those that are not tensors stay as they
            are.
        ahead: number of batches to copy ahead.
        streams: module with the ``Stream``, ``Event``, ``stream`` and ``current_stream`` of ``torch.cuda``; None takes
            the device's own.
    """
    streams = streams or _streams_of(device)
    if streams is None:
        return (send_to_device(batch, device, non_blocking=True) for batch in batches)
    return _copied(device, iter(batches), ahead, streams)


def _streams_of(device: torch.device) -> Any:
    """The module of a device's streams; None if it has none to copy on (torch.cpu has a placeholder)."""
    if device.type == "cpu":
        return None
    module = torch.get_device_module(device)
    return module if all(hasattr(module, name) for name in ("Stream", "Event", "stream", "current_stream")) else None


def _copied(device: torch.device, batches: Iterator[Any], ahead: int, streams: Any) -> Iterator[Any]:
    copies = streams.Stream(device=device)
    waiting: deque[tuple[Any, Any]] = deque()  # batch on the device, event after its copy
    error: Exception | None = None
    ended = False
    while True:
        while not ended and len(waiting) <= ahead:
            try:
                batch = next(batches)
            except StopIteration:
                ended = True
            except Exception as raised:  # noqa: BLE001 - it is raised again, after the batches before it
                error, ended = raised, True
            else:
                waiting.append(_begun(batch, device, copies, streams))
                del batch  # its pinned memory can be reused as soon as it is copied
        if not waiting:
            if error is not None:
                raise error
            return
        moved, done = waiting.popleft()
        taker = streams.current_stream(device)
        taker.wait_event(done)
        # The memory belongs to the copy stream, which must not reuse it before the consumer is done.
        recursively_apply(lambda tensor, taker=taker: _lent(tensor, taker), moved)
        yield moved
        del moved


def _begun(batch: Any, device: torch.device, copies: Any, streams: Any) -> tuple[Any, Any]:
    # Tensors already on the device (rendered scenes) were made on the consumer's stream, and stay on it.
    with streams.stream(copies):
        moved = send_to_device(batch, device, non_blocking=True)
        done = streams.Event()
        done.record(copies)
    return moved, done


def _lent(tensor: Tensor, taker: Any) -> Tensor:
    if tensor.device.type != "cpu":
        tensor.record_stream(taker)
    return tensor
