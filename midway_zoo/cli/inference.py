"""The commands features and motion, and options shared by all commands that run a network.

The code that does the work is imported when a command runs, so that help and usage errors appear at once.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from midway_zoo.cli.zoo import add_encoder_options

if TYPE_CHECKING:
    import torch

    from midway_zoo.models.network import MidwayNetwork

FEATURES = (
    "Write features as .safetensors or .npz: cls (N, D); block2, block5, ... (N, D, h, w), or block2.0, block2.1, ... "
    "for images with different grids; for a video also pts_seconds. Memory does not grow with N."
)

MOTION = (
    "Write motion latents of frames t and t + GAP as .safetensors or .npz: tokens (N, 10, C), the final ones (level "
    "0); level1, level2, pooled; for videos also pts_seconds and concealed (whether frames are damaged)."
)


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register this module's commands."""
    command = add_command(commands, "features", "features of images, folders or a video", FEATURES)
    command.add_argument(
        "images",
        metavar="INPUT",
        nargs="+",
        type=Path,
        help="images, folders of images, patterns such as 'a/*.png'; or one video",
    )
    command.add_argument("--blocks", type=integers, default=(2, 5, 8, 11), help="encoder blocks, default: 2,5,8,11")
    command.add_argument("--backward", action="store_true", help="also the backward features of levels 2, 1, 0")
    command.add_argument(
        "--picture",
        type=Path,
        metavar="PCA.png",
        help="also write the principal components of the last block as a picture",
    )
    add_sampling(command)
    command.set_defaults(run=_features)

    command = add_command(commands, "motion", "motion latents of a clip", MOTION)
    command.add_argument("video", metavar="VIDEO", type=Path, help="video file or folder of frames")
    command.add_argument("--gap", type=int, default=1, help="frames from source to target, default: %(default)s")
    add_sampling(command)
    command.set_defaults(run=_motion)


def add_sampling(command: argparse.ArgumentParser) -> None:
    """Options that choose frames."""
    command.add_argument(
        "--stride", type=int, default=1, help="for a video: take every n-th frame, default: %(default)s"
    )
    command.add_argument("--fps", type=float, help="for a video, instead of --stride: frames per second to take")


def add_command(commands: Any, name: str, short: str, description: str) -> argparse.ArgumentParser:
    """A command that runs a network, with the common options."""
    command: argparse.ArgumentParser = commands.add_parser(name, help=short, description=description)
    command.add_argument(
        "model",
        metavar="CKPT_OR_NAME",
        type=model,
        help="pretrained name, hf-hub:ORG/REPO, .pth, .safetensors, exported folder or training run",
    )
    command.add_argument("-o", "--output", required=True, type=Path, metavar="OUT", help="file to write")
    command.add_argument("--force", action="store_true", help="replace existing output files")
    command.add_argument("--size", type=size, help='shorter side in pixels, HEIGHTxWIDTH, or "full"; default: native')
    command.add_argument("--batch-size", type=int, default=8, help="default: %(default)s")
    command.add_argument("--device", help="cpu, cuda, cuda:1, ...; default: cuda if available, else cpu")
    add_encoder_options(command)
    return command


def model(text: str) -> str:
    """The first argument, a model; a hint is given if it is footage."""
    from midway_zoo.inference.folders import IMAGE_SUFFIXES, suffix_of
    from midway_zoo.inference.sources import VIDEO_SUFFIXES

    if suffix_of(text) in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES):
        raise argparse.ArgumentTypeError(f"{text} is footage; the model comes first: midway_nano.scenes {text}")
    return text


def integers(text: str) -> tuple[int, ...]:
    """An argument such as 2,5,8,11."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list such as 2,5,8,11") from error


def size(text: str) -> int | tuple[int, int] | str:
    """An argument such as 448, 384x640 or full."""
    if text == "full":
        return text
    try:
        sides = [int(part) for part in text.lower().split("x")]
    except ValueError:
        sides = []
    if len(sides) not in (1, 2):
        raise argparse.ArgumentTypeError(f'{text!r}: a side such as 448, HEIGHTxWIDTH such as 384x640, or "full"')
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def load(options: argparse.Namespace) -> "MidwayNetwork":
    """The network, after a check that the outputs can be written."""
    from midway_zoo.cli.work.running import load

    return load(options)


def device(name: str | None) -> "torch.device":
    """The device of ``--device``."""
    from midway_zoo.cli.work.running import device

    return device(name)


def _features(options: argparse.Namespace) -> None:
    from midway_zoo.cli.work.features import run_features

    run_features(options)


def _motion(options: argparse.Namespace) -> None:
    from midway_zoo.cli.work.motion import run_motion

    run_motion(options)
