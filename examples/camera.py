"""Motion from a camera, an RTSP address or a file, frame by frame as they come.

    python examples/camera.py SOURCE [--model midway_nano] [--flow] [--device cpu] [--frames N]

SOURCE is what FFmpeg opens: a file, rtsp://..., or a webcam (/dev/video0 on Linux with --format v4l2; "0" on macOS with
--format avfoundation). Prints a line per frame: its time, how large the latent is, how much it changed since the one
before (1 - cosine), and with --flow the mean length of the flow in pixels. Needs the extra `video`.
"""

import argparse
from collections.abc import Iterator

import av
import numpy as np
import torch

import midway_zoo as mz
from midway_zoo.errors import MidwayZooError


def frames(source: str, container_format: str | None) -> Iterator[tuple[float, np.ndarray]]:
    """Seconds and RGB pictures (H, W, 3) uint8."""
    with av.open(source, format=container_format) as container:
        for index, frame in enumerate(container.decode(video=0)):
            yield float(index if frame.time is None else frame.time), frame.to_ndarray(format="rgb24")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("--model", default="midway_nano", help="pretrained name, default: %(default)s")
    parser.add_argument("--format", help="of FFmpeg, for devices")
    parser.add_argument("--flow", action="store_true")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--frames", type=int, help="stop after so many")
    options = parser.parse_args(arguments)
    try:
        run(options)
    except (av.error.FFmpegError, OSError, MidwayZooError) as problem:
        parser.exit(1, f"camera.py: error: {problem}\n")


def run(options: argparse.Namespace) -> None:
    """A line for each frame of the source."""
    network = mz.create_model(options.model, pretrained=True).to(options.device)
    stream = mz.MotionStream(network, flow=options.flow)
    before = None
    for index, (seconds, picture) in enumerate(frames(options.source, options.format)):
        if index == options.frames:
            break
        found = stream.push(picture)
        if found is None:
            continue
        latent, flow = found if isinstance(found, tuple) else (found, None)
        now = latent.pooled[0].float()
        change = 0.0 if before is None else 1 - float(torch.cosine_similarity(now, before, dim=0))
        before = now
        line = f"{seconds:8.2f} s  length {float(now.norm()):6.2f}  change {change:6.3f}"
        print(line if flow is None else f"{line}  flow {float(flow.flow.norm(dim=1).mean()):6.2f} px", flush=True)


if __name__ == "__main__":
    main()
