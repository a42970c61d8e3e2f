"""Position tables that exporters can trace for any size: bicubic resampling as two small matrix products.

timm resamples with ``F.interpolate(mode="bicubic", antialias=True)``. Exporters and runtimes
implement it differently or not at all; products and elementwise functions are the same everywhere.
"""

from typing import Any

import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

Sides = tuple[Any, Any]
"""(rows, columns): integers, or their symbols while a graph is traced."""
_A = -0.5  # Keys' cubic kernel, which torch uses with antialiasing


class PositionTable(nn.Module):
    """A learned table (1, 1 + h0 * w0, C), class token first, at other grids.

    Args:
        table: the learned table.
        native: its grid (h0, w0).
        grid: the only grid that will be used, whose table is stored; None for any, resampled at run time.
    """

    table: Tensor

    def __init__(self, table: Tensor, native: tuple[int, int], grid: tuple[int, int] | None) -> None:
        super().__init__()
        self.native, self.fixed = native, grid is not None
        table = table.detach()
        if grid is not None and grid != native:
            table = resample_abs_pos_embed(table, new_size=list(grid), old_size=list(native))
        self.register_buffer("table", table.clone())

    def forward(self, grid: Sides) -> Tensor:
        """(1, 1 + h * w, C)."""
        if self.fixed:
            return self.table
        rows, columns = (_weights(new, old) for new, old in zip(grid, self.native, strict=True))
        places = self.table[0, 1:].float().unflatten(0, self.native).permute(2, 0, 1)  # (C, h0, w0)
        resampled = (rows.to(places.device) @ places @ columns.to(places.device).T).flatten(1).T
        return torch.cat([self.table[:, :1], resampled[None].to(self.table.dtype)], dim=1)


def _weights(new: Any, old: int) -> Tensor:
    """(new, old): weight of each old position in each new one, as in torch's antialiased bicubic filter."""
    scale = old / (torch.ones(()) * new)
    stretch = scale.clamp(min=1.0)
    centres = (torch.arange(new, dtype=torch.float32) + 0.5) * scale
    away = ((torch.arange(old, dtype=torch.float32) + 0.5 - centres[:, None]) / stretch).abs()
    near = ((_A + 2) * away - (_A + 3)) * away * away + 1
    far = (((away - 5) * away + 8) * away - 4) * _A
    weights = torch.where(away <= 1, near, torch.where(away < 2, far, torch.zeros_like(away)))
    return weights / weights.sum(dim=1, keepdim=True)
