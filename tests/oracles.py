"""What a perfect network would answer."""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

import midway_zoo as mz
from midway_zoo.config import architecture_config
from midway_zoo.results import DynamicsOutput


def shifted(grid: tuple[int, int], dx: int, dy: int) -> Tensor:
    """(N, N): every token moves by (dx, dy) tokens, at the border as far as there are tokens."""
    rows, columns = grid
    matrix = torch.zeros(rows, columns, rows, columns)
    for row in range(rows):
        for column in range(columns):
            matrix[row, column, min(max(row + dy, 0), rows - 1), min(max(column + dx, 0), columns - 1)] = 1
    return matrix.view(rows * columns, rows * columns)


class PerfectNetwork(mz.MidwayNetwork):
    """Knows motion and looks, and keeps them apart: level 2's latent is the shift (dx, dy) of a pair in pixels and
    nothing else, class tokens are the frames' mean colours and nothing else. The other latents hold colours alone."""

    def __init__(self) -> None:
        super().__init__(architecture_config("midway_nano"))
        self.encoder.blocks, self.dynamics = torch.nn.Sequential(), None  # what would only be carried along

    def encode(self, images: Tensor, *, target: bool = False, blocks: object = None) -> list[Tensor]:
        colour = F.pad(images.mean((2, 3)), (0, 189))
        patches = F.unfold(images, 8, stride=8).transpose(1, 2)
        return [torch.cat([colour[:, None], patches], dim=1)] * 4

    def require_dynamics(self) -> "PerfectNetwork":  # type: ignore[override]
        return self

    def motion_latents(
        self, source: list[Tensor], target: list[Tensor], grid: tuple[int, int], *, level: int
    ) -> DynamicsOutput:
        first, second = (
            F.fold(one[-1][:, 1:].transpose(1, 2), (8 * grid[0], 8 * grid[1]), 8, stride=8).mean(1)
            for one in (source, target)
        )
        # Pictures that go round: the peak of their correlation is the shift.
        spectrum = torch.fft.rfft2(second) * torch.fft.rfft2(first).conj()
        peak = torch.fft.irfft2(spectrum).flatten(1).argmax(dim=1)
        shift = torch.stack([peak % first.shape[2], peak // first.shape[2]], dim=1).float()
        shift = torch.where(shift > 4 * grid[0], shift - 8 * grid[0], shift)
        latent = shift if level == 2 else source[-1][:, 0, :2]
        return DynamicsOutput(targets={}, motion_latents={level: latent[:, None]})
