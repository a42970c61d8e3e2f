"""Scores of point tracking, as defined by the TAP-Vid benchmark (Doersch et al., NeurIPS 2022, section 3)."""

from typing import Literal

import torch
from torch import Tensor

from midway_zoo.errors import InputError

THRESHOLDS = (1, 2, 4, 8, 16)
"""Distances in pixels of a picture of 256 x 256, over which positions and Jaccard are averaged."""
RASTER = 256
"""Side in pixels of the square picture in which the benchmark measures distances."""


def tracking_scores(
    found_xy: Tensor,
    found_hidden: Tensor,
    true_xy: Tensor,
    true_hidden: Tensor,
    query_frames: Tensor,
    *,
    mode: Literal["first", "strided"] = "first",
) -> dict[str, float]:
    """Occlusion accuracy, position accuracy and Jaccard of n tracks over T frames.

    Args:
        found_xy: (n, T, 2) positions, x right and y down, in pixels of a picture of 256 x 256 (:data:`RASTER`).
        found_hidden: (n, T) bool.
        true_xy: (n, T, 2), likewise; positions of occluded points may hold anything.
        true_hidden: (n, T) bool.
        query_frames: (n,) int64: the frame in which each point is queried; it never counts.
        mode: "first" counts the frames after the query, "strided" also those before it.

    Returns:
        "occlusion_accuracy", "position_accuracy" (of visible points within the threshold, averaged over
        :data:`THRESHOLDS`), "average_jaccard", and each threshold's "pts_within_N" and "jaccard_N"; shares in [0, 1].
        A score is NaN if nothing counts for it, for example if no point is visible after its query.

    Raises:
        InputError: if shapes do not fit together.
    """
    tracks, frames = true_hidden.shape if true_hidden.ndim == 2 else (0, 0)
    shapes = [tuple(value.shape) for value in (found_xy, found_hidden, true_xy, true_hidden, query_frames)]
    if not tracks or shapes != [
        (tracks, frames, 2),
        (tracks, frames),
        (tracks, frames, 2),
        (tracks, frames),
        (tracks,),
    ]:
        raise InputError(
            f"shapes {shapes}: (n, T, 2), (n, T), (n, T, 2), (n, T) and (n,) are expected of positions and occlusion "
            "found, positions and occlusion that are true, and the queries' frames."
        )
    if mode not in ("first", "strided"):
        raise InputError(f'mode={mode!r}: "first" or "strided" is expected.')
    number = torch.arange(frames, device=true_hidden.device)
    queried = query_frames[:, None].to(number)
    counted = number > queried if mode == "first" else number != queried
    visible, seen = ~true_hidden, ~found_hidden
    scores = {"occlusion_accuracy": _share((found_hidden == true_hidden) & counted, counted)}
    squared = (found_xy.double() - true_xy.double()).square().sum(-1)
    for threshold in THRESHOLDS:
        near = squared < threshold**2
        right = near & visible
        wrong = seen & (true_hidden | ~near) & counted
        scores[f"pts_within_{threshold}"] = _share(right & counted, visible & counted)
        hits, all_true = (right & seen & counted).sum(), (visible & counted).sum()
        total = all_true + wrong.sum()
        scores[f"jaccard_{threshold}"] = float(hits / total) if total else float("nan")
    for name, part in (("position_accuracy", "pts_within"), ("average_jaccard", "jaccard")):
        scores[name] = sum(scores[f"{part}_{threshold}"] for threshold in THRESHOLDS) / len(THRESHOLDS)
    return scores


def _share(part: Tensor, whole: Tensor) -> float:
    return float(part.sum() / whole.sum()) if whole.any() else float("nan")
