"""How things are timed and counted."""

import sys
import time

import pytest
import torch

from midway_zoo.benchmarks.compute import flop_of
from midway_zoo.benchmarks.graphs import watch
from midway_zoo.benchmarks.measuring import Elapsed, How, Spread, Way, compare
from midway_zoo.benchmarks.memory import peak_mib, resident_mib

CPU = torch.device("cpu")


def test_ways_take_turns_after_the_warm_up() -> None:
    calls: list[str] = []
    ways = [Way(name, lambda name=name: calls.append(name), memory=False) for name in "abc"]
    found = compare("letters", ways, How(rounds=3, warmup=1), unit="letters", peer="a")
    assert calls == [*"cba", *"abc", *"cba", *"abc"]
    assert [row.name for row in found.rows] == ["a", "b", "c"]
    assert found.row("a").speed == 1
    assert found.row("b").peak_mib is None


def test_what_a_run_says_of_itself_counts() -> None:
    ways = [Way("slow", lambda: Elapsed(3.0, 2.0)), Way("fast", lambda: Elapsed(1.5, 0.5))]
    found = compare("work", ways, How(rounds=2, warmup=0), unit="jobs", items=6, peer="slow", elsewhere=True)
    fast = found.row("fast")
    assert (fast.seconds.median, fast.per_second, fast.speed, fast.cpu_speed) == (1.5, 4, 2, 4)
    assert fast.peak_mib is None


def test_processor_seconds_of_work_elsewhere_are_unknown() -> None:
    found = compare("work", [Way("a", lambda: Elapsed(1.0))], How(rounds=1, warmup=0), unit="jobs", elsewhere=True)
    assert found.rows[0].cpu_seconds is None
    assert found.rows[0].speed is None


def test_waiting_takes_no_processor() -> None:
    found = compare("naps", [Way("nap", lambda: time.sleep(0.05))], How(rounds=2, warmup=0), unit="naps")
    assert found.rows[0].seconds.low >= 0.05
    assert found.rows[0].cpu_seconds is None or found.rows[0].cpu_seconds.median < 0.05


def test_spread() -> None:
    assert Spread.of([2.0]) == Spread(2, 2, 2)
    assert Spread.of([5.0, 1.0, 2.0, 4.0, 3.0]) == Spread(3, 2, 4)


def test_operations_are_counted_and_compared_with_a_product() -> None:
    a = torch.rand(8, 32, 16)
    assert flop_of(lambda: a @ a.transpose(1, 2)) == 8 * 2 * 32 * 32 * 16
    q = torch.rand(1, 2, 10, 4)
    fused = flop_of(lambda: torch.nn.functional.scaled_dot_product_attention(q, q, q))
    assert fused == 2 * (2 * 2 * 10 * 10 * 4)
    found = compare("product", [Way("a", lambda: a @ a.mT, counted=True)], How(rounds=2, warmup=0), unit="products")
    assert found.rows[0].gflop == pytest.approx(8 * 2 * 32 * 32 * 16 / 1e9)
    assert found.rows[0].utilisation > 0


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is measured anew on Linux only")
def test_peak_memory_is_that_of_the_run_alone() -> None:
    held = torch.ones(2**24)  # 64 MiB, before
    peak = peak_mib(lambda: torch.ones(2**23).sum(), CPU)
    if peak is None:
        pytest.skip("this system does not let one")
    assert 30 < peak < 60
    assert resident_mib() > held.nbytes / 2**20


def test_compilations_are_counted() -> None:
    def plain(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    def broken(x: torch.Tensor) -> torch.Tensor:
        x = x + 1
        torch._dynamo.graph_break()
        return x * 2

    same = [(torch.rand(4),)] * 3
    found = watch(torch.compile(plain, backend="eager"), same)
    assert (found.graphs, found.breaks, found.recompilations, found.calls) == (1, 0, 0, 3)
    found = watch(torch.compile(plain, backend="eager"), [*same, (torch.rand(5),)])
    assert (found.recompilations, found.calls) == (1, 4)
    found = watch(torch.compile(broken, backend="eager"), same)
    assert (found.graphs, found.breaks, found.recompilations) == (2, 1, 0)
    assert "1 graph break(s)" in str(found)
