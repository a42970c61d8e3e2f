"""Three ways to follow points from one frame through a clip, and to tell where they are hidden.

Each takes a clip whose first frame holds the points and returns positions (T, n, 2) in its pixels and hidden (T, n). A
point counts as hidden where the way back does not lead home:

* similarity: features of any backbone. A point goes to the place that resembles it most; it is hidden where the place
  that resembles *that* most, in the first frame, is further than :data:`HOME` tokens from the point.
* perturbation: :func:`~midway_zoo.analysis.track`; hidden where the same, from the place found straight back to the
  first frame, ends further than :data:`HOME` tokens from the point.
* flow: steps of flow are added up; hidden from the first step on that the backward flow does not undo
  (:func:`~midway_zoo.flow.consistency_mask`): what a chain has lost it does not find again.
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
"""Tokens that the way back may miss the point by."""
_TEMPERATURE, _WINDOW = 0.05, 1


def follow(
    backbone: Backbone, frames: Sequence[Tensor], xy: Tensor, *, tracker: Tracker = "similarity", side: int = 256
) -> tuple[Tensor, Tensor]:
    """Follow points of the first frame.

    Args:
        backbone: any for "similarity", that of a Midway network for the others.
        frames: images (3, H, W) in [0, 1], one size.
        xy: (n, 2) in pixels of the first, the centres of pixels at integers.
        tracker: how.
        side: shorter side at which "similarity" sees frames.

    Returns:
        Positions (T, n, 2) float32 and hidden (T, n) bool, on the CPU; the first frame's are the points themselves.

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
        raise ConfigError(f"tracker={tracker!r} needs a Midway network; {backbone.name} is an encoder: similarity.")
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
    # Between the outer edges of the picture, in tokens; a token's centre is at a half.
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
    """Features (D, h, w) between tokens at (n, 2): (n, D), of length 1."""
    height, width = features.shape[1:]
    grid = (2 * at + 1) / at.new_tensor([width, height]) - 1
    values = F.grid_sample(features[None], grid[None, None], padding_mode="border", align_corners=False)[0, :, 0]
    return F.normalize(values.T, dim=1)


def _most_alike(features: Tensor, others: Tensor) -> Tensor:
    """Where in ``others`` (D, h, w) features (n, D) are found: (n, 2) in tokens, the weighted mean around the best."""
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
