"""``python -m tests.train.sharded_run FOLDER KEY=VALUE...``: sharded runs, several in one launch because it is slow.

Writes gradients and center of step two of the run ``new`` (``new.safetensors``) and of step four of ``resumed``, which
is there already and goes on in micro-batches.
"""

import sys

from tests.train.gradients_run import record

if __name__ == "__main__":
    folder, settings = sys.argv[1], [*sys.argv[2:], "shard=true"]
    record(f"{folder}/new.safetensors", [*settings, "max_steps=2", "picture_every=2", f"out={folder}/new"])
    record(f"{folder}/resumed.safetensors", [*settings, "max_steps=4", "accumulate=2", f"out={folder}/resumed"])
