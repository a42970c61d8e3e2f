"""From named tensors to a network, with every tensor accounted for."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from midway_zoo.errors import CheckpointError
from midway_zoo.models.config import MidwayConfig
from midway_zoo.models.network import MidwayNetwork

Described = Mapping[str, tuple[tuple[int, ...], Any]]


def empty_network(config: MidwayConfig) -> MidwayNetwork:
    """A network without memory (on the meta device), to be filled by :func:`assemble`."""
    with torch.device("meta"):
        return MidwayNetwork(config)


def assemble(
    network: MidwayNetwork,
    found: Described,
    read: Callable[[str], torch.Tensor],
    name: str,
    *,
    dtype: torch.dtype | None = None,
) -> MidwayNetwork:
    """Fill an empty network tensor by tensor; the result is in evaluation mode on the CPU.

    Args:
        network: from :func:`empty_network`.
        found: shape and dtype of every tensor that the file offers, by our names.
        read: reads one of them.
        name: what to call the file in messages.
        dtype: of the network's tensors; None: half precision where all tensors have the same, else float32.

    Raises:
        CheckpointError: naming the tensor, if one is missing, unexpected, of another shape, not
            floating point, or holds NaN or infinity.
    """
    expected = network.state_dict()
    check_tensors({key: tuple(value.shape) for key, value in expected.items()}, found, name)
    kinds = {kind for _, kind in found.values()}
    # One precision throughout, or the parts could not be run together; double is no use for inference.
    half = len(kinds) == 1 and kinds <= {torch.float16, torch.bfloat16}
    dtype = dtype or (kinds.pop() if half else torch.float32)
    state = {}
    for key in expected:
        tensor = read(key)
        if not torch.isfinite(tensor).all():
            raise CheckpointError(
                f"{name}: tensor {key} holds NaN or infinity; the training diverged or the file is damaged."
            )
        state[key] = tensor.to(dtype)
    network.load_state_dict(state, strict=True, assign=True)
    return network.eval()


def check_tensors(expected: Mapping[str, tuple[int, ...]], found: Described, name: str) -> None:
    """Raise :class:`CheckpointError` unless ``found`` is exactly ``expected``, in names, shapes and kind."""
    for kind, names in (("misses", expected.keys() - found.keys()), ("has unexpected", found.keys() - expected.keys())):
        if names:
            shown = ", ".join(sorted(names)[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
            raise CheckpointError(f"{name} {kind} {len(names)} tensor(s): {shown}.")
    for key, shape in expected.items():
        size, dtype = found[key]
        if tuple(size) != tuple(shape):
            raise CheckpointError(f"{name}: tensor {key} has shape {list(size)}, expected {list(shape)}.")
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise CheckpointError(f"{name}: tensor {key} is {dtype}, expected floating point.")
