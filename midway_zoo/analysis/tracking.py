"""Points followed along a clip by forwarded feature perturbation."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import torch
from torch import Tensor
from tqdm import tqdm

from midway_zoo.errors import InputError
from midway_zoo.inference.api import Model
from midway_zoo.inference.batches import inference
from midway_zoo.inference.images import Size
from midway_zoo.inference.motion import Clip, Frame, frame_batches, read_frames
from midway_zoo.inference.perturbation import (
    check_candidates,
    check_draws,
    check_window,
    match_level,
    matches,
    most_similar,
    sensitivity_of,
)
from midway_zoo.inference.tiles import Frames
from midway_zoo.inference.video import check_sampling
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.results import _ShapeRepr
from midway_zoo.weights.registry import resolve_network


@dataclass(frozen=True, repr=False, eq=False)
class Tracks(_ShapeRepr):
    """Where n points went along a clip of T frames."""

    xy: Tensor
    """(T, n, 2) float32: (x, y) in pixels of the frames as given; the first row holds the points asked for."""
    confidence: Tensor
    """(T, n) float32: sensitivity of the token that was found, a cosine in [-1, 1]; 1 in the first frame."""
    grid: tuple[int, int]
    """Token grid (h, w) that was used."""
    pts_seconds: Tensor | None = None
    """(T,) float64: presentation times of the frames, for videos."""


def track(
    model: Model,
    clip: Clip,
    xy: Sequence[float] | Sequence[Sequence[float]] | Tensor,
    *,
    size: Size = None,
    level: int | None = None,
    draws: int = 8,
    seed: int = 0,
    window: int = 1,
    candidates: int = 1,
    mode: Literal["chain", "first"] = "chain",
    stride: int = 1,
    fps: float | None = None,
) -> Tracks:
    """Follow points along a clip by forwarded feature perturbation, without any training (section 4.4).

    The token under a point is perturbed, and the way from its centre to the place where the perturbation arrives
    (the softmax-weighted mean over the square of radius ``window`` around the most sensitive target token) is added
    to the point. The paper goes from token to token, to the one of the five most sensitive that looks most like the
    token itself: that is ``candidates=5, window=0``. What leaves the picture stays at its border, and nothing here
    tells whether a point is hidden: ``confidence`` is lower where the network is unsure, no more.

    Frames are read one at a time and encoded once (in paired mode, once by either encoder), and memory does not grow
    with the clip. Every point whose token no other point shares costs ``draws`` passes through one level of the
    forward dynamics per frame.

    Args:
        model: a network or a pretrained name.
        clip: as in :func:`~midway_zoo.infer_motion_latents`.
        xy: (x, y) in pixels of the first frame, or several (n, 2).
        size: as in :func:`~midway_zoo.extract_features`.
        level: level of the forward dynamics that is perturbed, 2, 1 or 0; None for the highest that the network has.
        draws: random perturbations per token to average.
        seed: of the perturbations.
        window: radius in tokens of the soft arg-max; 0 is the plain arg-max.
        candidates: how many of the most sensitive target tokens are compared with the point's own token, by the cosine
            of the encoder's last features; the square lies around the most similar one. 1 compares nothing.
        mode: "chain" goes from frame to frame, from where the point was found: steps are small, and errors add up.
            "first" always goes from the first frame: errors do not add up, but motion soon is larger than what the
            network was trained on.
        stride: take frames 0, stride, 2 * stride, ...
        fps: for a video, instead: the first frame at or after each tick of 1 / fps seconds.

    Returns:
        ``xy`` (T, n, 2) and ``confidence`` (T, n) for the T frames taken; for videos ``pts_seconds`` (T,).

    Raises:
        InputError: for frames or arguments that cannot be used, a point outside the picture, or fewer than two frames.
        MissingFileError: if the path does not exist.
        MissingExtraError: for a video without PyAV.
        ConfigError: if the network is an encoder alone.
    """
    network = resolve_network(model)
    level = match_level(network, level)
    check_draws(draws, seed)
    check_window(window)
    check_candidates(candidates)
    check_sampling(stride, fps)
    if mode not in ("chain", "first"):
        raise InputError(f'mode={mode!r}: "chain" or "first" is expected.')
    points = _points(xy).to(network.device)
    frames, total = read_frames(clip, stride, fps)
    frames, given = _peek(frames)
    _check_inside(points, given)
    step = _Step(network, given, level, draws, seed, window, candidates)
    places, peaks = [points], [torch.ones(len(points), device=points.device)]
    times: list[float | None] = []
    source: Frames | None = None
    with inference(network), tqdm(total=total, unit=" frames", leave=False, disable=None) as bar:
        for image, seconds in frame_batches(network, frames, size, 1):
            target = Frames(network, image)
            if source is not None:
                moved, peak = step(source, target, places[0 if mode == "first" else -1])
                places.append(moved)
                peaks.append(peak)
            if source is None or mode == "chain":
                source = target
            times += seconds
            bar.update()
    if source is None or len(times) < 2:
        raise InputError(f"the clip gave {len(times)} frame(s) at stride={stride}, fps={fps}; at least two are needed.")
    known = [seconds for seconds in times if seconds is not None]
    pts = torch.tensor(known, dtype=torch.float64) if len(known) == len(times) else None
    return Tracks(torch.stack(places), torch.stack(peaks), source.grid, pts)


@dataclass(frozen=True)
class _Step:
    """One step of every point, from a frame to another."""

    network: MidwayNetwork
    given: tuple[int, int]
    level: int
    draws: int
    seed: int
    window: int
    candidates: int

    def __call__(self, source: Frames, target: Frames, points: Tensor) -> tuple[Tensor, Tensor]:
        """Where points (n, 2) in pixels of the source are in the target, and the peak sensitivities (n,)."""
        height, width = self.given
        rows, columns = source.grid
        scale = points.new_tensor([width / columns, height / rows])
        token = ((points + 0.5) / scale).floor()
        token = token.clamp(min=0).minimum(token.new_tensor([columns - 1, rows - 1]))
        # Points on one token go the same way: it is perturbed once.
        chosen, which = (token[:, 1] * columns + token[:, 0]).long().unique(return_inverse=True)
        matrix = sensitivity_of(
            self.network,
            source.tokens(),
            target.tokens(target=True),
            source.grid,
            tokens=chosen.tolist(),
            level=self.level,
            draws=self.draws,
            seed=self.seed,
        )
        best = None
        if self.candidates > 1:
            own, others = source.tokens()[-1][:, 1:], target.tokens(target=True)[-1][:, 1:]
            best = most_similar(matrix, own[:, chosen], others, self.candidates)
        position, peak = matches(matrix, source.grid, window=self.window, best=best)
        moved = points + (position[0, which] - token) * scale
        return moved.clamp(min=0).minimum(moved.new_tensor([width - 1, height - 1])), peak[0, which]


def _points(xy: Any) -> Tensor:
    """(n, 2) float32 on the CPU."""
    expected = "one (x, y) or several, (n, 2), is expected."
    try:
        points = torch.as_tensor(xy, dtype=torch.float32).cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"xy={xy!r:.80}: {expected}") from error
    if points.ndim not in (1, 2) or points.shape[-1] != 2 or len(points) == 0:
        raise InputError(f"xy has shape {tuple(points.shape)}: {expected}")
    return points.detach().reshape(-1, 2)


def _check_inside(points: Tensor, given: tuple[int, int]) -> None:
    height, width = given
    inside = ((points >= 0) & (points <= points.new_tensor([width - 1, height - 1]))).all(dim=1)
    if not inside.all():
        index = int(inside.logical_not().nonzero()[0])
        x, y = points[index].tolist()
        raise InputError(
            f"xy[{index}]=({x:g}, {y:g}) is outside the frames of {width} x {height} pixels (width x height)."
        )


def _peek(frames: Iterator[Frame]) -> tuple[Iterator[Frame], tuple[int, int]]:
    """The same frames, and the (height, width) of the first."""
    first = next(frames)
    return chain([first], frames), (first[0].shape[-2], first[0].shape[-1])
