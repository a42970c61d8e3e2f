"""What a person looks at while a run goes: views of a pair, principal components, one heat map."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from midway_zoo.inference.perturbation import sensitivity
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.train.data.photometric import denormalise
from midway_zoo.visualize import features_to_image, heatmap_overlay

_SIDE = 128


def draw_pictures(network: MidwayNetwork, views: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Pictures, uint8 (3, H, W), of the first pair of a batch of normalised views.

    Returns:
        "views": every view; "features": principal components of the teacher's features of the dynamics crops;
        "heatmap": where the source crop's central token went, if the network has dynamics.
    """
    tiles = [_tile(denormalise(image[0])) for key in ("dynamics", "globals", "locals") for image in views.get(key, ())]
    frames = views["dynamics"][:, 0]
    shown = denormalise(frames)
    grid = network.grid_of(frames)
    tokens = network.encode(frames, target=True)[-1][:, 1:]
    maps = tokens.transpose(1, 2).unflatten(2, grid).float()
    components = features_to_image(maps)
    pictures = {
        "views": _sheet(tiles, columns=8),
        "features": _sheet([*map(_tile, shown), *(_tile(image) for image in components)], columns=2),
    }
    if network.dynamics is not None:
        pictures["heatmap"] = _heatmap(network, frames, shown, grid)
    return pictures


def _heatmap(network: MidwayNetwork, frames: Tensor, shown: Tensor, grid: tuple[int, int]) -> Tensor:
    """The source crop with the token marked by itself, beside the target crop under its heat map."""
    token = grid[0] // 2 * grid[1] + grid[1] // 2
    heat = sensitivity(network, frames[:1], frames[1:], tokens=[token])[0, 0].unflatten(0, grid)
    mark = torch.zeros_like(heat)
    mark[token // grid[1], token % grid[1]] = 1
    return _sheet([_tile(heatmap_overlay(image, m)) for image, m in ((shown[0], mark), (shown[1], heat))], columns=2)


def _tile(image: Tensor) -> Tensor:
    if image.dtype == torch.uint8:
        image = image.float() / 255
    return F.interpolate(image[None], (_SIDE, _SIDE), mode="nearest")[0].mul(255).round().byte().cpu()


def _sheet(tiles: list[Tensor], columns: int) -> Tensor:
    """Tiles (3, S, S) in rows of ``columns``, two white pixels between them."""
    padded = [F.pad(tile, (0, 2, 0, 2), value=255) for tile in tiles]
    blank = torch.full_like(padded[0], 255)
    padded += [blank] * (-len(padded) % columns)
    rows = [torch.cat(padded[first : first + columns], dim=2) for first in range(0, len(padded), columns)]
    return torch.cat(rows, dim=1)
