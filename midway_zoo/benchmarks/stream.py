"""``midway-zoo benchmark stream``: one frame after the other, as from a camera."""

from collections.abc import Callable, Iterator
from typing import Any

import torch

from midway_zoo.benchmarks.measuring import Comparison, How, Way, compare
from midway_zoo.benchmarks.networks import drifting, network_of, sides, with_head
from midway_zoo.inference.batches import network_size, normaliser
from midway_zoo.inference.flow import predict_flow
from midway_zoo.inference.images import resize
from midway_zoo.inference.motion import infer_motion_latent
from midway_zoo.inference.stream import MotionStream
from midway_zoo.models.network import MidwayNetwork

_FRAMES = 8
"""Number of different frames, which are repeated."""


def measure(
    how: How, *, model: str = "midway_vits", video_size: str = "640x360", frames: int = 8, flow: bool = False
) -> Iterator[Comparison]:
    """Latents from each frame to the next; with ``flow`` also the flow of the head."""
    network = network_of(model, how.device)
    height, width = sides(video_size)
    clip = drifting(_FRAMES, (height, width))
    pairs = "each pair by itself"
    ways = [
        Way(pairs, _pairs(network, clip, frames, lambda a, b: infer_motion_latent(network, a, b))),
        Way("MotionStream.push", _pushed(network, clip, frames)),
        Way("encoder alone", _encoder(network, clip, frames)),
    ]
    title = f"stream of {width} x {height}, {network.config.encoder}, motion latents"
    found = compare(title, ways, how, unit="frames", items=frames, peer=pairs)
    share = found.row("encoder alone").seconds.median / found.row("MotionStream.push").seconds.median
    yield found.noting(f"frames per second, relative to the encoder alone: {share:.2f}")
    if not flow:
        return
    headed = with_head(model, how.device)
    ways = [
        Way(pairs, _pairs(headed, clip, frames, lambda a, b: _both(headed, a, b))),
        Way("MotionStream.push", _pushed(headed, clip, frames, flow=True, method="head")),
    ]
    title = f"stream of {width} x {height}, {network.config.encoder}, motion latents and flow"
    yield compare(title, ways, how, unit="frames", items=frames, peer=pairs)


def _both(network: MidwayNetwork, source: torch.Tensor, target: torch.Tensor) -> object:
    return infer_motion_latent(network, source, target), predict_flow(network, source, target, method="head")


def _pushed(network: MidwayNetwork, clip: torch.Tensor, frames: int, **options: Any) -> Callable[[], object]:
    stream = MotionStream(network, **options)
    stream.push(clip[-1])

    def run() -> None:
        for index in range(frames):
            stream.push(clip[index % len(clip)])

    return run


def _pairs(
    network: MidwayNetwork,
    clip: torch.Tensor,
    frames: int,
    pair: Callable[[torch.Tensor, torch.Tensor], object],
) -> Callable[[], object]:
    def run() -> None:
        for index in range(frames):
            pair(clip[(index - 1) % len(clip)], clip[index % len(clip)])

    return run


def _encoder(network: MidwayNetwork, clip: torch.Tensor, frames: int) -> Callable[[], object]:
    normalise, size = normaliser(network), network_size(network, clip[0], None)

    def run() -> None:
        with torch.inference_mode():
            for index in range(frames):
                network.encode(normalise(resize(clip[index % len(clip)], size)[None]))

    return run
