"""Batches copied ahead of their steps: in order, each once, errors in their turn. No GPU: streams stand in for its."""

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from midway_zoo.errors import DataError
from midway_zoo.train.data.ahead import batches_on

CPU = torch.device("cpu")


class Streams:
    """The part of ``torch.cuda`` that copies need, which writes down what it is asked for."""

    def __init__(self) -> None:
        self.done: list[tuple[str, Any]] = []
        self.current = "compute"

    def Stream(self, device: torch.device) -> str:  # noqa: N802 - as in torch.cuda
        return "copies"

    def Event(self) -> Any:  # noqa: N802
        return Event(self)

    @contextmanager
    def stream(self, stream: str) -> Iterator[None]:
        before, self.current = self.current, stream
        yield
        self.current = before

    def current_stream(self, device: torch.device) -> Any:
        return Taker(self)


class Event:
    def __init__(self, streams: Streams) -> None:
        self.streams = streams

    def record(self, stream: str) -> None:
        assert stream == self.streams.current == "copies"
        self.number = sum(what == "copied" for what, _ in self.streams.done)
        self.streams.done.append(("copied", self.number))


class Taker:
    def __init__(self, streams: Streams) -> None:
        self.streams = streams

    def wait_event(self, event: Event) -> None:
        assert self.streams.current == "compute"
        self.streams.done.append(("waited for", event.number))


class Loader:
    """Batches 0, 1, ...; says how many were taken, and fails at one of them."""

    def __init__(self, count: int, bad: int | None = None) -> None:
        self.count, self.bad = count, bad
        self.taken = 0
        self.closed = False

    def __iter__(self) -> Iterator[dict[str, Any]]:
        try:
            for number in range(self.count):
                if number == self.bad:
                    raise DataError("gone.")
                self.taken += 1
                yield {"index": torch.tensor([number]), "nested": [torch.zeros(2)], "failures": [("a.mp4", "bad")]}
        finally:
            self.closed = True


def numbers(batches: Iterator[Any]) -> list[int]:
    return [int(batch["index"]) for batch in batches]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 9])
def test_every_batch_once_in_order(count: int) -> None:
    assert numbers(batches_on(CPU, Loader(count), streams=Streams())) == list(range(count))
    assert numbers(batches_on(CPU, Loader(count))) == list(range(count))


def test_copies_are_two_batches_ahead_and_waited_for_by_whoever_takes_them() -> None:
    streams, loader = Streams(), Loader(9)
    batches = batches_on(CPU, loader, streams=streams)
    for number in range(9):
        batch = next(batches)
        assert int(batch["index"]) == number
        assert batch["failures"] == [("a.mp4", "bad")]
        assert loader.taken == min(number + 3, 9)
        assert streams.done[-1] == ("waited for", number)
        assert streams.done.index(("copied", number)) < streams.done.index(("waited for", number))


def test_without_streams_nothing_is_taken_before_its_turn() -> None:
    loader = Loader(3)
    batches = batches_on(CPU, loader)
    assert loader.taken == 0
    assert [(int(batch["index"]), loader.taken) for batch in batches] == [(0, 1), (1, 2), (2, 3)]


@pytest.mark.parametrize("streams", [None, Streams()])
@pytest.mark.parametrize("bad", [0, 1, 4])
def test_an_error_comes_in_its_turn(streams: Streams | None, bad: int) -> None:
    batches = batches_on(CPU, Loader(9, bad), streams=streams)
    assert [int(next(batches)["index"]) for _ in range(bad)] == list(range(bad))
    with pytest.raises(DataError, match=r"^gone\.$"):
        next(batches)


def test_ending_early_leaves_nothing_behind() -> None:
    loader = Loader(9)
    batches = batches_on(CPU, loader, streams=Streams())
    batch = next(batches)
    held = [weakref.ref(batch["nested"][0])]
    del batch
    held += [weakref.ref(moved["nested"][0]) for moved, _ in batches.gi_frame.f_locals["waiting"]]  # type: ignore[attr-defined]
    assert len(held) == 3
    batches.close()  # type: ignore[attr-defined]
    del batches
    gc.collect()
    assert loader.closed
    assert [reference() for reference in held] == [None] * 3


def test_what_was_given_is_not_kept() -> None:
    batches = batches_on(CPU, Loader(4), streams=Streams())
    reference = weakref.ref(next(batches)["nested"][0])
    next(batches)
    assert reference() is None
