"""A segmenter: a backbone, a head on its token maps, and the classes of every pixel of images of any size."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from midway_zoo.checks import check_integer
from midway_zoo.errors import ConfigError, InputError
from midway_zoo.inference.batches import progress
from midway_zoo.inference.images import Images, count, iterate
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.readouts.backbone import Backbone, BackboneLike, block_tokens, load_backbone
from midway_zoo.readouts.segmentation_heads import PYRAMID, LinearHead, UperNetHead, head_blocks, pyramid_blocks
from midway_zoo.readouts.windows import classes_of, sliding_logits
from midway_zoo.results import Segmentation

WINDOW_SHARE = 2 / 3
"""Distance of windows as a share of their side (341 of 512 in the paper)."""
LONGEST = 4
"""Longest side of a resized image, in units of the window's side (2048 and 512 in the paper)."""
ImageSize = int | Literal["full"] | None


@dataclass(frozen=True)
class SegmenterConfig:
    """Features, head and image size of a :class:`Segmenter`."""

    classes: int
    """K, the number of classes."""
    head: str = "linear"
    """"linear" or "upernet"."""
    source: str = "encoder"
    """"encoder": normalised tokens of blocks; "backward": the source-side backward features v of a Midway network."""
    blocks: tuple[int, ...] | None = None
    """Encoder blocks, 0-based; None for the default of the head (see :meth:`resolved`)."""
    levels: tuple[int, ...] | None = None
    """Levels of v; None for all that the network has (2, 1, 0)."""
    standardise: bool = False
    """Whether features are shifted and scaled to mean 0 and standard deviation 1 per channel (:meth:`standardise`)."""
    width: int | None = None
    """Width of UperNet; None for the backbone's."""
    dropout: float = 0.1
    """Dropout of UperNet."""
    crop: int = 512
    """Side of the windows in pixels; images are resized so that their shorter side has this length."""
    names: tuple[str, ...] | None = None
    """Names of the classes."""
    palette: tuple[tuple[int, int, int], ...] | None = None
    """Their colours, RGB from 0 to 255."""

    def resolved(self, backbone: Backbone) -> "SegmenterConfig":
        """The configuration with None replaced by the blocks or levels of a backbone.

        Raises:
            ConfigError: for features that it does not have, or that the head cannot read.
        """
        network = backbone.network
        if self.head not in ("linear", "upernet"):
            raise ConfigError(f'head={self.head!r}: "linear" or "upernet" is expected.')
        if self.source == "backward":
            if self.head != "linear":
                raise ConfigError("an UperNet head reads four blocks of the encoder: features.source=encoder.")
            return replace(self, levels=_levels(network, self.levels), blocks=None)
        if self.source != "encoder":
            raise ConfigError(f'source={self.source!r}: "encoder" or "backward" is expected.')
        usual = pyramid_blocks(backbone.depth)
        if self.head == "linear" and network is not None:
            usual = network.config.feature_blocks
        blocks = usual if self.blocks is None else tuple(self.blocks)
        if not head_blocks(backbone.depth, blocks):
            raise ConfigError(
                f"features.blocks={list(blocks)}: increasing numbers from 0 to {backbone.depth - 1} are expected."
            )
        if self.head == "upernet" and len(blocks) != PYRAMID:
            raise ConfigError(f"features.blocks={list(blocks)}: an UperNet head reads {PYRAMID} blocks.")
        return replace(self, blocks=blocks, levels=None)

    def to_dict(self) -> dict[str, Any]:
        """JSON types; :meth:`from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "SegmenterConfig":
        """Read the result of :meth:`to_dict`, also from JSON.

        Raises:
            TypeError: for an unknown or missing key.
        """
        tuples = {key: tuple(values[key]) for key in ("blocks", "levels", "names") if values.get(key) is not None}
        if values.get("palette") is not None:
            tuples["palette"] = tuple(tuple(colour) for colour in values["palette"])
        return cls(**{**values, **tuples})


def _levels(network: MidwayNetwork | None, asked: Sequence[int] | None) -> tuple[int, ...]:
    if network is None or network.dynamics is None or not network.config.backward:
        raise ConfigError("features.source=backward: the network has no backward layers; take features.source=encoder.")
    known = network.config.levels
    levels = known if asked is None else tuple(asked)
    if not levels or len(set(levels)) < len(levels) or not set(levels) <= set(known):
        raise ConfigError(f"features.levels={list(levels)}: the network has {list(known)}.")
    return levels


class Segmenter(nn.Module):
    """Semantic segmentation from the token maps of any backbone.

    Args:
        backbone: a Midway network, a name, a path, a ViT of timm or "timm:NAME"; see
            :func:`~midway_zoo.readouts.backbone.load_backbone`. The segmenter takes it over and freezes its
            parameters.
        config: features, head and image size.

    Attributes:
        network: the Midway network; None for a ViT of timm, which is in ``vit``.
        head: maps the concatenated features (B, parts * D, h, w) to logits.

    Raises:
        ConfigError: for features that the backbone does not have.
    """

    mean: Tensor
    std: Tensor
    image_mean: Tensor
    image_std: Tensor

    def __init__(self, backbone: BackboneLike, config: SegmenterConfig) -> None:
        super().__init__()
        face = load_backbone(backbone)
        if isinstance(backbone, str):  # networks loaded by name are shared
            face = deepcopy(face)
        self.config = config = config.resolved(face)
        self.backbone_name = face.name
        self.network, self.vit = face.network, None if face.network is not None else face.vit
        self.patch_size, self.dim = face.patch_size, face.dim
        self.register_buffer("image_mean", face.get_buffer("mean").clone(), persistent=False)
        self.register_buffer("image_std", face.get_buffer("std").clone(), persistent=False)
        self.parts = len(config.levels or config.blocks or ())
        self.register_buffer("mean", torch.zeros(self.parts * self.dim), persistent=config.standardise)
        self.register_buffer("std", torch.ones(self.parts * self.dim), persistent=config.standardise)
        self.frozen = True
        face.requires_grad_(False)
        self.head: nn.Module
        if config.head == "linear":
            self.head = LinearHead(self.parts * self.dim, config.classes)
        else:
            self.head = UperNetHead(self.dim, config.classes, width=config.width, dropout=config.dropout)

    @property
    def encoder(self) -> nn.Module:
        """The ViT that encodes the images."""
        found = self.vit if self.network is None else self.network.encoder
        assert found is not None
        return found

    @property
    def device(self) -> torch.device:
        return self.image_mean.device

    def unfreeze(self, drop_path: float = 0.0) -> "Segmenter":
        """Make the encoder trainable up to the last block that the head reads.

        Args:
            drop_path: stochastic depth of the last block in training, decreasing towards the first.

        Raises:
            ConfigError: for backward features, whose layers are not fine-tuned here.
        """
        if self.config.source == "backward":
            raise ConfigError("fine-tuning reads the encoder's tokens: features.source=encoder.")
        last = max(self.config.blocks or ())
        for name, parameter in self.encoder.named_parameters():
            room, _, rest = name.partition(".")
            beyond = room == "blocks" and int(rest.partition(".")[0]) > last
            parameter.requires_grad_(not beyond and room not in ("head", "fc_norm", "attn_pool"))
        set_drop_path(self.encoder, drop_path)
        self.frozen = False
        return self.train(self.training)

    def train(self, mode: bool = True) -> "Segmenter":
        """Set the mode; a frozen backbone and unused parts of the network stay in evaluation mode."""
        super().train(mode)
        for backbone in (self.network, self.vit):
            if backbone is not None:
                backbone.eval()
        if not self.frozen:
            self.encoder.train(mode)
        return self

    def normalise(self, images: Tensor) -> Tensor:
        """Normalise images (B, 3, H, W) in [0, 1] for the backbone."""
        return (images.to(self.device) - self.image_mean) / self.image_std

    def features(self, images: Tensor) -> Tensor:
        """Input of the head, (B, parts * D, h, w), from normalised images (B, 3, H, W)."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            parts = self._tokens(images)
            joined = torch.cat([part.float() for part in parts], dim=-1)
            grid = images.shape[-2] // self.patch_size, images.shape[-1] // self.patch_size
            return ((joined - self.mean) / self.std).transpose(1, 2).unflatten(2, grid)

    def _tokens(self, images: Tensor) -> list[Tensor]:
        """(B, h * w, D) of each block or level."""
        images = images.to(next(self.encoder.parameters()).dtype)
        if self.config.levels:
            assert self.network is not None
            backward = self.network.require_dynamics().backward_features(self.network.encode(images))
            return [backward[level][:, 1:] for level in self.config.levels]
        assert self.config.blocks is not None
        return [patches for _, patches in block_tokens(self.encoder, images, self.config.blocks)]

    @torch.no_grad()
    def standardise(self, batches: Iterable[Tensor]) -> None:
        """Standardise :meth:`features` to mean 0 and standard deviation 1 over these normalised images (B, 3, H, W).

        One learning rate then fits encoder tokens and backward features, and what all tokens have in common does not
        hide their differences."""
        self.mean.zero_()
        self.std.fill_(1)
        seen, sums, squares = 0, self.mean.double(), self.mean.double()
        for images in batches:
            values = self.features(images).double()
            seen += values.numel() // values.shape[1]
            sums, squares = sums + values.sum((0, 2, 3)), squares + values.square().sum((0, 2, 3))
        mean = sums / seen
        self.mean.copy_(mean)
        self.std.copy_((squares / seen - mean.square()).clamp(min=1e-12).sqrt())

    def logits(self, images: Tensor) -> Tensor:
        """Logits (B, K, H, W) of normalised images (B, 3, H, W), whose sides are multiples of the patch."""
        return enlarged(self.head(self.features(images)), images)

    @torch.no_grad()
    def predict(
        self, images: Images, *, size: ImageSize = None, stride: int | None = None, batch_size: int = 8
    ) -> Segmentation:
        """Classes of the pixels of images of any size, by overlapping windows whose logits are averaged.

        An image is resized to ``size`` and divided into windows of ``config.crop`` pixels, unless it fits in a single
        one. The averaged logits are resized to the image's own size. Runs without gradients and in evaluation mode,
        and restores the mode afterwards.

        Args:
            images: one image or several, of any sizes; see :func:`midway_zoo.inference.images.to_tensor`.
            size: length of the shorter side in pixels; None for the side of a window, with a longer side of at most
                four times that, as in training; "full" for the image's own size.
            stride: distance of windows in pixels; None for two thirds of a window, 341 of 512.
            batch_size: windows per forward pass.

        Returns:
            :class:`~midway_zoo.results.Segmentation`, in the given order, at the images' own sizes.

        Raises:
            InputError: for images or arguments that cannot be used.
        """
        check_integer("batch_size", batch_size, 1)
        total = count(images)
        labels: list[Tensor] = []
        confidence: list[Tensor] = []
        with progress(total, 1, "images") as bar:
            for some in self._each(iterate(images), size, stride, batch_size):
                labels.append(some[0].cpu())
                confidence.append(some[1].cpu())
                bar.update(1)
        same = len({one.shape for one in labels}) == 1
        return Segmentation(
            labels=torch.stack(labels) if same else labels,
            confidence=torch.stack(confidence) if same else confidence,
            names=self.config.names,
        )

    def _each(
        self, images: Iterable[Tensor], size: ImageSize, stride: int | None, batch_size: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        side = self.config.crop
        stride = max(1, int(side * WINDOW_SHARE)) if stride is None else stride
        check_integer("stride", stride, 1, side)
        for image in images:
            given = (image.shape[1], image.shape[2])
            seen = self.normalise(_scaled(image.to(self.device)[None], seen_size(*given, size, side)))
            with _evaluating(self):
                logits = sliding_logits(
                    self.logits, seen, side=side, stride=stride, patch=self.patch_size, batch_size=batch_size
                )
            labels, confidence = classes_of(logits, given)
            yield labels[0].to(torch.uint8), confidence[0]


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode within the context; afterwards the mode of every part is restored."""
    training = [one for one in module.modules() if one.training]
    module.eval()
    try:
        yield
    finally:
        for one in training:
            one.training = True


def enlarged(logits: Tensor, images: Tensor) -> Tensor:
    """Logits (B, K, h, w) enlarged bilinearly to the size of images (B, 3, H, W)."""
    return F.interpolate(logits, images.shape[-2:], mode="bilinear", align_corners=False)


def seen_size(height: int, width: int, size: ImageSize, side: int) -> tuple[int, int]:
    """(height, width) that an image is resized to; see :meth:`Segmenter.predict`.

    Raises:
        InputError: for a size that makes no sense.
    """
    if size == "full":
        return height, width
    if size is not None:
        check_integer("size", size, 1)
    short, long = min(height, width), max(height, width)
    scale = side / short if size is None else int(size) / short
    if size is None:
        scale = min(scale, LONGEST * side / long)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _scaled(image: Tensor, size: tuple[int, int]) -> Tensor:
    if image.shape[-2:] == size:
        return image
    return F.interpolate(image, size, mode="bilinear", antialias=True, align_corners=False)


def set_drop_path(vit: nn.Module, rate: float) -> None:
    """Give a ViT stochastic depth that grows from 0 at its first block to ``rate`` at its last."""
    blocks: Any = vit.blocks
    for number, block in enumerate(blocks):
        share = rate * number / max(1, len(blocks) - 1)
        if not hasattr(block, "drop_path1"):
            raise ConfigError(f"{type(block).__name__} has no stochastic depth: drop_path=0.")
        block.drop_path1 = DropPath(share) if share else nn.Identity()
        block.drop_path2 = DropPath(share) if share else nn.Identity()


def check_same_classes(segmenter: Segmenter, names: Sequence[str], origin: str) -> None:
    """Raise :class:`InputError` if the classes of a data set are not those of a segmenter."""
    own = segmenter.config.names
    if names and len(names) != segmenter.config.classes:
        raise InputError(f"{origin} has {len(names)} classes, the segmenter {segmenter.config.classes}.")
    if names and own and tuple(own) != tuple(names):
        first = next(index for index, pair in enumerate(zip(own, names, strict=True)) if pair[0] != pair[1])
        raise InputError(
            f"{origin} has other classes than the segmenter: number {first} is {names[first]!r} there and "
            f"{own[first]!r} here."
        )
