"""What flow a small network learns from generated scenes alone, measured on scenes and footage that it never saw.

    python examples/flow_generalisation.py --out runs/flow_nano --seconds 600 [--media PATH ...] [--json RESULTS.json]
        [KEY=VALUE ...]

Trains the recipe flow_scenes_nano for a time (a run that is there is continued) and prints end-point errors in pixels
of the best checkpoint beside those of
    zero         nothing moves,
    refined      the head after two further looks (refine=2),
    translation  the best single vector of each pair, found from the truth: what knowing the camera's shift would give,
    zero-shot    the perturbations of section 4.4, from the same network,
on generated scenes that are held out and, with --media, on frames of videos or folders of images that are warped by
smooth random flow: textures that no training scene has.
"""

import argparse
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

import midway_zoo as mz
from midway_zoo.files import write_json
from midway_zoo.flow import FlowMetrics
from midway_zoo.inference.frames import open_frames
from midway_zoo.train.checkpoints import best_checkpoint
from midway_zoo.train.config import load_config
from midway_zoo.train.loop import fit
from midway_zoo.train.tasks.flow.config import FlowConfig
from midway_zoo.train.tasks.flow.task import FlowTask
from midway_zoo.train.tasks.flow.validation import SceneValidation
from midway_zoo.train.weights import network_of_checkpoint

Pairs = list[tuple[Tensor, Tensor, Tensor]]
"""Batches of source and target (B, 3, h, w) in [0, 1] and flow (B, 2, h, w) in pixels."""
_COARSE = 3  # control points of a smooth flow on each side


def train(out: Path, seconds: float, settings: list[str]) -> FlowConfig:
    """Train for ``seconds``; the learning rate falls to zero over the recipe's schedule_steps."""
    config = load_config(FlowConfig, "flow_scenes_nano", [f"out={out}", f"max_seconds={seconds}", *settings])
    result = fit(FlowTask(config))
    print(f"{result.reason} after {result.step} steps; {dict(result.last)}")
    return config


def held_out(config: FlowConfig) -> Pairs:
    """Scenes of the configuration that no run trains on, beginning where validation, which chose the weights, ends."""
    validation = SceneValidation(config.data, config.validation)
    return list(validation.batches(first=config.validation.scenes))


def warped(media: Path, size: tuple[int, int], count: int, longest: float, seed: int = 0) -> Pairs:
    """Crops of frames, each the target of a pair whose source is sampled from it by a known smooth flow.

    source(x) = target(x + flow(x)), so that the flow is exact wherever it stays in the picture; NaN elsewhere.

    Args:
        media: video, or folder of frames.
        size: (height, width) of the pairs.
        count: frames.
        longest: about the longest vector, in pixels.
        seed: of crops and flow.
    """
    height, width = size
    pairs = []
    for number, frame in enumerate(_frames(media, count, (height, width))):
        rng = np.random.default_rng([seed, number])
        top, left = (int(rng.integers(n - m + 1)) for n, m in zip(frame.shape[-2:], (height, width), strict=True))
        target = frame[None, :, top : top + height, left : left + width]
        control = rng.uniform(-1, 1, (1, 2, _COARSE, _COARSE)) + rng.uniform(-1, 1, (1, 2, 1, 1))
        flow = torch.from_numpy(control * longest / 2).float()
        flow = F.interpolate(flow, (height, width), mode="bicubic", align_corners=True)
        source, inside = _sample(target, flow)
        pairs.append((source, target, flow.where(inside, float("nan"))))
    if not pairs:
        raise SystemExit(f"{media} has no frame of {height} x {width} pixels or more")
    return [tuple(torch.cat(part) for part in zip(*pairs, strict=True))]  # type: ignore[list-item]


def _frames(media: Path, count: int, size: tuple[int, int]) -> Iterator[Tensor]:
    """At most ``count`` frames (3, H, W) in [0, 1], scaled to twice the crop so that real textures are in it."""
    for found, taken in enumerate(open_frames(media, stride=1 if media.is_dir() else 15)):
        if found == count:
            return
        frame = taken.image
        factor = max(2 * side / own for side, own in zip(size, frame.shape[-2:], strict=True))
        scaled = [max(side, round(own * factor)) for side, own in zip(size, frame.shape[-2:], strict=True)]
        yield F.interpolate(frame[None], scaled, mode="bilinear", antialias=True, align_corners=False)[0]


def _sample(target: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
    """target (1, 3, h, w) at x + flow(x), bicubic, and whether that lies in the picture, (1, 1, h, w)."""
    height, width = target.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    at = torch.stack([(x + flow[0, 0]) / (width - 1), (y + flow[0, 1]) / (height - 1)], dim=-1) * 2 - 1
    image = F.grid_sample(target, at[None], mode="bicubic", padding_mode="border", align_corners=True).clamp(0, 1)
    return image, (at.abs() <= 1).all(dim=-1)[None, None]


def translation(flow: Tensor) -> Tensor:
    """The vector per pair whose end-point error is lowest (the geometric median), over the picture."""
    points = flow.flatten(2)
    valid = points.isfinite().all(dim=1, keepdim=True)
    points = points.where(valid, 0)
    best = (points.sum(-1) / valid.sum(-1)).unsqueeze(-1)
    for _ in range(50):  # Weiszfeld's algorithm
        weight = valid / torch.linalg.vector_norm(points - best, dim=1, keepdim=True).clamp(min=1e-3)
        best = (points * weight).sum(-1, keepdim=True) / weight.sum(-1, keepdim=True)
    return best.unsqueeze(-1).expand_as(flow)


def measure(
    network: mz.MidwayNetwork, pairs: Pairs, tile: tuple[int, int] | None = None
) -> dict[str, dict[str, float]]:
    """{method: {"epe", "px1", "px3"}}: pixels, and percent of pixels with an error above 1 and 3.

    Tiles are as large as the pairs, unless ``tile`` says otherwise.
    """
    metrics = {name: FlowMetrics() for name in ("model", "refined", "zero", "translation", "zero-shot")}
    for source, target, flow in pairs:
        head = {"method": "head", "tile": tile or tuple(source.shape[-2:])}
        found = {
            "model": mz.predict_flow(network, source, target, **head).flow,
            "refined": mz.predict_flow(network, source, target, refine=2, **head).flow,
            "zero": torch.zeros_like(flow),
            "translation": translation(flow),
            "zero-shot": mz.predict_flow(
                network, source, target, method="perturbation", size=tuple(flow.shape[-2:])
            ).flow,
        }
        for name, flows in found.items():
            metrics[name].update(flows.to(flow.device), flow)
    return {name: {key: one.compute()[key] for key in ("epe", "px1", "px3")} for name, one in metrics.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="run folder")
    parser.add_argument("--seconds", type=float, default=600.0, help="of training in this call")
    parser.add_argument("--media", type=Path, nargs="*", default=[], help="videos or folders of frames")
    parser.add_argument("--frames", type=int, default=64, help="of each of them")
    parser.add_argument("--longest", type=float, default=4.0, help="vectors of the warps, in pixels")
    parser.add_argument("--json", type=Path, help="write the figures")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="of the recipe")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    config = train(options.out, options.seconds, options.settings)
    best = best_checkpoint(options.out)
    assert best is not None, "validation.scenes=0: no checkpoint was validated"
    network = network_of_checkpoint(best, paired=False)
    size = (config.data.crop[0], config.data.crop[1])
    sets = {"held-out scenes": held_out(config)}
    sets |= {f"warped {path.name}": warped(path, size, options.frames, options.longest) for path in options.media}
    results: dict[str, Any] = {name: measure(network, pairs) for name, pairs in sets.items()}
    print(f"step {best.step}\n| data | method | EPE | 1px % | 3px % |\n|---|---|---|---|---|")
    for name, methods in results.items():
        for method, value in methods.items():
            print(f"| {name} | {method} | {value['epe']:.3f} | {value['px1']:.1f} | {value['px3']:.1f} |")
    if options.json:
        written = {"step": best.step, "seed": config.seed, "longest": options.longest, "results": results}
        write_json(options.json, written, overwrite=True)


if __name__ == "__main__":
    main()
