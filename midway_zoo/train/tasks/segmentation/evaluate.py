"""Validation during training: on held-out scenes, or on validation images by sliding windows."""

import torch

from midway_zoo.readouts.labelled import LabelledFiles, find_labelled, has_splits
from midway_zoo.readouts.segmentation_evaluation import evaluate_segmenter
from midway_zoo.readouts.segmentation_metrics import SegmentationMetrics
from midway_zoo.train.tasks.segmentation.config import SegmentationConfig, SegmentationDataConfig
from midway_zoo.train.tasks.segmentation.data import held_out_scenes
from midway_zoo.train.tasks.segmentation.model import SegmentationModel


def validation_files(data: SegmentationDataConfig) -> LabelledFiles | None:
    """The labelled images to validate on; None if the configuration has none."""
    if data.source == "folder" and data.val_root is None and not has_splits(str(data.root)):
        return None
    return find_labelled(data.source, str(data.val_root or data.root), "val")


@torch.no_grad()
def validate(
    model: SegmentationModel, config: SegmentationConfig, files: LabelledFiles | None
) -> SegmentationMetrics | None:
    """Metrics over the validation data; None if there are none.

    Images from files are predicted as by :meth:`~midway_zoo.readouts.segmentation.Segmenter.predict`, and scored at
    the size of their masks.
    """
    if config.data.source == "scenes":
        metrics = SegmentationMetrics(model.config.classes)
        for images, labels in held_out_scenes(config.data, model.device, batch_size=config.batch_size):
            metrics.update(model.logits(model.normalise(images.float() / 255)).argmax(1), labels)
        return metrics
    if files is None:
        return None
    return evaluate_segmenter(model, files, limit=config.data.val_limit, batch_size=config.batch_size)
