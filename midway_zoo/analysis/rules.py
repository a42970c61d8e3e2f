"""The paper's tracking rule, its two ingredients alone, and the flow head as a baseline.

paper        among the five target tokens most sensitive to the point's token, the one with the most similar feature
             (section 4.4); points move from token to token
sensitivity  the most sensitive target token, whatever its feature
similarity   the target token with the most similar feature, wherever it is
flow         the flow of the network's flow head, accumulated from frame to frame
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from midway_zoo.analysis.points import flow_at
from midway_zoo.analysis.tracking import Tracks, moved_by, track, walk
from midway_zoo.checks import check_draws
from midway_zoo.errors import ConfigError, InputError
from midway_zoo.inference.clips import predict_flows
from midway_zoo.inference.encoded import EncodedFrames
from midway_zoo.inference.frames import ClipLike, open_frames
from midway_zoo.inference.heatmap import check_inside, parse_points, tokens_under
from midway_zoo.inference.images import Size
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.results import FlowPrediction
from midway_zoo.weights.registry import Model, resolve_network

RuleName: TypeAlias = Literal["paper", "sensitivity", "similarity", "flow"]
RULES: tuple[RuleName, ...] = ("paper", "sensitivity", "similarity", "flow")
"""Names of the rules."""
CANDIDATES = 5
"""How many target tokens the paper's rule compares."""
_OVERLAP = 0.5  # of the flow head's tiles: enough for points, with a fifth of the default number of tiles


def check_rule(rule: str) -> None:
    """Raise :class:`InputError` unless there is such a rule."""
    if rule not in RULES:
        raise InputError(f"rule={rule!r}: one of {', '.join(RULES)} is expected.")


def track_by(
    model: Model,
    clip: ClipLike,
    xy: Sequence[float] | Sequence[Sequence[float]] | Tensor,
    rule: RuleName = "paper",
    *,
    size: Size = None,
    level: int | None = None,
    draws: int = 8,
    seed: int = 0,
    stride: int = 1,
    fps: float | None = None,
) -> Tracks:
    """Follow points along a clip by one of :data:`RULES`, from frame to frame.

    Args:
        model: a network or a pretrained name.
        clip: as in :func:`~midway_zoo.infer_motion_latents`. To compare rules on an iterator, make a list of it first.
        xy: (x, y) in pixels of the first frame, or several (n, 2).
        rule: one of :data:`RULES`.
        size, level, draws, seed, stride, fps: as in :func:`~midway_zoo.analysis.track`; "similarity" uses no
            perturbations, and "flow" works at the frames' own size, in tiles.

    Returns:
        As :func:`~midway_zoo.analysis.track`. ``confidence`` is the sensitivity of the token that was found, for
        "similarity" the cosine of features, for "flow" the head's own confidence at the point. All but
        "flow" move points by whole tokens.

    Raises:
        InputError: for frames or arguments that cannot be used, a point outside the picture, or fewer than two frames.
        MissingFileError, MissingExtraError: for a path that does not exist, or a video without PyAV.
        ConfigError: for "flow" with a network without a flow head; for "paper" and "sensitivity" with an encoder alone.
    """
    check_rule(rule)
    network = resolve_network(model)
    options = {"size": size, "level": level, "draws": draws, "seed": seed, "stride": stride, "fps": fps}
    if rule == "paper":
        return track(network, clip, xy, window=0, candidates=CANDIDATES, **options)  # type: ignore[arg-type]
    if rule == "sensitivity":
        return track(network, clip, xy, window=0, **options)  # type: ignore[arg-type]
    check_draws(draws, seed)
    points = parse_points(xy, None, "one (x, y) or several, (n, 2),").to(network.device)
    if rule == "similarity":
        return walk(network, open_frames(clip, stride=stride, fps=fps), points, _most_alike, size=size)
    return _by_head(network, clip, points, stride, fps)


def _most_alike(
    source: EncodedFrames, target: EncodedFrames, points: Tensor, given: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Match the features under points to the most similar ones of the whole target."""
    columns = source.grid[1]
    token = tokens_under(points, given, source.grid)
    own = source.tokens()[-1][0, 1:][token[:, 1] * columns + token[:, 0]]
    cosines = F.normalize(own.float(), dim=-1) @ F.normalize(target.tokens(target=True)[-1][0, 1:].float(), dim=-1).T
    similarity, best = cosines.max(dim=-1)
    place = torch.stack([best % columns, best // columns], dim=-1)
    return moved_by(points, place - token, given, source.grid), similarity


@dataclass
class _Carried:
    """Points that flow carries along."""

    places: list[Tensor]
    confidence: list[Tensor]
    times: list[float]

    def step(self, flow: FlowPrediction) -> None:
        here, field = self.places[-1], flow.flow[0].to(self.places[-1].device)
        last = here.new_tensor([field.shape[2] - 1, field.shape[1] - 1])
        moved = (here + flow_at(field, here)).clamp(min=0).minimum(last)
        x, y = here.round().long().unbind(1)
        self.places.append(moved)
        self.confidence.append(flow.confidence[0][0].to(here)[y, x])
        if flow.pts_seconds is not None:
            self.times += flow.pts_seconds[0].tolist() if not self.times else [float(flow.pts_seconds[0, 1])]


def _by_head(network: MidwayNetwork, clip: ClipLike, points: Tensor, stride: int, fps: float | None) -> Tracks:
    if network.flow_head is None:
        raise ConfigError(
            'rule="flow" needs a flow head, which this network does not have; fine-tune one with `midway-zoo train '
            "flow`, or take another rule."
        )
    carried = _Carried([points], [torch.ones(len(points), device=points.device)], [])
    grid = (0, 0)
    for flow in predict_flows(network, clip, method="head", overlap=_OVERLAP, stride=stride, fps=fps):
        if len(carried.places) == 1:
            height, width = flow.flow[0].shape[-2:]
            check_inside(points, (height, width))
            grid = flow.grid if isinstance(flow.grid, tuple) else flow.grid[0]
        carried.step(flow)
    times = torch.tensor(carried.times, dtype=torch.float64) if carried.times else None
    return Tracks(torch.stack(carried.places), torch.stack(carried.confidence), grid, times)
