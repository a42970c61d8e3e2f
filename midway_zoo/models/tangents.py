"""Forward-mode derivatives of the forward dynamics, written out for many source tokens of one pair.

``torch.func.jvp`` takes any network, but it runs the network itself beside the derivatives, keeps all they pass through
in fresh memory, and does not know what they share. Here the network is run once and everything that is the same for all
derivatives is kept: attention weights, slopes, gates, what the norms found. A derivative is then a chain of matrix
products. Tangents lie as (K, n, D): for each of the K tokens all n of them side by side.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import zip_longest
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from midway_zoo.models.dynamics import ForwardDynamics
from midway_zoo.models.layers import Gate, GatedBlock
from midway_zoo.models.places import PlacedAttention

_Kinds = list[tuple[str, type]]


class ForwardTangents:
    """Derivatives of one level's prediction for one pair, by tokens of its backward features v.

    Memory: the attention weights of every block, and the tangents of the largest n that was asked for.
    """

    def __init__(self, dynamics: ForwardDynamics, motion: Tensor, source: Tensor, grid: tuple[int, int]) -> None:
        """Run ``dynamics``, one that :func:`can_be_written_out`, on projected motion (M, D) and v (1 + h * w, D)."""
        self._first = len(motion) + 1  # motion tokens and the class token are not places
        self._count = len(motion) + len(source)
        self._blocks: list[_Block] = []
        x, gate = torch.cat([motion, source]).to(next(dynamics.parameters())), None
        self._scratch = _Scratch(x)
        with _plain(source):
            for block, following in zip_longest(dynamics.blocks, dynamics.gates):
                state = _Block(block, x, gate, following, len(motion), grid)
                self._blocks.append(state)
                x, gate = state.output, state.following

    def cosines(self, tokens: Tensor, directions: Tensor) -> Tensor:
        """Cosines (n, N) float32 between directions r (n, D) and the tangents of all N predicted patch tokens.

        ``tokens`` (n,) int64 are the patch tokens of v, each of which alone is disturbed by its r.
        """
        with _plain(directions):
            moved = self._push(tokens, directions.to(self._scratch.like))[self._first :].transpose(0, 1).float()
            lengths = torch.linalg.vector_norm(moved, dim=-1).clamp_min(1e-12)
            unit = F.normalize(directions.float(), dim=-1, eps=1e-12)
            return torch.bmm(moved, unit[:, :, None])[..., 0] / lengths

    def _push(self, tokens: Tensor, directions: Tensor) -> Tensor:
        at = self._first + tokens
        x = _spread(directions, at, self._scratch("x", self._count, *directions.shape))
        for block in self._blocks:
            # Before the first block all but one token rest; of the last one patch tokens alone are asked for.
            first = self._first if block is self._blocks[-1] else 0
            block.push(x, self._scratch, first, at if block is self._blocks[0] else None)
        return x


@contextmanager
def _plain(like: Tensor) -> Iterator[None]:
    """No gradients, and products as they are written: into memory that is there autocast does not reach."""
    with torch.no_grad(), torch.autocast(like.device.type, enabled=False):
        yield


def can_be_written_out(dynamics: nn.Module) -> TypeGuard[ForwardDynamics]:
    """Whether ``dynamics`` is what is differentiated here: none of its parts is of another kind, wrapped or hooked."""
    if type(dynamics) is not ForwardDynamics:
        return False
    blocks, gate = _expected()
    return (
        all(_kinds(one) in blocks for one in dynamics.blocks)
        and all(_kinds(one) == gate for one in dynamics.gates)
        and not any(
            part._forward_hooks
            or part._forward_pre_hooks
            or "forward" in vars(part)
            or (isinstance(part, nn.Dropout) and part.training and part.p > 0)
            or getattr(part, "approximate", "none") != "none"
            for part in dynamics.modules()
        )
        and len({part.eps for part in dynamics.modules() if isinstance(part, nn.LayerNorm)}) == 1
    )


@lru_cache
def _expected() -> tuple[list[_Kinds], _Kinds]:
    with torch.device("meta"):
        return [_kinds(GatedBlock(4, 1, placed=placed)) for placed in (False, True)], _kinds(Gate(4, 0.0))


def _kinds(module: nn.Module) -> _Kinds:
    return [(name, type(part)) for name, part in module.named_modules()]


class _Scratch:
    """Memory that is used again: new memory is cleared by the system first, which takes longer than to fill it."""

    def __init__(self, like: Tensor) -> None:
        self.like = like
        self._kept: dict[str, Tensor] = {}

    def __call__(self, name: str, *shape: int) -> Tensor:
        size = math.prod(shape)
        if name not in self._kept or self._kept[name].numel() < size:
            self._kept[name] = self.like.new_empty(size)
        return self._kept[name][:size].view(shape)


def _spread(rows: Tensor, at: Tensor, out: Tensor) -> Tensor:
    """Rows (n, D) as tangents ``out`` (K, n, D) of one token each, of which ``at`` (n,) says which."""
    out.zero_()[at, torch.arange(len(at), device=at.device)] = rows
    return out


class _Norm:
    """A LayerNorm at x (K, D) without its scale and shift, which belong to the layer behind it."""

    def __init__(self, x: Tensor, eps: float) -> None:
        self.output = F.layer_norm(x, x.shape[-1:], eps=eps)
        self._rate = (x.float().var(dim=-1, correction=0, keepdim=True) + eps).rsqrt().to(x.dtype)[:, None]
        self._mean = self.output[:, :, None] / x.shape[-1]

    def push(self, x: Tensor, scratch: _Scratch, first: int) -> Tensor:
        """Tangents but for their own means over channels, which the layer behind takes out."""
        share = torch.bmm(x, self._mean[first:])  # of x along the output
        u = torch.mul(self.output[first:, None], share, out=scratch("u", *x.shape))
        return torch.sub(x, u, out=u).mul_(self._rate[first:])

    def push_single(self, rows: Tensor, at: Tensor) -> Tensor:
        """The same of rows (n, D), tangents of one token each."""
        share = torch.linalg.vecdot(rows, self._mean[at, :, 0])[:, None]
        return (rows - self.output[at] * share) * self._rate[at, 0]


def _behind_norm(norm: nn.LayerNorm, layer: nn.Linear) -> tuple[Tensor, Tensor]:
    """Weight and bias of a layer with the scale and shift of the norm before it."""
    weight = layer.weight * norm.weight
    bias = layer.weight @ norm.bias
    return weight, bias if layer.bias is None else bias + layer.bias


def _centred(weight: Tensor) -> Tensor:
    return weight - weight.mean(dim=1, keepdim=True)


class _Mlp:
    """Norm, linear, GELU, linear at x (K, D), whose norm's output is given."""

    def __init__(self, norm: nn.LayerNorm, mlp: Any, normed: Tensor) -> None:
        weight, bias = _behind_norm(norm, mlp.fc1)
        before = F.linear(normed, weight, bias)
        self.output = mlp.fc2(F.gelu(before))
        half = 0.5 * (1 + torch.erf(before * math.sqrt(0.5)))
        self._slope = (half + before * torch.exp(-0.5 * before**2) / math.sqrt(2 * math.pi))[:, None]
        self._inward, self._outward = _centred(weight).t(), mlp.fc2.weight.t()

    def push(self, u: Tensor, scratch: _Scratch, first: int = 0) -> tuple[Tensor, Tensor]:
        """Two factors (K * n, hidden) and (hidden, D) of the tangents."""
        wide = scratch("wide", *u.shape[:2], self._inward.shape[1])
        torch.mm(u.flatten(0, 1), self._inward, out=wide.flatten(0, 1))
        wide *= self._slope[first:]
        return wide.flatten(0, 1), self._outward

    def push_single(self, rows: Tensor, at: Tensor) -> Tensor:
        """Tangents (n, D) of rows (n, D), of one token each."""
        return ((rows @ self._inward) * self._slope[at, 0]) @ self._outward


class _Places:
    """What a :class:`PlacedAttention` adds to its logits at normed tokens (K, D), and how that moves."""

    def __init__(
        self, norm: nn.LayerNorm, attn: PlacedAttention, normed: Tensor, motion: int, grid: tuple[int, int]
    ) -> None:
        x = normed * norm.weight + norm.bias
        self.logits, self.slopes = (found[0] for found in attn.place_logits(x[None], motion, grid))
        self._motion, self._heads = motion, attn.num_heads
        self._all, self._each = (
            _centred(_behind_norm(norm, layer)[0]).t() for layer in (attn.displace_all, attn.displace_each)
        )

    def push(self, u: Tensor) -> Tensor:
        """Tangents (K, n, heads, 2) of the displacements."""
        moved = u @ self._each
        moved += u[: self._motion].mean(dim=0) @ self._all
        moved[: self._motion + 1] = 0
        return moved.unflatten(-1, (self._heads, 2))


class _Attention:
    """Self-attention at normed tokens (K, D)."""

    def __init__(self, norm: nn.LayerNorm, attn: Any, normed: Tensor, motion: int, grid: tuple[int, int]) -> None:
        weight, bias = _behind_norm(norm, attn.qkv)
        self._heads: int = attn.num_heads
        self._weight = _centred(weight).t()
        q, k, v = F.linear(normed, weight, bias).unflatten(-1, (3, self._heads, -1)).permute(1, 2, 0, 3)
        scale = q.shape[-1] ** -0.5
        self._q, self._k = q * scale, (k * scale).transpose(1, 2)
        logits = self._q @ k.transpose(1, 2)
        self._places = None
        if isinstance(attn, PlacedAttention):
            self._places = _Places(norm, attn, normed, motion, grid)
            logits += self._places.logits
        self._v, self._shares = v, logits.softmax(dim=-1)
        self._mixed = self._shares @ v
        self._project = attn.proj.weight.t()
        self.output = attn.proj(self._mixed.transpose(0, 1).flatten(1))

    def push(self, u: Tensor, scratch: _Scratch, first: int) -> tuple[Tensor, Tensor]:
        """Two factors (K' * n, D) and (D, D) of the tangents of tokens from ``first`` on."""
        tokens, n, width = u.shape
        qkv = scratch("wide", tokens, n, 3, self._heads, width // self._heads)
        torch.mm(u.flatten(0, 1), self._weight, out=qkv.view(tokens * n, 3 * width))
        moved = None if self._places is None else self._places.push(u)[first:]
        mixed = u[first:]  # u has been read
        for head in range(self._heads):
            logits = self._push_logits(head, qkv[:, :, 0, head], qkv[:, :, 1, head], scratch, first)
            if self._places is not None and moved is not None:
                logits.baddbmm_(moved[:, :, head], self._places.slopes[head, first:])
            part = mixed.unflatten(2, (self._heads, -1))[:, :, head]
            self._push_head(head, logits, qkv[:, :, 2, head], part, scratch, first)
        return mixed.flatten(0, 1), self._project

    def _push_logits(self, head: int, dq: Tensor, dk: Tensor, scratch: _Scratch, first: int) -> Tensor:
        """dq and dk (K, n, d) to tangents of logits (K', n, K)."""
        tokens, n, width = dq.shape
        rows = tokens - first
        keys = scratch("keys", n, tokens, width).copy_(dk.transpose(0, 1))
        logits = scratch("logits", rows, n, tokens)
        torch.mm(dq[first:].flatten(0, 1), self._k[head], out=logits.view(rows * n, tokens))
        logits.view(rows, n * tokens).addmm_(self._q[head, first:], keys.view(n * tokens, width).t())
        return logits

    def _push_head(self, head: int, logits: Tensor, dv: Tensor, mixed: Tensor, scratch: _Scratch, first: int) -> None:
        """Tangents of logits (K', n, K) and dv (K, n, d) to ``mixed`` (K', n, d)."""
        rows, n, tokens = logits.shape
        width, shares = dv.shape[-1], self._shares[head, first:]
        values = scratch("values", tokens, n, width).copy_(dv)
        # Softmax: P (dS - sum P dS); the sum is taken out behind the values, where it is narrower.
        logits *= shares[:, None]
        total = logits.sum(dim=-1, keepdim=True)
        out = scratch("head", rows, n, width)
        torch.mm(logits.view(rows * n, tokens), self._v[head], out=out.view(rows * n, width))
        out.view(rows, n * width).addmm_(shares, values.view(tokens, n * width))
        torch.addcmul(out, self._mixed[head, first:, None], total, value=-1, out=mixed)

    def push_single(self, rows: Tensor, at: Tensor, scratch: _Scratch, first: int) -> tuple[Tensor, Tensor]:
        """:meth:`push` of rows (n, D), tangents of one token each: the others gain by one key and one value alone.

        Of the first block, whose attention is never by place.
        """
        n, width = rows.shape
        qkv = (rows @ self._weight).unflatten(1, (3, self._heads, -1))
        mixed = scratch("u", self._shares.shape[1], n, width)
        for head, part in enumerate(mixed.unflatten(2, (self._heads, -1)).unbind(2)):
            dq, dk, dv = qkv[:, :, head].unbind(1)
            shares, v, o = self._shares[head], self._v[head], self._mixed[head]
            share = shares[:, at]
            turned = share * (self._q[head] @ dk.t())
            out = torch.mul(share[..., None], dv, out=scratch("head", *part.shape))
            out.addcmul_(turned[..., None], v[at]).addcmul_(turned[..., None], o[:, None], value=-1)
            own = shares[at] * (dq @ self._k[head])  # its own query looks elsewhere
            out[at, torch.arange(n, device=at.device)] += own @ v - own.sum(dim=1, keepdim=True) * o[at]
            part.copy_(out)
        return mixed[first:].flatten(0, 1), self._project


class _FollowingGate:
    """The gate of the next block, which reads what this block reads."""

    def __init__(self, gate: Gate, normed: Tensor) -> None:
        self._mlp = _Mlp(gate.norm, gate.mlp, normed)
        self.value = torch.sigmoid(self._mlp.output + gate.bias)

    def push(self, u: Tensor, scratch: _Scratch) -> None:
        """Leave the tangents of the gate's logits in ``scratch``."""
        wide, weight = self._mlp.push(u, scratch)
        torch.mm(wide, weight, out=scratch("gate", *u.shape).flatten(0, 1))

    def push_single(self, rows: Tensor, at: Tensor, scratch: _Scratch) -> None:
        """The same of rows (n, D), tangents of one token each."""
        _spread(self._mlp.push_single(rows, at), at, scratch("gate", len(self.value), *rows.shape))


class _Block:
    """A block at its input x (K, D), with its gate and that of the block that follows, or None."""

    def __init__(
        self, block: Any, x: Tensor, gate: "_FollowingGate | None", following: Any, motion: int, grid: tuple[int, int]
    ) -> None:
        self._motion = motion
        self._norm1 = _Norm(x, block.norm1.eps)
        self._attention = _Attention(block.norm1, block.attn, self._norm1.output, motion, grid)
        self.following = None if following is None else _FollowingGate(following, self._norm1.output[motion:])
        self._gate = self._turned = None
        kept = x
        if gate is not None:
            self._gate = gate.value[:, None]
            self._turned = (gate.value * (1 - gate.value) * x[motion:])[:, None]
            kept = torch.cat([x[:motion], gate.value * x[motion:]])
        h = kept + self._attention.output
        self._norm2 = _Norm(h, block.norm2.eps)
        self._mlp = _Mlp(block.norm2, block.mlp, self._norm2.output)
        self.output = h + self._mlp.output

    def push(self, x: Tensor, scratch: _Scratch, first: int, at: Tensor | None) -> None:
        """Tangents (K, n, D) of the input become those of the output, from token ``first`` on.

        ``at`` (n,) says which token each of them is of; None: of any.
        """
        if at is None:
            update = self._attend(x, scratch, first)
        else:
            update = self._attend_single(x[at, torch.arange(len(at), device=at.device)], at, scratch, first)
        wanted = x[first:]
        flat = wanted.view(-1, x.shape[-1])
        flat.addmm_(*update)
        u = self._norm2.push(wanted, scratch, first)
        flat.addmm_(*self._mlp.push(u, scratch, first))

    def _attend(self, x: Tensor, scratch: _Scratch, first: int) -> tuple[Tensor, Tensor]:
        u = self._norm1.push(x, scratch, 0)
        if self._gate is not None and self._turned is not None:
            spatial = x[self._motion :]
            spatial.mul_(self._gate).addcmul_(scratch("gate", *spatial.shape), self._turned)
        if self.following is not None:
            self.following.push(u[self._motion :], scratch)
        return self._attention.push(u, scratch, first)

    def _attend_single(self, rows: Tensor, at: Tensor, scratch: _Scratch, first: int) -> tuple[Tensor, Tensor]:
        """Of the first block, which has no gate."""
        rows = self._norm1.push_single(rows, at)
        if self.following is not None:
            self.following.push_single(rows, at - self._motion, scratch)
        return self._attention.push_single(rows, at, scratch, first)
