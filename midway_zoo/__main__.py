import sys

from midway_zoo.cli import main

sys.exit(main())
