"""A linear classifier on a ViT, and classifiers on disk as written by ``midway-zoo train export``."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from os import PathLike
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from midway_zoo.errors import CheckpointError, ConfigError
from midway_zoo.inference.images import Images, iterate
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.readouts.backbone import BackboneLike, block_tokens, load_backbone
from midway_zoo.readouts.feature_cache import EvalTransform
from midway_zoo.readouts.head_files import read_exported

HEAD = "classification_head.safetensors"
"""Tensors "head.weight" (K, D') and "head.bias" (K,); metadata "classifier" (:class:`ClassifierConfig`) and "backbone",
the timm name, null for a Midway network, which is stored beside it."""
BACKBONE = "classification_backbone.safetensors"
"""The weights of the backbone, if it is a ViT of timm."""


@dataclass(frozen=True)
class ClassifierConfig:
    """Features of a classifier, size of its images, and names of its classes."""

    names: tuple[str, ...]
    crop: int
    """Side in pixels of the square crop."""
    blocks: int = 1
    """How many of the last blocks' class tokens are concatenated."""
    average: bool = False
    """Whether to append the mean of the last block's patches, as DINO does for ViT-B."""

    def transform(self) -> EvalTransform:
        """Transform of images: resized to 8 / 7 of the crop, then centre-cropped."""
        return EvalTransform(round(self.crop * 8 / 7), self.crop)


class Classifier(nn.Module):
    """Class tokens of a ViT and a linear layer.

    Args:
        backbone: a network or a name, of this zoo or of timm.
        config: features and classes.

    Raises:
        ConfigError: if the backbone has fewer blocks, or the crop does not fit its patches.
    """

    def __init__(self, backbone: BackboneLike, config: ClassifierConfig) -> None:
        super().__init__()
        found = load_backbone(backbone)
        if not 1 <= config.blocks <= found.depth:
            raise ConfigError(f"blocks={config.blocks}: the encoder has {found.depth}.")
        if config.crop % found.patch_size:
            raise ConfigError(f"crop={config.crop} does not fit patches of {found.patch_size} pixels.")
        self.config, self.backbone_name = config, found.name
        self.network: MidwayNetwork | None = found.network
        self.vit: VisionTransformer | None = found.vit if found.network is None else None
        self.register_buffer("mean", found.get_buffer("mean").clone(), persistent=False)
        self.register_buffer("std", found.get_buffer("std").clone(), persistent=False)
        self.depth = found.depth
        self.head = nn.Linear(found.dim * (config.blocks + config.average), len(config.names))
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    @property
    def encoder(self) -> VisionTransformer:
        """The ViT."""
        found = self.vit if self.network is None else self.network.encoder
        assert found is not None
        return found

    def normalise(self, images: Tensor) -> Tensor:
        """Normalise images (B, 3, H, W) in [0, 1] for the backbone."""
        return (images - self.get_buffer("mean")) / self.get_buffer("std")

    def features(self, images: Tensor) -> Tensor:
        """Input of the head, (B, D'), from normalised images (B, 3, H, W)."""
        found = block_tokens(self.encoder, images, range(self.depth - self.config.blocks, self.depth))
        parts = [cls for cls, _ in found] + ([found[-1][1].mean(1)] if self.config.average else [])
        return torch.cat(parts, dim=-1).float()

    def logits(self, images: Tensor) -> Tensor:
        """Logits (B, K) of normalised images (B, 3, H, W), whose sides are multiples of the patch."""
        logits: Tensor = self.head(self.features(images))
        return logits

    @torch.inference_mode()
    def predict(self, images: Images) -> Tensor:
        """Probabilities of the classes, (B, K) float32, of images of any kind and size.

        Raises:
            InputError, InputTypeError, MissingFileError: for images that cannot be read.
        """
        transform, device = self.config.transform(), self.head.weight.device
        rows = [self.logits(self.normalise(transform(image)[None].to(device))) for image in iterate(images)]
        return torch.cat(rows).softmax(1)


def load_classifier(path: str | PathLike[str]) -> Classifier:
    """Load a classifier written by ``midway-zoo train export``, on the CPU, in evaluation mode.

    Args:
        path: its folder.

    Returns:
        A :class:`Classifier`: ``classifier.predict(images)``, whose columns are ``classifier.config.names``.

    Raises:
        MissingFileError: if the folder holds no head, or no backbone.
        CheckpointError: if one is damaged, or they do not fit together.
    """
    backbone, described, state, file = read_exported(path, HEAD, BACKBONE, "classification")
    return build_classifier(backbone, described, state, file)


def build_classifier(
    backbone: BackboneLike, described: Mapping[str, Any], state: Mapping[str, Tensor], origin: str
) -> Classifier:
    """Build a classifier from a backbone, a description and the head's tensors; ``origin`` is for messages.

    Raises:
        CheckpointError: if they do not fit together.
    """
    try:
        settings = dict(described["classifier"])
        config = ClassifierConfig(**{**settings, "names": tuple(settings["names"])})
        classifier = Classifier(backbone, config)
        classifier.head.load_state_dict({key.removeprefix("head."): value for key, value in state.items()})
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{origin} is not a head of this backbone: {reason}") from error
    return classifier.eval()


def describe_classifier(classifier: Classifier) -> dict[str, Any]:
    """Description for :func:`build_classifier`, in JSON types."""
    name = classifier.backbone_name if classifier.network is None else None
    return {"classifier": asdict(classifier.config), "backbone": name}
