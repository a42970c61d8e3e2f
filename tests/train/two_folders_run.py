"""``python -m tests.train.two_folders_run FOLDER KEY=VALUE...``: a run whose processes see different run folders."""

import os
import sys

from midway_zoo.errors import CheckpointError
from midway_zoo.train.config import load_config
from midway_zoo.train.distributed import make_accelerator
from midway_zoo.train.loop import Run
from midway_zoo.train.tasks.pretrain.config import PretrainConfig
from midway_zoo.train.tasks.pretrain.task import PretrainTask

if __name__ == "__main__":
    config = load_config(PretrainConfig, "nano", [*sys.argv[2:], f"out={sys.argv[1]}{os.environ['RANK']}"])
    accelerator = make_accelerator(config)
    try:
        Run(PretrainTask(config), accelerator)
    except CheckpointError as error:
        if accelerator.is_main_process:
            sys.stdout.write(str(error))
