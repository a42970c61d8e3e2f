"""Attention on a CPU under bfloat16 autocast: in float32 if that is measured to be faster."""

import time
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.overrides import TorchFunctionMode

from midway_zoo.train.config import RunConfig

_REPEATS = 3
_WORTH = 1.3  # required speed-up, so that the choice does not vary for shapes where it hardly matters


class MeasuredAttention(TorchFunctionMode):
    """Decides for every shape of ``scaled_dot_product_attention`` in which precision a CPU computes it under autocast.

    For sequences of a few dozen tokens PyTorch's bfloat16 kernel is several times slower than float32's, forward and
    backward; for long ones it can be faster, especially on machines with AMX. New shapes are measured at the end of the
    context, and the decision holds from then on. Decisions are saved, so that a resumed run computes the same.

    Attributes:
        chosen: "float32" or "bfloat16" by shape "batch x heads x queries x keys x width".
    """

    def __init__(self, chosen: dict[str, str] | None = None) -> None:
        super().__init__()
        self.chosen = dict(chosen or {})
        self._met: dict[str, tuple[torch.Size, torch.Size]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        applies = func is F.scaled_dot_product_attention and len(args) == 3 and kwargs.get("attn_mask") is None
        if not applies or args[0].device.type != "cpu" or not _bfloat16(args[0]):
            return func(*args, **kwargs)
        query, key, value = args
        shape = "x".join(map(str, (*query.shape[:-1], *key.shape[-2:])))
        if shape not in self.chosen:
            self._met[shape] = query.shape, key.shape
        if self.chosen.get(shape) != "float32":
            return func(*args, **kwargs)
        with torch.autocast("cpu", enabled=False):
            mixed: Tensor = func(query.float(), key.float(), value.float(), **kwargs)
        return mixed.bfloat16()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        super().__exit__(exc_type, exc_value, traceback)
        while exc_type is None and self._met:
            shape, (queries, keys) = self._met.popitem()
            self.chosen[shape] = faster_precision(queries, keys)


def faster_precision(queries: torch.Size, keys: torch.Size) -> str:
    """ "float32" or "bfloat16": in which attention of these shapes, forward and backward, is clearly faster here."""
    generator = torch.Generator().manual_seed(0)  # the run's random state must not change
    drawn = [torch.randn(shape, generator=generator).bfloat16() for shape in (queries, keys, keys)]

    def seconds(dtype: torch.dtype) -> float:
        taken = []
        for _ in range(1 + _REPEATS):
            leaves = [tensor.clone().requires_grad_() for tensor in drawn]
            begun = time.perf_counter()
            query, key, value = (leaf.to(dtype) for leaf in leaves)
            mixed = F.scaled_dot_product_attention(query, key, value).bfloat16()
            torch.autograd.backward(mixed, torch.ones_like(mixed))
            taken.append(time.perf_counter() - begun)
        return min(taken[1:])

    with torch.enable_grad(), torch.autocast("cpu", enabled=False):  # this may be called under autocast
        return "float32" if _WORTH * seconds(torch.float32) < seconds(torch.bfloat16) else "bfloat16"


def attention_of(
    config: RunConfig, accelerator: Accelerator, model: nn.Module, chosen: dict[str, str]
) -> AbstractContextManager[Any]:
    """The context in which the model runs: a :class:`MeasuredAttention` for a single process on a CPU in bfloat16.

    Several processes would have to agree, a compiled step cannot change, and a block recomputed in the backward pass,
    which the context does not reach, must compute the same.
    """
    alone = accelerator.device.type == "cpu" and accelerator.num_processes == 1
    fixed = config.compile or any(getattr(module, "grad_checkpointing", False) for module in model.modules())
    if alone and config.precision == "bf16" and config.cpu_attention == "measured" and not fixed:
        return MeasuredAttention(chosen)
    return nullcontext()


def _bfloat16(query: Tensor) -> bool:
    if torch.is_autocast_enabled("cpu"):
        return torch.get_autocast_dtype("cpu") == torch.bfloat16
    return query.dtype == torch.bfloat16
