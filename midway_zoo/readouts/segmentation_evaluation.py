"""Evaluation of a segmenter on a labelled data set."""

from pathlib import Path

import torch

from midway_zoo.bars import bar
from midway_zoo.files import write_png
from midway_zoo.readouts.labelled import LabelledFiles, read_labelled, spread
from midway_zoo.readouts.segmentation import ImageSize, Segmenter, check_same_classes
from midway_zoo.readouts.segmentation_metrics import SegmentationMetrics
from midway_zoo.visualize import labels_overlay


def evaluate_segmenter(
    segmenter: Segmenter,
    files: LabelledFiles,
    *,
    limit: int | None = None,
    size: ImageSize = None,
    stride: int | None = None,
    batch_size: int = 8,
    overlays: Path | None = None,
) -> SegmentationMetrics:
    """Metrics over all pixels of a data set, at the sizes of its masks.

    Args:
        segmenter: the segmenter to evaluate.
        files: result of :func:`~midway_zoo.readouts.labelled.find_labelled`.
        limit: evaluate only this many images, evenly spread.
        size, stride, batch_size: see :meth:`Segmenter.predict`.
        overlays: an existing folder for pictures, ``STEM.png``: the prediction over the image, the truth below.

    Raises:
        InputError: if the data set has other classes, or a file cannot be used.
    """
    check_same_classes(segmenter, files.classes.names, files.dataset.name)
    classes = segmenter.config.classes
    palette = segmenter.config.palette or files.classes.palette or None
    metrics = SegmentationMetrics(classes)
    pairs = spread(files.pairs, limit)
    for image_file, mask_file in bar(pairs, desc="evaluation", unit=" images"):
        image, labels = read_labelled(image_file, mask_file, classes, files.dataset)
        found = segmenter.predict(image, size=size, stride=stride, batch_size=batch_size).labels[0]
        metrics.update(found, labels)
        if overlays is not None:
            rows = [labels_overlay(image, one, palette=palette) for one in (found, labels)]
            write_png(overlays / f"{image_file.stem}.png", torch.cat(rows, dim=1), overwrite=True)
    return metrics
