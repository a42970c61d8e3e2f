"""Semantic segmentation by a linear head on a frozen network."""

from midway_zoo.train.tasks import TaskEntry

ENTRY = TaskEntry(
    summary="train a linear segmentation head on a frozen network",
    example="midway-zoo train segmentation --recipe segmentation_scenes_nano init_from=runs/a out=runs/seg",
    config="config.SegmentationConfig",
    task="task.SegmentationTask",
)
