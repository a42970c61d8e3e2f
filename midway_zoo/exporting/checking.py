"""Compares a written file with the network itself, rather than with the traced part."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from midway_zoo.errors import ExportError
from midway_zoo.exporting.description import Request
from midway_zoo.exporting.files import Inputs, Runner
from midway_zoo.exporting.parts import named_outputs
from midway_zoo.inference.batches import normaliser
from midway_zoo.inference.images import Images, iterate, resize
from midway_zoo.inference.motion import motion_latent
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.scenes import SceneGenerator, ScenesConfig

DIFFERENCE = 1e-3
"""Largest difference allowed of float32 files, relative to an output's largest absolute value if that is above 1."""
COSINE = {"fp16": 0.999, "int8": 0.99}
"""Smallest cosine allowed of files with fewer bits."""
_IMAGES = 3


@dataclass(frozen=True)
class Parity:
    """Agreement of a file with the network."""

    difference: float
    cosine: float
    output: str
    """Name of the output with the smallest cosine."""


def samples(size: tuple[int, int], images: "Images | None") -> Tensor:
    """Images (N, 3, H, W) in [0, 1], N >= 2, for the comparison: the given ones, or generated scenes."""
    if images is not None:
        given = torch.cat([resize(image[None], size) for image in iterate(images)])
        return given if len(given) > 1 else torch.cat([given, given.flip(3)])
    side = (max(size[0], 32), max(size[1], 32))
    frames = SceneGenerator(ScenesConfig(height=side[0], width=side[1]), seed=0).frames(range(_IMAGES - 1))
    return resize(frames.flatten(0, 1)[:_IMAGES], size).clamp(0, 1)


def check(run: Runner, network: MidwayNetwork, request: Request, images: Tensor) -> Parity:
    """Run both on the images, with dynamic axes at more than one batch and size.

    Args:
        run: runs the file.
        network: the network in float32, on the CPU, in evaluation mode.
        request: what was exported.
        images: (N, 3, H, W).

    Raises:
        ExportError: if the file's outputs differ too much, saying by how much.
    """
    found = Parity(0.0, 1.0, "")
    for one, other in _cases(request, images, network.config.patch_size):
        wanted, given = wanted_outputs(network, request, one, other)
        found = _compared(found, wanted, run(given), request)
    limit = COSINE.get(request.dtype)
    if limit is None and not found.difference <= DIFFERENCE:
        raise ExportError(
            f"the {request.format} file of {request.part} differs from the network by {found.difference:.2g}, "
            f"{DIFFERENCE:.0e} is allowed; nothing was written. Try another format, or other versions of torch and "
            "onnxruntime."
        )
    if limit is not None and not found.cosine >= limit:
        raise ExportError(
            f"in {request.dtype} the cosine of {found.output} with the network's float32 is {found.cosine:.4f}, "
            f"at least {limit} is required; nothing was written. Use "
            f"{'fp16 or fp32' if request.dtype == 'int8' else 'fp32'}, or pass images= like your own to compare on."
        )
    return found


def _cases(request: Request, images: Tensor, patch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of frames, and of the frames that follow them."""
    pairs = [(images[index : index + 1], images[index + 1 : index + 2]) for index in range(len(images) - 1)]
    if "batch" not in request.dynamic:
        yield from pairs
    else:
        yield images[:-1], images[1:]
        yield pairs[0]
    if "size" in request.dynamic:
        size = (request.size[0] + patch, request.size[1] + 3 * patch)
        yield resize(pairs[0][0], size), resize(pairs[0][1], size)


@torch.no_grad()
def wanted_outputs(
    network: MidwayNetwork, request: Request, one: Tensor, other: Tensor
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The network's own outputs, by the names of the file's outputs, and the file's inputs."""
    normalise = normaliser(network)
    source, target = normalise(one), normalise(other)
    grid = network.grid_of(source)
    if request.part == "encoder":
        last = network.config.depth - 1
        taps = sorted({*request.blocks, last})
        tokens = dict(zip(taps, network.encode(source, blocks=taps), strict=True))
        maps = {f"block{b}": tokens[b][:, 1:].transpose(1, 2).unflatten(2, grid) for b in request.blocks}
        return {"cls": tokens[last][:, 0], **maps}, {"images": one}
    if request.part == "flow":
        raw = network.flow(source, target)
        found = {"flow": raw[:, :2], "confidence": torch.sigmoid(-raw[:, 2:])}
        return found, {"source": one, "target": other}
    if request.part == "network":
        return named_outputs(network(source, target)), {"source": one, "target": other}
    levels = network.encode_pair(source, target)
    latent = motion_latent(network.require_dynamics().motion_latents(*levels, grid).motion_latents, grid)
    found = {f"level{level}": value for level, value in latent.levels.items() if value is not latent.tokens}
    found |= {"tokens": latent.tokens, "pooled": latent.pooled}
    if request.part == "motion":
        return found, {"source": one, "target": other}
    found["state"] = torch.stack(network.encode(target), dim=1)
    return found, {"images": other, "previous": torch.stack(levels[0], dim=1)}


def _compared(found: Parity, wanted: dict[str, Tensor], got: dict[str, Tensor], request: Request) -> Parity:
    if wanted.keys() != got.keys():
        raise ExportError(f"the {request.format} file has outputs {sorted(got)}, expected are {sorted(wanted)}.")
    for name, value in wanted.items():
        if got[name].shape != value.shape:
            raise ExportError(
                f"{name} of the {request.format} file is {list(got[name].shape)}, not {list(value.shape)}."
            )
        scale = max(1.0, float(value.abs().max()))
        difference = float((got[name] - value).abs().max()) / scale
        cosine = float(torch.cosine_similarity(got[name].flatten(1).double(), value.flatten(1).double()).min())
        if difference != difference or cosine != cosine:  # NaN compares with nothing
            raise ExportError(f"{name} of the {request.format} file in {request.dtype} holds NaN; use fp32.")
        worse = cosine < found.cosine or not found.output
        found = Parity(max(found.difference, difference), min(found.cosine, cosine), name if worse else found.output)
    return found


def example_inputs(request: Request, config_width: int, patch: int) -> Inputs:
    """Inputs of the right shapes for tracing a part."""
    count = 2 if "batch" in request.dynamic else 1
    generator = torch.Generator().manual_seed(0)
    shape = (count, 3, *request.size)
    if request.part == "encoder":
        return {"images": torch.rand(shape, generator=generator)}
    if request.part == "stream":
        tokens = 1 + request.size[0] // patch * (request.size[1] // patch)
        previous = torch.randn((count, 4, tokens, config_width), generator=generator)
        return {"images": torch.rand(shape, generator=generator), "previous": previous}
    return {name: torch.rand(shape, generator=generator) for name in ("source", "target")}
