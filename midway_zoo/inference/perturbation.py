"""Forwarded feature perturbation: where each source token goes, without any training (paper section 4.4).

A random tangent on one source token is pushed through the forward dynamics by forward-mode automatic
differentiation, the motion latent held fixed. The cosine between the tangent and the resulting tangent of
every predicted target token measures how much of that source token arrives there.
"""

import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import jvp, vmap
from torch.nn import functional as F  # noqa: N812

from midway_zoo.bars import bar
from midway_zoo.errors import InputError
from midway_zoo.models.dynamics import Dynamics
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.models.tangents import ForwardTangents, can_be_written_out

_FORWARD_MODE = threading.RLock()
"""torch counts levels of forward-mode derivatives, and chooses attention kernels, for all threads of a process."""


def match_level(network: MidwayNetwork, level: int | None = None) -> int:
    """``level`` if the network has it; for None the default of heat maps and zero-shot flow.

    That is the highest, 2: its features are the most similar across frames, and it is the cheapest, since nothing
    below it has to be computed.

    Raises:
        ConfigError: if the network is an encoder alone.
        InputError: if it does not have that level.
    """
    config = network.require_dynamics().config
    chosen = config.levels[0] if level is None else level
    config.check_level(chosen)
    return chosen


def sensitivity(network: MidwayNetwork, source: Tensor, target: Tensor, **options: Any) -> Tensor:
    """:func:`sensitivity_of` normalised images (B, 3, H, W), with its options."""
    return sensitivity_of(network, *network.encode_pair(source, target), network.grid_of(source), **options)


def sensitivity_of(
    network: MidwayNetwork,
    source: Sequence[Tensor],
    target: Sequence[Tensor],
    grid: tuple[int, int],
    *,
    tokens: Sequence[int] | Tensor | None = None,
    level: int | None = None,
    draws: int = 1,
    seed: int = 0,
    chunk_size: int | None = None,
    progress: bool = False,
) -> Tensor:
    """Sensitivity of every predicted target token to source tokens.

    Args:
        network: a Midway network.
        source: four levels of tokens (B, L, D) of the source frames, as ``network.encode`` gives them.
        target: of the target frames.
        grid: (h, w), h * w = N = L - 1.
        tokens: patch indices n in row-major order to perturb; a (B,) tensor perturbs one token per pair
            and None all N.
        level: level of the forward dynamics, 2, 1 or 0; None for the highest that the network has.
        draws: number k of random tangents to average over.
        seed: of the tangents; a token's tangents depend on the seed and the token alone.
        chunk_size: source tokens perturbed at once; None chooses by device and size.
        progress: show a progress bar on stderr if that is a terminal.

    Returns:
        (B, n, N) float32 cosines in [-1, 1]; rows are source tokens, columns target tokens; n is 1 for a
        (B,) tensor of tokens.

    Raises:
        InputError: for token indices that the grid does not have.
        ConfigError: if the network is an encoder alone.
    """
    dynamics, level = network.require_dynamics(), match_level(network, level)
    motion, features = dynamics.forward_inputs(source, target, grid, level=level)
    directions = tangents(grid[0] * grid[1], draws, features, seed)
    per_pair = isinstance(tokens, Tensor)
    chosen = _checked_tokens(tokens, grid[0] * grid[1], len(features)).to(features.device)
    pairs = len(features)
    rows = chosen[None] if per_pair else chosen[:, None].expand(-1, pairs)  # (n, B)
    jobs = torch.cartesian_prod(torch.arange(draws), torch.arange(len(rows))).to(features.device)
    total = torch.zeros(pairs, len(rows), grid[0] * grid[1], device=features.device, dtype=torch.float32)
    with bar(total=len(jobs) * pairs, unit=" tokens", hidden=not progress) as shown:
        for pair in range(pairs):
            push = _derivatives(dynamics, level, motion[pair], features[pair], grid)
            for part in jobs.split(chunk_size or _chunk(features[pair])):
                draw, index = part.unbind(1)
                at = rows[index, pair]
                for row, cosines in zip(index.tolist(), push(at, directions[draw, at]), strict=True):
                    total[pair, row] += cosines
                shown.update(len(part))
    return total / draws


def _derivatives(
    dynamics: Dynamics, level: int, motion: Tensor, features: Tensor, grid: tuple[int, int]
) -> Callable[[Tensor, Tensor], Tensor]:
    """From tokens (n,) and their tangents (n, D) to cosines (n, N), for one pair."""
    forward = dynamics.forward_dynamics[level]
    if can_be_written_out(forward):
        return ForwardTangents(forward, dynamics.motion_proj(motion), features, grid).cosines
    return vmap(single_derivative(dynamics, level, motion, features, grid))


def single_derivative(
    dynamics: Dynamics, level: int, motion: Tensor, features: Tensor, grid: tuple[int, int]
) -> Callable[[Tensor, Tensor], Tensor]:
    """One directional derivative by ``torch.func.jvp``, for any network: the definition.

    Args:
        dynamics: of the network.
        level: of the forward dynamics.
        motion: motion latent (M, C) of one pair.
        features: backward features v (L, D) of its source.
        grid: (h, w), h * w = N = L - 1.

    Returns:
        A function from a token's index, a tensor without dimensions, and its tangent (D,) to cosines (N,).
    """

    def predict(value: Tensor) -> Tensor:
        return dynamics.predict(level, motion[None], value[None], grid)[0][0, 1:]

    def cosines(token: Tensor, direction: Tensor) -> Tensor:
        at = F.one_hot(token + 1, len(features)).to(features)  # row 0 is the CLS token
        with _FORWARD_MODE, warnings.catch_warnings():  # torch warns of its own deprecated internals at the first jvp
            warnings.simplefilter("ignore", FutureWarning)
            moved = jvp(predict, (features,), (at[:, None] * direction,))[1]
        return F.cosine_similarity(moved.float(), direction.float(), dim=-1, eps=1e-12)

    return cosines


def _chunk(features: Tensor) -> int:
    """How many tangents of tokens (L, D) are pushed at once."""
    if features.device.type != "cpu":
        return 64
    # Measured: beyond about eight tangents of ViT-S at 224 pixels a CPU's caches overflow; with few or short tokens
    # the cost per push dominates.
    return max(8, 8 * 197 * 384 // features.numel())


def _checked_tokens(tokens: Sequence[int] | Tensor | None, count: int, pairs: int) -> Tensor:
    if tokens is None:
        return torch.arange(count)
    chosen = torch.as_tensor(tokens)
    whole = not chosen.is_floating_point() and chosen.dtype != torch.bool and chosen.ndim == 1
    if not whole or chosen.numel() == 0 or int(chosen.min()) < 0 or int(chosen.max()) >= count:
        raise InputError(f"tokens={tokens!r:.80}: token indices from 0 to {count - 1} are expected.")
    if isinstance(tokens, Tensor) and len(chosen) != pairs:
        raise InputError(
            f"{len(chosen)} tokens for {pairs} pair(s): a tensor holds one token per pair; a list applies to all."
        )
    return chosen.long()


def tangents(count: int, draws: int, like: Tensor, seed: int) -> Tensor:
    """(draws, N, D) standard normal tangents of N tokens, drawn on the CPU so that every device sees the same."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(draws, count, like.shape[-1], generator=generator, dtype=torch.float32).to(like)


def matches(
    matrix: Tensor, grid: tuple[int, int], *, window: int = 1, temperature: float = 0.1, best: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Sub-token target position of each row of a sensitivity matrix.

    Args:
        matrix: (B, n, N) sensitivities.
        grid: (h, w), h * w = N.
        window: radius in tokens of the square around the arg-max over which a softmax-weighted mean is
            taken; 0 gives the plain arg-max.
        temperature: of that softmax.
        best: (B, n) target tokens to use instead of the arg-max.

    Returns:
        Positions (B, n, 2) in token units (x, y), token centres at integers, and the values there (B, n).
    """
    rows, columns = grid
    best = matrix.argmax(dim=-1) if best is None else best
    peak = matrix.gather(-1, best[..., None])[..., 0]
    index = torch.arange(rows * columns, device=matrix.device)
    xy = torch.stack([index % columns, index // columns], dim=-1).float()  # (N, 2)
    centre = xy[best][:, :, None]
    near = (centre - xy).abs().amax(dim=-1) <= window
    # Where the border cuts the square, the opposite side is cut too: a mean over half a square would pull every
    # token at the border inwards.
    mirrored = 2 * centre - xy
    near &= ((mirrored >= 0) & (mirrored <= mirrored.new_tensor([columns - 1, rows - 1]))).all(dim=-1)
    weights = ((matrix - peak[..., None]) / temperature).masked_fill(~near, -torch.inf).softmax(dim=-1)
    return weights @ xy, peak


def token_flow(matrix: Tensor, grid: tuple[int, int], *, window: int = 1) -> tuple[Tensor, Tensor]:
    """Flow on the token grid from a full sensitivity matrix (B, N, N).

    Returns:
        Flow (B, 2, h, w) in token units and confidence (B, 1, h, w), the peak sensitivity.
    """
    rows, columns = grid
    position, peak = matches(matrix, grid, window=window)
    index = torch.arange(rows * columns, device=matrix.device)
    start = torch.stack([index % columns, index // columns], dim=-1)
    flow = (position - start).transpose(1, 2).unflatten(2, grid)
    return flow, peak.unflatten(1, grid)[:, None]
