"""Values that change over a run, as pure functions of the step."""

import math


def cosine(step: int, total: int, start: float, end: float, *, warmup: int = 0, warmup_start: float = 0.0) -> float:
    """Linear warm-up from ``warmup_start`` to ``start``, then half a cosine from ``start`` to ``end``.

    Args:
        step: 0-based optimizer step; from ``total`` on the value is ``end``.
        total: steps of the whole schedule, the warm-up included.
        start: value after the warm-up.
        end: value that step ``total`` would have.
        warmup: steps of the warm-up; its first step has ``warmup_start``, its last has ``start`` (as
            ``numpy.linspace`` has them).
        warmup_start: value of step 0 if there is a warm-up.
    """
    if step < warmup:
        return warmup_start + (start - warmup_start) * step / max(1, warmup - 1)
    if step >= total:
        return end
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def poly(step: int, total: int, start: float, *, power: float = 1.0, warmup: int = 0) -> float:
    """``start`` falling to 0 as (1 - step / total) ** power, and rising linearly over the first ``warmup`` steps.

    Both factors apply during the warm-up, as in mmsegmentation.
    """
    rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
    return rise * start * max(0.0, 1 - step / total) ** power
