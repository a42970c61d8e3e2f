"""Image classification by a linear layer: a probe of frozen features, or fine-tuning."""

from midway_zoo.train.tasks import TaskEntry

ENTRY = TaskEntry(
    summary="train a linear classifier on a frozen or fine-tuned network",
    example="midway-zoo train classification --recipe classification_linear init_from=midway_vits.bdd100k "
    "data.root=/data/imagenet out=runs/probe",
    config="config.ClassificationConfig",
    task="task.ClassificationTask",
)
