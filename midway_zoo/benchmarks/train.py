"""``midway-zoo benchmark train``: an optimizer step of pretraining, against the same step written out plainly.

On a GPU the trainer runs compiled in bfloat16, and the plain step in float16 with loss scaling, as such code usually
does; on a CPU both run in float32, or the trainer in the precision of ``--dtype``.
"""

import gc
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from midway_zoo.benchmarks.compute import flop_of
from midway_zoo.benchmarks.measuring import Comparison, How, Way, compare
from midway_zoo.benchmarks.step import StepTask, TrainerStep, differences, plain_step, random_views, settings
from midway_zoo.errors import InputError

_PRECISION = {torch.float32: "no", torch.bfloat16: "bf16", torch.float16: "fp16"}
PLAIN = "plain step"


def measure(
    how: How, *, model: str = "midway_vits", batch: int = 2, prototypes: int = 65536, largest: bool = False
) -> Iterator[Comparison]:
    """Time both steps, check that they compute the same, and with ``largest`` find the largest batch of each on a
    GPU."""
    cuda = how.device.type == "cuda"
    if largest and not cuda:
        raise InputError("--largest needs --device cuda: memory that runs out ends a process on a CPU.")
    if not cuda and torch.accelerator.is_available():
        raise InputError("the trainer uses the accelerator of this machine; pass --device cuda, or hide it from torch.")
    exact = settings(model, 2, prototypes, **{"network.drop_path": 0})
    loss, gradient = differences(exact, random_views(exact, 2, how.device))
    same = f"in float32 both differ by {loss:.1e} (loss) and at most {gradient:.1e} (gradients), relative"
    makers = _makers(model, prototypes, how)
    flop = _flop_of_pair(model, prototypes, how.device)
    views = random_views(settings(model, batch, prototypes), batch, how.device)
    ways = []
    for name, (make, dtype) in makers.items():
        # Superfluous operations of the plain step do not count: both use the trainer's number.
        ways.append(Way(name, partial(make(batch), views), dtype=dtype, flop=flop * batch))
    title = f"pretraining step of {model}, {batch} pairs"
    yield compare(title, ways, how, unit="pairs", items=batch, peer=PLAIN).noting(same)
    ways.clear()  # the memory that they hold
    if largest:
        yield from _largest(model, prototypes, makers, batch, flop, how)


Make = Callable[[int], Callable[[Any], object]]


def _makers(model: str, prototypes: int, how: How) -> dict[str, tuple[Make, torch.dtype]]:
    """The steps by name, for a batch, and the precision that each computes in."""
    cuda = how.device.type == "cuda"

    def plain(batch: int) -> Callable[[Any], object]:
        return plain_step(settings(model, batch, prototypes, precision="fp16" if cuda else "no"), how.device)

    def trainer(precision: str, compiled: bool) -> Make:
        return lambda batch: TrainerStep(settings(model, batch, prototypes, precision=precision, compile=compiled))

    makers: dict[str, tuple[Make, torch.dtype]] = {PLAIN: (plain, torch.float16 if cuda else torch.float32)}
    # One precision per run, since Accelerate's state belongs to the process.
    dtype = torch.bfloat16 if cuda and how.dtype == torch.float32 else how.dtype
    name = "trainer" if dtype == torch.float32 else f"trainer, {str(dtype).removeprefix('torch.')}"
    if not cuda:
        makers[name] = trainer(_PRECISION[dtype], False), dtype
    if cuda or how.compile:
        makers[f"{name}, compiled"] = trainer(_PRECISION[dtype], True), dtype
    return makers


def _flop_of_pair(model: str, prototypes: int, device: torch.device) -> float:
    """Floating-point operations of the trainer's forward and backward pass, per pair."""
    config = settings(model, 2, prototypes)
    network = StepTask(config).model.to(device)
    views = random_views(config, 2, device)
    return flop_of(lambda: network(views)["loss"].backward()) / 2


def _largest(
    model: str, prototypes: int, makers: dict[str, tuple[Make, torch.dtype]], batch: int, flop: float, how: How
) -> Iterator[Comparison]:
    """Each step at its largest batch, with the device to itself."""
    for name, (make, dtype) in makers.items():
        found = _fitting(make, model, prototypes, batch, how.device)
        if not found:
            continue
        views = random_views(settings(model, found, prototypes), found, how.device)
        ways = [Way(name, partial(make(found), views), dtype=dtype, flop=flop * found)]
        yield compare(f"{model}, {name}: largest batch, {found} pairs", ways, how, unit="pairs", items=found)
        ways.clear()


def _fitting(make: Make, model: str, prototypes: int, batch: int, device: torch.device) -> int:
    """Largest batch at which two steps fit in memory, to an eighth; 0 if none does."""

    def fits(count: int) -> bool:
        gc.collect()
        torch._dynamo.reset()
        torch.cuda.empty_cache()
        try:
            step, views = make(count), random_views(settings(model, count, prototypes), count, device)
            step(views)
            step(views)
            torch.cuda.synchronize(device)
        except torch.cuda.OutOfMemoryError:
            return False
        return True

    low, high = 0, batch
    while fits(high):
        low, high = high, 2 * high
    while high - low > max(1, low // 8):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
