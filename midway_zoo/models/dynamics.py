"""Midway path, backward layers and forward dynamics (paper section 3; numbers as in the released model).

Shapes: B pairs, L = 1 + N tokens (CLS first), encoder width D, M motion tokens of width C.
Levels count top-down 2, 1, 0; level 3 is the encoder's last tapped block, where everything starts.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from midway_zoo.config import MidwayConfig
from midway_zoo.errors import InputError
from midway_zoo.models.layers import BackwardLayer, Gate, GatedBlock, MidwayBlock, takes_forward_derivative
from midway_zoo.results import DynamicsOutput


class PerLevel(nn.Module):
    """One module per level, indexed by the level's number, which is also its name in the state dict."""

    def __init__(self, levels: Iterable[int], build: Callable[[], nn.Module]) -> None:
        super().__init__()
        for level in sorted(levels):
            self.add_module(str(level), build())

    def __getitem__(self, level: int) -> nn.Module:
        return getattr(self, str(level))

    def __iter__(self) -> Iterator[nn.Module]:
        return self.children()


class MidwayPath(nn.ModuleList):
    """Inverse dynamics of one level: motion tokens look at both frames (section 3.1)."""

    def __init__(self, config: MidwayConfig) -> None:
        super().__init__(MidwayBlock(config.motion_dim, config.midway_heads) for _ in range(config.midway_depth))

    def forward(self, x: Tensor, first: int | None = None) -> Tensor:
        """Run the blocks on x (B, K, C); with ``first``, return and compute only that many leading output tokens."""
        last = len(self) - 1
        for index, block in enumerate(self):
            x = block(x, first if index == last else None)
        return x


class ForwardDynamics(nn.Module):
    """Predicts one level of the target frame from the source's backward features and the motion latent."""

    def __init__(self, config: MidwayConfig) -> None:
        super().__init__()
        depth, dim = config.forward_depth, config.embed_dim
        # The first block tells every token about the motion; the second, which is gated, moves the tokens' content.
        self.blocks = nn.ModuleList(
            GatedBlock(dim, config.forward_heads, placed=config.forward_places and index == 1) for index in range(depth)
        )
        self.placed = config.forward_places and depth > 1
        self.gates = nn.ModuleList(Gate(dim, config.gate_bias) for _ in range(depth - 1 if config.gating else 0))

    def forward(
        self, motion: Tensor, source: Tensor, grid: tuple[int, int] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Run the blocks.

        Args:
            motion: (B, M, D) projected motion tokens.
            source: (B, L, D) backward features of the source frame.
            grid: (rows, columns) of its patch tokens, for ``config.forward_places``; None for a square grid.

        Returns:
            The prediction (B, L, D) and the gates of blocks 1, 2, ... (each (B, L, D), in (0, 1)); none without
            gating.
        """
        if takes_forward_derivative(motion, source, *self.parameters()):
            # Fused attention kernels have no forward derivative; the math backend has.
            with sdpa_kernel(SDPBackend.MATH):
                return self._run(motion, source, grid)
        return self._run(motion, source, grid)

    def _run(self, motion: Tensor, source: Tensor, grid: tuple[int, int] | None) -> tuple[Tensor, list[Tensor]]:
        count = motion.shape[1]
        places: dict[str, Any] = {"count": count, "grid": grid or _square(source)} if self.placed else {}
        x = torch.cat([motion, source], dim=1)
        previous, gates = x, []
        for index, block in enumerate(self.blocks):
            if index == 0 or not self.gates:
                x = block(x, **places)
                continue
            # The released model gates block b by the input of block b - 1 (the paper writes the
            # block's own input). Motion tokens are never gated.
            gate = self.gates[index - 1](previous[:, count:])
            gates.append(gate)
            previous, x = x, block(x, torch.cat([torch.ones_like(motion), gate], dim=1), **places)
        return x[:, count:], gates


class Dynamics(nn.Module):
    """All of a Midway network except its encoder.

    The target side (``target_embed``, ``target_backward``) is the EMA copy of the source side
    (``source_embed``, ``source_backward``) and takes no gradient. ``config.levels`` lists the levels;
    ``config.backward``, ``refinement`` and ``gating`` switch parts of the method off.
    """

    def __init__(self, config: MidwayConfig) -> None:
        super().__init__()
        self.config = config
        dim, width = config.embed_dim, config.motion_dim
        tokens = 1 + config.grid[0] * config.grid[1]
        self.motion_tokens = nn.Parameter(torch.empty(1, config.motion_tokens, width))
        self.pos_embed = nn.Parameter(torch.empty(1, 2 * tokens, width))
        self.source_embed, self.target_embed = nn.Linear(dim, width), nn.Linear(dim, width)
        backward = config.levels if config.backward else ()
        self.source_backward = PerLevel(backward, lambda: BackwardLayer(dim, config.backward_heads))
        self.target_backward = PerLevel(backward, lambda: BackwardLayer(dim, config.backward_heads))
        self.midway = PerLevel(config.levels, lambda: MidwayPath(config))
        self.motion_proj = nn.Linear(width, dim)
        self.forward_dynamics = PerLevel(config.levels, lambda: ForwardDynamics(config))
        self.init_weights()

    def init_weights(self) -> None:
        """Fresh weights: truncated normal (std 0.02), zero biases; the target side equals the source side."""
        sides = ((self.source_embed, self.target_embed), (self.source_backward, self.target_backward))
        for _, target in sides:
            target.requires_grad_(False)
        if self.pos_embed.is_meta:  # to be filled from a file: initialising it would be wasted time
            return
        nn.init.trunc_normal_(self.motion_tokens, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for source, target in sides:
            target.load_state_dict(source.state_dict())

    def position_tables(self, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Position tables of source and target, each (1, 1 + h * w, C), resampled bicubically to ``grid``."""
        halves = self.pos_embed.chunk(2, dim=1)
        if grid != self.config.grid:
            halves = tuple(
                resample_abs_pos_embed(half, new_size=list(grid), old_size=list(self.config.grid)) for half in halves
            )
        return halves[0], halves[1]

    def midway_input(self, motion: Tensor, source: Tensor, target: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
        """The input of a midway path, (B, M + 2 L, C): motion tokens, then the source's and the target's tokens; see
        :meth:`infer_motion`."""
        return torch.cat([motion, self.source_embed(source) + tables[0], self.target_embed(target) + tables[1]], dim=1)

    def infer_motion(
        self,
        level: int,
        motion: Tensor,
        source: Tensor,
        target: Tensor,
        tables: tuple[Tensor, Tensor],
        *,
        motion_only: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Inverse dynamics of one level.

        Args:
            level: one of ``config.levels``.
            motion: motion tokens (B, M, C).
            source: midway input of the source (B, L, D): level 3 tokens, then the prediction of the level above
                (without refinement its backward features).
            target: target backward features (B, L, D).
            tables: result of :meth:`position_tables`.
            motion_only: leave out the target frame's tokens, and the work needed for them alone.

        Returns:
            The updated motion latent (B, M, C) and the target frame's tokens as the path leaves them (B, L, C),
            or (B, 0, C).
        """
        x = self.midway_input(motion, source, target, tables)
        count, length = motion.shape[1], source.shape[1]
        x = self.midway[level](x, count if motion_only else None)
        latent = x[:, :count]
        # The first estimate stands alone; the levels below refine it.
        alone = level == self.config.levels[0] or not self.config.refinement
        return (latent if alone else motion + latent), x[:, count + length :]

    def predict(
        self, level: int, motion: Tensor, source: Tensor, grid: tuple[int, int] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Forward dynamics of one level: motion latent (B, M, C) and v (B, L, D) -> prediction (B, L, D), gates.

        ``grid`` is that of v's patch tokens, for networks with ``config.forward_places``; None for a square grid.
        """
        return self.forward_dynamics[level](self.motion_proj(motion), source, grid)

    def backward_features(self, source: Sequence[Tensor]) -> dict[int, Tensor]:
        """Source-side backward features v of ``config.levels``, each (B, L, D), from four levels of tokens."""
        features, above = {}, source[3]
        for level in self.config.levels:
            above = features[level] = self._backward(self.source_backward, level, source, above)
        return features

    def _backward(self, layers: PerLevel, level: int, tokens: Sequence[Tensor], above: Tensor) -> Tensor:
        return layers[level](tokens[level], above) if self.config.backward else tokens[level]

    def motion_latents(
        self, source: Sequence[Tensor], target: Sequence[Tensor], grid: tuple[int, int], *, level: int | None = None
    ) -> DynamicsOutput:
        """The motion latents down to ``level`` (None: all), and only what they depend on.

        The forward dynamics and backward layers of ``level`` itself are not run, so ``predictions``,
        ``source_backward`` and ``target_backward`` hold only the levels above it (without refinement there are
        no predictions at all); ``midway_target_tokens`` is empty.
        """
        return self._run(source, target, grid, last=level, until="motion")

    def forward_inputs(
        self, source: Sequence[Tensor], target: Sequence[Tensor], grid: tuple[int, int], *, level: int
    ) -> tuple[Tensor, Tensor]:
        """The arguments of :meth:`predict` for ``level``: motion latent (B, M, C) and v (B, L, D)."""
        out = self._run(source, target, grid, last=level, until="source")
        return out.motion_latents[level], out.source_backward[level]

    def forward(
        self,
        source: Sequence[Tensor],
        target: Sequence[Tensor],
        grid: tuple[int, int],
        *,
        return_gates: bool = False,
        predictions_only: bool = False,
    ) -> DynamicsOutput:
        """All levels for the direction source -> target.

        Args:
            source: four tensors (B, L, D), normed encoder tokens of levels 0 to 3 (CLS first), whichever
                levels are predicted.
            target: the same of the target frame.
            grid: (rows, columns) of the patch tokens; L = 1 + rows * columns.
            return_gates: also return the gates of the forward dynamics.
            predictions_only: leave out what no prediction depends on: ``midway_target_tokens`` (then empty) and
                ``target_backward`` of the last level.
        """
        return self._run(source, target, grid, return_gates=return_gates, predictions_only=predictions_only)

    def _run(
        self,
        source: Sequence[Tensor],
        target: Sequence[Tensor],
        grid: tuple[int, int],
        *,
        last: int | None = None,
        until: Literal["motion", "source", "prediction"] = "prediction",
        return_gates: bool = False,
        predictions_only: bool = False,
    ) -> DynamicsOutput:
        """Go top-down through the levels, stopping in ``last`` once what ``until`` names is computed."""
        levels, refinement = self.config.levels, self.config.refinement
        last = levels[-1] if last is None else last
        self.config.check_level(last)
        out = DynamicsOutput(targets={level: target[level] for level in levels}, gates={} if return_gates else None)
        tables = self.position_tables(grid)
        motion = fresh = self.motion_tokens.expand(source[3].shape[0], -1, -1)
        motion_only = predictions_only or until != "prediction"
        midway = above = source[3]
        target_above = target[3]
        for level in levels:
            motion, target_tokens = self.infer_motion(
                level,
                motion if refinement else fresh,
                midway if refinement else above,
                target_above,
                tables,
                motion_only=motion_only,
            )
            out.motion_latents[level] = motion
            if not motion_only:
                out.midway_target_tokens[level] = target_tokens
            if level == last and until == "motion":
                break
            above = out.source_backward[level] = self._backward(self.source_backward, level, source, above)
            if level == last and until == "source":
                break
            if level != last or not predictions_only:
                target_above = out.target_backward[level] = self._backward(
                    self.target_backward, level, target, target_above
                )
            if until != "prediction" and not refinement:  # nothing below reads the prediction
                continue
            midway, gates = self.predict(level, motion, above, grid)
            out.predictions[level] = midway
            if out.gates is not None:
                out.gates[level] = gates
        return out


def _square(tokens: Tensor) -> tuple[int, int]:
    """The grid of (B, 1 + n * n, D) tokens."""
    side = math.isqrt(tokens.shape[1] - 1)
    if side * side != tokens.shape[1] - 1:
        raise InputError(f"{tokens.shape[1] - 1} patch tokens do not form a square; pass their grid=(rows, columns).")
    return side, side
