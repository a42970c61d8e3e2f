"""The attention blocks of the dynamics. Linear layers follow the released model: no qkv bias, LayerNorm eps 1e-5."""

from functools import partial

import torch
from timm.layers import Mlp
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

LayerNorm = partial(nn.LayerNorm, eps=1e-5)


class MidwayBlock(Block):
    """A block of the midway path: pre-norm attention and MLP (ratio 4, GELU)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__(dim, heads, qkv_bias=False, norm_layer=LayerNorm)

    def forward(self, x: Tensor, first: int | None = None) -> Tensor:
        """x (B, K, C) -> (B, K, C); with ``first``, only that many leading tokens are computed and returned."""
        if first is None:
            return super().forward(x)
        attn, normed = self.attn, self.norm1(x)
        weight_q, weight_kv = attn.qkv.weight.tensor_split((x.shape[-1],))
        q = F.linear(normed[:, :first], weight_q).unflatten(-1, (1, attn.num_heads, -1))
        kv = F.linear(normed, weight_kv).unflatten(-1, (2, attn.num_heads, -1))
        q, k, v = (part.transpose(1, 2) for part in (*q.unbind(2), *kv.unbind(2)))
        x = x[:, :first] + attn.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class CrossAttention(nn.Module):
    """Multi-head attention from ``x`` (B, N, D) to ``memory`` (B, K, D)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(dim, dim, bias=False)
        self.k = nn.Linear(dim, dim, bias=False)
        self.v = nn.Linear(dim, dim, bias=False)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        q, k, v = (self._split(part) for part in (self.q(x), self.k(memory), self.v(memory)))
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class BackwardLayer(Block):
    """Backward (top-down) layer: one level's tokens attend to the features of the level above (section 3.2).

    x = x + SelfAttn(LN1 x); x = x + CrossAttn(LN2 x, LNy memory); x = x + MLP(LN3 x)
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__(dim, heads, qkv_bias=False, norm_layer=LayerNorm)
        self.cross_attn = CrossAttention(dim, heads)
        self.norm3 = LayerNorm(dim)
        self.norm_memory = LayerNorm(dim)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        x = x + self.cross_attn(self.norm2(x), self.norm_memory(memory))
        return x + self.mlp(self.norm3(x))


class Gate(nn.Module):
    """How much of each spatial token and channel a forward block keeps: sigmoid(MLP(LN x) + bias) (section 3.3)."""

    def __init__(self, dim: int, bias: float) -> None:
        super().__init__()
        self.bias = bias
        self.norm = LayerNorm(dim)
        self.mlp = Mlp(dim, hidden_features=dim)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.mlp(self.norm(x)) + self.bias)


class GatedBlock(Block):
    """A block of the forward dynamics: h = gate * x + Attn(LN1 x); out = h + MLP(LN2 h)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__(dim, heads, qkv_bias=False, norm_layer=LayerNorm)

    def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
        kept = x if gate is None else gate * x
        x = kept + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))
