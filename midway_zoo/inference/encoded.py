"""Frames that are encoded once, and whose tokens are kept for as long as a clip needs them."""

from typing import TypeAlias

import torch
from torch import Tensor

from midway_zoo.models.network import MidwayNetwork

Corner: TypeAlias = tuple[int, int]


class EncodedFrames:
    """Normalised frames of one size and, once requested, their tokens: no frame is encoded twice.

    Args:
        network: the network that encodes them.
        images: (b, 3, H, W).
        windows: the upper left pixels (y, x) of the windows of every frame that are encoded.
        side: (height, width) of a window; None for whole frames.
        batch_size: windows per pass; None for all.
        fade: whether results of a window count less towards its borders.
    """

    def __init__(
        self,
        network: MidwayNetwork,
        images: Tensor,
        windows: tuple[Corner, ...] = ((0, 0),),
        side: tuple[int, int] | None = None,
        batch_size: int | None = None,
        fade: bool = False,
    ) -> None:
        self.network, self.images, self.windows, self.batch_size = network, images, windows, batch_size
        self.side, self.fade = side or self.size, fade
        self._tokens: dict[bool, list[Tensor]] = {}

    def __len__(self) -> int:
        return len(self.images)

    @property
    def size(self) -> tuple[int, int]:
        return self.images.shape[-2], self.images.shape[-1]

    @property
    def grid(self) -> tuple[int, int]:
        """Tokens (h, w) of a window."""
        patch = self.network.config.patch_size
        return self.side[0] // patch, self.side[1] // patch

    def tokens(self, *, target: bool = False) -> list[Tensor]:
        """Four levels (b * n, L, D) of b frames of n windows; one encoder serves both frames of a pair unless the
        network is in paired mode."""
        target = target and self.network.target_encoder is not None
        if target not in self._tokens:
            levels = self._encode(target)
            self._tokens[target] = [level.unflatten(0, (len(self), len(self.windows))) for level in levels]
        return [level.flatten(0, 1) for level in self._tokens[target]]

    def _encode(self, target: bool) -> list[Tensor]:
        if self.side == self.size:
            return self.network.encode(self.images, target=target)
        places = [(row, corner) for row in range(len(self)) for corner in self.windows]
        batch, parts = self.batch_size or len(places), []
        for first in range(0, len(places), batch):
            crops = [
                self.images[row, :, y : y + self.side[0], x : x + self.side[1]]
                for row, (y, x) in places[first : first + batch]
            ]
            parts.append(self.network.encode(torch.stack(crops), target=target))
        return [torch.cat(level) for level in zip(*parts, strict=True)]

    def encoded(self) -> "EncodedFrames":
        """These frames, encoded for both roles now, so that later pairs of a clip can share the tokens."""
        self.tokens()
        self.tokens(target=True)
        return self

    def __getitem__(self, rows: slice) -> "EncodedFrames":
        return self._with(self.images[rows], {k: [level[rows] for level in v] for k, v in self._tokens.items()})

    def after(self, before: "EncodedFrames | None") -> "EncodedFrames":
        """These frames, preceded by others; tokens are kept where both have them."""
        if before is None:
            return self
        tokens = {
            key: [torch.cat(pair) for pair in zip(before._tokens[key], self._tokens[key], strict=True)]
            for key in self._tokens.keys() & before._tokens.keys()
        }
        return self._with(torch.cat([before.images, self.images]), tokens)

    def showing(self, images: Tensor) -> "EncodedFrames":
        """Other images of the same size with the same windows, not encoded yet."""
        return self._with(images, {})

    def _with(self, images: Tensor, tokens: dict[bool, list[Tensor]]) -> "EncodedFrames":
        made = EncodedFrames(self.network, images, self.windows, self.side, self.batch_size, self.fade)
        made._tokens = tokens
        return made
