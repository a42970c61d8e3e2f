"""``python -m tests.train.killed_run STEP KEY=VALUE...``: a run that kills itself, with SIGKILL, in that step."""

import os
import signal
import sys

from midway_zoo.train.config import load_config
from midway_zoo.train.distributed import make_accelerator
from midway_zoo.train.loop import Run
from midway_zoo.train.tasks.pretrain.config import PretrainConfig
from midway_zoo.train.tasks.pretrain.task import PretrainTask


class Killed(PretrainTask):
    fatal = 0

    def before_update(self, step: int) -> None:
        super().before_update(step)
        if step == self.fatal:
            run.writer.wait()  # else it is chance whether the checkpoint before is whole
        if step == self.fatal and int(os.environ.get("RANK", "0")) == 0:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    Killed.fatal = int(sys.argv[1])
    config = load_config(PretrainConfig, "nano", sys.argv[2:])
    run = Run(Killed(config), make_accelerator(config))
    run.fit()
