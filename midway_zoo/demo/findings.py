"""The findings of a network on footage: every function of the zoo once."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

import midway_zoo.analysis as analysis
from midway_zoo.demo.crossed import CrossedMotion, crossed_motion
from midway_zoo.demo.footage import Footage
from midway_zoo.flow.metrics import FlowMetrics
from midway_zoo.inference.clips import infer_motion_latents
from midway_zoo.inference.features import extract_features
from midway_zoo.inference.flow import predict_flow
from midway_zoo.inference.heatmap import perturbation_heatmap
from midway_zoo.inference.refinement import warp
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.results import MotionLatent, ShapeRepr

Result = TypeVar("Result")

_POINTS = 4
_TARGETS = (1, 2, 4)  # frames whose heat maps show the first frame's point


@dataclass(frozen=True, repr=False, eq=False, kw_only=True)
class ClipFindings(ShapeRepr):
    """What is where, and how it moves. On the CPU, in pixels of the footage's frames."""

    features: Tensor
    """(T, D, h, w): patch features of the last block."""
    flow: Tensor
    """(T - 1, 2, H, W)."""
    method: str
    """How the flow was found: "head" or "perturbation"."""
    points: Tensor
    """(n, 2): the points (x, y) of the first frame that were tracked."""
    tracks: Tensor
    """(T, n, 2): the points in every frame, by the flow of the head, or by perturbation if there is no head."""
    true_tracks: Tensor | None
    """The same by the true flow, NaN once a point is occluded or outside; None if the true flow is unknown."""
    seconds: dict[str, float] = field(default_factory=dict)
    """How long each finding took."""


@dataclass(frozen=True, repr=False, eq=False, kw_only=True)
class Findings(ClipFindings):
    """Everything that the demo shows of one footage."""

    latents: MotionLatent
    """Of the T - 1 neighbours."""
    crossed: CrossedMotion
    """What the motion latents say about motion, on separate pairs in which every picture moves in every direction."""
    heat_targets: list[int]
    """Indices of the frames of ``heat``."""
    heat: Tensor
    """(k, h, w) cosines: where the first point is in each of ``heat_targets``."""


def examine_clip(network: MidwayNetwork, footage: Footage) -> ClipFindings:
    """Features, flow and tracks."""
    frames, seconds = footage.frames, dict[str, float]()
    features = _timed(seconds, "features", lambda: last_features(network, frames))
    found = _timed(seconds, "flow", lambda: predict_flow(network, frames[:-1], frames[1:], **flow_options(network)))
    assert isinstance(found.flow, Tensor)  # frames of one size
    flow = found.flow.cpu()
    points = notable_points(frames[0], flow[0]) if footage.points is None else footage.points

    def tracked() -> Tensor:
        if found.method == "head":
            return analysis.chain_flow(flow, points)
        return analysis.track(network, frames, points, size=working_size(network, frames), draws=4).xy.cpu()

    return ClipFindings(
        features=features,
        flow=flow,
        method=found.method,
        points=points,
        tracks=_timed(seconds, "track", tracked),
        true_tracks=true_tracks(footage, points),
        seconds=seconds,
    )


def examine(network: MidwayNetwork, footage: Footage, fresh: MidwayNetwork) -> Findings:
    """Everything that the demo shows, beside a ``fresh`` network of the same shape."""
    clip = examine_clip(network, footage)
    frames, seconds, size = footage.frames, clip.seconds, working_size(network, footage.frames)
    targets = [index for index in _TARGETS if index < len(frames)]
    sources = frames[:1].expand(len(targets), -1, -1, -1)

    def heat() -> Tensor:
        return perturbation_heatmap(network, sources, frames[targets], clip.points[0], size=size).heatmap.cpu()

    return Findings(
        **vars(clip),
        latents=_timed(seconds, "motion latents", lambda: infer_motion_latents(network, frames, size=size)),
        crossed=_timed(seconds, "motion similarity", lambda: crossed_motion(network, fresh)),
        heat_targets=targets,
        heat=_timed(seconds, "heat map", heat),
    )


def _timed(seconds: dict[str, float], name: str, run: Callable[[], Result]) -> Result:
    """The result of ``run``; how long it took is noted under a name."""
    start = time.perf_counter()
    result = run()
    seconds[name] = time.perf_counter() - start
    return result


def last_features(network: MidwayNetwork, frames: Tensor) -> Tensor:
    """Patch features (T, D, h, w) of the last block, float32, on the CPU."""
    last = network.config.depth - 1
    maps = extract_features(network, frames, blocks=(last,), size=working_size(network, frames)).maps[last]
    assert isinstance(maps, Tensor)  # frames of one size have one grid
    return maps.float().cpu()


def working_size(network: MidwayNetwork, frames: Tensor) -> int:
    """Shorter side to which frames (T, 3, H, W) are resized: frames smaller than the network's native size are
    enlarged, larger ones give a finer grid, up to twice as fine."""
    native = min(network.config.img_size)
    return min(max(native, min(frames.shape[2:])), 2 * native)


def flow_options(network: MidwayNetwork) -> dict[str, Any]:
    """Options of ``predict_flow``. A head runs at full resolution in tiles, with two rounds of refinement; without a
    head every token is perturbed, and a grid finer than the network's own would take minutes."""
    return {"size": None} if network.flow_head is None else {"refine": 2}


def warp_differences(frames: Tensor, flow: Tensor) -> tuple[float, float]:
    """Mean absolute difference of neighbouring frames (T, 3, H, W), in grey levels of 256, before and after the later
    one is warped by the flow (T - 1, 2, H, W): a measure of flow that needs no ground truth."""
    source, target = frames[:-1].float().cpu(), frames[1:].float().cpu()
    flow = flow.float().cpu()
    x = torch.arange(flow.shape[3]) + flow[:, 0]
    y = torch.arange(flow.shape[2])[:, None] + flow[:, 1]
    inside = (x >= 0) & (x <= flow.shape[3] - 1) & (y >= 0) & (y <= flow.shape[2] - 1)
    apart = [(source - other).abs().mean(dim=1)[inside].mean() * 255 for other in (target, warp(target, flow))]
    return float(apart[0]), float(apart[1])


def notable_points(frame: Tensor, flow: Tensor) -> Tensor:
    """Points (n, 2) that have texture, move, and are apart from each other and from the border.

    Args:
        frame: (3, H, W).
        flow: (2, H, W), of the frame.
    """
    height, width = frame.shape[1:]
    side = max(min(height, width) // 8, 1)
    gray = frame.mean(dim=0)
    values = torch.stack([gray, gray.square(), torch.hypot(flow[0], flow[1])])
    mean, square, length = F.avg_pool2d(values[None], side)[0]
    score = (square - mean.square()).clamp_min(0).sqrt() * (length + 0.1 * length.mean())
    y, x = torch.meshgrid(*(torch.arange(count) for count in score.shape), indexing="ij")
    if min(score.shape) > 2:
        inner = (y > 0) & (y < score.shape[0] - 1) & (x > 0) & (x < score.shape[1] - 1)
        score = score.where(inner, -1)
    points: list[tuple[float, float]] = []
    while len(points) < _POINTS and float(score.max()) >= 0:
        row, column = divmod(int(score.argmax()), score.shape[1])
        points.append(((column + 0.5) * side - 0.5, (row + 0.5) * side - 0.5))
        score = score.where(torch.hypot((y - row).float(), (x - column).float()) > 2, -1)
    return torch.tensor(points)


def true_tracks(footage: Footage, points: Tensor) -> Tensor | None:
    """(T, n, 2): points carried along by the true flow, NaN once they are occluded or outside."""
    if footage.flow is None or footage.occlusion is None:
        return None
    places = [points]
    for flow, hidden in zip(footage.flow, footage.occlusion, strict=True):
        here = places[-1]
        moved = here + analysis.flow_at(flow[None], here[None])[0]
        column, row = here.nan_to_num(0).round().long().unbind(-1)
        last = moved.new_tensor([hidden.shape[1] - 1, hidden.shape[0] - 1])
        outside = ((moved < 0) | (moved > last)).any(-1)
        places.append(moved.masked_fill((hidden[row, column] | outside)[:, None], torch.nan))
    return torch.stack(places)


def flow_errors(footage: Footage, flow: Tensor) -> dict[str, float] | None:
    """Mean end-point error in pixels over all pixels: "epe" of the flow, "zero" of a flow of zeros."""
    if footage.flow is None:
        return None
    errors = {}
    for name, prediction in (("epe", flow), ("zero", torch.zeros_like(flow))):
        metrics = FlowMetrics()
        metrics.update(prediction, footage.flow)
        errors[name] = metrics.compute()["epe"]
    return errors


def track_errors(findings: ClipFindings) -> dict[str, float] | None:
    """Mean distance in pixels from the true tracks: "track" of those found, "still" of points that do not move."""
    if findings.true_tracks is None:
        return None
    truth = findings.true_tracks[1:]
    still = findings.points.expand_as(truth)
    distances = {"track": findings.tracks[1:] - truth, "still": still - truth}
    return {name: float(torch.linalg.vector_norm(values, dim=-1).nanmean()) for name, values in distances.items()}
