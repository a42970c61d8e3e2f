"""``midway-zoo demo``: the main functions in one command. What it needs is imported when it runs."""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from midway_zoo.cli.inference import load
from midway_zoo.demo import CAUTION, MODEL
from midway_zoo.errors import InputError, OutputExistsError

if TYPE_CHECKING:
    from torch import nn

    from midway_zoo.demo.findings import Findings
    from midway_zoo.demo.footage import Footage
    from midway_zoo.demo.sheet import Block
    from midway_zoo.models.network import MidwayNetwork

DESCRIPTION = (
    "Run a network over a few frames and draw what it finds: features, flow, tracks, motion similarity and a heat map "
    "in one picture, DIR/demo.png. Without footage, a generated clip with known flow is used, and a real one is shown "
    "below it. Larger frames are reduced to a shorter side of 128 pixels."
)
_FRAMES, _FPS = 8, 5.0


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register this module's command."""
    command = commands.add_parser("demo", help="a network's findings in one picture", description=DESCRIPTION)
    footage = command.add_mutually_exclusive_group()
    footage.add_argument("--video", type=Path, metavar="PATH", help="video file, or folder of consecutive frames")
    footage.add_argument("--images", type=Path, nargs=2, metavar=("A", "B"), help="two frames of one scene")
    command.add_argument("--model", default=MODEL, metavar="CKPT_OR_NAME", help="default: %(default)s")
    command.add_argument(
        "--out",
        type=Path,
        default=Path("midway_demo"),
        metavar="DIR",
        help="folder to write to, created if missing; default: %(default)s",
    )
    command.add_argument("--force", action="store_true", help="replace an existing picture")
    command.add_argument("--frames", type=int, metavar="N", help=f"2 to 16 frames of a clip; default: {_FRAMES}")
    command.add_argument(
        "--fps",
        type=float,
        help=f"for a video: frames per second, from its start; default: {_FPS:g}, at which most motion is visible",
    )
    command.add_argument("--device", help="cpu, cuda, cuda:1, ...; default: cuda if available, else cpu")
    # Further options that `load` expects, which this command does not offer.
    command.set_defaults(run=_demo, output=None, encoder="teacher", paired=False, config=[])


def _demo(options: argparse.Namespace) -> None:
    from midway_zoo.analysis import untrained
    from midway_zoo.demo.findings import examine, last_features
    from midway_zoo.demo.panels import draw_sheet
    from midway_zoo.files import make_folder, write_png

    start = time.perf_counter()
    path = _checked_output(options)
    footage = _footage(options)
    network = load(options)
    loaded = time.perf_counter() - start
    fresh = untrained(network)
    findings = examine(network, footage, fresh)
    lines = _summary(options.model, network, footage, findings)
    shown, further, random = lines[:3], list["Block"](), None
    if options.model == MODEL:
        shown.append(CAUTION)
    if options.video is None and options.images is None:
        random = last_features(fresh, footage.frames)
        real = time.perf_counter()
        further, said = _real_clip(network, fresh)
        findings.seconds["real clip"] = time.perf_counter() - real
        lines.insert(-1, said)
    drawing = time.perf_counter()
    picture = draw_sheet("midway-zoo demo", shown, footage, findings, random=random, further=further)
    make_folder(path.parent)
    write_png(path, picture, overwrite=options.force)
    seconds = {"loading": loaded, **findings.seconds, "drawing": time.perf_counter() - drawing}
    times = ", ".join(f"{name} {value:.2f}" for name, value in seconds.items())
    lines.append(f"seconds: {times}; {time.perf_counter() - start:.1f} in all")
    lines.append(f"wrote {path} ({picture.shape[2]} x {picture.shape[1]} pixels)")
    sys.stdout.write("\n".join(lines) + "\n")


def _checked_output(options: argparse.Namespace) -> Path:
    """Path of the picture, checked early: failing late would waste the work."""
    from midway_zoo.cli.work.inputs import check_not_inputs
    from midway_zoo.files import check_folder

    path: Path = options.out / "demo.png"
    if options.out.exists() and not options.out.is_dir():
        raise InputError(f"--out {options.out} is a file; pass the name of a folder.")
    check_not_inputs([path], options.video, *(options.images or ()), options.model)
    if path.exists() and not options.force:
        raise OutputExistsError(f"{path} exists; pass --force to replace it, or another --out.")
    check_folder(options.out, of=path.name, made=True)
    return path


def _footage(options: argparse.Namespace) -> "Footage":
    from midway_zoo.demo.footage import MAX_FRAMES, generated_clip, read_clip, read_pair

    if options.images and options.frames is not None:
        raise InputError("--frames is for clips; leave it out for --images.")
    timed = options.video is not None and not options.video.is_dir()
    if options.fps is not None and not timed:
        raise InputError("--fps is for a video file, whose frames have times; leave it out.")
    frames = _FRAMES if options.frames is None else options.frames
    if not 2 <= frames <= MAX_FRAMES:
        raise InputError(f"--frames {frames}: 2 to {MAX_FRAMES} are expected.")
    if options.images:
        return read_pair(*options.images)
    if options.video is None:
        return generated_clip(frames)
    fps = _FPS if timed and options.fps is None else options.fps
    return read_clip(options.video, frames, fps)


def _real_clip(network: "MidwayNetwork", fresh: "MidwayNetwork") -> tuple[list["Block"], str]:
    """Blocks of the packaged clip, whose true flow is unknown, and a line about it."""
    from midway_zoo.demo.findings import examine_clip, last_features, warp_differences
    from midway_zoo.demo.footage import packaged_clip
    from midway_zoo.demo.panels import Panels

    footage = packaged_clip()
    findings = examine_clip(network, footage)
    before, after = warp_differences(footage.frames, findings.flow)
    blocks = Panels(footage, findings).real(last_features(fresh, footage.frames), (before, after))
    return blocks, f"real clip: neighbouring frames differ by {before:.1f} grey levels, by {after:.1f} after warping"


def _summary(model: str, network: "MidwayNetwork", footage: "Footage", findings: "Findings") -> list[str]:
    """Lines of text about the model, the footage, the flow, and figures that are not on the picture."""
    import torch

    from midway_zoo.demo.findings import flow_errors, track_errors

    parts = {"encoder": network.encoder, "dynamics": network.dynamics, "flow head": network.flow_head}
    counts = ", ".join(f"{name} {_millions(part)}" for name, part in parts.items() if part is not None)
    height, width = footage.frames.shape[2:]
    size = f"{len(footage)} frames of {footage.given[1]} x {footage.given[0]} pixels"
    if footage.given != (height, width):
        size += f", reduced to {width} x {height}; lengths below are in these pixels"
    flow = f"flow: {findings.method}"
    if findings.method == "perturbation":
        flow += " (the model has no flow head)"
    if errors := flow_errors(footage, findings.flow):
        flow += f"; EPE {errors['epe']:.2f} px, of zero flow {errors['zero']:.2f} px"
    else:
        lengths = torch.linalg.vector_norm(findings.flow, dim=1)
        flow += f"; length {float(lengths.mean()):.2f} px on average, at most {float(lengths.max()):.2f} px"
    norms = torch.linalg.vector_norm(findings.latents.tokens.float(), dim=-1).cpu()
    pairs, tokens, channels = findings.latents.tokens.shape
    lines = [
        f"model: {Path(model).name}, {_millions(network)} parameters ({counts})",
        f"footage: {footage.name}, {size}",
        flow,
        f"motion latents: {pairs} x {tokens} x {channels}, norm {float(norms.mean()):.2f} on average "
        f"({float(norms.min()):.2f} to {float(norms.max()):.2f})",
    ]
    if distances := track_errors(findings):
        lines.append(
            f"tracks: {len(findings.points)} points, off by {distances['track']:.2f} px on average, "
            f"{distances['still']:.2f} px if they did not move"
        )
    where = next(network.parameters()).device
    threads = f", {torch.get_num_threads()} of {os.cpu_count()} threads" if where.type == "cpu" else ""
    return [*lines, f"device: {where}{threads}"]


def _millions(part: "nn.Module") -> str:
    return f"{sum(parameter.numel() for parameter in part.parameters()) / 1e6:.2f} M"
