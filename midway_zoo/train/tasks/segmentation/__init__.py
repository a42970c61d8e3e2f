"""Semantic segmentation: a linear or UperNet head on a frozen or fine-tuned backbone."""

from midway_zoo.train.tasks import TaskEntry

ENTRY = TaskEntry(
    summary="train a segmentation head (linear or UperNet), optionally with its backbone",
    example="midway-zoo train segmentation --recipe upernet_bdd100k init_from=runs/a data.root=/data/bdd100k out=seg",
    config="config.SegmentationConfig",
    task="task.SegmentationTask",
)
