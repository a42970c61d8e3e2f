"""``midway-zoo benchmark motion``: latents along a clip, against the same pairs one by one."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch

from midway_zoo.benchmarks.graphs import watch
from midway_zoo.benchmarks.measuring import Comparison, How, Way, compare
from midway_zoo.benchmarks.networks import network_of, noise
from midway_zoo.inference.batches import normaliser
from midway_zoo.inference.clips import infer_motion_latents
from midway_zoo.inference.motion import infer_motion_latent
from midway_zoo.models.network import MidwayNetwork


def measure(
    how: How,
    *,
    model: str = "midway_vits",
    batch: int = 8,
    size: int | None = None,
    frames: Sequence[int] = (16, 64),
) -> Iterator[Comparison]:
    """A clip of each length, beside the encoder alone, which is an upper bound."""
    network = network_of(model, how.device)
    shape = (size, size) if size else network.config.img_size
    for count in frames:
        clip = noise((count, 3, *shape), how.device)
        along = partial(_along, clip, size, batch)
        pairs = f"{count - 1} pairs, one by one"
        ways = [
            Way(pairs, _pairs(network, clip, size)),
            Way("clip", along(network), counted=True),
            Way("encoder alone", _encoder(network, clip, batch), counted=True),
        ]
        if how.dtype != torch.float32:
            low = network_of(model, how.device).to(how.dtype)
            name = str(how.dtype).removeprefix("torch.")
            ways.append(Way(f"clip, {name}", along(low), dtype=how.dtype, counted=True))
        notes = []
        if how.compile:
            compiled = _compiled(model, how.device)
            run = along(compiled)
            notes.append(f"clip {watch(run, [(), ()])}; the first batch has one pair less than the others")
            ways.append(Way("clip, compiled", run))
        title = f"motion latents of {count} frames of {shape[1]} x {shape[0]}, batches of {batch}"
        found_rows = compare(title, ways, how, unit="frames", items=count, peer=pairs)
        share = found_rows.row("encoder alone").seconds.median / found_rows.row("clip").seconds.median
        yield found_rows.noting(*notes, f"frames per second of the clip, relative to the encoder alone: {share:.2f}")


def _pairs(network: MidwayNetwork, clip: torch.Tensor, size: int | None) -> Callable[[], object]:
    def run() -> None:
        for source, target in itertools.pairwise(clip):
            infer_motion_latent(network, source, target, size=size)

    return run


def _along(clip: torch.Tensor, size: int | None, batch: int, network: MidwayNetwork) -> Callable[[], object]:
    return lambda: infer_motion_latents(network, clip, batch_size=batch, size=size)


def _encoder(network: MidwayNetwork, clip: torch.Tensor, batch: int) -> Callable[[], object]:
    normalise = normaliser(network)

    def run() -> None:
        with torch.inference_mode():
            for images in clip.split(batch):
                network.encode(normalise(images))

    return run


def _compiled(model: str, device: torch.device) -> MidwayNetwork:
    """The network, with the two parts that a clip needs compiled."""
    network = network_of(model, device)
    dynamics = network.require_dynamics()
    network.encode = torch.compile(network.encode)  # type: ignore[method-assign]
    dynamics.motion_latents = torch.compile(dynamics.motion_latents)  # type: ignore[method-assign]
    return network
