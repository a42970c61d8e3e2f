"""Threads that read ahead: in order, only so far, and gone at the end."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from midway_zoo.extract.ahead import Ahead


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "midway_zoo-decode"]


def waiting(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_in_the_order_of_the_pieces(count: int) -> None:
    """Though the first is read last."""
    others = threading.Event()

    def read(piece: int) -> Iterator[tuple[int, int]]:
        if piece == 0 and count > 1:
            assert others.wait(60)
        if piece == 1:
            others.set()
        yield from ((piece, number) for number in range(piece % 4))

    wanted = [(piece, number) for piece in range(20) for number in range(piece % 4)]
    with Ahead(iter(range(20)), [read] * count) as found:
        assert list(found) == wanted
    assert not threads()


@pytest.mark.parametrize("count", [1, 3])
def test_only_so_far_ahead(count: int) -> None:
    """However many pieces there are: nothing grows where nobody takes anything."""
    begun: list[int] = []

    def pieces() -> Iterator[int]:
        for piece in range(1000):
            begun.append(piece)
            yield piece

    with Ahead(pieces(), [lambda piece: iter([piece])] * count) as found:
        waiting(lambda: len(begun) == count + 1)
        time.sleep(0.3)
        assert len(begun) == count + 1
        taken = iter(found)
        assert [next(taken) for _ in range(50)] == list(range(50))
        assert len(begun) <= 50 + count + 2
    assert not threads()


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("where", ["reader", "pieces"])
def test_errors_come_where_the_result_would_have_been(count: int, where: str) -> None:
    def read(piece: int) -> Iterator[int]:
        yield piece
        if where == "reader" and piece == 2:
            raise OSError("out of luck")

    def pieces() -> Iterator[int]:
        yield from range(3)
        if where == "pieces":
            raise OSError("out of luck")
        yield from range(3, 9)

    with Ahead(pieces(), [read] * count) as found:
        taken = iter(found)
        assert [next(taken) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(OSError, match="out of luck"):
            next(taken)
    assert not threads()


def test_readers_are_closed_when_nobody_wants_more() -> None:
    begun, closed = list[int](), list[int]()

    def read(piece: int) -> Iterator[int]:
        begun.append(piece)
        try:
            while True:
                yield piece
        finally:
            closed.append(piece)

    with Ahead(iter(range(9)), [read] * 2) as found:
        waiting(lambda: len(begun) == 2)
        assert next(iter(found)) == 0
    assert sorted(closed) == [0, 1]
    assert not threads()
