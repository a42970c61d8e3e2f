"""The ``midway-zoo`` command."""

import argparse
import io
import logging
import sys
from collections.abc import Sequence

from midway_zoo.cli import demo, flow, inference, readouts, reproduce, segmentation, train, weights, zoo
from midway_zoo.cli import eval as evaluation
from midway_zoo.errors import MidwayZooError
from midway_zoo.version import __version__


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="midway-zoo",
        description="Midway Network backbones: features, motion latents and flow from images and video.",
        epilog="`midway-zoo COMMAND --help` explains a command.",
    )
    parser.add_argument("--version", action="version", version=f"midway-zoo {__version__}")
    parser.add_argument("-v", "--verbose", action="store_true", help="log what is going on to stderr")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    zoo.add_commands(commands)
    weights.add_commands(commands)
    demo.add_commands(commands)
    inference.add_commands(commands)
    flow.add_commands(commands)
    readouts.add_commands(commands)
    segmentation.add_commands(commands)
    train.add_commands(commands)
    evaluation.add_commands(commands)
    reproduce.add_commands(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns 0 if it went well, 1 if it failed (one line on stderr); exits with 2 on misuse."""
    for stream in (sys.stdout, sys.stderr):  # names of files may hold what a terminal cannot show
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    parser = build_parser()
    options, further = parser.parse_known_args(argv)
    # argparse takes positional arguments in one piece; settings may stand on both sides of an option.
    if further and not (hasattr(options, "settings") and all("=" in item and item[0] != "-" for item in further)):
        parser.error(f"unrecognized arguments: {' '.join(further)}")
    if further:
        options.settings += further
    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING, format="%(name)s: %(message)s")
    try:
        options.run(options)
    except (MidwayZooError, OSError) as error:
        message = " ".join(str(error).split())
        sys.stderr.write(f"midway-zoo: error: {message}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("midway-zoo: interrupted\n")
        return 1
    return 0
