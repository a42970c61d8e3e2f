"""The three questions a Midway network answers: what is there, how does it move, where does it go.

Every function takes a :class:`~midway_zoo.MidwayNetwork` or a pretrained name (loaded once), and images
of every kind that :func:`midway_zoo.inference.images.to_tensor` reads. Normalisation, resizing and batching happen
here. All run without gradients and in evaluation mode, and leave the network's mode as it was.
"""

from collections.abc import Iterator, Sequence
from os import PathLike
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from midway_zoo.errors import ConfigError, InputError
from midway_zoo.inference.batches import (
    Batch,
    batches,
    check_batch_size,
    common,
    in_order,
    inference,
    pair_batches,
    progress,
    stack,
)
from midway_zoo.inference.images import Images, Size, count, iterate
from midway_zoo.inference.perturbation import check_draws, match_level, matches, sensitivity
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.results import Features, FlowPrediction, MotionLatent, PerturbationHeatmap
from midway_zoo.weights.registry import resolve_network

Model: TypeAlias = MidwayNetwork | str


def extract_features(
    model: Model,
    images: Images,
    *,
    blocks: Sequence[int] = (2, 5, 8, 11),
    backward: bool = False,
    size: Size = None,
    batch_size: int = 16,
) -> Features:
    """Normed class token and patch features of images.

    Args:
        model: a network or a pretrained name. In paired mode the source encoder (student) is read.
        images: one image or several, of any sizes.
        blocks: encoder blocks to return, 0-based.
        backward: also return the source-side backward features v of levels 2, 1, 0, which the paper's
            linear read-outs use (section 4.1).
        size: None (shorter side as the model's native side), an int (that shorter side), (H, W), or
            "full"; see :func:`midway_zoo.inference.images.target_size`.
        batch_size: images per forward pass.

    Returns:
        ``cls`` (B, D), ``maps`` {block: (B, D, h, w)}, ``grid`` (h, w), in the given order and the model's
        dtype. If sizes lead to different grids, maps and grid are lists with one item per image.

    Raises:
        InputError: for images or arguments that cannot be used.
        ConfigError: for ``backward=True`` with a network that has no backward layers.
    """
    network = resolve_network(model)
    levels = _backward_levels(network) if backward else ()
    last = network.config.depth - 1
    _check_blocks(blocks, last)
    check_batch_size(batch_size)
    taps = sorted({*blocks, last, *(network.config.feature_blocks if backward else ())})
    cls: dict[int, Tensor] = {}
    maps: dict[int, dict[int, Tensor]] = {block: {} for block in blocks}
    backs: dict[int, dict[int, Tensor]] = {level: {} for level in levels}
    singles = ((image,) for image in iterate(images))
    with inference(network), progress(count(images), batch_size, "images") as bar:
        for batch in batches(network, singles, size, batch_size):
            grid = network.grid_of(batch.images[0])
            tokens = dict(zip(taps, network.encode(batch.images[0], blocks=taps), strict=True))
            _scatter(cls, batch, tokens[last][:, 0])
            for block in blocks:
                _scatter(maps[block], batch, _as_map(tokens[block], grid))
            if backward:
                taken = [tokens[block] for block in network.config.feature_blocks]
                for level, features in network.require_dynamics().backward_features(taken).items():
                    _scatter(backs[level], batch, _as_map(features, grid))
            bar.update(len(batch.indices))
    collected = {block: stack(found) for block, found in maps.items()}
    return Features(
        cls=torch.stack([cls[index] for index in range(len(cls))]),
        maps=collected,
        grid=_grids(next(iter(collected.values()))),
        backward={level: stack(found) for level, found in backs.items()} if backward else None,
    )


def infer_motion_latent(
    model: Model, source: Images, target: Images, *, size: Size = None, batch_size: int = 8
) -> MotionLatent:
    """Motion latents of image pairs: what happened between source and target (section 3.1).

    Args:
        model: a network or a pretrained name. One encoder sees both frames; a network in paired mode
            uses its student for the source and its teacher for the target, as in pretraining.
        source: one image or several.
        target: as many images; each has the size of its source.
        size: as in :func:`extract_features`.
        batch_size: pairs per forward pass.

    Returns:
        ``tokens`` (B, 10, C), ``levels`` {2, 1, 0: (B, 10, C)}, ``pooled`` (B, C), in the given order.

    Raises:
        InputError: for images or arguments that cannot be used.
        ConfigError: if the network is an encoder alone.
    """
    network = resolve_network(model)
    dynamics = network.require_dynamics()
    found: dict[int, dict[int, Tensor]] = {level: {} for level in network.config.levels}
    grids: dict[int, tuple[int, int]] = {}
    with inference(network):
        for batch in pair_batches(network, source, target, size, batch_size):
            grid = network.grid_of(batch.images[0])
            latents = dynamics.motion_latents(*network.encode_pair(*batch.images), grid).motion_latents
            for level in found:
                _scatter(found[level], batch, latents[level])
            grids.update(dict.fromkeys(batch.indices, grid))
    levels = {level: torch.stack(in_order(values)) for level, values in found.items()}
    return motion_latent(levels, common(in_order(grids)))


def motion_latent(
    levels: dict[int, Tensor],
    grid: tuple[int, int] | list[tuple[int, int]],
    pts_seconds: Tensor | None = None,
) -> MotionLatent:
    """The result for latents of all levels, each (B, M, C); the lowest level's are the final ones."""
    final = levels[min(levels)]
    return MotionLatent(final, levels, final.mean(dim=1), grid, pts_seconds)


def predict_flow(
    model: Model,
    source: Images,
    target: Images,
    *,
    method: Literal["auto", "head", "perturbation"] = "auto",
    bidirectional: bool = False,
    size: Size = None,
    batch_size: int = 4,
    tile: int | tuple[int, int] | None = None,
    overlap: float = 0.7,
    coarse: bool = False,
    refine: int = 0,
    mirrored: bool = False,
    level: int | None = None,
    draws: int = 1,
    seed: int = 0,
    window: int = 1,
) -> FlowPrediction:
    """Optical flow from source to target, in pixels of the given images.

    "head" is the fine-tuned flow head (appendix B.4). An image of the size that the head was trained at
    (``config.flow_size``) is predicted directly; a larger one in overlapping tiles of that size, blended by
    confidence; a smaller one is enlarged first, and its flow brought back by the factors of either axis.

    "perturbation" is the zero-shot flow of section 4.4: each source token goes to the target token whose
    prediction it influences most; the position is the softmax-weighted mean (temperature 0.1) over the
    square of radius ``window`` around the arg-max, and the token-level flow is enlarged bilinearly. It is
    as coarse as the patch grid.

    Args:
        model: a network or a pretrained name.
        source: one image or several.
        target: as many images; each has the size of its source.
        method: "auto" (the head if there is one), "head" or "perturbation".
        bidirectional: also the flow from target to source, and where both agree. Each frame is encoded once,
            except for tiles placed by ``coarse`` (and in paired mode, once by either encoder).
        size: resize the images first, as in :func:`extract_features`, but None means the images' own size for the
            head. A larger size gives the zero-shot flow a finer grid and takes longer.
        batch_size: pairs, or tiles, at once.
        tile: for the head: (height, width) or side of the tiles in pixels, instead of ``config.flow_size``.
        overlap: for the head: least share of a tile that its neighbour covers too, in [0, 1).
        coarse: for the head: see the whole image at the size of one tile first, and move each tile of the target to
            where that flow points: for displacements that leave a tile.
        refine: for the head: look again this many times, each time at the target warped by the flow found so far, and
            add what is left. With ``midway_nano.scenes`` once or twice takes a quarter to half of the error away on
            real frames (the model card has the figures), less on generated scenes; each look costs as much as the
            first.
        mirrored: for the head: average over the pair and its mirror images, at four times the cost.
        level: for perturbation: level of the forward dynamics that is perturbed, 2, 1 or 0; None for the
            highest, 2.
        draws: likewise: random perturbations per token to average.
        seed: likewise: of the perturbations.
        window: likewise: radius in tokens of the soft arg-max; 0 is the plain arg-max.

    Returns:
        ``flow`` (B, 2, H, W) float32, channel 0 = x to the right, 1 = y down, and ``confidence`` (B, 1, H, W), higher
        is better; with ``bidirectional`` also ``backward``, ``backward_confidence`` and ``consistent``. Pairs of
        different sizes give lists.

    Raises:
        InputError: for images or arguments that cannot be used, for "head" without a head, and for ``tile``,
            ``coarse``, ``refine`` or ``mirrored`` with another method.
        ConfigError: if the network is an encoder alone.
    """
    from midway_zoo.inference import flow as flow_prediction  # only who asks for flow pays for it

    network = resolve_network(model)
    chosen = flow_prediction.choose(
        network,
        method,
        size=size,
        batch_size=batch_size,
        tile=tile,
        overlap=overlap,
        coarse=coarse,
        refine=refine,
        mirrored=mirrored,
        level=level,
        draws=draws,
        seed=seed,
        window=window,
    )
    return flow_prediction.predict(chosen, source, target, both=bidirectional)


def predict_flows(
    model: Model,
    clip: "Images | str | PathLike[str]",
    *,
    stride: int = 1,
    fps: float | None = None,
    bidirectional: bool = False,
    batch_size: int = 4,
    **options: Any,
) -> Iterator[FlowPrediction]:
    """Optical flow between consecutive frames of a clip, in bounded memory.

    Each frame is encoded once, unless it is tiled (see :func:`predict_flow`).

    Args:
        model: a network or a pretrained name.
        clip: as in :func:`~midway_zoo.infer_motion_latents`.
        stride: take frames 0, stride, 2 * stride, ...
        fps: for a video, instead: the first frame at or after each tick of 1 / fps seconds.
        bidirectional: as in :func:`predict_flow`.
        batch_size: frames, or tiles, at once.
        **options: as in :func:`predict_flow`.

    Yields:
        One result per pair, with B = 1; for videos with ``pts_seconds``.

    Raises:
        InputError: for frames or arguments that cannot be used, or fewer than two frames.
        MissingFileError: if the path does not exist.
        MissingExtraError: for a video without PyAV.
        ConfigError: if the network is an encoder alone.
    """
    from midway_zoo.inference import flow as flow_prediction

    network = resolve_network(model)
    chosen = flow_prediction.choose(network, batch_size=batch_size, **options)
    return flow_prediction.predict_clip(chosen, clip, stride=stride, fps=fps, both=bidirectional)


def perturbation_heatmap(
    model: Model,
    source: Images,
    target: Images,
    xy: Sequence[float] | Sequence[Sequence[float]] | Tensor,
    *,
    size: Size = None,
    batch_size: int = 8,
    level: int | None = None,
    draws: int = 8,
    seed: int = 0,
) -> PerturbationHeatmap:
    """Where one point of the source went: its sensitivity over the target's tokens (section 4.4).

    Args:
        model: a network or a pretrained name.
        source: one image or several, all of one size.
        target: as many images of that size.
        xy: (x, y) in pixels of the source, or one per pair (B, 2).
        size: as in :func:`extract_features`.
        batch_size: pairs at once.
        level: level of the forward dynamics that is perturbed, 2, 1 or 0; None for the highest, 2.
        draws: random perturbations to average.
        seed: of the perturbations.

    Returns:
        ``heatmap`` (B, h, w) cosines in [-1, 1], the perturbed token, and the peak's position in pixels.

    Raises:
        InputError: for images or arguments that cannot be used, or a point outside the image.
        ConfigError: if the network is an encoder alone.
    """
    network = resolve_network(model)
    level = match_level(network, level)
    check_draws(draws, seed)
    pairs = count(source)
    expected = f"one (x, y) or one per pair, ({pairs}, 2), is expected."
    try:
        points = torch.as_tensor(xy, dtype=torch.float32).cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"xy={xy!r:.80}: {expected}") from error
    if points.shape not in {(2,), (pairs, 2)}:
        raise InputError(f"xy has shape {tuple(points.shape)}: {expected}")
    points = points.expand(pairs, 2)
    heat: dict[int, Tensor] = {}
    tokens: dict[int, Tensor] = {}
    peaks: dict[int, Tensor] = {}
    with inference(network):
        for batch in pair_batches(network, source, target, size, batch_size):
            grid = network.grid_of(batch.images[0])
            where = list(zip(batch.indices, batch.given, strict=True))
            chosen = torch.stack([_token_at(points[index], given, grid) for index, given in where])
            flat = chosen[:, 1] * grid[1] + chosen[:, 0]
            matrix = sensitivity(network, *batch.images, tokens=flat, level=level, draws=draws, seed=seed)
            centre = matches(matrix, grid, window=0)[0][:, 0] + 0.5
            _scatter(heat, batch, matrix.unflatten(2, grid)[:, 0])
            _scatter(tokens, batch, chosen)
            for row, (index, given) in enumerate(where):
                peaks[index] = centre[row] * _pixels_per_token(given, grid, centre.device) - 0.5
    heatmap = stack(heat)
    if isinstance(heatmap, list):
        raise InputError("the pairs' sizes lead to different grids; call perturbation_heatmap once per size.")
    return PerturbationHeatmap(
        heatmap, torch.stack(in_order(tokens)), torch.stack(in_order(peaks)), (heatmap.shape[1], heatmap.shape[2])
    )


def _check_blocks(blocks: Sequence[int], last: int) -> None:
    indices = list(blocks) if isinstance(blocks, Sequence) else [None]
    usable = all(isinstance(index, int) and not isinstance(index, bool) and 0 <= index <= last for index in indices)
    if not usable or not indices or len(set(indices)) < len(indices):
        raise InputError(f"blocks={blocks!r}: different block indices from 0 to {last} are expected.")


def _backward_levels(network: MidwayNetwork) -> tuple[int, ...]:
    if network.dynamics is None or not network.config.backward:
        missing = "backward" if network.config.dynamics else "dynamics"
        raise ConfigError(
            f"this network has no backward layers (config.{missing}=False), so it has no backward features; "
            "leave out backward=True and read the encoder's maps."
        )
    return network.config.levels


def _as_map(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """(b, 1 + h * w, D) -> (b, D, h, w), without the class token."""
    return tokens[:, 1:].transpose(1, 2).unflatten(2, grid)


def _scatter(found: dict[int, Tensor], batch: Batch, values: Tensor) -> None:
    found.update(zip(batch.indices, values, strict=True))


def _grids(maps: Tensor | list[Tensor]) -> tuple[int, int] | list[tuple[int, int]]:
    return common([(value.shape[-2], value.shape[-1]) for value in maps])


def _pixels_per_token(given: tuple[int, int], grid: tuple[int, int], device: torch.device) -> Tensor:
    """(x, y) pixels of the given image per token."""
    return torch.tensor([given[1] / grid[1], given[0] / grid[0]], device=device)


def _token_at(point: Tensor, given: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Column and row of the token under a point in pixels."""
    x, y = (float(value) for value in point)
    if not (0 <= x <= given[1] - 1 and 0 <= y <= given[0] - 1):
        raise InputError(f"xy=({x:g}, {y:g}) is outside the image of {given[1]} x {given[0]} pixels (width x height).")
    column = int((x + 0.5) / given[1] * grid[1])
    row = int((y + 0.5) / given[0] * grid[0])
    return torch.tensor([min(column, grid[1] - 1), min(row, grid[0] - 1)])
