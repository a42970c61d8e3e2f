"""Fine-tuning and evaluation of optical flow (appendix B.4)."""

from midway_zoo.train.tasks import TaskEntry

ENTRY = TaskEntry(
    summary="fine-tune a network for optical flow",
    example="midway-zoo train flow --recipe flow_small data.root=/data out=runs/flow init_from=midway_vits.bdd100k",
    config="config.FlowConfig",
    task="task.FlowTask",
)
