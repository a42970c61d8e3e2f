"""Flow refined after warping, and averaged over mirrored frames. Neither needs training.

A head predicts small motion better than large: once the target is warped by the flow so far, the rest is small. And its
errors on a mirrored pair are different ones.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from midway_zoo.flow.consistency import destinations
from midway_zoo.inference.encoded import EncodedFrames

Look = Callable[[EncodedFrames, EncodedFrames], Tensor]
"""Raw flow (b, 3, H, W) of frames: x, y, and the logit of the expected error."""

_AROUND = 9  # pixels
_SHARE, _FLOOR = 0.1, 4e-4  # of the mean error; in units of the normalised images, a tenth of a gray level
_MIRRORS: tuple[tuple[int, ...], ...] = ((), (-1,), (-2,), (-2, -1))


def mean_over_mirrors(look: Look) -> Look:
    """``look`` at the pair as it is, mirrored left to right, top to bottom, and both; four times the work."""

    def mean(source: EncodedFrames, target: EncodedFrames) -> Tensor:
        found = [_unmirrored(look(_mirrored(source, axes), _mirrored(target, axes)), axes) for axes in _MIRRORS]
        return torch.stack(found).mean(dim=0)

    return mean


def refined(look: Look, source: EncodedFrames, target: EncodedFrames, raw: Tensor, times: int) -> Tensor:
    """Raw flow after ``times`` further looks, each at the source and the target warped by the flow so far.

    Where nothing can be tracked, a further look may be worse than the one before. So every pixel takes a weighted mean
    of all looks and of no motion, by how well each warps the target to the source in its neighbourhood.

    Args:
        look: the method, as :data:`Look`.
        source: the pair's first frames.
        target: its second.
        raw: the result of the first look.
        times: 0 returns ``raw``.
    """
    if not times:
        return raw
    still = torch.cat([torch.zeros_like(raw[:, :2]), raw[:, 2:]], dim=1)
    looks = [still, raw]
    for _ in range(times):
        flow = looks[-1][:, :2]
        rest = look(source, target.showing(warp(target.images, flow)))
        # The warped target at x + rest is the target at x + rest + flow(x + rest).
        looks.append(torch.cat([rest[:, :2] + warp(flow, rest[:, :2]), rest[:, 2:]], dim=1))
    # Continuing from this mean instead of the last look ends with larger errors: it includes early looks.
    return _weighed(looks, [_warp_error(source.images, target.images, one[:, :2]) for one in looks])


def _warp_error(source: Tensor, target: Tensor, flow: Tensor) -> Tensor:
    """(b, 1, H, W): difference between the warped target and the source, mean over channels and a square of pixels."""
    apart = (source.float() - warp(target, flow).float()).abs().mean(dim=1, keepdim=True)
    return F.avg_pool2d(apart, _AROUND, stride=1, padding=_AROUND // 2, count_include_pad=False)


def _weighed(looks: Sequence[Tensor], errors: Sequence[Tensor]) -> Tensor:
    """The mean of looks with weights that fall by a factor of e with each tenth of their mean error."""
    stacked = torch.stack(list(errors))
    weights = (-stacked / (_SHARE * stacked.mean(dim=0) + _FLOOR)).softmax(dim=0)
    return (weights * torch.stack(list(looks))).sum(dim=0)


def warp(values: Tensor, flow: Tensor) -> Tensor:
    """``values`` (b, C, H, W) at x + flow(x), bilinear; the nearest border pixel outside, NaN where flow is NaN."""
    at = destinations(flow)[2]
    seen = F.grid_sample(
        values.float(), at.nan_to_num(), mode="bilinear", padding_mode="border", align_corners=False
    ).to(values.dtype)
    return seen.where(at.isfinite().all(dim=-1)[:, None], torch.nan)


def _mirrored(frames: EncodedFrames, axes: Sequence[int]) -> EncodedFrames:
    return frames.showing(frames.images.flip(tuple(axes))) if axes else frames


def _unmirrored(raw: Tensor, axes: Sequence[int]) -> Tensor:
    signs = raw.new_tensor([-1.0 if -1 in axes else 1.0, -1.0 if -2 in axes else 1.0, 1.0])
    return raw.flip(tuple(axes)) * signs.view(3, 1, 1)
