"""Counts of the graphs, graph breaks and recompilations of torch.compile."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch._dynamo.utils import clear_compilation_metrics, counters, get_compilation_metrics


@dataclass(frozen=True)
class Graphs:
    """What was compiled over a number of calls."""

    graphs: int
    breaks: int
    """Graph breaks: places where Python has to take over."""
    recompilations: int
    """Compilations of code that had been compiled before for other shapes or values."""
    calls: int

    def __str__(self) -> str:
        return (
            f"compiled: {self.graphs} graph(s), {self.breaks} graph break(s), {self.recompilations} recompilation(s) "
            f"over {self.calls} calls"
        )


def watch(compiled: Callable[..., Any], calls: Iterable[tuple[Any, ...]]) -> Graphs:
    """Call a compiled function with each tuple of arguments, counting compilations from a fresh start."""
    torch._dynamo.reset()
    counters.clear()
    clear_compilation_metrics()
    done = 0
    for arguments in calls:
        compiled(*arguments)
        done += 1
    # "frame/number": each frame of code counts its compilations from 0.
    numbers = [str(found.compile_id).rpartition("/")[2] for found in get_compilation_metrics()]
    again = sum(number != "0" for number in numbers)
    return Graphs(counters["stats"]["unique_graphs"], sum(counters["graph_break"].values()), again, done)
