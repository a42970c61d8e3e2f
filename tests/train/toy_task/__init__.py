"""A task outside the package: what a folder has to hold for the trainer, its commands and exports to know it."""

from midway_zoo.train.tasks import TaskEntry

ENTRY = TaskEntry(
    summary="tell bright images from dark ones",
    example="midway-zoo train toy out=runs/toy",
    config="task.ToyConfig",
    task="task.ToyTask",
    layouts=("text",),
)
