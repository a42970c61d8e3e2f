"""Reading ahead: threads decode and resize what comes next while the network computes."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T")
P = TypeVar("P")


class Ahead(Generic[P, T]):
    """Results of readers in the order of their pieces, a few results ahead of the consumer.

    A context manager, in which every thread reads a piece of its own. At most ``len(readers) + 2`` pieces are begun but
    not consumed, with ``depth`` results each. An error of a reader is raised in place of its result. The threads end
    with the context.

    Args:
        pieces: what to read; threads take the next one in turn.
        readers: one per thread, from a piece to its results.
        depth: largest number of waiting results per piece.
    """

    def __init__(self, pieces: Iterator[P], readers: Iterable[Callable[[P], Iterator[T]]], depth: int = 2) -> None:
        readers = list(readers)
        self._pieces, self._depth, self._turn = pieces, depth, threading.Lock()
        self._order: queue.Queue[queue.Queue[tuple[str, Any]] | None] = queue.Queue(len(readers))
        self._ended, self._stopped = False, threading.Event()
        self._threads = [
            threading.Thread(target=self._work, args=(reader,), name="midway_zoo-decode", daemon=True)
            for reader in readers
        ]

    def __enter__(self) -> "Ahead[P, T]":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def __iter__(self) -> Iterator[T]:
        while (results := self._order.get()) is not None:
            while True:
                kind, value = results.get()
                if kind == "error":
                    raise value
                if kind == "end":
                    break
                yield value

    def _work(self, reader: Callable[[P], Iterator[T]]) -> None:
        while (begun := self._next()) is not None:
            piece, results = begun
            found = reader(piece)
            try:
                for value in found:
                    if not self._put(results, ("item", value)):
                        return
                self._put(results, ("end", None))
            except BaseException as error:  # noqa: BLE001  (raised again by the consumer)
                self._put(results, ("error", error))
            finally:
                close = getattr(found, "close", None)
                if close is not None:
                    close()

    def _next(self) -> "tuple[P, queue.Queue[tuple[str, Any]]] | None":
        """The next piece and the queue for its results. Threads wait here while enough pieces are begun."""
        with self._turn:
            if self._ended or self._stopped.is_set():
                return None
            results: queue.Queue[tuple[str, Any]] = queue.Queue(self._depth)
            try:
                piece = next(self._pieces)
            except StopIteration:
                self._ended = True
                self._put(self._order, None)
                return None
            except BaseException as error:  # noqa: BLE001  (as in _work)
                self._ended = True
                results.put(("error", error))
                self._put(self._order, results)
                return None
            return (piece, results) if self._put(self._order, results) else None

    def _put(self, where: "queue.Queue[Any]", value: Any) -> bool:
        while not self._stopped.is_set():
            try:
                where.put(value, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False
