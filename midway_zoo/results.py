"""What the functions return: small frozen dataclasses whose repr shows shapes, not values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_describe(item)}" for key, item in value.items()) + "}"
    if isinstance(value, Sequence) and value and isinstance(value[0], Tensor):
        return f"[{', '.join(_describe(item) for item in value)}]"
    return repr(value)


class ShapeRepr:
    """Gives a dataclass a repr with the shapes and dtypes of its tensors, without fields that are None."""

    def __repr__(self) -> str:
        shown = ((item.name, getattr(self, item.name)) for item in fields(self))  # type: ignore[arg-type]
        inside = ", ".join(f"{name}={_describe(value)}" for name, value in shown if value is not None)
        return f"{type(self).__name__}({inside})"


@dataclass(frozen=True, repr=False, eq=False)
class DynamicsOutput(ShapeRepr):
    """Everything the dynamics computed for one direction; dicts keyed by level, top-down: 2, 1, 0, or
    fewer where the configuration leaves levels out."""

    motion_latents: dict[int, Tensor] = field(default_factory=dict)
    """(B, M, C) after each level; the final one is the last, level 0."""
    predictions: dict[int, Tensor] = field(default_factory=dict)
    """(B, L, D): the target frame's tokens as the forward dynamics predicts them."""
    source_backward: dict[int, Tensor] = field(default_factory=dict)
    """(B, L, D): v, the source frame's backward features; without backward layers, its tokens."""
    target_backward: dict[int, Tensor] = field(default_factory=dict)
    """(B, L, D): w, the target frame's backward features; without backward layers, its tokens."""
    midway_target_tokens: dict[int, Tensor] = field(default_factory=dict)
    """(B, L, C): target tokens as the midway path leaves them."""
    targets: dict[int, Tensor] = field(default_factory=dict)
    """(B, L, D): normed encoder tokens of the target frame, which ``predictions`` are compared with."""
    gates: dict[int, list[Tensor]] | None = None
    """Per level, the gates (B, L, D) of forward blocks 1, 2, ... (none without gating); None unless requested."""


# torch.export, torch.compile and torch.func need this of anything that a network returns.
torch.export.register_dataclass(DynamicsOutput, serialized_type_name="midway_zoo.DynamicsOutput")


@dataclass(frozen=True, repr=False, eq=False)
class Features(ShapeRepr):
    """Features of B images, in input order."""

    cls: Tensor
    """(B, D): the normed class token of the encoder's last block."""
    maps: dict[int, Tensor | list[Tensor]]
    """Block -> (B, D, h, w) normed patch tokens; a list of B tensors (D, h, w) if the images' grids differ."""
    grid: tuple[int, int] | list[tuple[int, int]]
    """Token grid (h, w); one per image if they differ."""
    backward: dict[int, Tensor | list[Tensor]] | None = None
    """Level 2, 1, 0 -> backward features v, shaped as in ``maps``; None unless requested."""

    def __len__(self) -> int:
        return self.cls.shape[0]


@dataclass(frozen=True, repr=False, eq=False)
class MotionLatent(ShapeRepr):
    """Motion latents of B pairs (or of the T - 1 neighbours in a clip)."""

    tokens: Tensor
    """(B, M, C): the final motion latent, after the last level (0)."""
    levels: dict[int, Tensor]
    """Level 2, 1, 0 -> (B, M, C), of the levels that the network has; the last is ``tokens``."""
    pooled: Tensor
    """(B, C): mean of ``tokens`` over the motion tokens."""
    grid: tuple[int, int] | list[tuple[int, int]]
    """Token grid (h, w); one per pair if they differ."""
    pts_seconds: Tensor | None = None
    """(B, 2) float64: presentation times of source and target, for videos."""
    concealed: Tensor | None = None
    """(B, 2) bool, for videos: whether source and target were concealed by the decoder because data are damaged."""


@dataclass(frozen=True, repr=False, eq=False)
class FlowPrediction(ShapeRepr):
    """Optical flow of B pairs at the size of the given images."""

    flow: Tensor | list[Tensor]
    """(B, 2, H, W) float32, pixels; channel 0 = x to the right, 1 = y down, from source to target. A list of B
    tensors (2, H, W) if the pairs' sizes differ."""
    confidence: Tensor | list[Tensor]
    """(B, 1, H, W) float32, higher is better. For "head" in [0, 1]: the head expects an error |du| + |dv| of
    4 - 3.75 * confidence pixels, from 0.25 at 1 to 4 at 0, at the resolution of the head's input. For "perturbation"
    the peak sensitivity, a cosine in [-1, 1]. A list like ``flow``."""
    method: str
    """The method that was used: "perturbation" or "head"."""
    grid: tuple[int, int] | list[tuple[int, int]]
    """Token grid (h, w), of a single tile where tiles were used; one per pair if they differ."""
    backward: Tensor | list[Tensor] | None = None
    """Like ``flow``, from target to source; None, like the two below, unless requested."""
    backward_confidence: Tensor | list[Tensor] | None = None
    """Like ``confidence``, of ``backward``."""
    consistent: Tensor | list[Tensor] | None = None
    """(B, 1, H, W) bool: source pixels that the backward flow brings back to where they started; see
    :func:`midway_zoo.flow.consistency_mask`. A list like ``flow``."""
    pts_seconds: Tensor | None = None
    """(B, 2) float64: presentation times of source and target, for videos."""
    concealed: Tensor | None = None
    """(B, 2) bool, for videos: whether source and target were concealed by the decoder because data are damaged."""


@dataclass(frozen=True, repr=False, eq=False)
class PerturbationHeatmap(ShapeRepr):
    """Where one source token went: its sensitivity over the target's tokens."""

    heatmap: Tensor
    """(B, h, w) float32: mean cosine between the perturbation and each predicted token's change, in [-1, 1]."""
    source_token: Tensor
    """(B, 2) int64: column x and row y of the perturbed token on the grid."""
    target_xy: Tensor
    """(B, 2) float32: centre of the most sensitive target token in pixels of the given target image."""
    grid: tuple[int, int]
    """Token grid (h, w)."""


@dataclass(frozen=True, repr=False, eq=False)
class Segmentation(ShapeRepr):
    """Classes of the pixels of B images, at the sizes of the images."""

    labels: Tensor | list[Tensor]
    """(B, H, W) uint8: the likeliest class. A list of B tensors (H, W) if the images' sizes differ."""
    confidence: Tensor | list[Tensor]
    """(B, H, W) float32 in [0, 1]: its probability (softmax of the averaged logits). A list like ``labels``."""
    names: tuple[str, ...] | None = None
    """Names of the classes, where known."""
