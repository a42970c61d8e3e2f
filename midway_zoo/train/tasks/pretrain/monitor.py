"""Monitoring of a run: signs of collapse with remedies, and pictures of a pair."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from midway_zoo.inference.perturbation import sensitivity
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.train.data.photometric import denormalise
from midway_zoo.visualize import features_to_image, heatmap_overlay

# Over many steps of healthy runs the teacher's entropy stays between these shares of log K. At the very start it
# is near 1 (nothing is learned yet), so the upper bound counts only after the warm-up.
LOWEST_ENTROPY, HIGHEST_ENTROPY = 0.02, 0.995
LOWEST_STD = 0.02
PATIENCE = 50
"""Steps in a row before a sign is believed."""


class Health:
    """Watches the logged values of each step.

    Args:
        prototypes: K of the projection head.
        warmup: steps before which a flat teacher is normal.
    """

    def __init__(self, prototypes: int, warmup: int) -> None:
        self.limit = math.log(max(2, prototypes))
        self.warmup = warmup
        self.counts: dict[str, int] = {}

    def __call__(self, values: Mapping[str, float], step: int) -> str | None:
        """A warning once a sign has held for :data:`PATIENCE` steps (and again each ten times as long), or None."""
        signs = {}
        entropy = values.get("teacher_entropy")
        if entropy is not None:
            signs["low"] = entropy < LOWEST_ENTROPY * self.limit
            signs["flat"] = step >= self.warmup and entropy > HIGHEST_ENTROPY * self.limit
        for key in ("cls_std", "token_std"):
            if key in values:
                signs[key] = values[key] < LOWEST_STD
        for sign, present in signs.items():
            self.counts[sign] = self.counts.get(sign, 0) + 1 if present else 0
            if self.counts[sign] >= PATIENCE and self.counts[sign] % (10 * PATIENCE) in (PATIENCE, 0):
                return self._remedy(sign, values)
        return None

    def _remedy(self, sign: str, values: Mapping[str, float]) -> str:
        if sign == "low":
            return (
                f"the teacher's entropy is {values['teacher_entropy']:.3g} nats of {self.limit:.3g}: it picks one "
                "prototype for everything. Raise objective.teacher_temperature or lower objective.center_momentum."
            )
        if sign == "flat":
            return (
                f"the teacher's entropy is {values['teacher_entropy']:.4g} nats of {self.limit:.4g}: it tells nothing "
                "apart. Lower objective.teacher_temperature, or lower optim.base_lr and lengthen optim.warmup_epochs."
            )
        return (
            f"{sign} is {values[sign]:.3g}: features are nearly the same for every input. Lower optim.base_lr, "
            "lengthen optim.warmup_epochs, or raise batch_size."
        )


_SIDE = 128  # of a tile


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
