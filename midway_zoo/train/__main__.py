"""``python -m midway_zoo.train``, for ``accelerate launch -m`` and ``torchrun -m``."""

import sys

from midway_zoo.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
