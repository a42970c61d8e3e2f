"""``midway-zoo benchmark flow``: flow of one pair, against torchvision's RAFT and OpenCV's DIS."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torchvision.models.optical_flow import raft_large, raft_small

from midway_zoo.benchmarks.measuring import Comparison, How, Way, compare
from midway_zoo.benchmarks.networks import drifting, network_of, sides, with_head
from midway_zoo.extras import install_command
from midway_zoo.inference.flow import predict_flow
from midway_zoo.models.network import MidwayNetwork

PARTS = ("head", "tiles", "directions", "zero-shot")
_RAFT = {"raft_small": raft_small, "raft_large": raft_large}


def measure(
    how: How,
    *,
    model: str = "midway_vits",
    sizes: Sequence[str] = ("384x320", "1024x436"),
    zero_shot: str = "960x540",
    parts: Sequence[str] = PARTS,
) -> Iterator[Comparison]:
    """The head at each size beside the peers; both directions beside one; zero-shot flow."""
    network = with_head(model, how.device)
    for size in map(sides, sizes):
        if "head" in parts:
            yield _head(network, size, how)
        if "tiles" in parts:
            yield _tiles(network, size, how)
    if "directions" in parts:
        yield _directions(network, sides(sizes[-1]), how)
    if "zero-shot" in parts:
        yield _zero_shot(network_of(model, how.device), sides(zero_shot), how)


def _head(network: MidwayNetwork, size: tuple[int, int], how: How) -> Comparison:
    """The head with its default options, beside the peers."""
    source, target = drifting(2, size).to(how.device)
    name = f"{network.config.encoder} with head"
    ways = [Way(peer, _raft(peer, source, target, how), counted=True) for peer in _RAFT]
    ways.append(Way(name, _predict(network, source, target, {}), counted=True))
    if how.dtype != torch.float32:
        run = _autocast(ways[-1].run, how.device, how.dtype)
        ways.append(Way(f"{name}, {str(how.dtype).removeprefix('torch.')}", run, dtype=how.dtype, counted=True))
    notes = []
    dis = _dis(source, target)
    if dis is None:
        notes.append(f"OpenCV's DIS is not measured: {install_command('benchmark')}")
    else:
        ways.append(Way("OpenCV DIS, medium", dis))
    if how.compile:
        compiled = with_head(network.config.encoder, how.device)
        compiled.encode = torch.compile(compiled.encode)  # type: ignore[method-assign]
        ways.append(Way(f"{name}, encoder compiled", _predict(compiled, source, target, {})))
    title = f"flow of a pair of {size[1]} x {size[0]}"
    return compare(title, ways, how, unit="pairs", peer="raft_small").noting(*notes)


def _tiles(network: MidwayNetwork, size: tuple[int, int], how: How) -> Comparison:
    """The whole image as one tile, and the tiles of the paper's validation."""
    source, target = drifting(2, size).to(how.device)
    patch = network.config.patch_size
    whole = tuple(-(-side // patch) * patch for side in size)
    ways = [
        Way("raft_small", _raft("raft_small", source, target, how)),
        Way("one tile", _predict(network, source, target, {"tile": whole, "size": "full"})),
        Way("tiles of the paper", _predict(network, source, target, {"overlap": 0.7, "size": "full"})),
    ]
    title = f"flow of a pair of {size[1]} x {size[0]}, {network.config.encoder} with head"
    return compare(title, ways, how, unit="pairs", peer="raft_small")


def _directions(network: MidwayNetwork, size: tuple[int, int], how: How) -> Comparison:
    source, target = drifting(2, size).to(how.device)
    ways = [
        Way("one direction", _predict(network, source, target, {})),
        Way("both directions", _predict(network, source, target, {"bidirectional": True})),
        Way("one direction, called twice", _twice(network, source, target)),
    ]
    title = f"flow there and back, {network.config.encoder} with head, {size[1]} x {size[0]}"
    return compare(title, ways, how, unit="pairs", peer="one direction")


def _zero_shot(network: MidwayNetwork, size: tuple[int, int], how: How) -> Comparison:
    source, target = drifting(2, size).to(how.device)
    ways = [Way("perturbation", _predict(network, source, target, {"method": "perturbation"}))]
    title = f"zero-shot flow of {size[1]} x {size[0]}, {network.config.encoder}"
    return compare(title, ways, how, unit="pairs")


def _predict(network: MidwayNetwork, source: Tensor, target: Tensor, options: dict[str, Any]) -> Callable[[], object]:
    return lambda: predict_flow(network, source, target, **({"method": "head"} | options))


def _twice(network: MidwayNetwork, source: Tensor, target: Tensor) -> Callable[[], object]:
    there = _predict(network, source, target, {})
    back = _predict(network, target, source, {})
    return lambda: (there(), back())


def _autocast(run: Callable[[], object], device: torch.device, dtype: torch.dtype) -> Callable[[], object]:
    def guarded() -> object:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            return run()

    return guarded


def _raft(name: str, source: Tensor, target: Tensor, how: How) -> Callable[[], object]:
    """torchvision's network with random weights, at the same size except for padding to multiples of 8."""
    network = _RAFT[name](weights=None).to(how.device).eval()
    # Its correlation pyramid needs 16 pixels of features, which are 128 of the image.
    height, width = (max(-(-side // 8) * 8, 128) for side in source.shape[-2:])
    pad = (0, width - source.shape[-1], 0, height - source.shape[-2])
    images = [F.pad(2 * image[None] - 1, pad) for image in (source, target)]

    def run() -> object:
        with torch.inference_mode():
            return network(*images)[-1]

    return run


def _dis(source: Tensor, target: Tensor) -> Callable[[], object] | None:
    """OpenCV's dense inverse search, which runs on the CPU; None if OpenCV is not installed."""
    try:
        import cv2
    except ImportError:
        return None
    grey = [
        cv2.cvtColor((image * 255).byte().permute(1, 2, 0).cpu().numpy(), cv2.COLOR_RGB2GRAY)
        for image in (source, target)
    ]
    opencv: Any = cv2
    method = opencv.DISOpticalFlow_create(opencv.DISOPTICAL_FLOW_PRESET_MEDIUM)
    cv2.setNumThreads(torch.get_num_threads())

    def run() -> object:
        flow = method.calc(grey[0], grey[1], None)
        assert flow.dtype == np.float32
        return flow

    return run
