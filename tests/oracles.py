"""What a perfect network would answer."""

import torch
from torch import Tensor


def shifted(grid: tuple[int, int], dx: int, dy: int) -> Tensor:
    """(N, N): every token moves by (dx, dy) tokens, at the border as far as there are tokens."""
    rows, columns = grid
    matrix = torch.zeros(rows, columns, rows, columns)
    for row in range(rows):
        for column in range(columns):
            matrix[row, column, min(max(row + dy, 0), rows - 1), min(max(column + dx, 0), columns - 1)] = 1
    return matrix.view(rows * columns, rows * columns)
