"""Features of pictures of any size."""

from typing import Any

import pytest
import torch

import midway_zoo as mz
from midway_zoo.errors import InputError, InputTypeError
from tests.inference.calls import PATCH, close, close_results, normalised


def test_features_have_the_documented_shapes(nano: mz.MidwayNetwork) -> None:
    found = mz.extract_features(nano, torch.rand(2, 3, 64, 96), backward=True)
    assert len(found) == 2
    assert found.cls.shape == (2, 96)
    assert list(found.maps) == [2, 5, 8, 11]
    assert list(found.backward) == [2, 1, 0]
    assert {value.shape for value in [*found.maps.values(), *found.backward.values()]} == {(2, 96, 8, 12)}
    assert found.grid == (8, 12)
    assert mz.extract_features(nano, torch.rand(3, 64, 64)).backward is None


@pytest.mark.parametrize("size", [(64, 64), (64, 96), (104, 64)])
def test_features_are_those_of_the_network_on_normalised_input(nano: mz.MidwayNetwork, size: tuple[int, int]) -> None:
    """At the native size nothing is resized: only mean and std lie between the pictures and the network."""
    images = torch.rand(2, 3, *size)
    found = mz.extract_features(nano, images, backward=True)
    with torch.no_grad():
        levels = nano.encode(normalised(images))
        out = nano(normalised(images), normalised(images.flip(0)))
    grid = (size[0] // PATCH, size[1] // PATCH)
    assert found.grid == grid
    close(found.cls, levels[-1][:, 0])
    for block, level in zip((2, 5, 8, 11), levels, strict=True):
        close(found.maps[block], level[:, 1:].transpose(1, 2).reshape(2, 96, *grid))
    for level, tokens in out.source_backward.items():
        close(found.backward[level], tokens[:, 1:].transpose(1, 2).reshape(2, 96, *grid))


def test_maps_are_row_major(nano: mz.MidwayNetwork) -> None:
    """Turning patches into a map is not transposed: a change in the upper right corner shows most there."""
    image = torch.full((3, 64, 96), 0.5)
    changed = image.clone()
    changed[:, :8, -8:] = 1
    before, after = (mz.extract_features(nano, picture, blocks=(0,)).maps[0][0] for picture in (image, changed))
    assert int((after - before).norm(dim=0).argmax()) == 11  # row 0, column 11 of 8 x 12


@pytest.mark.parametrize("blocks", [(2, 5, 8, 11), (0,), [11], (7, 3), range(12), (11, 2)], ids=str)
def test_blocks_are_returned_in_the_order_given(nano: mz.MidwayNetwork, blocks: Any) -> None:
    images = torch.rand(2, 3, 64, 64)
    found = mz.extract_features(nano, images, blocks=blocks, backward=True)
    assert list(found.maps) == list(blocks)
    everything = mz.extract_features(nano, images, blocks=range(12), backward=True)
    for block in blocks:
        close(found.maps[block], everything.maps[block])
    close(found.cls, everything.cls)
    for level in (2, 1, 0):
        close(found.backward[level], everything.backward[level])


@pytest.mark.parametrize("blocks", [(), (12,), (-1,), (2, 2), (2.0,), (True,), ("2",), 5, None], ids=str)
def test_blocks_that_do_not_exist_are_refused(nano: mz.MidwayNetwork, blocks: Any) -> None:
    with pytest.raises(InputError, match=r"blocks=.*from 0 to 11"):
        mz.extract_features(nano, torch.rand(3, 64, 64), blocks=blocks)


def test_paired_mode_reads_the_source_encoder() -> None:
    network = mz.create_model("midway_nano", paired=True)
    image = torch.rand(3, 64, 64)
    before = mz.extract_features(network, image)
    with torch.no_grad():
        for parameter in network.target_encoder.parameters():
            parameter.add_(1)
    close_results(mz.extract_features(network, image), before, atol=0)


@pytest.mark.parametrize(
    ("size", "grid"), [(None, (8, 13)), (96, (12, 20)), ((64, 64), (8, 8)), ([24, 40], (3, 5)), ("full", (6, 10))]
)
def test_the_grid_that_was_used_is_reported(nano: mz.MidwayNetwork, size: Any, grid: tuple[int, int]) -> None:
    source, target = torch.rand(3, 48, 80), torch.rand(3, 48, 80)
    features = mz.extract_features(nano, source, size=size)
    assert features.grid == grid
    assert features.maps[2].shape == (1, 96, *grid)
    assert mz.infer_motion_latent(nano, source, target, size=size).grid == grid


def test_an_iterator_gives_what_its_list_gives(nano: mz.MidwayNetwork) -> None:
    images = torch.rand(5, 3, 64, 64)
    lazily = mz.extract_features(nano, (image for image in images), batch_size=2)
    close_results(lazily, mz.extract_features(nano, images, batch_size=2))
    with pytest.raises(InputError, match="the iterator is exhausted"):
        mz.extract_features(nano, iter([]))
    with pytest.raises(InputTypeError, match=r"iterator .* pass a list"):
        mz.infer_motion_latent(nano, iter(images), iter(images))
