"""The attention blocks of the dynamics. Linear layers follow the released model: no qkv bias, LayerNorm eps 1e-5."""

from functools import partial

import torch
from timm.layers import Mlp as TimmMlp
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F  # noqa: N812
from torch.utils.checkpoint import checkpoint

from midway_zoo.models.places import PlacedAttention

LayerNorm = partial(nn.LayerNorm, eps=1e-5)


class Mlp(TimmMlp):
    """timm's MLP; in training only the hidden activations before the GELU are kept, and the GELU is recomputed.

    They are the widest tensors of a block: this saves a quarter of its memory for about 1 % of its time. No matrix
    product is repeated.
    """

    recompute = True
    """False keeps the activations: a sixth faster on a CPU, where memory does not matter."""

    def forward(self, x: Tensor) -> Tensor:
        if not (self.recompute and self.training and torch.is_grad_enabled()) or _cannot_recompute():
            return super().forward(x)
        return checkpoint(self._activate_and_project, self.fc1(x), use_reentrant=False, preserve_rng_state=False)

    def _activate_and_project(self, hidden: Tensor) -> Tensor:
        return self.fc2(self.act(hidden))


def forward_mode_ad() -> bool:
    """Whether a forward-mode derivative (``torch.func.jvp``, ``forward_ad.dual_level``) is being taken."""
    # torch has no public function for this; the counter has had this name since forward_ad was added.
    return not torch.compiler.is_compiling() and getattr(forward_ad, "_current_level", -1) >= 0


def takes_forward_derivative(*inputs: Tensor) -> bool:
    """Whether this thread takes a forward-mode derivative by ``inputs``: the level alone is that of all threads."""
    if not forward_mode_ad():
        return False
    return torch._C._are_functorch_transforms_active() or any(
        forward_ad.unpack_dual(one).tangent is not None for one in inputs
    )


def _cannot_recompute() -> bool:
    # A compiled step recomputes what is cheap by itself. A checkpoint under torch.func raises: under vmap and jvp in
    # torch 2.6 to 2.8 at least, under grad and vjp in 2.14 still. autograd.Function makes the same test.
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active() or forward_mode_ad()


def leading_tokens(block: Block, x: Tensor, count: int) -> Tensor:
    """The first ``count`` output tokens of a pre-norm block, (B, count, C), from all its input tokens x (B, K, C).

    The other tokens are keys and values only: they need no query, projection or MLP.
    """
    attn, normed = block.attn, block.norm1(x)
    width = x.shape[-1]
    if type(attn.qkv) is nn.Linear:
        weights = attn.qkv.weight.tensor_split((width,))
        biases = (None, None) if attn.qkv.bias is None else attn.qkv.bias.tensor_split((width,))
        q, kv = F.linear(normed[:, :count], weights[0], biases[0]), F.linear(normed, weights[1], biases[1])
    else:  # wrapped by LoRA, say: what it does is not its weight alone
        q, kv = attn.qkv(normed).tensor_split((width,), dim=-1)
        q = q[:, :count]
    q, kv = q.unflatten(-1, (1, attn.num_heads, -1)), kv.unflatten(-1, (2, attn.num_heads, -1))
    q, k, v = (part.transpose(1, 2) for part in (*q.unbind(2), *kv.unbind(2)))
    mixed = attn.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
    x = x[:, :count] + block.drop_path1(block.ls1(mixed))
    return x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))


class MidwayBlock(Block):
    """A block of the midway path: pre-norm attention and MLP (ratio 4, GELU)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__(dim, heads, qkv_bias=False, norm_layer=LayerNorm, mlp_layer=Mlp)

    def forward(self, x: Tensor, first: int | None = None) -> Tensor:
        """x (B, K, C) -> (B, K, C); with ``first``, only that many leading tokens are computed and returned."""
        return super().forward(x) if first is None else leading_tokens(self, x, first)


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
        super().__init__(dim, heads, qkv_bias=False, norm_layer=LayerNorm, mlp_layer=Mlp)
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

    def __init__(self, dim: int, heads: int, *, placed: bool = False) -> None:
        super().__init__(dim, heads, qkv_bias=False, norm_layer=LayerNorm, mlp_layer=Mlp)
        self.placed = placed
        if placed:
            self.attn = PlacedAttention(dim, heads)

    def forward(
        self, x: Tensor, gate: Tensor | None = None, *, count: int = 0, grid: tuple[int, int] = (1, 1)
    ) -> Tensor:
        """x (B, K, D) -> (B, K, D); of a placed block ``count`` and ``grid`` say which tokens are where."""
        kept = x if gate is None else gate * x
        normed = self.norm1(x)
        x = kept + (self.attn(normed, count, grid) if self.placed else self.attn(normed))
        return x + self.mlp(self.norm2(x))
