"""``midway-zoo flow``: of two images to a file, or of a video to a video."""

import argparse
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from midway_zoo.cli.inference import add_command, load, report, size
from midway_zoo.errors import InputError
from midway_zoo.files import write_png
from midway_zoo.flow.formats import check_ending, write_flow
from midway_zoo.inference.clips import flow_of_clip
from midway_zoo.inference.flow import flow_of_pairs
from midway_zoo.inference.flow_options import FlowOptions
from midway_zoo.inference.frames import open_frames
from midway_zoo.inference.video_writer import write_video
from midway_zoo.results import FlowPrediction
from midway_zoo.visualize import flow_to_image

DESCRIPTION = (
    "Optical flow from image A to image B, as .flo, .npy, .pfm, .flo5 or 16-bit KITTI .png; or of consecutive frames "
    "of a video or folder A, as an .mp4 with frames and flow side by side."
)
_FOLDER_FPS = 10.0  # of a folder of frames, which have no times


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register this module's command."""
    command = add_command(commands, "flow", "optical flow of two images or a video", DESCRIPTION)
    command.add_argument("source", metavar="A", type=Path, help="image, or without B a video or a folder of frames")
    command.add_argument("target", metavar="B", type=Path, nargs="?", help="image")
    command.add_argument("--method", choices=("auto", "head", "perturbation"), default="auto")
    command.add_argument("--tile", type=tile, metavar="SIZE", help="head: side or HEIGHTxWIDTH of tiles; default: own")
    command.add_argument("--overlap", type=float, help="head: of tiles, from 0 to below 1; default: little")
    command.add_argument("--coarse", action="store_true", help="head: place tiles by the flow of the whole image")
    command.add_argument(
        "--refine", type=int, default=0, metavar="N", help="head: look again N times, at the target warped by the flow"
    )
    command.add_argument("--mirrored", action="store_true", help="head: average over mirrored frames, at 4 x the cost")
    command.add_argument("--draws", type=int, default=1, help="perturbations per token, default: %(default)s")
    command.add_argument("--seed", type=int, default=0, help="of the perturbations, default: %(default)s")
    command.add_argument("--picture", type=Path, metavar="FLOW.png", help="of two images: flow in Middlebury colours")
    command.add_argument("--max-flow", type=float, metavar="PIXELS", help="length at full colour; default: the longest")
    command.add_argument("--stride", type=int, default=1, help="of a video: every n-th frame, default: %(default)s")
    command.add_argument("--fps", type=float, help="of a video: instead, take this many frames per second")
    command.set_defaults(run=_flow)


def tile(text: str) -> int | tuple[int, int]:
    """An argument such as 320 or 320x384."""
    sides = size(text)
    if isinstance(sides, str):
        raise argparse.ArgumentTypeError(f"{text!r}: a side such as 320, or HEIGHTxWIDTH such as 320x384")
    return sides


def _flow(options: argparse.Namespace) -> None:
    if options.target is None:
        _check_video(options)
    else:
        check_ending(options.output)
        if options.stride != 1 or options.fps is not None:
            raise InputError("--stride and --fps are for a video; leave out B to pass one.")
    names = ("method", "size", "tile", "overlap", "coarse", "refine", "mirrored", "draws", "seed", "batch_size")
    chosen = FlowOptions(**{name: getattr(options, name) for name in names})
    network = load(options)
    if options.target is None:
        flows = flow_of_clip(network, options.source, chosen, stride=options.stride, fps=options.fps)
        first = next(flows)
        count = write_video(
            options.output,
            _until_the_end(_side_by_side(options, chain([first], flows))),
            overwrite=options.force,
        )
        report(options, f"{count} frames, method={first.method!r}, grid={first.grid}")
        return
    prediction = flow_of_pairs(network, options.source, options.target, chosen)
    write_flow(options.output, prediction.flow[0], overwrite=options.force)
    if options.picture:
        picture = flow_to_image(prediction.flow[0], max_flow=options.max_flow)
        write_png(options.picture, picture, overwrite=options.force)
    report(options, prediction)


def _check_video(options: argparse.Namespace) -> None:
    if options.output.suffix.lower() != ".mp4":
        raise InputError(f"{options.output.name}: flow of a video is written to an .mp4; for two images pass A and B.")
    if options.picture:
        raise InputError("--picture is for two images; of a video, the output is the picture.")


_Shown: TypeAlias = tuple[Tensor, float, float]
"""A picture with the seconds from and to which it is shown."""


def _side_by_side(options: argparse.Namespace, flows: Iterator[FlowPrediction]) -> Iterator[_Shown]:
    """Source frame and flow, (3, H, 2 W) uint8, at the source's time; the colours' one scale only ever grows."""
    longest = 1e-6
    frames = open_frames(options.source, stride=options.stride, fps=options.fps)
    for number, (prediction, frame) in enumerate(zip(flows, frames, strict=False)):  # the last is a target only
        flow = prediction.flow[0].cpu()
        longest = max(longest, float(torch.linalg.vector_norm(flow, dim=0).max()))
        picture = flow_to_image(flow, max_flow=options.max_flow or longest)
        start, stop = number / _FOLDER_FPS, (number + 1) / _FOLDER_FPS
        if prediction.pts_seconds is not None:
            start, stop = prediction.pts_seconds[0].tolist()
        yield torch.cat([frame.image.mul(255).round().to(torch.uint8), picture], dim=2), start, stop


def _until_the_end(shown: Iterator[_Shown]) -> Iterator[_Shown]:
    """The last picture stands in for the last frame too, which has no flow: the length is that of the source."""
    last: _Shown | None = None
    for current in shown:
        if last is not None:
            yield last
        last = current
    if last is not None:
        picture, start, stop = last
        yield picture, start, 2 * stop - start
