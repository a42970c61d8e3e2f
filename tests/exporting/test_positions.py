"""Position tables as matrix products are what timm resamples."""

import pytest
import torch
from timm.layers import resample_abs_pos_embed

from midway_zoo.exporting.positions import PositionTable


@pytest.mark.parametrize("grid", [(6, 4), (6, 5), (3, 2), (13, 9), (2, 11)])
def test_as_timm(grid: tuple[int, int]) -> None:
    table = torch.randn(1, 1 + 6 * 4, 8)
    wanted = resample_abs_pos_embed(table, new_size=list(grid), old_size=[6, 4])
    for fixed in (None, grid):
        torch.testing.assert_close(PositionTable(table, (6, 4), fixed)(grid), wanted, atol=1e-5, rtol=0)
