"""What the network attends to: attention of the encoder's blocks, and of the motion tokens to both frames."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from timm.models.vision_transformer import Block
from torch import Tensor

from midway_zoo.checks import check_integer, is_integer
from midway_zoo.errors import InputError
from midway_zoo.inference.batches import batches, in_order, inference, pair_batches, scatter
from midway_zoo.inference.heatmap import parse_points, tokens_under
from midway_zoo.inference.images import Images, Size, count, iterate
from midway_zoo.inference.perturbation import match_level
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.results import ShapeRepr
from midway_zoo.weights.registry import Model, resolve_network


@dataclass(frozen=True, repr=False, eq=False)
class AttentionMaps(ShapeRepr):
    """What one token of each of B images attends to."""

    maps: Tensor
    """(B, heads, h, w) float32: weights of the patch tokens; with the class token's they add up to 1."""
    block: int
    """Encoder block, 0-based."""
    grid: tuple[int, int]
    """Token grid (h, w) that was used."""


@dataclass(frozen=True, repr=False, eq=False)
class MotionAttention(ShapeRepr):
    """What the M motion tokens of each of B pairs attend to, averaged over heads."""

    source: Tensor
    """(B, M, h, w) float32: weights of the source frame's patch tokens."""
    target: Tensor
    """(B, M, h, w) float32: weights of the target frame's patch tokens."""
    motion: Tensor
    """(B, M, M) float32: weights of the motion tokens. With both frames' class tokens, all weights add up to 1."""
    level: int
    """Level 2, 1 or 0."""
    block: int
    """Block of the level's midway path, 0-based."""
    grid: tuple[int, int]
    """Token grid (h, w) that was used."""


def attention_maps(
    model: Model,
    images: Images,
    *,
    block: int | None = None,
    xy: Sequence[float] | Tensor | None = None,
    size: Size = None,
    batch_size: int = 16,
) -> AttentionMaps:
    """Attention of the encoder's class token, or of the token under a point, to all patches.

    Args:
        model: a network or a pretrained name. In paired mode the source encoder (student) is read.
        images: one image or several, all of one size.
        block: encoder block, 0-based; None for the last.
        xy: (x, y) in pixels of the images, to get the attention of the token there; None for the class token.
        size: as in :func:`~midway_zoo.extract_features`.
        batch_size: images per forward pass.

    Returns:
        ``maps`` (B, heads, h, w), each between 0 and 1.

    Raises:
        InputError: for images or arguments that cannot be used, sizes that lead to different grids, or a point outside.
    """
    network = resolve_network(model)
    last = network.config.depth - 1
    chosen = last if block is None else block
    if not is_integer(chosen, 0, last):
        raise InputError(f"block={block!r}: an encoder block from 0 to {last} is expected.")
    check_integer("batch_size", batch_size, 1)
    point = None if xy is None else parse_points(xy, {1}, "one (x, y)")
    count(images)
    found: dict[int, Tensor] = {}
    grids: set[tuple[int, int]] = set()
    with inference(network):
        for batch in batches(network, ((image,) for image in iterate(images)), size, batch_size):
            grid = network.grid_of(batch.images[0])
            grids.add(grid)
            if len(grids) > 1:
                raise InputError("the images' sizes lead to different grids; call attention_maps once per size.")
            query = 0
            if point is not None:
                column, row = tokens_under(point, batch.given[0], grid)[0].tolist()
                query = 1 + row * grid[1] + column
            weights = _weights(network.encoder.blocks[chosen], _before(network, batch.images[0], chosen))
            scatter(found, batch, weights[:, :, query, 1:].unflatten(2, grid))
    return AttentionMaps(torch.stack(in_order(found)), chosen, grids.pop())


def motion_attention(
    model: Model,
    source: Images,
    target: Images,
    *,
    level: int | None = None,
    block: int | None = None,
    size: Size = None,
    batch_size: int = 8,
) -> MotionAttention:
    """Attention of the motion tokens to both frames, in a block of a level's midway path.

    Args:
        model: a network or a pretrained name.
        source: one image or several, all of one size.
        target: as many images of that size.
        level: 2, 1 or 0; None for the network's last level, whose motion latent is the final one.
        block: block of the midway path, 0-based; None for the last.
        size: as in :func:`~midway_zoo.extract_features`.
        batch_size: pairs per forward pass.

    Returns:
        ``source`` and ``target`` (B, M, h, w), and ``motion`` (B, M, M), each between 0 and 1.

    Raises:
        InputError: for images or arguments that cannot be used, or sizes that lead to different grids.
        ConfigError: if the network is an encoder alone.
    """
    network = resolve_network(model)
    dynamics = network.require_dynamics()
    level = match_level(network, dynamics.config.levels[-1] if level is None else level)
    last = dynamics.config.midway_depth - 1
    chosen = last if block is None else block
    if not is_integer(chosen, 0, last):
        raise InputError(f"block={block!r}: a block of the midway path from 0 to {last} is expected.")
    parts: dict[str, dict[int, Tensor]] = {"source": {}, "target": {}, "motion": {}}
    grids: set[tuple[int, int]] = set()
    with inference(network):
        for batch in pair_batches(network, source, target, size, batch_size):
            grid = network.grid_of(batch.images[0])
            grids.add(grid)
            if len(grids) > 1:
                raise InputError("the pairs' sizes lead to different grids; call motion_attention once per size.")
            x = _midway_input(network, level, *batch.images)
            for one in list(dynamics.midway[level])[:chosen]:  # type: ignore[call-overload]
                x = one(x)
            number = dynamics.config.motion_tokens
            weights = _weights(dynamics.midway[level][chosen], x)[:, :, :number].mean(dim=1)  # type: ignore[index]
            length = (weights.shape[-1] - number) // 2
            motion, first, second = weights.split([number, length, length], dim=-1)
            scatter(parts["motion"], batch, motion)
            scatter(parts["source"], batch, first[..., 1:].unflatten(2, grid))
            scatter(parts["target"], batch, second[..., 1:].unflatten(2, grid))
    stacked = {name: torch.stack(in_order(values)) for name, values in parts.items()}
    return MotionAttention(level=level, block=chosen, grid=grids.pop(), **stacked)


def _before(network: MidwayNetwork, images: Tensor, block: int) -> Tensor:
    """Tokens (B, L, D) that enter an encoder block."""
    encoder = network.encoder
    if block == 0:
        return encoder.norm_pre(encoder.patch_drop(encoder._pos_embed(encoder.patch_embed(images))))
    ((patches, prefix),) = encoder.forward_intermediates(
        images,
        indices=[block - 1],
        return_prefix_tokens=True,
        norm=False,
        stop_early=True,
        output_fmt="NLC",
        intermediates_only=True,
    )
    return torch.cat([prefix, patches], dim=1)


def _weights(block: Block, x: Tensor) -> Tensor:
    """Attention weights (B, heads, L, L) of a block for its input (B, L, D); rows are queries."""
    attn = block.attn
    qkv = attn.qkv(block.norm1(x)).unflatten(-1, (3, attn.num_heads, -1))
    q, k, _ = (part.transpose(1, 2).float() for part in qkv.unbind(2))
    return (attn.q_norm(q) @ attn.k_norm(k).transpose(-2, -1) * attn.scale).softmax(dim=-1)


def _midway_input(network: MidwayNetwork, level: int, source: Tensor, target: Tensor) -> Tensor:
    """The input of a level's midway path for normalised images (B, 3, H, W)."""
    dynamics = network.require_dynamics()
    first, second = network.encode_pair(source, target)
    grid = network.grid_of(source)
    tables = dynamics.position_tables(grid)
    fresh = dynamics.motion_tokens.expand(len(source), -1, -1)
    levels = dynamics.config.levels
    if level == levels[0]:
        return dynamics.midway_input(fresh, first[3], second[3], tables)
    out, above = dynamics(first, second, grid), levels[levels.index(level) - 1]
    refined = dynamics.config.refinement
    motion = out.motion_latents[above] if refined else fresh
    midway = out.predictions[above] if refined else out.source_backward[above]
    return dynamics.midway_input(motion, midway, out.target_backward[above], tables)
