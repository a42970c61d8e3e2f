"""Points carried along by flow, and the percentage of points that are correct."""

from collections.abc import Sequence

import torch
from torch import Tensor

from midway_zoo.errors import InputError


def flow_at(flow: Tensor, xy: Tensor) -> Tensor:
    """Flow at points between pixels; ``xy + flow_at(flow, xy)`` is where they go.

    Args:
        flow: (B, 2, H, W) or (2, H, W) in pixels, channel 0 = x to the right, 1 = y down; NaN = invalid.
        xy: (B, n, 2) or (n, 2), (x, y) in pixels, the centres of pixels at integers.

    Returns:
        The shape of ``xy``, float32: bilinear between the four nearest pixels. NaN outside [0, W - 1] x [0, H - 1],
        and where a pixel that counts is invalid.

    Raises:
        InputError: for other shapes.
    """
    if flow.ndim == 3 and xy.ndim == 2:
        return flow_at(flow[None], xy[None])[0]
    if flow.ndim != 4 or flow.shape[1] != 2 or xy.ndim != 3 or xy.shape[2] != 2 or len(xy) != len(flow):
        raise InputError(
            f"flow {tuple(flow.shape)} and xy {tuple(xy.shape)}: (B, 2, H, W) and (B, n, 2), or (2, H, W) and (n, 2), "
            "are expected."
        )
    flow, xy = flow.float(), xy.to(flow.device).float()
    height, width = flow.shape[2:]
    last = xy.new_tensor([width - 1, height - 1])
    inside = ((xy >= 0) & (xy <= last)).all(dim=2, keepdim=True)
    at = xy.where(inside, 0)
    low, share = at.floor(), at.frac()
    pairs = torch.arange(len(flow), device=flow.device)[:, None]
    total = torch.zeros_like(xy)
    for right in (0, 1):
        for down in (0, 1):
            x, y = (low + low.new_tensor([right, down])).minimum(last).long().unbind(dim=2)
            one_axis = (share if right else 1 - share)[..., 0]
            weight = (one_axis * (share if down else 1 - share)[..., 1])[..., None]
            # An invalid pixel that weighs nothing must not spoil the sum: 0 * NaN is NaN.
            total = total + (weight * flow[pairs, :, y, x]).where(weight > 0, 0)
    return total.where(inside, torch.nan)


def chain_flow(flow: Tensor, xy: Tensor) -> Tensor:
    """Points carried along a clip by the flow from each frame to the next.

    Args:
        flow: (T - 1, 2, H, W) in pixels, as :func:`~midway_zoo.predict_flows` gives it.
        xy: (n, 2), (x, y) in pixels of the first frame.

    Returns:
        (T, n, 2) float32, ``xy`` first. Points that leave the frame stay at its border; NaN once a pixel that counts is
        invalid. Errors accumulate, and occlusion is not detected.

    Raises:
        InputError: for other shapes.
    """
    if flow.ndim != 4 or flow.shape[1] != 2 or xy.ndim != 2 or xy.shape[1] != 2:
        raise InputError(f"flow {tuple(flow.shape)} and xy {tuple(xy.shape)}: (T - 1, 2, H, W) and (n, 2) expected.")
    last = torch.tensor([flow.shape[3] - 1, flow.shape[2] - 1], device=flow.device, dtype=torch.float32)
    places = [xy.to(flow.device).float()]
    for one in flow:
        here = places[-1].clamp(min=0).minimum(last)
        places.append((here + flow_at(one, here)).clamp(min=0).minimum(last))
    return torch.stack(places)


def pck(
    predicted: Tensor,
    true: Tensor,
    *,
    thresholds: Sequence[float] = (1, 2, 4, 8, 16),
    visible: Tensor | None = None,
) -> dict[str, float]:
    """Percentage of correct keypoints: how many points are within each threshold of the truth.

    Points whose truth is NaN or infinite do not count, nor do invisible ones. Leave out the first frame of a track,
    where every point is correct: ``pck(tracks.xy[1:], true[1:])``.

    Args:
        predicted: (..., 2) points in pixels.
        true: the same shape.
        thresholds: largest distances in pixels.
        visible: (...) bool or numbers, nonzero if a point is visible; None counts all.

    Returns:
        Percentage of the points that count, by name: ``"pck_4"`` for a threshold of 4, and the ``"mean"`` over
        thresholds.

    Raises:
        InputError: for other shapes, thresholds that are not positive, a prediction that is not finite for a point
            that counts, or no point that counts.
    """
    if true.ndim == 0 or true.shape[-1] != 2 or predicted.shape != true.shape:
        raise InputError(f"predicted {tuple(predicted.shape)} and true {tuple(true.shape)}: both (..., 2) expected.")
    if len(thresholds) == 0 or not all(bound > 0 for bound in thresholds):
        raise InputError(f"thresholds={thresholds!r}: positive distances in pixels are expected.")
    true = true.to(predicted.device)
    counts = true.isfinite().all(dim=-1)
    if visible is not None:
        if visible.shape != counts.shape:
            raise InputError(f"visible {tuple(visible.shape)}: {tuple(counts.shape)}, one per point, is expected.")
        counts &= visible.to(counts.device) != 0
    apart = predicted[counts].float() - true[counts].float()
    if len(apart) == 0:
        raise InputError("no point counts: every one is invisible, or its truth is not finite.")
    if not apart.isfinite().all():
        broken = int((~apart.isfinite().all(dim=-1)).sum())
        raise InputError(f"{broken} predicted point(s) are NaN or infinite where the truth counts.")
    distance = torch.hypot(apart[:, 0], apart[:, 1])
    found = {f"pck_{bound:g}": 100 * float((distance <= bound).float().mean()) for bound in thresholds}
    return found | {"mean": sum(found.values()) / len(found)}
