"""``midway-zoo extract``: features, motion and flow of many videos and images, to shards."""

import argparse
import sys

from midway_zoo.cli.inference import integers, size
from midway_zoo.cli.train import positive
from midway_zoo.cli.zoo import add_encoder_options

DESCRIPTION = (
    "Extract features, motion latents and flow of many videos and images to OUT: sharded Parquet or safetensors, with "
    "an index (index.json, items.jsonl) and a list of failures with reasons (failures.jsonl). The same command resumes "
    "after any interruption, and every item is extracted once. For several processes: accelerate launch -m midway_zoo "
    "extract ..."
)
EPILOG = (
    "Exit codes: 0 all items are extracted, 3 some items failed, 1 it could not continue (the same command "
    "resumes), 130 interrupted. OUT is read with midway_zoo.extract.Extracted(OUT), or with any reader of Parquet."
)
FAILED = 3
"""Exit code if all is done but some items failed."""


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register this module's command."""
    command = commands.add_parser(
        "extract",
        help="features, motion and flow of many videos, on many machines",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    command.add_argument(
        "input",
        metavar="INPUT",
        help="folder, .txt list, pattern, video, image, tar shards ('a/{000..063}.tar'), or a URL of these: s3://, "
        "gs://, hf://",
    )
    command.add_argument(
        "out",
        metavar="OUT",
        help="folder or URL to write to; use another one for another INPUT or other settings below",
    )
    _add_choices(command)
    _add_running(command)
    add_encoder_options(command)
    command.set_defaults(run=_extract)


def _add_choices(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("settings of the results (fixed once OUT is begun)")
    group.add_argument("--what", type=_words, default=("features",), metavar="PART,...", help="features,motion,flow")
    group.add_argument("--model", default="midway_nano.scenes", metavar="CKPT_OR_NAME", help="default: %(default)s")
    group.add_argument("--stride", type=int, default=1, help="for clips: take every n-th frame, default: %(default)s")
    group.add_argument("--fps", type=float, help="for videos, instead of --stride: frames per second to take")
    group.add_argument("--size", type=size, help='shorter side in pixels, HEIGHTxWIDTH, or "full"; default: native')
    group.add_argument("--flow-size", type=size, metavar="SIZE", help="size for the flow, default: --size")
    group.add_argument("--method", choices=("auto", "head", "perturbation"), default="auto", help="method of the flow")
    group.add_argument(
        "--blocks",
        type=_blocks,
        metavar="N,...",
        help='encoder blocks whose maps are stored; "none": class tokens alone',
    )
    group.add_argument(
        "--dtype", choices=("float32", "float16", "bfloat16"), default="float32", help="default: %(default)s"
    )
    group.add_argument(
        "--images",
        choices=("each", "clip"),
        help="each image is an item, or those of a folder are a clip; default: by --what",
    )
    group.add_argument("--chunk", type=int, default=64, help="largest number of frames per row; default: %(default)s")
    group.add_argument("--format", choices=("parquet", "safetensors"), default="parquet", help="default: %(default)s")


def _add_running(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("execution (may change from run to run)")
    group.add_argument("--engine", choices=("local", "ray"), default="local", help="default: this process")
    group.add_argument(
        "--workers", type=positive, help="Ray: number of workers; default: one per GPU, else per 1 + readers CPUs"
    )
    group.add_argument(
        "--ray-address", metavar="ADDRESS", help="address of a cluster; default: start one on this machine"
    )
    group.add_argument("--batch-size", type=positive, default=8, help="default: %(default)s")
    group.add_argument(
        "--readers", type=positive, default=1, metavar="N", help="decoding threads per network; default: 1"
    )
    group.add_argument(
        "--shard-mb", type=positive, default=128, help="approximate size of a file, default: %(default)s"
    )
    group.add_argument("--shard-items", type=positive, metavar="N", help="items per unit of work")
    group.add_argument("--retry-failed", action="store_true", help="retry items that failed before")
    group.add_argument("--device", help="cpu, cuda, cuda:1, ...; default: cuda if available, else cpu")


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for word in text.split(",") if word)


def _blocks(text: str) -> tuple[int, ...]:
    return () if text == "none" else integers(text)


def _extract(options: argparse.Namespace) -> int:
    from midway_zoo.cli.work.extract import run_extract

    summary = run_extract(options)
    if not options.quiet:
        failed = f", {summary.failed} failed (failures.jsonl)" if summary.failed else ""
        sys.stdout.write(
            f"{summary.items} of {summary.planned} items{failed}, {summary.frames} frames, in {summary.out}\n"
        )
    return FAILED if summary.failed else 0
