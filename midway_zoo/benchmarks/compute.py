"""Floating-point operations: how many a run needs, and how many per second this machine reaches at best."""

from collections.abc import Callable

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

_SIDE = {"cpu": 1536, "cuda": 8192}
"""Side of the matrices: large enough for peak performance, small enough to be timed in every round."""


def flop_of(run: Callable[[], object]) -> float:
    """Floating-point operations of a run: those of matrix products and convolutions."""
    # Fused attention is not counted everywhere; its plain form is.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        run()
    return float(counter.get_total_flops())


class Product:
    """A product of square matrices, timed as an upper bound of the performance in a precision."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        side = _SIDE.get(device.type, 4096)
        generator = torch.Generator().manual_seed(0)
        self._a, self._b = (torch.randn(side, side, generator=generator).to(device, dtype) for _ in range(2))
        self.flop = 2.0 * side**3
        self.name = f"product of matrices of {side} x {side} in {str(dtype).removeprefix('torch.')}"

    def __call__(self) -> torch.Tensor:
        return self._a @ self._b
