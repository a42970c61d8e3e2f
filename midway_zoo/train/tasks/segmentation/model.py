"""A segmenter in training, and segmenters in the checkpoints of runs."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from midway_zoo.errors import CheckpointError
from midway_zoo.readouts.backbone import BackboneLike
from midway_zoo.readouts.head_files import timm_backbone
from midway_zoo.readouts.labelled import IGNORE
from midway_zoo.readouts.segmentation import Segmenter, SegmenterConfig, enlarged
from midway_zoo.readouts.segmentation_heads import AuxiliaryHead
from midway_zoo.readouts.segmenter_files import BACKBONE_ROOMS, build_segmenter
from midway_zoo.train.checkpoints import STATE, Checkpoint
from midway_zoo.train.weights import network_of_checkpoint

AUXILIARY = "auxiliary."
"""Prefixes of tensors that only training needs."""


class SegmentationModel(Segmenter):
    """A :class:`Segmenter` with its loss.

    Args:
        backbone: see :class:`Segmenter`.
        config: likewise.
        auxiliary: weight of UperNet's auxiliary head; 0 for none. A linear head has none.
    """

    def __init__(self, backbone: BackboneLike, config: SegmenterConfig, *, auxiliary: float = 0.0) -> None:
        super().__init__(backbone, config)
        self.auxiliary: AuxiliaryHead | None = None
        self.auxiliary_weight = auxiliary
        if auxiliary and config.head == "upernet":
            self.auxiliary = AuxiliaryHead(self.dim, config.classes, dropout=config.dropout)

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Scalars "loss", its part "auxiliary" if there is that head, and "accuracy", of "images" (B, 3, H, W),
        normalised, and "labels" (B, H, W).

        A loss is cross-entropy divided by the number of all pixels, ignored ones included (as mmsegmentation does by
        default), so that it does not depend on how a batch is split.
        """
        images, labels = batch["images"], batch["labels"]
        features = self.features(images)
        logits = enlarged(self.head(features), images).float()
        loss = _cross_entropy(logits, labels)
        hits = (logits.detach().argmax(1) == labels).sum()
        results = {"accuracy": hits / (labels != IGNORE).sum().clamp(min=1)}
        if self.auxiliary is not None:
            results["auxiliary"] = _cross_entropy(enlarged(self.auxiliary(features), images).float(), labels)
            loss = loss + self.auxiliary_weight * results["auxiliary"]
        return {"loss": loss} | results


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum") / labels.numel()


def head_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a model's state outside the backbone."""
    return {key: value for key, value in state.items() if not key.startswith((*BACKBONE_ROOMS, AUXILIARY))}


def backbone_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a ViT of timm in a model's state."""
    return {key.removeprefix("vit."): value for key, value in state.items() if key.startswith("vit.")}


def segmenter_of_checkpoint(checkpoint: Checkpoint) -> Segmenter:
    """The segmenter in a run's checkpoint, on the CPU, in evaluation mode.

    Raises:
        CheckpointError: if it is not a segmentation run, or damaged.
    """
    state, described = checkpoint.model(), checkpoint.state().get("segmentation")
    if not isinstance(described, dict):
        raise CheckpointError(f"{checkpoint.path / STATE} does not belong to a segmentation run.")
    origin, name = str(checkpoint.path), described.get("backbone")
    backbone: BackboneLike
    if name is None:
        backbone = network_of_checkpoint(checkpoint, paired=None)
    else:
        backbone = timm_backbone(name, backbone_tensors(state), origin)
    return build_segmenter(backbone, described, head_tensors(state), origin)


def together(model: SegmentationModel) -> SegmentationModel:
    """The module with batch normalisation synchronised over all processes, if there are several, each on a GPU."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    if distributed and torch.distributed.get_world_size() > 1 and torch.cuda.is_available():
        model.head = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model.head)
        model.auxiliary = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model.auxiliary) if model.auxiliary else None
    return model
