"""Outputs of commands: checks before the work, descriptions in the files, and results kept after interruptions."""

import argparse
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from midway_zoo.cli.work.inputs import check_not_inputs
from midway_zoo.errors import InputError, InterruptedWorkError
from midway_zoo.files import check_output, check_output_folder
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.storage import state_digest
from midway_zoo.version import __version__


def check_suffix(path: Path, suffixes: tuple[str, ...], what: str) -> None:
    """Raise :class:`InputError` unless a file has one of the endings that can be written."""
    if path.suffix.lower() not in suffixes:
        raise InputError(f"{path}: {what} are written to {' or '.join(suffixes)}, not {path.suffix or 'such a name'}.")


def check_outputs(options: argparse.Namespace) -> None:
    """Raise before the work if an output cannot be written, or would replace an input (with ``--force`` too)."""
    outputs = [path for path in (getattr(options, "output", None), getattr(options, "picture", None)) if path]
    inputs = [getattr(options, name, None) for name in ("images", "video", "source", "target", "model")]
    check_not_inputs(outputs, *(one for entry in inputs for one in (entry if isinstance(entry, list) else [entry])))
    for output in outputs:
        if getattr(options, "folders", False) and (output.is_dir() or not output.suffix):
            check_output_folder(output)
        else:
            check_output(output, overwrite=options.force)
    if len(outputs) == 2 and outputs[0].absolute() == outputs[1].absolute():
        raise InputError(f"{outputs[0]} is the name of two outputs; give each its own.")
    if len(outputs) == 2 and outputs[1].suffix.lower() != ".png":
        raise InputError(f"{outputs[1]}: pictures are written to .png.")


@contextmanager
def taken_back(path: Path | None) -> Iterator[None]:
    """Remove a new first output if writing a later one fails or is interrupted, since it would block the same
    command."""
    fresh = path is not None and not path.exists()
    try:
        yield
    except BaseException:
        if path is not None and fresh:
            path.unlink(missing_ok=True)
        raise


def description(options: argparse.Namespace, network: MidwayNetwork, **facts: Any) -> dict[str, Any]:
    """The description of how it was made, stored in every output."""
    names = (
        "stride",
        "fps",
        "size",
        "gap",
        "method",
        "tile",
        "overlap",
        "coarse",
        "refine",
        "mirrored",
        "draws",
        "seed",
    )
    chosen = {name: getattr(options, name) for name in names if hasattr(options, name)}
    return {
        "midway_zoo": __version__,
        "command": options.command,
        "model": str(options.model),
        "weights_sha256": state_digest(network),
        "provenance": network.provenance,
        **chosen,
        **facts,
    }


class Progress:
    """How much work is done."""

    def __init__(self) -> None:
        self.done = 0
        self.seconds: float | None = None
        self.interrupted = False
        self._handler: Any = None

    def step(self, count: int = 1, seconds: float | None = None) -> None:
        """Note that more is done, and the time reached in the footage."""
        self.done += count
        self.seconds = self.seconds if seconds is None else seconds

    def interrupt(self) -> None:
        """Ctrl-C came: what there is will now be closed, which a second one must not prevent."""
        self.interrupted = True
        if threading.current_thread() is threading.main_thread():
            self._handler = signal.signal(signal.SIGINT, signal.SIG_IGN)

    def end(self, output: Path, unit: str) -> None:
        """Raise :class:`InterruptedWorkError` if Ctrl-C ended the work, saying how much is done."""
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)
        if self.interrupted:
            at = "" if self.seconds is None else f", up to {self.seconds:.2f} s"
            raise InterruptedWorkError(f"interrupted: {output} holds the first {self.done} {unit}{at}.")


@contextmanager
def kept_on_interrupt(progress: Progress) -> Iterator[None]:
    """Ctrl-C ends the context, without an error if anything was done, so that the output can be closed properly."""
    try:
        yield
    except KeyboardInterrupt:
        if not progress.done:
            raise
        progress.interrupt()
