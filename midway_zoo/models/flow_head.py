"""A dense prediction head for optical flow: DPT (Ranftl et al. 2021) on four token maps (paper appendix B.4)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from midway_zoo.config import MidwayConfig
from midway_zoo.errors import ConfigError

ERROR_SCALES = (0.25, 4.0)
"""Smallest and largest error scale in pixels that the head can express."""
_LAST = 32  # channels before the output, as in DPT


def error_scale(logit: Tensor) -> Tensor:
    """Expected size s of the error |du| + |dv| in pixels, from the head's third channel: a + (b - a) sigmoid(c).

    The fine-tuning loss is the negative log-likelihood of a Laplace distribution of this scale:
    (|du| + |dv|) / s + ln s.
    """
    low, high = ERROR_SCALES
    return low + (high - low) * torch.sigmoid(logit)


class FlowHead(nn.Module):
    """Flow and its expected error from four maps of a pair, at the resolution of the image.

    The maps become a pyramid of 4, 2, 1 and 1/2 times the token grid, fused from coarse to fine. Any token grid
    and patch size work: a map is enlarged to the size of the next finer one, which is DPT's factor of 2 where that
    fits.

    Args:
        config: of the network; ``config.flow_head`` holds the widths.

    Raises:
        ConfigError: if it holds none.
    """

    def __init__(self, config: MidwayConfig) -> None:
        super().__init__()
        if config.flow_head is None:
            raise ConfigError("flow_head=None in the configuration: a flow head needs widths; set flow_head=True.")
        *widths, fusion = config.flow_head
        dim = config.embed_dim
        self.patch_size = config.patch_size
        self.project = nn.ModuleList(
            nn.Conv2d(given, width, 1) for given, width in zip((dim, config.motion_dim, dim, dim), widths, strict=True)
        )
        self.resample = nn.ModuleList(
            (
                nn.ConvTranspose2d(widths[0], widths[0], 4, stride=4),
                nn.ConvTranspose2d(widths[1], widths[1], 2, stride=2),
                nn.Identity(),
                nn.Conv2d(widths[3], widths[3], 3, stride=2, padding=1),
            )
        )
        self.unify = nn.ModuleList(nn.Conv2d(width, fusion, 3, padding=1, bias=False) for width in widths)
        self.fuse = nn.ModuleList(Fusion(fusion, lateral=index < 3) for index in range(4))
        last = min(_LAST, fusion // 2)
        self.reduce = nn.Conv2d(fusion, fusion // 2, 3, padding=1)
        self.output = nn.Sequential(nn.Conv2d(fusion // 2, last, 3, padding=1), nn.ReLU(), Exact(last, 3, 1))
        self.init_weights()

    def init_weights(self) -> None:
        """Weights that keep the scale of the tokens: truncated normal (std 1 / sqrt(fan in)), zero biases.

        PyTorch's default shrinks the signal in each of a dozen layers: the output then varies a hundred times less with
        the tokens than with the biases, and training stays at zero flow for long. Residual units start close to the
        identity.
        """
        if any(parameter.is_meta for parameter in self.parameters()):  # to be filled from a file
            return
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                # Each output pixel of the transposed convolutions, whose stride is their size, sums over channels only.
                area = 1 if isinstance(module, nn.ConvTranspose2d) else module.kernel_size[0] * module.kernel_size[1]
                nn.init.trunc_normal_(module.weight, std=(module.in_channels * area) ** -0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for unit in self.modules():
            if isinstance(unit, ResidualUnit):
                unit.conv2.weight.data.mul_(0.1)

    def forward(self, maps: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
        """Raw flow.

        Args:
            maps: four token maps (B, 1 + h * w, width), class token first: the source's level-3 encoder tokens (D),
                the target tokens of the midway path at level 2 (C), the predictions of levels 2 and 0 (D).
            grid: (h, w).

        Returns:
            (B, 3, h * patch, w * patch): u and v in pixels, and the logit of :func:`error_scale`.
        """
        pyramid = []
        for tokens, project, resample, unify in zip(maps, self.project, self.resample, self.unify, strict=True):
            image = tokens[:, 1:].transpose(1, 2).unflatten(2, grid)
            pyramid.append(unify(resample(project(image))))
        finest = pyramid[0].shape[-2:]
        sizes = [(2 * finest[0], 2 * finest[1]), *(level.shape[-2:] for level in pyramid[:-1])]
        x = None
        for level, fuse, size in reversed(list(zip(pyramid, self.fuse, sizes, strict=True))):
            x = _enlarge(fuse(level, x), size)
        height, width = (side * self.patch_size for side in grid)
        return self.output(_enlarge(self.reduce(x), (height, width)))


class Exact(nn.Conv2d):
    """A convolution exempt from autocast: bfloat16 would round a flow of 32 pixels to quarters of a pixel."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.to(self.weight.dtype))


class Fusion(nn.Module):
    """One fusion block: the refined level is added to the coarser map, and the sum is refined.

    The coarsest block has nothing to add to, so it has no lateral unit (DPT builds one that is never used).
    """

    def __init__(self, width: int, *, lateral: bool) -> None:
        super().__init__()
        self.lateral = ResidualUnit(width) if lateral else None
        self.joint = ResidualUnit(width)
        self.project = nn.Conv2d(width, width, 1)

    def forward(self, level: Tensor, coarser: Tensor | None) -> Tensor:
        x = level if self.lateral is None or coarser is None else coarser + self.lateral(level)
        # DPT projects after enlarging; a 1x1 convolution commutes with interpolation and is cheaper before it.
        return self.project(self.joint(x))


class ResidualUnit(nn.Module):
    """x + conv(relu(conv(relu(x))))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


def _enlarge(x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True)
