"""From images to network batches: grouped by size, in bounded memory, without side effects on the model."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from midway_zoo.bars import bar
from midway_zoo.checks import check_integer
from midway_zoo.errors import InputError
from midway_zoo.inference.images import Images, Normalise, Size, count, iterate, resize, target_size
from midway_zoo.models.network import MidwayNetwork

T = TypeVar("T")
Fit: TypeAlias = Callable[[int, int], tuple[int, int]]
"""Network size from a given (height, width), for callers with a rule of their own."""


@dataclass(frozen=True)
class Batch:
    """Items of one network size."""

    indices: list[int]
    """Their positions in the input."""
    given: list[tuple[int, int]]
    """Their (height, width) as given."""
    images: tuple[Tensor, ...]
    """Normalised images (b, 3, H, W), one tensor per member of an item (one, or source and target)."""


@contextmanager
def inference(network: MidwayNetwork) -> Iterator[None]:
    """No gradients and evaluation mode; every module's mode is restored afterwards.

    ``torch.inference_mode`` is switched off meanwhile: its tensors have no forward derivative in torch 2.6.
    """
    training = [module for module in network.modules() if module.training]
    if training:  # setting the mode of every module takes longer than looking at it
        network.eval()
    try:
        with torch.inference_mode(False), torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


def normaliser(network: MidwayNetwork) -> Normalise:
    """Normalisation for a network, from the encoder's timm configuration."""
    cfg = network.encoder.pretrained_cfg
    return Normalise(tuple(cfg["mean"]), tuple(cfg["std"]), network.device, network.dtype)


def network_size(network: MidwayNetwork, image: Tensor, size: "Size | Fit") -> tuple[int, int]:
    """Network (height, width) for an image (3, H, W); see :func:`~midway_zoo.inference.images.target_size`."""
    if callable(size):
        return size(image.shape[-2], image.shape[-1])
    config = network.config
    return target_size(image.shape[-2], image.shape[-1], size, config.img_size, config.patch_size)


def batches(
    network: MidwayNetwork, items: Iterable[tuple[Tensor, ...]], size: "Size | Fit", batch_size: int
) -> Iterator[Batch]:
    """Group items (images, or pairs of images of one size) into batches of equal network size.

    Items are consumed one at a time; at most ``batch_size`` per distinct size wait in memory.

    Raises:
        InputError: if the members of an item differ in size, or a size cannot be used.
    """
    normalise = normaliser(network)
    waiting: dict[tuple[int, int], list[tuple[int, tuple[Tensor, ...]]]] = {}
    given: dict[int, tuple[int, int]] = {}

    def flush(key: tuple[int, int]) -> Batch:
        indices, members = zip(*waiting.pop(key), strict=True)
        images = tuple(normalise(torch.stack(column)) for column in zip(*members, strict=True))
        return Batch(list(indices), [given.pop(index) for index in indices], images)

    for index, item in enumerate(items):
        shapes = {tuple(image.shape[-2:]) for image in item}
        if len(shapes) > 1:
            sides = " and ".join(f"{width} x {height}" for height, width in sorted(shapes))
            raise InputError(
                f"pair {index}: source and target must have one size, got {sides} pixels (width x height)."
            )
        given[index] = (item[0].shape[-2], item[0].shape[-1])
        key = network_size(network, item[0], size)
        waiting.setdefault(key, []).append((index, tuple(resize(image, key) for image in item)))
        if len(waiting[key]) == batch_size:
            yield flush(key)
    for key in list(waiting):
        yield flush(key)


def pair_batches(
    network: MidwayNetwork, source: Images, target: Images, size: "Size | Fit", batch_size: int
) -> Iterator[Batch]:
    """Batches of pairs, with a progress bar."""
    check_integer("batch_size", batch_size, 1)
    pairs = count(source)
    if count(target) != pairs:
        raise InputError(f"got {pairs} source and {count(target)} target image(s); each source needs one target.")
    items = zip(iterate(source), iterate(target), strict=True)
    with progress(pairs, batch_size, "pairs") as shown:
        for batch in batches(network, items, size, batch_size):
            yield batch
            shown.update(len(batch.indices))


def progress(total: int | None, batch_size: int, unit: str) -> "tqdm[None]":
    """A bar on stderr; ``total`` is None where nobody knows it."""
    # A single batch needs no bar.
    return bar(total=total, unit=f" {unit}", hidden=total is not None and total <= batch_size)


def scatter(found: dict[int, T], batch: Batch, values: Iterable[T]) -> None:
    """Store the values of a batch's items under their positions in the input."""
    found.update(zip(batch.indices, values, strict=True))


def in_order(found: dict[int, T]) -> list[T]:
    """The values of positions 0, 1, 2, ..."""
    return [found[index] for index in range(len(found))]


def stack(found: dict[int, Tensor]) -> Tensor | list[Tensor]:
    """In input order: one tensor if all have one shape, else a list."""
    values = in_order(found)
    return torch.stack(values) if len({value.shape for value in values}) == 1 else values


def common(grids: list[tuple[int, int]]) -> tuple[int, int] | list[tuple[int, int]]:
    """The grid shared by all, or the list of grids."""
    return grids[0] if len(set(grids)) == 1 else grids
