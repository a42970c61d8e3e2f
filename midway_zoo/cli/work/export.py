"""``midway-zoo export``."""

import argparse
import sys

from midway_zoo.cli.work.running import load
from midway_zoo.errors import InputError
from midway_zoo.exporting.api import check_request, export
from midway_zoo.exporting.files import require_onnx


def run_export(options: argparse.Namespace) -> None:
    """Write the file, and report its difference from the network."""
    if options.size == "full":
        raise InputError("--size full: an exported file has one size, such as 224 or 384x640; or pass --dynamic size.")
    chosen = check_request(options.output, options.format, options.part, options.dynamic, options.dtype)
    if chosen == "onnx":
        require_onnx()
    images = None if options.images is None else [str(path) for path in options.images]
    result = export(
        load(options),
        options.output,
        format=chosen,  # type: ignore[arg-type]  # checked above
        part=options.part,
        size=options.size,
        dynamic=options.dynamic,
        dtype=options.dtype,
        blocks=options.blocks,
        images=images,
        check=not options.no_check,
        overwrite=options.force,
        name=options.model,
    )
    if options.quiet:
        return
    measured = "not compared with the network (--no-check)"
    if result.difference is not None:
        measured = f"largest difference from the network {result.difference:.1e}, smallest cosine {result.cosine:.6f}"
    opset = f", opset {result.description['opset']}" if result.description["opset"] else ""
    sys.stdout.write(
        f"{result.part} as {result.format} in {result.dtype}{opset}, "
        f"{result.size[0]}x{result.size[1]}{', dynamic ' + ' and '.join(result.dynamic) if result.dynamic else ''}: "
        f"{', '.join(result.inputs)} -> {', '.join(result.outputs)}\n"
        f"{measured}\nwrote {options.output} ({result.size_bytes / 1e6:.1f} MB)\n"
    )
