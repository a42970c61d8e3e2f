"""Clips with annotated points, in files without pickles, and the evaluation of point trackers on them."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from midway_zoo.analysis.trackers import Tracker, follow
from midway_zoo.errors import DataError, InputError, MissingFileError
from midway_zoo.inference.frames import open_frames
from midway_zoo.readouts.backbone import Backbone, BackboneLike, load_backbone
from midway_zoo.readouts.points import RASTER, tracking_scores

STRIDE = 5
"""Distance in frames between queries in the mode "strided"."""
_COLUMNS = ("point", "frame", "x", "y", "occluded")


@dataclass(frozen=True)
class PointClip:
    """A clip and its annotated points."""

    name: str
    video: Path
    """A video, or a folder of frames."""
    truth: Path
    """NAME.npz with "points" (n, T, 2), x and y as fractions of width and height as in TAP-Vid, and "occluded" (n, T)
    bool; or NAME.csv with a line per point and frame: point, frame, x, y in pixels (centres of pixels at integers),
    occluded 0 or 1. Points count as occluded in frames without a line."""


def list_clips(root: str | Path) -> list[PointClip]:
    """The clips of a folder: every ``NAME.npz`` or ``NAME.csv`` beside a video ``NAME.*`` or a folder ``NAME/``.

    Raises:
        MissingFileError: if there are no clips, or points without frames beside them.
    """
    root = Path(root)
    truths = sorted(path for path in root.glob("*") if path.suffix in (".npz", ".csv") and path.name[0] != ".")
    if not truths:
        raise MissingFileError(f"{root} holds no points: NAME.npz or NAME.csv beside NAME.mp4 or NAME/ is expected.")
    return [PointClip(path.stem, _video(path), path) for path in truths]


def _video(truth: Path) -> Path:
    folder = truth.with_suffix("")
    if folder.is_dir():
        return folder
    others = sorted(path for path in truth.parent.glob("*") if path.stem == truth.stem and path != truth)
    videos = [path for path in others if path.suffix not in (".npz", ".csv") and path.is_file()]
    if not videos:
        raise MissingFileError(f"there are no frames beside {truth}: {folder}/ or {folder}.mp4 is expected.")
    return videos[0]


def read_points(path: Path, frames: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Points (n, T, 2) in pixels of frames of ``size`` (height, width), and occluded (n, T) bool.

    Raises:
        InputError: if the file is not as described in :class:`PointClip`, or has another number of frames.
    """
    points, hidden = _read_csv(path, frames) if path.suffix == ".csv" else _read_npz(path, size)
    if points.ndim != 3 or points.shape[2] != 2 or hidden.shape != points.shape[:2] or points.shape[1] != frames:
        raise InputError(
            f"{path}: points {tuple(points.shape)} and occluded {tuple(hidden.shape)}; (n, {frames}, 2) and "
            f"(n, {frames}) are expected of {frames} frames."
        )
    if not points[~hidden].isfinite().all():
        raise InputError(f"{path}: a visible point has no finite position.")
    return points, hidden


def _read_npz(path: Path, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    try:
        with np.load(path, allow_pickle=False) as file:
            points, hidden = torch.from_numpy(file["points"]).float(), torch.from_numpy(file["occluded"]).bool()
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise InputError(f"{path} has no readable arrays points and occluded: {error}.") from error
    if hidden.shape == points.shape[:2] and points[~hidden].numel() and float(points[~hidden].abs().max()) > 1.5:
        raise InputError(f"{path}: points must be fractions of width and height, in [0, 1]; pixels go into a .csv.")
    return points * points.new_tensor([size[1], size[0]]) - 0.5, hidden


def _read_csv(path: Path, frames: int) -> tuple[Tensor, Tensor]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
            found = [[float(row[name]) for name in _COLUMNS] for row in rows]
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise InputError(f"{path}: columns {', '.join(_COLUMNS)} of numbers are expected ({error!r}).") from error
    names = sorted({int(row[0]) for row in found})
    points = torch.full((len(names), frames, 2), torch.nan)
    hidden = torch.ones(len(names), frames, dtype=torch.bool)
    for point, frame, x, y, occluded in found:
        if not 0 <= frame < frames:
            raise InputError(f"{path}: frame {int(frame)} is beyond a clip of {frames} frames, counted from 0.")
        row = names.index(int(point))
        points[row, int(frame)] = torch.tensor([x, y])
        hidden[row, int(frame)] = bool(occluded)
    return points, hidden


@dataclass(frozen=True)
class TrackingResult:
    """Scores of point tracking."""

    clips: dict[str, dict[str, float]]
    """Clip -> scores of :func:`~midway_zoo.readouts.points.tracking_scores`."""

    def mean(self) -> dict[str, float]:
        """Means over clips, as in TAP-Vid; a clip without a score (NaN) does not count."""
        names = next(iter(self.clips.values()))
        return {name: float(np.nanmean([scores[name] for scores in self.clips.values()])) for name in names}


def evaluate_tracking(
    model: BackboneLike,
    root: str | Path,
    *,
    tracker: Tracker = "similarity",
    mode: Literal["first", "strided"] = "first",
    side: int = 256,
) -> TrackingResult:
    """Track the points of every clip of a folder and score them as TAP-Vid does.

    Args:
        model: a network or a name; names of timm ("timm:NAME") only with "similarity".
        root: folder of clips; see :func:`list_clips`.
        tracker: see :mod:`midway_zoo.analysis.trackers`.
        mode: "first": each point is queried in the first frame where it is visible, and tracked forwards; "strided":
            in every fifth frame if it is visible there, and tracked both ways.
        side: shorter side that frames are resized to for "similarity".

    Raises:
        InputError: for files that cannot be read, or an unknown tracker or mode.
        MissingFileError, DataError: if files are missing, or a clip has no visible point.
        ConfigError: if the tracker needs a Midway network.
    """
    if mode not in ("first", "strided"):
        raise InputError(f'mode={mode!r}: "first" or "strided" is expected.')
    backbone = load_backbone(model)
    clips = list_clips(root)
    found = {}
    for clip in tqdm(clips, unit=" clips", leave=False, disable=None):
        found[clip.name] = _score(backbone, clip, tracker, mode, side)
    return TrackingResult(found)


def _score(
    backbone: Backbone, clip: PointClip, tracker: Tracker, mode: Literal["first", "strided"], side: int
) -> dict[str, float]:
    frames = [frame.image for frame in open_frames(clip.video)]
    size = (frames[0].shape[1], frames[0].shape[2])
    points, hidden = read_points(clip.truth, len(frames), size)
    rows: list[tuple[Tensor, ...]] = []
    for query, chosen in _queries(hidden, mode):
        given = points[chosen, query]
        ahead, lost = follow(backbone, frames[query:], given, tracker=tracker, side=side)
        xy, gone = given[None].repeat(len(frames), 1, 1), torch.zeros(len(frames), len(chosen), dtype=torch.bool)
        xy[query:], gone[query:] = ahead, lost
        if mode == "strided" and query:
            xy[: query + 1], gone[: query + 1] = (
                part.flip(0) for part in follow(backbone, frames[query::-1], given, tracker=tracker, side=side)
            )
        rows.append((xy.transpose(0, 1), gone.T, points[chosen], hidden[chosen], torch.full((len(chosen),), query)))
    if not rows:
        raise DataError(f"{clip.truth}: no point is visible in a frame where it could be queried.")
    found, gone, true, away, queries = (torch.cat(parts) for parts in zip(*rows, strict=True))
    scale = found.new_tensor([RASTER / size[1], RASTER / size[0]])
    return tracking_scores((found + 0.5) * scale, gone, (true + 0.5) * scale, away, queries, mode=mode)


def _queries(hidden: Tensor, mode: str) -> Iterator[tuple[int, Tensor]]:
    """Frames in which points are queried, and the points."""
    frames = hidden.shape[1]
    first = torch.where(hidden.all(1), frames, (~hidden).int().argmax(1))
    for query in range(0, frames, STRIDE if mode == "strided" else 1):
        chosen = (~hidden[:, query] if mode == "strided" else first == query).nonzero()[:, 0]
        if len(chosen):
            yield query, chosen
