"""The parts of a network that can be exported, with named inputs and outputs; they normalise images themselves."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from midway_zoo.exporting.network import FollowedNetwork, Reads
from midway_zoo.results import DynamicsOutput


class Part(nn.Module):
    """Maps float32 images (B, 3, H, W) in [0, 1] to named float32 tensors, whatever precision it computes in."""

    inputs: tuple[str, ...]
    reads: Reads
    """What it needs of the network."""
    mean: Tensor
    std: Tensor

    def __init__(self, network: FollowedNetwork, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1))

    def normalised(self, images: Tensor) -> Tensor:
        return ((images - self.mean) / self.std).to(self.network.dtype)

    def latents(self, source: Sequence[Tensor], target: Sequence[Tensor], images: Tensor) -> dict[str, Tensor]:
        """``tokens`` (B, M, C) are the final motion latents, ``level2`` and ``level1`` those of the higher levels, and
        ``pooled`` (B, C) the mean of the final ones."""
        grid = self.network.grid_of(images)
        found = self.network.require_dynamics().motion_latents(source, target, grid).motion_latents
        last = min(found)
        named = {"tokens": found[last], **{f"level{level}": found[level] for level in found if level != last}}
        return {**named, "pooled": found[last].mean(dim=1)}


class EncoderPart(Part):
    """``cls`` (B, D) and ``block2`` ... (B, D, h, w), the features of single images."""

    inputs = ("images",)
    reads = "encoder"

    def __init__(
        self, network: FollowedNetwork, mean: Sequence[float], std: Sequence[float], blocks: Sequence[int]
    ) -> None:
        super().__init__(network, mean, std)
        self.blocks = tuple(blocks)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        last = self.network.config.depth - 1
        taps = sorted({*self.blocks, last})
        tokens = dict(zip(taps, self.network.encode(self.normalised(images), blocks=taps), strict=True))
        grid = self.network.grid_of(images)
        found = {"cls": tokens[last][:, 0]}
        for block in self.blocks:
            found[f"block{block}"] = tokens[block][:, 1:].transpose(1, 2).unflatten(2, grid)
        return _floats(found)


class MotionPart(Part):
    """The motion latents from source to target; see :meth:`Part.latents`."""

    inputs = ("source", "target")
    reads = "latents"

    def forward(self, source: Tensor, target: Tensor) -> dict[str, Tensor]:
        pair = self.network.encode_pair(self.normalised(source), self.normalised(target))
        return _floats(self.latents(*pair, source))


class FlowPart(Part):
    """``flow`` (B, 2, H, W) in pixels, x right and y down, from source to target; ``confidence`` (B, 1, H, W)."""

    inputs = ("source", "target")
    reads = "flow"

    def forward(self, source: Tensor, target: Tensor) -> dict[str, Tensor]:
        pair = self.network.encode_pair(self.normalised(source), self.normalised(target))
        raw = self.network.flow_from_tokens(*pair, self.network.grid_of(source)).float()
        return {"flow": raw[:, :2], "confidence": torch.sigmoid(-raw[:, 2:])}


class StreamPart(Part):
    """Motion since the previous frame, with each frame encoded once.

    ``previous`` (B, 4, 1 + h * w, D) is the ``state`` returned by the previous call: the four levels of tokens of its
    frame. A stream begins with zeros, and of its first outputs only ``state`` is meaningful.
    """

    inputs = ("images", "previous")
    reads = "latents"

    def forward(self, images: Tensor, previous: Tensor) -> dict[str, Tensor]:
        normalised = self.normalised(images)
        own = self.network.encode(normalised)
        target = own if self.network.target_encoder is None else self.network.encode(normalised, target=True)
        source = [level.to(self.network.dtype) for level in previous.unbind(dim=1)]
        return _floats({"state": torch.stack(own, dim=1), **self.latents(source, target, images)})


class NetworkPart(Part):
    """Everything the dynamics computes, named by the fields of :class:`~midway_zoo.DynamicsOutput` and the level, such
    as ``predictions2``."""

    inputs = ("source", "target")
    reads = "dynamics"

    def forward(self, source: Tensor, target: Tensor) -> dict[str, Tensor]:
        pair = self.network.encode_pair(self.normalised(source), self.normalised(target))
        out: DynamicsOutput = self.network.require_dynamics()(*pair, self.network.grid_of(source))
        return _floats(named_outputs(out))


def named_outputs(out: DynamicsOutput) -> dict[str, Tensor]:
    """Tensors by field and level, such as "predictions2"."""
    fields = ("motion_latents", "predictions", "source_backward", "target_backward", "midway_target_tokens", "targets")
    return {f"{field}{level}": value for field in fields for level, value in getattr(out, field).items()}


def _floats(found: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.float() for name, value in found.items()}
