"""Segmentation heads on the token maps of a ViT: linear, UperNet, and UperNet's auxiliary head."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

PYRAMID = 4
"""Number of maps that UperNet reads."""
_BINS = (1, 2, 3, 6)
_AUXILIARY_WIDTH = 256
_THIRD = 2


class LinearHead(nn.Conv2d):
    """One linear map for every token: a 1x1 convolution of the concatenated maps, as in iBOT (Zhou et al. 2022).

    Args:
        width: total number of channels of the maps.
        classes: K.
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__(width, classes, 1)
        nn.init.trunc_normal_(self.weight, std=0.01)
        nn.init.constant_(self.get_parameter("bias"), 0)


class UperNetHead(nn.Module):
    """UperNet (Xiao et al., ECCV 2018) on a pyramid made of four maps of one size.

    The maps are scaled by 4, 2, 1 and 1/2 (with two 2x2 transposed convolutions, one, none, and 2x2 max pooling). A
    pyramid pooling module (bins 1, 2, 3, 6) on the coarsest map adds global context, a feature pyramid passes it on to
    the finest, and a 1x1 convolution classifies.

    Args:
        dim: channels of each map, D.
        classes: K.
        width: channels of the head; None for D, as in the paper (384 for ViT-S, 768 for ViT-B).
        dropout: dropout of whole channels before the last convolution.
    """

    def __init__(self, dim: int, classes: int, *, width: int | None = None, dropout: float = 0.1) -> None:
        super().__init__()
        width = width or dim
        self.scales = nn.ModuleList(
            [
                nn.Sequential(_twice(dim), nn.BatchNorm2d(dim), nn.GELU(), _twice(dim)),
                _twice(dim),
                nn.Identity(),
                nn.MaxPool2d(2, ceil_mode=True),  # nothing is lost on grids with odd sides, and a single token remains
            ]
        )
        self.pooled = nn.ModuleList([nn.Sequential(nn.AdaptiveAvgPool2d(bins), _conv(dim, width, 1)) for bins in _BINS])
        self.bottleneck = _conv(dim + len(_BINS) * width, width, 3)
        self.lateral = nn.ModuleList([_conv(dim, width, 1) for _ in range(PYRAMID - 1)])
        self.smooth = nn.ModuleList([_conv(width, width, 3) for _ in range(PYRAMID - 1)])
        self.fuse = _conv(PYRAMID * width, width, 3)
        self.dropout = nn.Dropout2d(dropout)
        self.classify = _classifier(width, classes)

    def forward(self, features: Tensor) -> Tensor:
        """Four maps concatenated, (B, 4 * D, h, w) -> logits (B, K, 4 * h, 4 * w)."""
        maps = [scale(part) for scale, part in zip(self.scales, features.chunk(PYRAMID, dim=1), strict=True)]
        levels = [lateral(one) for lateral, one in zip(self.lateral, maps[:-1], strict=True)]
        levels.append(self._pool(maps[-1]))
        for index in range(PYRAMID - 1, 0, -1):
            levels[index - 1] = levels[index - 1] + _to(levels[index], levels[index - 1])
        smoothed = [smooth(one) for smooth, one in zip(self.smooth, levels[:-1], strict=True)]
        whole = [_to(one, smoothed[0]) for one in (*smoothed, levels[-1])]
        logits: Tensor = self.classify(self.dropout(self.fuse(torch.cat(whole, dim=1))))
        return logits

    def _pool(self, coarse: Tensor) -> Tensor:
        parts = [coarse, *(_to(pool(coarse), coarse) for pool in self.pooled)]
        found: Tensor = self.bottleneck(torch.cat(parts, dim=1))
        return found


class AuxiliaryHead(nn.Module):
    """A fully convolutional head on the third of four maps, which training adds to UperNet's loss.

    Args:
        dim: channels of each map.
        classes: K.
        dropout: as in :class:`UperNetHead`.
    """

    def __init__(self, dim: int, classes: int, *, dropout: float = 0.1) -> None:
        super().__init__()
        self.conv = _conv(dim, _AUXILIARY_WIDTH, 3)
        self.dropout = nn.Dropout2d(dropout)
        self.classify = _classifier(_AUXILIARY_WIDTH, classes)

    def forward(self, features: Tensor) -> Tensor:
        """(B, 4 * D, h, w) -> logits (B, K, h, w)."""
        logits: Tensor = self.classify(self.dropout(self.conv(features.chunk(PYRAMID, dim=1)[_THIRD])))
        return logits


def pyramid_blocks(depth: int) -> tuple[int, ...]:
    """The blocks that UperNet reads, 0-based: 3, 5, 7 and 11 of twelve, and the same fractions of other depths.

    With fewer than four blocks, some are read more than once.
    """
    return tuple(max(0, round(depth * share) - 1) for share in (1 / 3, 1 / 2, 2 / 3, 1))


def _twice(dim: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(dim, dim, 2, stride=2)


def _conv(given: int, width: int, side: int) -> nn.Sequential:
    conv = nn.Conv2d(given, width, side, padding=side // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU())


def _classifier(width: int, classes: int) -> nn.Conv2d:
    conv = nn.Conv2d(width, classes, 1)
    nn.init.normal_(conv.weight, std=0.01)
    nn.init.zeros_(conv.get_parameter("bias"))
    return conv


def _to(one: Tensor, other: Tensor) -> Tensor:
    """Resize a map bilinearly to another map's size."""
    return F.interpolate(one, other.shape[-2:], mode="bilinear", align_corners=False)


def head_blocks(depth: int, blocks: Sequence[int]) -> bool:
    """Whether block indices are increasing and exist."""
    numbers = list(blocks)
    return bool(numbers) and numbers == sorted(set(numbers)) and numbers[0] >= 0 and numbers[-1] < depth
