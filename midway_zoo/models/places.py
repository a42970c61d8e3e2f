"""Attention by place: a variant of the forward dynamics, which the paper does not have.

The forward dynamics has no positions of its own. To move the content of a token, its attention has to find from the
tokens' content where each one is, and where the motion latent takes it. Here part of every query and key encodes a
place, and the motion tokens displace the query's, so that a single number is enough to express a motion.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

_PERIODS = (4.0, 8.0, 16.0, 32.0)  # in tokens; together they have one peak within any grid that is trained on
_SHARPNESS = 8.0  # initially: more than half of a query's attention goes to the place that it looks at
_MARGIN = 0.5  # of the sharpness: the advantage of the place looked at over tokens without a place


class PlacedAttention(nn.Module):
    """Self-attention in which a patch token also looks at a place: its own, less a displacement.

    Logits gain ``sharpness * (margin - 2 + the mean of cos(2 pi dx / period) + that of cos(2 pi dy / period))``, where
    (dx, dy) leads from the place looked at to that of the key. The displacement, one for each head, is in tokens: a
    linear map of the mean of the motion tokens, and one of the token itself. Motion tokens and the class token have no
    place, as queries or as keys.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)
        self.displace_all = nn.Linear(dim, 2 * heads, bias=False)
        self.displace_each = nn.Linear(dim, 2 * heads, bias=False)
        self.sharpness = nn.Parameter(torch.full((heads,), _SHARPNESS))

    def forward(self, x: Tensor, count: int, grid: tuple[int, int]) -> Tensor:
        """x (B, M + 1 + h * w, D): ``count`` = M motion tokens, the class token, patch tokens row by row."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).movedim(-3, 0).transpose(2, 3)
        q = q * q.shape[-1] ** -0.5
        looked, own = self._codes(*self._waves(x, count, grid), count)
        mixed = F.scaled_dot_product_attention(
            torch.cat([q, looked], dim=-1), torch.cat([k, own], dim=-1), v, scale=1.0
        )
        return self.proj(mixed.transpose(1, 2).flatten(2))

    def _codes(self, looked: Tensor, own: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The channels of queries and keys that encode places, (B, heads, K, channels) each, from their waves."""
        looked, own = looked.flatten(-2) * self.sharpness[:, None, None], own.flatten(-2)
        looked = torch.cat([looked, self.sharpness[:, None, None].expand(*looked.shape[:-1], 1)], dim=-1)
        own = torch.cat([own / len(_PERIODS), own.new_full((len(own), 1), _MARGIN - 2)], dim=-1)
        own = own.expand(*looked.shape)
        return F.pad(looked, (0, 0, count + 1, 0)), F.pad(own, (0, 0, count + 1, 0))

    def _waves(self, x: Tensor, count: int, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Sines, then cosines, of the place looked at (B, heads, N, 2, 2 * periods) and the own (N, 2, 2 * periods)."""
        y, x_ = torch.meshgrid(*(torch.arange(n, device=x.device, dtype=x.dtype) for n in grid), indexing="ij")
        xy = torch.stack([x_, y], dim=-1).flatten(0, 1)
        displacement = self.displace_all(x[:, :count].mean(dim=1, keepdim=True)) + self.displace_each(x[:, count + 1 :])
        looked = xy - displacement.unflatten(-1, (self.num_heads, 2)).transpose(1, 2)
        angles = (place[..., None] * self._frequencies(x) for place in (looked, xy))
        looked, own = (torch.cat([angle.sin(), angle.cos()], dim=-1) for angle in angles)
        return looked, own

    def place_logits(self, x: Tensor, count: int, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """What places add to the logits, (B, heads, K, K), and its slopes by the queries' displacements.

        The slopes are (B, heads, K, 2, K) with K = M + 1 + h * w, as of x in :meth:`forward`.
        """
        looked, own = self._waves(x, count, grid)
        sin, cos = looked.chunk(2, dim=-1)
        rate = self._frequencies(x) * self.sharpness[:, None, None, None] / len(_PERIODS)
        slopes = torch.einsum("bhicp,jcp->bhicj", torch.cat([-cos * rate, sin * rate], dim=-1), own)
        queries, keys = self._codes(looked, own, count)
        return queries @ keys.transpose(-2, -1), F.pad(slopes, (count + 1, 0, 0, 0, count + 1, 0))

    @staticmethod
    def _frequencies(like: Tensor) -> Tensor:
        return 2 * math.pi / torch.tensor(_PERIODS, device=like.device, dtype=like.dtype)
