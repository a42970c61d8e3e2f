"""Commands that run a network: features, motion; what they share with the others that do."""

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from midway_zoo.cli.zoo import add_encoder_options
from midway_zoo.errors import InputError
from midway_zoo.files import check_output, write_png, write_safetensors
from midway_zoo.inference.clips import infer_motion_latents
from midway_zoo.inference.features import extract_features
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.visualize import features_to_image
from midway_zoo.weights.registry import create_model, load_checkpoint

MOTION = (
    "Motion latents of consecutive frames as safetensors: tokens (T - 1, 10, C), the final ones (level 0); "
    "level1, level2, pooled; for videos pts_seconds and concealed (frames that are damaged)."
)


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register this module's commands."""
    command = add_command(
        commands, "features", "features of images", "Class tokens and feature maps of images, as safetensors."
    )
    command.add_argument("images", metavar="IMAGE", nargs="+", type=Path)
    command.add_argument("--blocks", type=_integers, default=(2, 5, 8, 11), help="encoder blocks, default: 2,5,8,11")
    command.add_argument("--backward", action="store_true", help="also the backward features of levels 2, 1, 0")
    command.add_argument("--picture", type=Path, metavar="PCA.png", help="principal components of the last block")
    command.set_defaults(run=_features)

    command = add_command(
        commands,
        "motion",
        "motion latents of a clip",
        MOTION,
    )
    command.add_argument("video", metavar="VIDEO", help="video file or folder of frames")
    command.add_argument("--stride", type=int, default=1, help="take every n-th frame, default: %(default)s")
    command.add_argument("--fps", type=float, help="instead, take this many frames per second")
    command.set_defaults(run=_motion)


def add_command(commands: Any, name: str, short: str, description: str) -> argparse.ArgumentParser:
    """A command that runs a network, with the options that all of them have."""
    command: argparse.ArgumentParser = commands.add_parser(name, help=short, description=description)
    command.add_argument("model", metavar="CKPT_OR_NAME", help="released .pth, converted folder, or pretrained name")
    command.add_argument("-o", "--output", required=True, type=Path, metavar="OUT")
    command.add_argument("--force", action="store_true", help="replace existing output files")
    command.add_argument("--size", type=size, help='shorter side in pixels, HEIGHTxWIDTH, or "full"; default: native')
    command.add_argument("--batch-size", type=int, default=8, help="default: %(default)s")
    command.add_argument("--device", help="cpu, cuda, cuda:1, ...; default: cuda if there is one, else cpu")
    add_encoder_options(command)
    return command


def _integers(text: str) -> tuple[int, ...]:
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


def load(options: argparse.Namespace) -> MidwayNetwork:
    """The network, after a check that the outputs can be written: failing late would waste the work."""
    for output in (options.output, getattr(options, "picture", None)):
        if output is not None:
            check_output(output, overwrite=options.force)
    path = Path(options.model)
    if path.exists() or path.suffix in (".pth", ".safetensors") or len(path.parts) > 1:
        network = load_checkpoint(
            path, encoder=options.encoder, paired=options.paired, config=dict(options.config) or None
        )
    else:
        fields = {"paired": options.paired, **dict(options.config)}
        network = create_model(options.model, pretrained=True, encoder=options.encoder, **fields)
    return network.to(device(options.device))


def device(name: str | None) -> torch.device:
    """The device of ``--device``.

    Raises:
        InputError: if there is no such device.
    """
    try:
        found = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device {name}: {reason}. Use --device cpu.") from error
    return found


def _features(options: argparse.Namespace) -> None:
    network = load(options)
    features = extract_features(
        network,
        options.images,
        blocks=options.blocks,
        backward=options.backward,
        size=options.size,
        batch_size=options.batch_size,
    )
    tensors = {"cls": features.cls}
    for block, maps in features.maps.items():
        tensors |= _named(f"block{block}", maps)
    for level, maps in (features.backward or {}).items():
        tensors |= _named(f"backward{level}", maps)
    metadata = {"images": [str(path) for path in options.images], "grid": features.grid, "model": options.model}
    write_safetensors(options.output, tensors, metadata, overwrite=options.force)
    if options.picture:
        images = list(features_to_image(list(features.maps[max(options.blocks)]), size=None))
        write_png(options.picture, _in_a_row(images), overwrite=options.force)
    report(options, features)


def _motion(options: argparse.Namespace) -> None:
    network = load(options)
    latents = infer_motion_latents(
        network,
        options.video,
        stride=options.stride,
        fps=options.fps,
        size=options.size,
        batch_size=options.batch_size,
    )
    tensors = {"tokens": latents.tokens, "pooled": latents.pooled}
    tensors |= {f"level{level}": value for level, value in latents.levels.items() if value is not latents.tokens}
    if latents.pts_seconds is not None:
        tensors["pts_seconds"] = latents.pts_seconds
    if latents.concealed is not None:
        tensors["concealed"] = latents.concealed
    metadata = {"video": str(options.video), "grid": latents.grid, "model": options.model}
    write_safetensors(options.output, tensors, metadata, overwrite=options.force)
    report(options, latents)


def _named(name: str, maps: Tensor | list[Tensor]) -> dict[str, Tensor]:
    """One tensor for images of one grid, else one per image."""
    return {name: maps} if isinstance(maps, Tensor) else {f"{name}.{index}": one for index, one in enumerate(maps)}


def _in_a_row(images: list[Tensor], side: int = 224) -> Tensor:
    """Pictures of any grid side by side, enlarged to one height without smoothing."""
    scaled = []
    for image in images:
        width = max(1, round(image.shape[2] * side / image.shape[1]))
        scaled.append(torch.nn.functional.interpolate(image[None], size=(side, width), mode="nearest-exact")[0])
    return torch.cat(scaled, dim=2)


def report(options: argparse.Namespace, result: Any) -> None:
    """Say on stdout what was computed and where it is."""
    written = " and ".join(str(path) for path in (options.output, getattr(options, "picture", None)) if path)
    sys.stdout.write(f"{result}\nwrote {written}\n")
