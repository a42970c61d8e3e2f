"""``midway-zoo flow``: from two images to a file; from a video to a video, a folder of files or one file of tensors."""

import argparse
from pathlib import Path

from midway_zoo.cli.inference import add_command, add_sampling, size

DESCRIPTION = (
    "Optical flow from image A to image B, as .flo, .npy, .pfm, .flo5 or 16-bit KITTI .png; or of consecutive frames "
    "of a video or folder A, as an .mp4 with frames and flow side by side, or as a folder with one file per pair "
    "(--format). .npz and .safetensors hold flow (N, 2, H, W), confidence and, for videos, times."
)
FORMATS = ("flo", "png", "npy", "pfm", "flo5")


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register this module's command."""
    command = add_command(commands, "flow", "optical flow of two images or a video", DESCRIPTION)
    command.add_argument("source", metavar="A", type=Path, help="image, or without B a video or a folder of frames")
    command.add_argument("target", metavar="B", type=Path, nargs="?", help="image")
    command.add_argument(
        "--method",
        choices=("auto", "head", "perturbation"),
        default="auto",
        help="the flow head, or zero-shot by perturbation; auto: the head if there is one",
    )
    command.add_argument(
        "--tile", type=tile, metavar="SIZE", help="head: side or HEIGHTxWIDTH of tiles; default: the head's own"
    )
    command.add_argument("--overlap", type=float, help="head: overlap of tiles, from 0 to below 1; default: small")
    command.add_argument("--coarse", action="store_true", help="head: place tiles by the flow of the whole image")
    command.add_argument(
        "--refine", type=int, default=0, metavar="N", help="head: refine N times, with the target warped by the flow"
    )
    command.add_argument(
        "--mirrored", action="store_true", help="head: average over mirrored frames, at 4 times the cost"
    )
    command.add_argument("--draws", type=int, default=1, help="perturbations per token, default: %(default)s")
    command.add_argument("--seed", type=int, default=0, help="seed of the perturbations, default: %(default)s")
    command.add_argument(
        "--picture", type=Path, metavar="FLOW.png", help="for two images: also write the flow in Middlebury colours"
    )
    command.add_argument(
        "--format", choices=FORMATS, help="for a folder of files: their format (png is KITTI's); default: flo"
    )
    command.add_argument(
        "--max-flow",
        type=float,
        metavar="PIXELS",
        help="length at full saturation; default: the longest "
        "vector of a picture, or one length for a whole video, estimated beforehand",
    )
    add_sampling(command)
    command.set_defaults(run=_flow, folders=True)


def tile(text: str) -> int | tuple[int, int]:
    """An argument such as 320 or 320x384."""
    sides = size(text)
    if isinstance(sides, str):
        raise argparse.ArgumentTypeError(f"{text!r}: a side such as 320, or HEIGHTxWIDTH such as 320x384")
    return sides


def _flow(options: argparse.Namespace) -> None:
    from midway_zoo.cli.work.flow import run_flow

    run_flow(options)
