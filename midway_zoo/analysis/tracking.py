"""Point tracking by forwarded feature perturbation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from midway_zoo.bars import bar
from midway_zoo.checks import check_draws, check_integer
from midway_zoo.errors import InputError
from midway_zoo.inference.batches import inference
from midway_zoo.inference.encoded import EncodedFrames
from midway_zoo.inference.frames import ClipLike, FrameSource, frame_batches, known_times, open_frames
from midway_zoo.inference.heatmap import check_inside, parse_points, pixels_per_token, tokens_under
from midway_zoo.inference.images import Size
from midway_zoo.inference.perturbation import match_level, matches, sensitivity_of
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.results import ShapeRepr
from midway_zoo.weights.registry import Model, resolve_network


@dataclass(frozen=True, repr=False, eq=False)
class Tracks(ShapeRepr):
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
    clip: ClipLike,
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

    The token under a point is perturbed. The offset from its centre to the place where the perturbation arrives
    (the softmax-weighted mean over the square of radius ``window`` around the most sensitive target token) is added
    to the point. The paper moves points from token to token, to the one among the five most sensitive tokens that is
    most similar to the point's: that is ``candidates=5, window=0``. Points that leave the frame stay at its border.
    Occlusion is not detected: ``confidence`` is lower if the network is unsure, which is only a hint.

    Frames are read one at a time and encoded once (in paired mode, once by each encoder), and memory does not grow
    with the clip. Per frame, every perturbed token costs ``draws`` passes through one level of the forward dynamics;
    points on the same token share them.

    Args:
        model: a network or a pretrained name.
        clip: as in :func:`~midway_zoo.infer_motion_latents`.
        xy: (x, y) in pixels of the first frame, or several (n, 2).
        size: as in :func:`~midway_zoo.extract_features`.
        level: level of the forward dynamics to perturb, 2, 1 or 0; None for the highest that the network has.
        draws: random perturbations per token to average.
        seed: of the perturbations.
        window: radius in tokens of the soft arg-max; 0 is the plain arg-max.
        candidates: how many of the most sensitive target tokens are compared with the point's own token, by the cosine
            of the encoder's last features; the square lies around the most similar one. 1 compares nothing.
        mode: "chain" tracks from each frame to the next: steps are small, but errors accumulate. "first" always tracks
            from the first frame: errors do not accumulate, but motions soon exceed those that the network was trained
                on.
        stride: take frames 0, stride, 2 * stride, ...
        fps: for videos, instead of ``stride``: take the first frame at or after each multiple of 1 / fps seconds.

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
    check_integer("window", window, 0)
    check_integer("candidates", candidates, 1)
    if mode not in ("chain", "first"):
        raise InputError(f'mode={mode!r}: "chain" or "first" is expected.')
    points = parse_points(xy, None, "one (x, y) or several, (n, 2),").to(network.device)
    rule = _Step(network, level, draws, seed, window, candidates)
    return walk(network, open_frames(clip, stride=stride, fps=fps), points, rule, size=size, mode=mode)


Rule: TypeAlias = Callable[[EncodedFrames, EncodedFrames, Tensor, tuple[int, int]], tuple[Tensor, Tensor]]
"""A tracking rule: maps source and target frame, points (n, 2) in pixels and the frames' (height, width) to positions
(n, 2) in the target and their confidence (n,)."""


def walk(
    network: MidwayNetwork,
    frames: FrameSource,
    points: Tensor,
    rule: Rule,
    *,
    size: Size = None,
    mode: Literal["chain", "first"] = "chain",
) -> Tracks:
    """Track points (n, 2) of the first frame through a clip by a rule; the rest as in :func:`track`."""
    places, peaks = [points], [torch.ones(len(points), dtype=torch.float32, device=points.device)]
    times: list[float | None] = []
    source: EncodedFrames | None = None
    with inference(network), bar(total=frames.total, unit=" frames") as shown:
        for batch in frame_batches(network, frames, size, 1):
            target = EncodedFrames(network, batch.images)
            if source is None:
                check_inside(points, batch.given)
            else:
                moved, peak = rule(source, target, places[0 if mode == "first" else -1], batch.given)
                places.append(moved)
                peaks.append(peak)
            if source is None or mode == "chain":
                source = target
            times += batch.pts_seconds
            shown.update()
    frames.check_taken(len(times))
    assert source is not None
    return Tracks(torch.stack(places), torch.stack(peaks), source.grid, known_times(times))


def moved_by(points: Tensor, steps: Tensor, given: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Points (n, 2) in pixels moved by steps (n, 2) in tokens, kept inside the frame."""
    moved = points + steps * points.new_tensor(pixels_per_token(given, grid))
    return moved.clamp(min=0).minimum(moved.new_tensor([given[1] - 1, given[0] - 1]))


@dataclass(frozen=True)
class _Step:
    """The rule of :func:`track`: one step of every point."""

    network: MidwayNetwork
    level: int
    draws: int
    seed: int
    window: int
    candidates: int

    def __call__(
        self, source: EncodedFrames, target: EncodedFrames, points: Tensor, given: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Positions in the target of points (n, 2) of the source, both in pixels, and the peak sensitivities (n,)."""
        token = tokens_under(points, given, source.grid)
        # Points on the same token get the same step: it is perturbed once.
        chosen, which = (token[:, 1] * source.grid[1] + token[:, 0]).unique(return_inverse=True)
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
        return moved_by(points, position[0, which] - token, given, source.grid), peak[0, which]


def most_similar(matrix: Tensor, source: Tensor, target: Tensor, candidates: int) -> Tensor:
    """The paper's tracking rule: among the most sensitive target tokens, the one most similar to the source token.

    Args:
        matrix: (B, n, N) sensitivities.
        source: (B, n, D) features of the source tokens that were perturbed.
        target: (B, N, D) features of all target tokens.
        candidates: how many of the most sensitive tokens are compared, at most N.

    Returns:
        (B, n) indices of target tokens; for one candidate, the arg-max.
    """
    among = matrix.topk(min(candidates, matrix.shape[-1]), dim=-1).indices
    alike = F.normalize(source.float(), dim=-1) @ F.normalize(target.float(), dim=-1).transpose(1, 2)
    return among.gather(-1, alike.gather(-1, among).argmax(dim=-1, keepdim=True))[..., 0]
