"""Midway pretraining (paper section 3): losses, model and task."""

from midway_zoo.train.tasks import TaskEntry

ENTRY = TaskEntry(
    summary="pretrain a network on videos",
    example="midway-zoo train pretrain --recipe bdd100k_vits data.root=/data/bdd100k out=runs/a",
    config="config.PretrainConfig",
    task="task.PretrainTask",
    layouts=("released",),
)
