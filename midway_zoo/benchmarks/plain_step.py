"""A pretraining step as research code usually writes it: what `midway-zoo benchmark train` measures against.

The same network, weights, losses and update as the trainer of midway_zoo, written out: attention matrices are
materialised, DINO's loss loops over the pairs of views, clipping and averaging loop over the parameters, and
scalars are read with `.item()` as they come up. Everything is computed for every token.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from midway_zoo.train.tasks.pretrain.model import PretrainModel


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Softmax attention of (B, N, D) queries over (B, K, D) keys and values."""
    q, k, v = (x.reshape(*x.shape[:2], heads, -1).transpose(1, 2) for x in (q, k, v))
    weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(dim=-1)
    return (weights @ v).transpose(1, 2).flatten(2)


def self_attention(layer: Any, x: Tensor) -> Tensor:
    q, k, v = layer.qkv(x).chunk(3, dim=-1)
    return layer.proj(attention(q, k, v, layer.num_heads))


def cross_attention(layer: Any, x: Tensor, memory: Tensor) -> Tensor:
    return layer.proj(attention(layer.q(x), layer.k(memory), layer.v(memory), layer.heads))


def block(layer: Any, x: Tensor, gate: Tensor | None = None) -> Tensor:
    """A pre-norm transformer block, gated if there is a gate."""
    kept = x if gate is None else gate * x
    x = kept + layer.drop_path1(self_attention(layer.attn, layer.norm1(x)))
    return x + layer.drop_path2(layer.mlp(layer.norm2(x)))


def encode(vit: Any, images: Tensor, taps: Sequence[int]) -> list[Tensor]:
    """Normalised tokens (B, 1 + N, D) of the tapped blocks."""
    x = vit._pos_embed(vit.patch_embed(images))
    levels = []
    for index, layer in enumerate(vit.blocks):
        x = block(layer, x)
        if index in taps:
            levels.append(vit.norm(x))
    return levels


def backward_layer(layer: Any, x: Tensor, memory: Tensor) -> Tensor:
    x = x + self_attention(layer.attn, layer.norm1(x))
    x = x + cross_attention(layer.cross_attn, layer.norm2(x), layer.norm_memory(memory))
    return x + layer.mlp(layer.norm3(x))


def forward_dynamics(module: Any, motion: Tensor, source: Tensor) -> Tensor:
    inputs = [torch.cat([motion, source], dim=1)]
    for index, layer in enumerate(module.blocks):
        gate = None
        if index > 0:
            spatial = module.gates[index - 1](inputs[index - 1][:, motion.shape[1] :])
            gate = torch.cat([torch.ones_like(motion), spatial], dim=1)
        inputs.append(block(layer, inputs[-1], gate))
    return inputs[-1][:, motion.shape[1] :]


def dynamics_losses(network: Any, source: Tensor, target: Tensor) -> dict[int, Tensor]:
    """2 - 2 cos of predicted and observed tokens, per level."""
    dynamics, taps = network.dynamics, network.config.feature_blocks
    s = encode(network.encoder, source, taps)
    with torch.no_grad():
        t = encode(network.target_encoder, target, taps)
    motion = dynamics.motion_tokens.expand(len(source), -1, -1)
    z, v, w, losses = s[3], s[3], t[3], {}
    for level in (2, 1, 0):
        with torch.no_grad():
            embedded = dynamics.target_embed(w)
        frames = torch.cat([dynamics.source_embed(z), embedded], dim=1) + dynamics.pos_embed
        x = torch.cat([motion, frames], dim=1)
        for layer in dynamics.midway[level]:
            x = block(layer, x)
        latent = x[:, : motion.shape[1]]
        motion = latent if level == 2 else motion + latent
        v = backward_layer(dynamics.source_backward[level], s[level], v)
        with torch.no_grad():
            w = backward_layer(dynamics.target_backward[level], t[level], w)
        z = forward_dynamics(dynamics.forward_dynamics[level], dynamics.motion_proj(motion), v)
        losses[level] = (2 - 2 * F.cosine_similarity(z.float(), t[level].float(), dim=-1)).mean()
    return losses


def dino_loss(student: Tensor, teacher: Tensor, center: Tensor, objective: Any) -> Tensor:
    """DINO's usual loop over pairs of views, without the pairs that Midway leaves out."""
    views = (student.float() / objective.student_temperature).unbind()
    wanted = F.softmax((teacher.float() - center) / objective.teacher_temperature, dim=-1).detach().unbind()
    total, terms = center.new_zeros(()), 0
    for index, q in enumerate(wanted):
        for view, logits in enumerate(views):
            if view == index or (view < 4 and abs(view - index) == 2):
                continue
            total = total + torch.sum(-q * F.log_softmax(logits, dim=-1), dim=-1).mean()
            terms += 1
    return total / terms


class PlainStep:
    """Optimizer steps of a :class:`PretrainModel`, using only its parameters.

    Args:
        model: with ViT blocks, DINO head and complete dynamics.
        optimizer: with :func:`~midway_zoo.train.optim.parameter_groups`.
        dtype: data type of autocast; float16 uses loss scaling.
    """

    def __init__(self, model: PretrainModel, optimizer: torch.optim.Optimizer, dtype: torch.dtype | None) -> None:
        self.model: Any = model
        self.optimizer = optimizer
        self.device = next(model.parameters()).device.type
        self.dtype = dtype
        self.scaler = torch.amp.GradScaler(self.device, enabled=dtype == torch.float16)

    def losses(self, views: dict[str, Tensor]) -> tuple[Tensor, dict[str, float], Tensor]:
        """The loss, its parts, and the teacher's logits."""
        model: Any = self.model
        network = model.network
        last = [network.config.depth - 1]
        with torch.no_grad():
            cls = encode(network.target_encoder, views["globals"].flatten(0, 1), last)[-1][:, 0]
            teacher = model.teacher_head(cls)
        groups = [views["globals"].flatten(0, 1), views["locals"].flatten(0, 1)]
        cls = torch.cat([encode(network.encoder, group, last)[-1][:, 0] for group in groups])
        student = model.head(cls)
        pairs = views["globals"].shape[1]
        shape = (-1, pairs)
        dino = dino_loss(student.unflatten(0, shape), teacher.unflatten(0, shape), model.dino.center, model.dino)
        first, second = views["dynamics"]
        levels = dynamics_losses(network, torch.cat([first, second]), torch.cat([second, first]))
        values = {"dino": dino.item()} | {f"dynamics_{level}": x.item() for level, x in levels.items()}
        return dino + sum(levels.values()), values, teacher

    def __call__(
        self,
        views: dict[str, Tensor],
        *,
        lr: float = 1e-4,
        weight_decay: float = 0.04,
        clip: float = 3.0,
        momentum: float = 0.996,
    ) -> dict[str, float]:
        """One step; the values of its losses."""
        for group in self.optimizer.param_groups:
            group["lr"], group["weight_decay"] = lr, weight_decay if group["scheduled"] else group["weight_decay"]
        autocast = nullcontext() if self.dtype is None else torch.autocast(self.device, self.dtype)
        with autocast:
            loss, values, teacher = self.losses(views)
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        for parameter in nn.ModuleList(self.model.student).parameters():
            if parameter.grad is not None:
                scale = clip / (parameter.grad.norm(2).item() + 1e-6)
                if scale < 1:
                    parameter.grad.mul_(scale)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        with torch.no_grad():
            for average, original in self.model.averages:
                for ours, theirs in zip(average.parameters(), original.parameters(), strict=True):
                    ours.data.mul_(momentum).add_((1 - momentum) * theirs.detach().data)
            center, kept = teacher.float().mean(0, keepdim=True), self.model.dino.center_momentum
            self.model.dino.center.copy_(self.model.dino.center * kept + center * (1 - kept))
        return {"loss": loss.item()} | values
