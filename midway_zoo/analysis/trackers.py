"""Three ways to track points from one frame through a clip, and to detect when they are occluded.

Each takes a clip whose first frame holds the points and returns positions (T, n, 2) in pixels and occlusion (T, n). A
point counts as occluded if tracking it back does not return to where it started:

* similarity: features of any backbone. A point moves to the most similar place of a frame. It is occluded if the place
  in the first frame that is most similar to *that* lies more than :data:`HOME` tokens from the point.
* perturbation: :func:`~midway_zoo.analysis.track`. A point is occluded if tracking from the place found directly back
  to the first frame ends more than :data:`HOME` tokens from the point.
* flow: flow is accumulated. A point is occluded from the first step that the backward flow does not undo
  (:func:`~midway_zoo.flow.consistency_mask`): a chain that has lost a point does not find it again.
"""

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from midway_zoo.analysis.points import flow_at
from midway_zoo.analysis.tracking import track
from midway_zoo.errors import ConfigError, InputError
from midway_zoo.inference.clips import predict_flows
from midway_zoo.inference.images import resize
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.readouts.backbone import Backbone

Tracker: TypeAlias = Literal["similarity", "perturbation", "flow"]
TRACKERS: tuple[Tracker, ...] = ("similarity", "perturbation", "flow")
HOME = 2.0
"""Largest distance in tokens by which tracking back may miss the point."""
_TEMPERATURE, _WINDOW = 0.05, 1


def follow(
    backbone: Backbone, frames: Sequence[Tensor], xy: Tensor, *, tracker: Tracker = "similarity", side: int = 256
) -> tuple[Tensor, Tensor]:
    """Track points of the first frame.

    Args:
        backbone: any for "similarity"; that of a Midway network for the others.
        frames: T images (3, H, W) in [0, 1] of one size.
        xy: (n, 2) in pixels of the first, the centres of pixels at integers.
        tracker: one of :data:`TRACKERS`.
        side: shorter side that frames are resized to for "similarity".

    Returns:
        Positions (T, n, 2) float32 and occlusion (T, n) bool, on the CPU; the first positions are the points
        themselves.

    Raises:
        InputError: for an unknown tracker, or sizes that differ.
        ConfigError: if the tracker needs a Midway network.
    """
    if tracker not in TRACKERS:
        raise InputError(f"tracker={tracker!r}: one of {', '.join(TRACKERS)} is expected.")
    if len({tuple(frame.shape) for frame in frames}) > 1:
        raise InputError("the frames of a clip differ in size.")
    if len(frames) == 1:
        return xy[None].float(), torch.zeros(1, len(xy), dtype=torch.bool)
    if tracker == "similarity":
        return _by_similarity(backbone, frames, xy.float(), side)
    if backbone.network is None:
        raise ConfigError(f"tracker={tracker!r} needs a Midway network; {backbone.name} allows only similarity.")
    found = _by_perturbation if tracker == "perturbation" else _by_flow
    return found(backbone.network, frames, xy.float())


@torch.inference_mode()
def _by_similarity(backbone: Backbone, frames: Sequence[Tensor], xy: Tensor, side: int) -> tuple[Tensor, Tensor]:
    height, width = frames[0].shape[1:]
    patch, scale = backbone.patch_size, side / min(height, width)
    size = (max(1, round(height * scale / patch)) * patch, max(1, round(width * scale / patch)) * patch)
    device = backbone.get_buffer("mean").device

    def features(frame: Tensor) -> Tensor:
        seen = resize(frame, size)[None].to(device)
        return F.normalize(backbone.maps(seen)[0][0].float(), dim=0)

    first = features(frames[0])
    # Points in tokens, with token centres at integers; the outer edges of frame and grid coincide.
    per_token = xy.new_tensor([width, height]) / xy.new_tensor(first.shape[:0:-1])
    start = ((xy + 0.5) / per_token - 0.5).to(device)
    own = _sample(first, start)
    places, hidden = [start], [torch.zeros(len(xy), dtype=torch.bool, device=device)]
    for frame in frames[1:]:
        there = features(frame)
        place = _most_alike(own, there)
        back = _most_alike(_sample(there, place), first)
        places.append(place)
        hidden.append((back - start).norm(dim=1) > HOME)
    found = (torch.stack(places).cpu() + 0.5) * per_token - 0.5
    found[0] = xy
    return found, torch.stack(hidden).cpu()


def _sample(features: Tensor, at: Tensor) -> Tensor:
    """Features (D, h, w) interpolated at (n, 2): (n, D), of length 1."""
    height, width = features.shape[1:]
    grid = (2 * at + 1) / at.new_tensor([width, height]) - 1
    values = F.grid_sample(features[None], grid[None, None], padding_mode="border", align_corners=False)[0, :, 0]
    return F.normalize(values.T, dim=1)


def _most_alike(features: Tensor, others: Tensor) -> Tensor:
    """Positions (n, 2), in tokens of ``others`` (D, h, w), that match features (n, D): the weighted mean around the
    best."""
    height, width = others.shape[1:]
    cosines = (features @ others.flatten(1)).view(-1, height, width)
    best = cosines.flatten(1).argmax(1)
    y, x = best // width, best % width
    rows, columns = torch.arange(height, device=y.device), torch.arange(width, device=y.device)
    near = ((rows - y[:, None]).abs() <= _WINDOW)[:, :, None] & ((columns - x[:, None]).abs() <= _WINDOW)[:, None]
    weights = (cosines / _TEMPERATURE).masked_fill(~near, -torch.inf).flatten(1).softmax(1).view_as(cosines)
    return torch.stack([(weights.sum(1) * columns).sum(1), (weights.sum(2) * rows).sum(1)], dim=1)


def _by_perturbation(network: MidwayNetwork, frames: Sequence[Tensor], xy: Tensor) -> tuple[Tensor, Tensor]:
    went = track(network, list(frames), xy)
    height, width = frames[0].shape[1:]
    per_token = xy.new_tensor([width / went.grid[1], height / went.grid[0]])
    places, hidden = went.xy.cpu(), [torch.zeros(len(xy), dtype=torch.bool)]
    for frame, there in zip(frames[1:], places[1:], strict=True):
        home = track(network, [frame, frames[0]], there).xy[1].cpu()
        hidden.append(((home - xy) / per_token).norm(dim=1) > HOME)
    return places, torch.stack(hidden)


def _by_flow(network: MidwayNetwork, frames: Sequence[Tensor], xy: Tensor) -> tuple[Tensor, Tensor]:
    last = xy.new_tensor([frames[0].shape[2] - 1, frames[0].shape[1] - 1])
    places, hidden = [xy], [torch.zeros(len(xy), dtype=torch.bool)]
    for step in predict_flows(network, list(frames), bidirectional=True):
        here = places[-1].clamp(min=0).minimum(last)
        assert step.consistent is not None
        x, y = here.round().long().unbind(1)
        undone = step.consistent[0][0].cpu()[y, x]
        moved = here + flow_at(step.flow[0].cpu(), here)
        places.append(moved.clamp(min=0).minimum(last))
        hidden.append(hidden[-1] | ~undone)
    return torch.stack(places), torch.stack(hidden)
