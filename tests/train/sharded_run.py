"""``python -m tests.train.sharded_run FOLDER KEY=VALUE...``: sharded runs, several in one launch because it is slow.

Writes gradients and center of two steps (``gradients.safetensors``) and of two steps in micro-batches
(``parts.safetensors``), runs in ``new`` for two steps and resumes the run in ``resumed``.
"""

import sys

from tests.train.gradients_run import record

if __name__ == "__main__":
    folder, settings = sys.argv[1], [*sys.argv[2:], "shard=true"]
    record(f"{folder}/gradients.safetensors", [*settings, "max_steps=2", "picture_every=2", f"out={folder}/new"])
    record(f"{folder}/parts.safetensors", [*settings, "max_steps=2", "accumulate=2", f"out={folder}/parts"])
    record(f"{folder}/resumed.safetensors", [*settings, "max_steps=4", f"out={folder}/resumed"])
