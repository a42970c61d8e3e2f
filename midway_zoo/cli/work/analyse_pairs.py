"""``midway-zoo analyse`` heatmap, matrix, gates and attention."""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from midway_zoo import analysis, figures
from midway_zoo.cli.work.analysing import clip_frames, labels_of, prepared, shown_times, write
from midway_zoo.errors import InputError
from midway_zoo.inference.batches import inference, pair_batches
from midway_zoo.inference.features import extract_features
from midway_zoo.inference.frames import Frame
from midway_zoo.inference.images import to_tensor
from midway_zoo.inference.perturbation import match_level, sensitivity, sensitivity_of, single_derivative, tangents
from midway_zoo.models.network import MidwayNetwork


def heatmap(options: argparse.Namespace) -> None:
    """Heat maps of points of the first frame in others."""
    network = prepared(options, options.source, *options.target)
    if options.target:
        frames = [Frame(to_tensor(path)) for path in (options.source, *options.target)]
        labels = [path.name for path in options.target]
    else:
        frames = clip_frames(options.source, options)
        labels = labels_of(frames)[1:]
    if len(frames) < 2:
        raise InputError(f"{options.source} is one frame; name a target too, or a clip of two frames or more.")
    source, *targets = (frame.image for frame in frames)
    chosen = {name: getattr(options, name) for name in ("size", "level", "draws", "seed", "batch_size")}
    found = analysis.heat_maps(network, source, targets, options.at, **chosen)

    def film() -> Iterator[tuple[Tensor, float, float]]:
        for number, (begin, end) in enumerate(shown_times(frames)[1:]):
            one = analysis.HeatMaps(
                found.heatmaps[number : number + 1],
                found.xy,
                found.tokens,
                found.target_xy[number : number + 1],
                found.grid,
                found.given,
            )
            drawn = figures.heat_figure(source, targets[number : number + 1], one, labels[number : number + 1])
            yield figures.figure_to_tensor(drawn), begin, end

    step = max(1, (len(targets) - 1) // 4)
    picked = list(range(0, len(targets), step))[:5]
    write(
        options,
        network,
        figure=lambda: figures.heat_figure(
            source,
            [targets[place] for place in picked],
            analysis.HeatMaps(
                found.heatmaps[picked], found.xy, found.tokens, found.target_xy[picked], found.grid, found.given
            ),
            [labels[place] for place in picked],
        ),
        tensors={"heatmaps": found.heatmaps, "xy": found.xy, "tokens": found.tokens, "target_xy": found.target_xy},
        film=film,
        said=str(found),
        grid=found.grid,
        source=str(options.source),
    )


def matrix(options: argparse.Namespace) -> None:
    """The sensitivity matrix of a pair, in bounded memory if it is written as tensors."""
    if not options.outputs and not options.time:
        raise InputError("the matrix would not be written: pass -o OUT, or --time N.")
    network = prepared(options, options.source, options.target)
    source, target = to_tensor(options.source), to_tensor(options.target)
    if options.time:
        sys.stdout.write(_timed(network, source, target, options) + "\n")
        if not options.outputs:
            return
    chosen = {name: getattr(options, name) for name in ("size", "level", "draws", "seed")}
    rows = torch.cat(list(analysis.sensitivity_rows(network, source, target, rows=options.rows, **chosen)))
    with inference(network):
        (batch,) = pair_batches(network, source, target, options.size, 1)
    grid = network.grid_of(batch.images[0])
    share = 100 * float(analysis.identity_share(rows[None])[0])
    write(
        options,
        network,
        figure=lambda: figures.matrix_figure(rows, grid, f"sensitivity; {share:.0f} % of source tokens peak at home"),
        tensors={"matrix": rows},
        said=f"matrix {tuple(rows.shape)} of a grid of {grid}; {share:.1f} % of source tokens peak at home",
        grid=grid,
        source=str(options.source),
        target=str(options.target),
    )


def _timed(network: Any, source: Tensor, target: Tensor, options: argparse.Namespace) -> str:
    """Time N directional derivatives at once, one by one with torch.func.jvp, and as N heat maps."""
    level = match_level(network, options.level)
    with inference(network):
        (batch,) = pair_batches(network, source, target, options.size, 1)
        grid = network.grid_of(batch.images[0])
        source_levels, target_levels = network.encode_pair(*batch.images)
        number = grid[0] * grid[1]
        chosen = [token % number for token in range(options.time)]
        motion, features = (
            one[0] for one in network.dynamics.forward_inputs(source_levels, target_levels, grid, level=level)
        )
        single = single_derivative(network.dynamics, level, motion, features, grid)
        directions = tangents(number, 1, features, options.seed)[0]
        ways: list[Callable[[], object]] = [
            lambda: sensitivity_of(network, source_levels, target_levels, grid, tokens=chosen, level=level),
            lambda: [single(torch.tensor(token, device=features.device), directions[token]) for token in chosen],
            lambda: [sensitivity(network, *batch.images, tokens=[token], level=level) for token in chosen],
        ]
        single(torch.tensor(0, device=features.device), directions[0])  # the first run includes one-time preparations
        taken = [_seconds(way, network.device) for way in ways]
    each = [1e3 * clock / len(chosen) for clock, _ in taken]
    times = [
        f"{clock / taken[0][0]:.1f} times, {work / taken[0][1]:.1f} by the processor's time"
        for clock, work in taken[1:]
    ]
    return (
        f"{len(chosen)} of {number} tokens, {torch.get_num_threads()} thread(s), {network.device}; ms a token: batched "
        f"{each[0]:.1f}; a loop of single derivatives {each[1]:.1f} ({times[0]}); a loop of single heat maps, "
        f"each with frames and latents anew, {each[2]:.1f} ({times[1]}). The whole matrix "
        f"takes {each[0] * number / 1e3:.1f} s"
    )


def _seconds(work: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """Wall-clock and processor seconds."""

    def now() -> tuple[float, float]:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter(), time.process_time()

    start = now()
    work()
    end = now()
    return end[0] - start[0], end[1] - start[1]


def gates(options: argparse.Namespace) -> None:
    """Gate maps of a pair."""
    network = prepared(options, options.source, options.target)
    source, target = to_tensor(options.source), to_tensor(options.target)
    found = analysis.gate_maps(network, source, target, size=options.size)
    means = {level: float(values.mean()) for level, values in found.mean.items()}
    write(
        options,
        network,
        figure=lambda: figures.gates_figure(source, target, found),
        tensors={f"level{level}": values[0] for level, values in found.mean.items()}
        | {f"closed{level}": values[0] for level, values in found.closed.items()},
        said="mean gate: " + ", ".join(f"level {level} {value:.3f}" for level, value in means.items()),
        grid=found.grid,
        source=str(options.source),
        target=str(options.target),
    )


def attention(options: argparse.Namespace) -> None:
    """Attention of the encoder or of motion tokens, or backward features."""
    network = prepared(options, *options.images)
    if options.motion and options.backward:
        raise InputError("--motion and --backward: one of them at a time.")
    if options.at is not None and (options.motion or options.backward):
        raise InputError("--at chooses a token whose attention is shown; it goes neither with --motion nor --backward.")
    if options.level is not None and not options.motion:
        raise InputError("--level is one of the motion tokens' attention; pass --motion too.")
    pictures = [to_tensor(path) for path in options.images]
    images = [str(path) for path in options.images]
    if options.backward:
        _backward(options, network, pictures)
        return
    found: analysis.AttentionMaps | analysis.MotionAttention
    if options.motion:
        if len(pictures) != 2:
            raise InputError(f"--motion takes two images, source and target; got {len(pictures)}.")
        found = analysis.motion_attention(
            network, *pictures, level=options.level, block=options.block, size=options.size
        )
        tensors = {"source": found.source, "target": found.target, "motion": found.motion}
    else:
        found = analysis.attention_maps(network, pictures, block=options.block, xy=options.at, size=options.size)
        tensors = {"maps": found.maps}
    write(
        options,
        network,
        figure=lambda: figures.attention_figure(pictures, found, options.at),
        tensors=tensors,
        said=str(found),
        images=images,
    )


def _backward(options: argparse.Namespace, network: MidwayNetwork, pictures: list[Tensor]) -> None:
    """Backward features of every level, as colours."""
    maps: dict[str, Tensor] = {}
    for level, values in (extract_features(network, pictures, backward=True, size=options.size).backward or {}).items():
        if isinstance(values, list):
            raise InputError("the images differ in size; pass --size HEIGHTxWIDTH, or images of one size.")
        maps[f"level{level}"] = values
    write(
        options,
        network,
        figure=lambda: figures.backward_figure(
            pictures, {f"backward, {name.replace('level', 'level ')}": one for name, one in maps.items()}
        ),
        tensors=maps,
        said=f"backward features of {', '.join(maps)}",
        images=[str(path) for path in options.images],
    )
