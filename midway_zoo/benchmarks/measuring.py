"""Timing: ways take turns, round by round, so that other load on the machine slows all of them alike."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch

from midway_zoo.bars import bar
from midway_zoo.benchmarks.compute import Product, flop_of
from midway_zoo.benchmarks.memory import peak_mib


@dataclass(frozen=True, kw_only=True)
class How:
    """Options that all subjects share."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    """Precision to measure in addition to float32."""
    compile: bool = False
    """Whether to measure torch.compile too."""
    rounds: int = 5
    """Timed runs of each way, after the warm-up."""
    warmup: int = 1


@dataclass(frozen=True)
class Elapsed:
    """May be returned by a run that knows its duration better than this process's clocks."""

    seconds: float
    cpu_seconds: float | None = None


@dataclass(frozen=True)
class Way:
    """One of the ways that are compared."""

    name: str
    run: Callable[[], object]
    dtype: torch.dtype = torch.float32
    """Precision of its computation, in which the matrix product is timed."""
    counted: bool = False
    """Count the floating-point operations of a run."""
    flop: float | None = None
    """Floating-point operations, if known already."""
    memory: bool = True
    """Measure the peak memory of a run."""
    items: float | None = None
    """Items of a run, if they differ from the comparison's."""


@dataclass(frozen=True)
class Spread:
    """Seconds of repeated runs."""

    median: float
    low: float
    """First quartile."""
    high: float
    """Third quartile."""

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Spread":
        """Quartiles of one or more runs."""
        if len(seconds) == 1:
            return cls(seconds[0], seconds[0], seconds[0])
        low, _, high = statistics.quantiles(seconds, n=4, method="inclusive")
        return cls(statistics.median(seconds), low, high)


@dataclass(frozen=True)
class Row:
    """Figures of one way."""

    name: str
    seconds: Spread
    """Wall-clock seconds."""
    cpu_seconds: Spread | None
    """Processor seconds over all threads of this process, which other programs affect little; None if the work is done
    elsewhere."""
    per_second: float
    """Items per second, at the median."""
    speed: float | None
    """Speed relative to the peer: median over the rounds of the peer's seconds divided by its own."""
    cpu_speed: float | None
    """The same by processor seconds."""
    peak_mib: float | None
    """Peak memory of a run beyond what was in use before, in MiB; None if it cannot be measured."""
    gflop: float | None
    """Floating-point operations of a run in units of 1e9, matrix products and convolutions only."""
    utilisation: float | None
    """Operations per second relative to a large matrix product in the same rounds and precision, 0 to 1."""


@dataclass(frozen=True)
class Comparison:
    """Figures of several ways of doing the same thing."""

    title: str
    unit: str
    """Unit of what is counted per second."""
    peer: str | None
    """Name of the row that the others are compared with."""
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    """Further remarks, such as which peer is not installed."""

    def row(self, name: str) -> Row:
        """The row of that name."""
        return next(row for row in self.rows if row.name == name)

    def noting(self, *notes: str) -> "Comparison":
        """The same with further remarks."""
        return replace(self, notes=(*self.notes, *notes))


def compare(
    title: str,
    ways: Sequence[Way],
    how: How,
    *,
    unit: str,
    items: float = 1,
    peer: str | None = None,
    elsewhere: bool = False,
) -> Comparison:
    """Time ways in turn, after a warm-up in which the memory of each is measured.

    Args:
        title: what is compared.
        ways: the ways; their order is reversed from round to round.
        how: device and number of rounds.
        unit: unit of the items.
        items: number of items per run.
        peer: name of the way that the others are compared with.
        elsewhere: whether the work is done in another process, so that its memory cannot be measured here.
    """
    flop = {way.name: flop_of(way.run) if way.counted else way.flop for way in ways}
    products = {way.dtype: Product(how.device, way.dtype) for way in ways if flop[way.name]}
    peaks: dict[str, float | None] = {}
    watched = [] if elsewhere else [way for way in ways if way.memory]
    for _ in range(how.warmup):
        for way in reversed(ways):
            if way in watched:
                peaks[way.name] = peak_mib(way.run, how.device)
            else:
                way.run()
    wall, cpu = _rounds(title, ways, products, how.rounds, how.device)
    for way in watched:
        if way.name not in peaks:
            peaks[way.name] = peak_mib(way.run, how.device)
    rows = []
    for way in ways:
        seconds, count, operations = Spread.of(wall[way.name]), way.items or items, flop[way.name]
        counted = how.device.type == "cpu" and all(cpu[way.name])  # the processor does not do an accelerator's work
        used = None
        if operations:
            product = products[way.dtype]
            used = operations / seconds.median / (product.flop / statistics.median(wall[product.name]))
        rows.append(
            Row(
                name=way.name,
                seconds=seconds,
                cpu_seconds=Spread.of(cpu[way.name]) if counted else None,
                per_second=count / seconds.median,
                speed=None if peer is None else _speed(wall, peer, way.name),
                cpu_speed=_speed(cpu, peer, way.name) if counted and peer is not None else None,
                peak_mib=peaks.get(way.name),
                gflop=operations and operations / 1e9,
                utilisation=used,
            )
        )
    return Comparison(title, unit, peer, tuple(rows))


Seconds = dict[str, list[float]]


def _rounds(
    title: str, ways: Sequence[Way], products: dict[torch.dtype, Product], rounds: int, device: torch.device
) -> tuple[Seconds, Seconds]:
    """Wall-clock and processor seconds of every round."""
    runs = {way.name: way.run for way in ways} | {product.name: product for product in products.values()}
    for product in products.values():
        product()  # its warm-up
    wall: Seconds = {name: [] for name in runs}
    cpu: Seconds = {name: [] for name in runs}
    for number in bar(range(rounds), desc=title[:40]):
        for name in runs if number % 2 == 0 else reversed(runs):
            seconds = timed(runs[name], device)
            wall[name].append(seconds[0])
            cpu[name].append(seconds[1])
    return wall, cpu


def timed(run: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """Wall-clock and processor seconds of one call."""
    synchronise(device)
    start = time.perf_counter(), time.process_time()
    result = run()
    synchronise(device)
    wall, cpu = time.perf_counter() - start[0], time.process_time() - start[1]
    if isinstance(result, Elapsed):
        return result.seconds, result.cpu_seconds or 0.0
    return wall, cpu


def synchronise(device: torch.device) -> None:
    """Wait for work queued on an accelerator."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _speed(seconds: Seconds, peer: str, own: str) -> float:
    # The processor's clock may tick only every few milliseconds.
    return statistics.median(theirs / max(ours, 1e-9) for theirs, ours in zip(seconds[peer], seconds[own], strict=True))
