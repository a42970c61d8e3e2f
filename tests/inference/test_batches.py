"""Several pictures at once: order, sizes, batches, kinds; and pairs that do not fit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import midway_zoo as mz
from midway_zoo.errors import InputError, InputTypeError
from tests.inference.calls import (
    CALLS,
    EVERY_CALL,
    PAIR_CALLS,
    PATCH,
    SIZES,
    close,
    close_results,
    pair,
    tensors_of_items,
)


@pytest.mark.parametrize("size", [0, "big", (64, 60), (64,), 10**6], ids=str)
@EVERY_CALL
def test_a_size_that_makes_no_sense_is_refused(nano: mz.MidwayNetwork, call: Callable[..., Any], size: Any) -> None:
    with pytest.raises(InputError, match=r"size=|over 65536 patches"):
        call(nano, *pair(), size=size)


@EVERY_CALL
def test_results_come_in_the_order_given_whatever_the_sizes(nano: mz.MidwayNetwork, call: Callable[..., Any]) -> None:
    """Batches group pictures by size, results do not; sizes here are such that heat maps have equal grids, too."""
    sizes = [(32, 32), (29, 35), (32, 32), (35, 29), (30, 30)]
    source, target = ([torch.rand(3, *size) for size in sizes] for _ in range(2))
    together = list(tensors_of_items(call(nano, source, target, batch_size=2), len(sizes)))
    for index, found in enumerate(together):
        alone = tensors_of_items(call(nano, source[index], target[index]), 1)[0]
        for one, other in zip(found, alone, strict=True):
            close(one, other)


def test_different_grids_give_lists(nano: mz.MidwayNetwork) -> None:
    images, targets = ([torch.rand(3, *size) for size in SIZES] for _ in range(2))
    features = mz.extract_features(nano, images, size="full", backward=True, batch_size=2)
    grids = [(height // PATCH, width // PATCH) for height, width in SIZES]
    assert features.grid == grids
    assert features.cls.shape == (5, 96)
    for maps in [*features.maps.values(), *features.backward.values()]:
        assert [tuple(value.shape) for value in maps] == [(96, *grid) for grid in grids]
    motion = mz.infer_motion_latent(nano, images, targets, size="full", batch_size=2)
    assert motion.grid == grids
    assert motion.tokens.shape == (5, 10, 48)


def test_flow_of_different_sizes_gives_lists(nano: mz.MidwayNetwork) -> None:
    sizes = [(32, 32), (24, 40), (32, 32)]
    source, target = ([torch.rand(3, *size) for size in sizes] for _ in range(2))
    found = mz.predict_flow(nano, source, target, size="full")
    assert [tuple(flow.shape) for flow in found.flow] == [(2, *size) for size in sizes]
    assert [tuple(confidence.shape) for confidence in found.confidence] == [(1, *size) for size in sizes]
    assert found.grid == [(4, 4), (3, 5), (4, 4)]


def test_heat_maps_of_different_grids_are_refused(nano: mz.MidwayNetwork) -> None:
    images = [torch.rand(3, 32, 32), torch.rand(3, 24, 40)]
    with pytest.raises(InputError, match="once per size"):
        mz.perturbation_heatmap(nano, images, images, (1, 1), size="full", draws=1)


@EVERY_CALL
def test_the_batch_size_changes_nothing_and_bounds_every_pass(nano: mz.MidwayNetwork, call: Callable[..., Any]) -> None:
    source, target = pair(number=4)
    whole = call(nano, source, target, batch_size=4)
    members = 1 if call is CALLS["extract_features"] else 2
    for batch_size in (1, 3, 5):
        seen: list[int] = []
        hook = nano.encoder.patch_embed.register_forward_hook(
            lambda _, inputs, __, seen=seen: seen.append(len(inputs[0]))
        )
        close_results(call(nano, source, target, batch_size=batch_size), whole)
        hook.remove()
        assert max(seen) <= batch_size * members
        assert sum(seen) == 4 * members


@pytest.mark.parametrize("batch_size", [0, -1, 1.5, True, None])
@EVERY_CALL
def test_a_batch_size_that_makes_no_sense_is_refused(
    nano: mz.MidwayNetwork, call: Callable[..., Any], batch_size: Any
) -> None:
    with pytest.raises(InputError, match=f"batch_size={batch_size}"):
        call(nano, *pair(), batch_size=batch_size)


@pytest.mark.parametrize("kind", ["PIL", "path", "array", "list"])
@EVERY_CALL
def test_pictures_may_be_of_any_kind(
    nano: mz.MidwayNetwork, tmp_path: Path, call: Callable[..., Any], kind: str
) -> None:
    arrays = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    expected = call(nano, *(torch.from_numpy(array).permute(2, 0, 1) for array in arrays))
    for index, array in enumerate(arrays):
        Image.fromarray(array).save(tmp_path / f"{index}.png")
    convert: dict[str, Callable[[int], Any]] = {
        "PIL": lambda index: Image.fromarray(arrays[index]),
        "path": lambda index: tmp_path / f"{index}.png",
        "array": lambda index: arrays[index],
        "list": lambda index: [arrays[index] / 255],
    }
    close_results(call(nano, convert[kind](0), convert[kind](1)), expected)


@PAIR_CALLS
@pytest.mark.parametrize(("sources", "targets"), [(2, 3), (3, 1), (1, 2)])
def test_each_source_needs_one_target(
    nano: mz.MidwayNetwork, call: Callable[..., Any], sources: int, targets: int
) -> None:
    with pytest.raises(InputError, match=f"{sources} source and {targets} target"):
        call(nano, torch.rand(sources, 3, 32, 32), torch.rand(targets, 3, 32, 32))


@PAIR_CALLS
def test_source_and_target_of_different_sizes_are_named(nano: mz.MidwayNetwork, call: Callable[..., Any]) -> None:
    source = [torch.rand(3, 32, 32), torch.rand(3, 32, 32)]
    target = [torch.rand(3, 32, 32), torch.rand(3, 32, 40)]
    with pytest.raises(InputError, match=r"pair 1: .*32 x 32 and 40 x 32 pixels \(width x height\)"):
        call(nano, source, target)


@EVERY_CALL
@pytest.mark.parametrize("images", [[], torch.zeros(0, 3, 32, 32)], ids=["list", "tensor"])
def test_no_pictures_are_refused(nano: mz.MidwayNetwork, call: Callable[..., Any], images: Any) -> None:
    with pytest.raises(InputError, match="empty"):
        call(nano, images, images)


@EVERY_CALL
def test_a_picture_that_is_refused_is_named_by_its_place(nano: mz.MidwayNetwork, call: Callable[..., Any]) -> None:
    images = [torch.rand(3, 32, 32), torch.rand(3, 32, 32), torch.rand(3, 32, 32) * 255]
    with pytest.raises(InputError, match=r"image 2: .*\[0, 1\]"):
        call(nano, images, images)


@EVERY_CALL
@pytest.mark.parametrize("images", [None, 5, {"image": 1}], ids=["None", "int", "dict"])
def test_pictures_of_another_type_are_refused(nano: mz.MidwayNetwork, call: Callable[..., Any], images: Any) -> None:
    with pytest.raises(InputTypeError, match="pass a PIL image"):
        call(nano, images, images)
