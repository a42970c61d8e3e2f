"""J and F of a segmented object, as the DAVIS benchmark defines them (Perazzi et al., CVPR 2016)."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from midway_zoo.errors import InputError

BOUND = 0.008
"""Tolerance of a boundary: this share of the picture's diagonal, in pixels, rounded up."""


def region_similarity(found: Tensor, truth: Tensor) -> float:
    """J: intersection over union of two masks (H, W) bool; 1 if both are empty."""
    _check(found, truth)
    union = (found | truth).sum()
    return 1.0 if union == 0 else float((found & truth).sum() / union)


def boundary(mask: Tensor) -> Tensor:
    """Boundary pixels (H, W) bool of a mask: those that differ from their right, lower or lower right neighbour."""
    right = torch.cat([mask[:, 1:], mask[:, -1:]], dim=1)
    below = torch.cat([mask[1:], mask[-1:]], dim=0)
    both = torch.cat([right[1:], right[-1:]], dim=0)
    edges = (mask ^ right) | (mask ^ below) | (mask ^ both)
    # In the last row and column only the neighbour that exists counts, and in the corner none.
    edges[-1] = mask[-1] ^ right[-1]
    edges[:, -1] = mask[:, -1] ^ below[:, -1]
    edges[-1, -1] = False
    return edges


def boundary_accuracy(found: Tensor, truth: Tensor, *, bound: float = BOUND) -> float:
    """F: harmonic mean of precision and recall of the boundary of a mask (H, W) bool, within a tolerance.

    A boundary pixel is correct if the other boundary has a pixel within ``bound`` times the diagonal, rounded up; from
    1 on, ``bound`` is a number of pixels. F is 0 if only one of the masks has a boundary, and 1 if neither has one.
    """
    _check(found, truth)
    radius = math.ceil(bound * math.hypot(*found.shape)) if bound < 1 else round(bound)
    ours, theirs = boundary(found), boundary(truth)
    if not ours.any() or not theirs.any():
        return float(bool(ours.any()) == bool(theirs.any()))
    precision = (ours & _dilate(theirs, radius)).sum() / ours.sum()
    recall = (theirs & _dilate(ours, radius)).sum() / theirs.sum()
    total = precision + recall
    return float(2 * precision * recall / total) if total > 0 else 0.0


def _dilate(mask: Tensor, radius: int) -> Tensor:
    """Pixels within ``radius`` of a set pixel (a disk)."""
    offsets = torch.arange(-radius, radius + 1, device=mask.device)
    grown = torch.zeros_like(mask)
    for dy in offsets.tolist():  # a running maximum per row of the disk is far cheaper than a 2-D kernel
        reach = math.isqrt(radius * radius - dy * dy)
        row = F.max_pool2d(mask[None, None].float(), (1, 2 * reach + 1), 1, (0, reach))[0, 0] > 0
        source, target = (slice(max(-dy, 0), len(mask) - max(dy, 0)), slice(max(dy, 0), len(mask) - max(-dy, 0)))
        if abs(dy) < len(mask):
            grown[target] |= row[source]
    return grown


def sequence_scores(found: Iterable[Tensor], truth: Iterable[Tensor], objects: int) -> dict[int, dict[str, float]]:
    """J and F of every object, averaged over the frames of a sequence that the benchmark counts.

    Args:
        found: label maps (H, W), 0 = background, of all frames in order.
        truth: as many label maps of the annotation.
        objects: number of objects, which are numbered from 1.

    Returns:
        object -> {"J": mean, "F": mean} over all frames except the first and the last.

    Raises:
        InputError: for fewer than three frames, of which none would count.
    """
    pairs = list(zip(found, truth, strict=True))[1:-1]
    if not pairs:
        raise InputError("the benchmark leaves out the first and the last frame: a sequence needs three or more.")
    scores = {}
    for number in range(1, objects + 1):
        masks = [(ours == number, theirs == number) for ours, theirs in pairs]
        scores[number] = {
            "J": sum(region_similarity(*pair) for pair in masks) / len(masks),
            "F": sum(boundary_accuracy(*pair) for pair in masks) / len(masks),
        }
    return scores


def _check(found: Tensor, truth: Tensor) -> None:
    if found.shape != truth.shape or found.ndim != 2 or found.dtype != torch.bool or truth.dtype != torch.bool:
        raise InputError(
            f"masks {found.dtype} {tuple(found.shape)} and {truth.dtype} {tuple(truth.shape)}: two bool masks (H, W) "
            "of one size are expected."
        )
