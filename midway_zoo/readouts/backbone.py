"""One interface to all networks whose features are evaluated: Midway networks, and any ViT of timm for comparison."""

import hashlib
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import timm
import torch
from torch import Tensor, nn

from midway_zoo.errors import ConfigError, UnknownModelError
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.weights.checkpoint import load_checkpoint
from midway_zoo.weights.registry import resolve_network

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

TIMM = "timm:"
"""Prefix of timm's names, to tell them from those of this zoo."""

BackboneLike: TypeAlias = "Backbone | MidwayNetwork | nn.Module | str | PathLike[str]"


class Backbone(nn.Module):
    """A ViT whose features are evaluated.

    Args:
        vit: a plain ViT of timm (an encoder of this zoo is one).
        network: the Midway network that ``vit`` belongs to, if any; its backward features are then available.
        name: name in messages and tables.

    Raises:
        ConfigError: if ``vit`` cannot return the tokens of its blocks.
    """

    def __init__(self, vit: "VisionTransformer", network: MidwayNetwork | None = None, name: str = "") -> None:
        super().__init__()
        if not hasattr(vit, "forward_intermediates") or not hasattr(vit, "patch_embed") or not hasattr(vit, "blocks"):
            raise ConfigError(
                f"{name or type(vit).__name__} is not a ViT of timm: it has no blocks of tokens to read out."
            )
        self.vit = vit
        self.network = network
        self.name = name
        self.patch_size: int = vit.patch_embed.patch_size[0]
        self.dim: int = vit.embed_dim
        self.depth = len(vit.blocks)
        self.img_size: tuple[int, int] = tuple(vit.patch_embed.img_size or (224, 224))
        cfg = vit.pretrained_cfg
        self.register_buffer("mean", torch.tensor(cfg["mean"]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(cfg["std"]).view(1, 3, 1, 1), persistent=False)

    def grid_of(self, images: Tensor) -> tuple[int, int]:
        """Token grid (rows, columns) of images (B, 3, H, W)."""
        return images.shape[-2] // self.patch_size, images.shape[-1] // self.patch_size

    def normalise(self, images: Tensor) -> Tensor:
        """Normalise images (B, 3, H, W) in [0, 1] for the backbone."""
        mean, std = self.get_buffer("mean"), self.get_buffer("std")
        return ((images.to(mean) - mean) / std).to(next(self.vit.parameters()).dtype)

    def tokens(self, images: Tensor, blocks: Sequence[int] | None = None) -> list[tuple[Tensor, Tensor]]:
        """Normalised tokens of blocks, from images (B, 3, H, W) in [0, 1] whose sides are multiples of the patch.

        Args:
            images: RGB.
            blocks: increasing 0-based indices; None for the last block alone.

        Returns:
            Per block, the class token (B, D) (the mean of the patches if there is none) and the patches (B, N, D).
        """
        return block_tokens(self.vit, self.normalise(images), [self.depth - 1] if blocks is None else blocks)

    def maps(self, images: Tensor, blocks: Sequence[int] | None = None) -> list[Tensor]:
        """:meth:`tokens` as feature maps, one (B, D, h, w) per block."""
        grid = self.grid_of(images)
        return [patches.transpose(1, 2).unflatten(2, grid) for _, patches in self.tokens(images, blocks)]

    def digest(self) -> str:
        """SHA-256 of the weights, the key of cached features."""
        found = hashlib.sha256()
        for key, value in sorted(self.vit.state_dict().items()):
            found.update(f"{key}{tuple(value.shape)}{value.dtype}".encode())
            found.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return found.hexdigest()


def block_tokens(vit: nn.Module, images: Tensor, blocks: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
    """:meth:`Backbone.tokens` of normalised images (B, 3, H, W), with gradients if they are enabled."""
    reader: Any = vit
    found = reader.forward_intermediates(
        images,
        indices=list(blocks),
        return_prefix_tokens=True,
        norm=True,
        stop_early=True,
        output_fmt="NLC",
        intermediates_only=True,
    )
    return [(prefix[:, 0] if prefix.shape[1] else patches.mean(1), patches) for patches, prefix in found]


def load_backbone(model: BackboneLike, *, pretrained: bool = True) -> Backbone:
    """Load a backbone, in evaluation mode.

    Args:
        model: a :class:`Backbone`; a Midway network, its name, Hub repository or path (a released .pth, or what this
            package wrote); a ViT of timm; or "timm:NAME" for timm's own, such as "timm:vit_small_patch16_224.dino".
        pretrained: for "timm:NAME": False gives random weights.

    Raises:
        UnknownModelError: if timm has no such model.
        ConfigError: if it is not a ViT.
        WeightsUnavailableError: if the weights cannot be obtained.
    """
    if isinstance(model, Backbone):
        return model.eval()
    if isinstance(model, str) and model.startswith(TIMM):
        name = model.removeprefix(TIMM)
        if not timm.is_model(name):
            raise UnknownModelError(f"timm has no model {name!r}; timm.list_models() lists them.")
        vit = timm.create_model(name, pretrained=pretrained, num_classes=0, dynamic_img_size=True)
        return Backbone(vit, name=model).eval()
    if (
        isinstance(model, nn.Module)
        and not isinstance(model, MidwayNetwork)
        and hasattr(model, "forward_intermediates")
    ):
        return Backbone(model, name=type(model).__name__).eval()
    named = str(model) if isinstance(model, str | PathLike) else ""
    if named and Path(named).exists():
        model = load_checkpoint(named)
    network = resolve_network(model)
    return Backbone(network.encoder, network, name=named or network.config.encoder).eval()
