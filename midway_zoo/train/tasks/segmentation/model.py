"""A linear head on the tokens of a frozen network, and the head as a file of its own beside the network's."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from midway_zoo.errors import CheckpointError, ConfigError, MissingFileError
from midway_zoo.files import METADATA_KEY
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.train.tasks.segmentation.config import IGNORE, FeaturesConfig
from midway_zoo.weights.registry import load_checkpoint

HEAD = "segmentation_head.safetensors"
"""Tensors "head.weight" (K, parts * D, 1, 1) and "head.bias" (K,) of the convolution, "mean" and "std" (parts * D,) of
what it reads; metadata "features" (``FeaturesConfig``), "classes" and "names"."""


class SegmentationModel(nn.Module):
    """Frozen features, standardised, a 1x1 convolution, bilinear upsampling.

    Every channel is shifted and scaled by its mean and standard deviation over some training images, found once
    (:meth:`standardise`), so that one learning rate fits encoder tokens and backward features alike, and what all
    tokens share does not hide where they differ. iBOT's recipe has a batch normalisation there, which would depend on
    how a batch is split among processes.

    Args:
        network: kept in evaluation mode, without gradients.
        features: what is read of it.
        classes: K.

    Raises:
        ConfigError: for features that the network does not have.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: MidwayNetwork, features: FeaturesConfig, classes: int) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.blocks = _blocks(network, features)
        self.levels = _levels(network, features)
        width = (len(self.levels) or len(self.blocks)) * network.config.embed_dim
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))
        self.head = nn.Conv2d(width, classes, 1)
        nn.init.trunc_normal_(self.head.weight, std=0.01)
        nn.init.constant_(self.head.get_parameter("bias"), 0)

    def train(self, mode: bool = True) -> "SegmentationModel":
        """The head has no mode, and the network stays in evaluation mode."""
        super().train(mode)
        self.network.eval()
        return self

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """What the head reads, (B, parts * D, h, w), of normalised images (B, 3, H, W)."""
        grid = self.network.grid_of(images)
        tokens: Sequence[Tensor] = self.network.encode(images, blocks=self.blocks)
        if self.levels:
            backward = self.network.require_dynamics().backward_features(tokens)
            tokens = [backward[level] for level in self.levels]
        joined = torch.cat([part[:, 1:].float() for part in tokens], dim=-1)
        return ((joined - self.mean) / self.std).transpose(1, 2).unflatten(2, grid)

    @torch.no_grad()
    def standardise(self, batches: Iterable[Tensor]) -> None:
        """Make :meth:`features` of these normalised images (B, 3, H, W) zero on average, with standard deviation 1."""
        self.mean.zero_()
        self.std.fill_(1)
        count, sums, squares = 0, self.mean.double(), self.mean.double()
        for images in batches:
            values = self.features(images).double()
            count += values.numel() // values.shape[1]
            sums, squares = sums + values.sum((0, 2, 3)), squares + values.square().sum((0, 2, 3))
        mean = sums / count
        self.mean.copy_(mean)
        self.std.copy_((squares / count - mean.square()).clamp(min=1e-12).sqrt())

    def logits(self, images: Tensor) -> Tensor:
        """(B, K, H, W) of normalised images (B, 3, H, W), sides multiples of the patch."""
        return F.interpolate(self.head(self.features(images)), images.shape[-2:], mode="bilinear", align_corners=False)

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Scalars "loss" (cross-entropy) and "accuracy" of "images" (B, 3, H, W), normalised, and "labels" (B, H, W).

        The loss is divided by the number of all pixels, ignored ones included (as mmsegmentation does by default),
        so that it does not depend on how a batch is split.
        """
        logits, labels = self.logits(batch["images"]).float(), batch["labels"]
        loss = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum") / labels.numel()
        hits = (logits.detach().argmax(1) == labels).sum()
        return {"loss": loss, "accuracy": hits / (labels != IGNORE).sum().clamp(min=1)}


def _blocks(network: MidwayNetwork, features: FeaturesConfig) -> tuple[int, ...]:
    """Encoder blocks to run: those that are read, or those that the backward layers read."""
    if features.source == "backward" or features.blocks is None:
        return network.config.feature_blocks
    depth, blocks = network.config.depth, tuple(features.blocks)
    if not blocks or list(blocks) != sorted(set(blocks)) or not 0 <= blocks[0] <= blocks[-1] < depth:
        raise ConfigError(f"features.blocks={list(blocks)}: increasing numbers from 0 to {depth - 1} are expected.")
    return blocks


def _levels(network: MidwayNetwork, features: FeaturesConfig) -> tuple[int, ...]:
    """Levels of v that are read; none for the encoder's tokens."""
    if features.source == "encoder":
        return ()
    if network.dynamics is None or not network.config.backward:
        raise ConfigError("features.source=backward: the network has no backward layers; take features.source=encoder.")
    known = network.config.levels
    levels = known if features.levels is None else tuple(features.levels)
    if not levels or len(set(levels)) < len(levels) or not set(levels) <= set(known):
        raise ConfigError(f"features.levels={list(levels)}: the network has {list(known)}.")
    return levels


def load_segmentation(folder: str | Path) -> SegmentationModel:
    """The :class:`SegmentationModel` of an export, in evaluation mode.

    Raises:
        MissingFileError: if the folder holds no network, or no head.
        CheckpointError: if one is damaged.
    """
    path = Path(folder) / HEAD
    if not path.is_file():
        raise MissingFileError(f"there is no {path}: export a run of `midway-zoo train segmentation`.")
    network = load_checkpoint(folder)
    try:
        with safe_open(path, framework="pt") as file:
            described = json.loads(file.metadata()[METADATA_KEY])
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        model = SegmentationModel(network, FeaturesConfig(**described["features"]), described["classes"])
        if {key for key in model.state_dict() if not key.startswith("network.")} != state.keys():
            raise CheckpointError(f"{path} is no head of this network: it holds {', '.join(state)}.")
        model.load_state_dict(model.state_dict() | state)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} is no head of this network: {error}") from error
    return model.eval()
