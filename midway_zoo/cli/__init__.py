"""The ``midway-zoo`` command. Its modules define the arguments; the code that does the work is imported when a command
runs."""

import io
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from midway_zoo.cli import (
    analyse,
    app,
    benchmark,
    demo,
    export,
    extract,
    flow,
    inference,
    readouts,
    reproduce,
    segmentation,
    train,
    weights,
    zoo,
)
from midway_zoo.cli import eval as evaluation
from midway_zoo.cli.parsing import Parser
from midway_zoo.errors import InterruptedWorkError, MidwayZooError
from midway_zoo.version import __version__

INTERRUPTED, PIPE_CLOSED = 130, 141
"""Exit codes as in a shell: 128 + number of the signal."""


def build_parser() -> Parser:
    """The whole command line."""
    parser = Parser(
        prog="midway-zoo",
        description="Midway Network backbones: features, motion latents and flow from images and video.",
        epilog="`midway-zoo COMMAND --help` explains a command.",
    )
    parser.add_argument("--version", action="version", version=f"midway-zoo {__version__}")
    commands: Any = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    zoo.add_commands(commands)
    weights.add_commands(commands)
    export.add_commands(commands)
    demo.add_commands(commands)
    app.add_commands(commands)
    inference.add_commands(commands)
    flow.add_commands(commands)
    extract.add_commands(commands)
    readouts.add_commands(commands)
    segmentation.add_commands(commands)
    train.add_commands(commands)
    evaluation.add_commands(commands)
    reproduce.add_commands(commands)
    analyse.add_commands(commands)
    benchmark.add_commands(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line.

    Returns:
        0 on success, 1 on failure (one line on stderr), 3 if some items of ``extract`` failed, 130 if interrupted, 141
        if nothing reads its output any more. Usage errors exit with 2.
    """
    for stream in (sys.stdout, sys.stderr):  # file names may hold characters that a terminal cannot show
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    options, further = build_parser().parse_known_args(argv)
    # argparse expects positional arguments in one group, but settings may come before and after an option.
    if further and not (hasattr(options, "settings") and all("=" in item and item[0] != "-" for item in further)):
        options.parser.unknown(further)
    if further:
        options.settings += further
    options.quiet = getattr(options, "quiet", False)
    options.argv = list(sys.argv[1:] if argv is None else argv)
    _set_up(quiet=options.quiet, verbose=getattr(options, "verbose", False))
    try:
        code = options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:  # `midway-zoo list | head`: the flush when Python exits must not fail again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except InterruptedWorkError as error:
        sys.stderr.write(f"midway-zoo: {error}\n")
        return INTERRUPTED
    except (MidwayZooError, OSError) as error:
        message = " ".join(str(error).split())
        sys.stderr.write(f"midway-zoo: error: {message}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("midway-zoo: interrupted\n")
        return INTERRUPTED
    return code or 0


def _set_up(*, quiet: bool, verbose: bool) -> None:
    """Set up logging and progress bars, anew for every command in a process."""
    from midway_zoo.bars import silence

    # Pillow warns of pictures above 89 megapixels, which phones take. Those that it refuses become an error.
    warnings.filterwarnings("ignore", message="Image size .* exceeds limit")
    logging.basicConfig(format="%(name)s: %(message)s")
    level = logging.ERROR if quiet else logging.INFO if verbose else logging.WARNING
    logging.getLogger("midway_zoo").setLevel(level)
    silence(quiet)
