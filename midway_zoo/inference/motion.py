"""Motion latents: how it moves, from one image to another and along a clip."""

import torch
from torch import Tensor

from midway_zoo.inference.batches import common, in_order, inference, pair_batches, scatter
from midway_zoo.inference.checks import check_batch_size, check_integer
from midway_zoo.inference.encoded import EncodedFrames, encoded_pairs
from midway_zoo.inference.frames import ClipLike, open_frames
from midway_zoo.inference.images import Images, Size
from midway_zoo.results import MotionLatent
from midway_zoo.weights.registry import Model, resolve_network


def infer_motion_latent(
    model: Model, source: Images, target: Images, *, size: Size = None, batch_size: int = 8
) -> MotionLatent:
    """Motion latents of image pairs: what happened between source and target (section 3.1).

    Args:
        model: a network or a pretrained name. One encoder sees both frames; a network in paired mode
            uses its student for the source and its teacher for the target, as in pretraining.
        source: one image or several.
        target: as many images; each has the size of its source.
        size: as in :func:`~midway_zoo.extract_features`.
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
                scatter(found[level], batch, latents[level])
            grids.update(dict.fromkeys(batch.indices, grid))
    levels = {level: torch.stack(in_order(values)) for level, values in found.items()}
    return motion_latent(levels, common(in_order(grids)))


def infer_motion_latents(
    model: Model,
    clip: ClipLike,
    *,
    stride: int = 1,
    fps: float | None = None,
    gap: int = 1,
    size: Size = None,
    batch_size: int = 8,
) -> MotionLatent:
    """Motion latents of consecutive frames of a clip, or of frames that are ``gap`` apart.

    With one encoder for both frames (the default), a T-frame clip costs T encoder passes instead of
    2 (T - 1); frames are decoded and encoded ``batch_size`` at a time, so memory does not grow with T.

    Args:
        model: a network or a pretrained name.
        clip: frames as a list or iterator of images, a tensor (T, 3, H, W) or array (T, H, W, 3); the path of a
            video (needs the ``video`` extra); or a folder of frames, in natural order of their names. All frames
            have one size.
        stride: take frames 0, stride, 2 * stride, ...
        fps: for a video, instead: the first frame at or after each tick of 1 / fps seconds.
        gap: compare the frames t and t + gap, for every t, of those taken.
        size: as in :func:`~midway_zoo.extract_features`.
        batch_size: frames per forward pass.

    Returns:
        ``tokens`` (T - gap, 10, C) for the T frames taken, ``levels``, ``pooled``; for videos
        ``pts_seconds`` and ``concealed`` (T - gap, 2).

    Raises:
        InputError: for frames or arguments that cannot be used, or fewer than gap + 1 frames.
        MissingFileError: if the path does not exist.
        MissingExtraError: for a video without PyAV.
        ConfigError: if the network is an encoder alone.
    """
    network = resolve_network(model)
    dynamics = network.require_dynamics()
    check_batch_size(batch_size)
    check_integer("gap", gap, 1)
    frames = open_frames(clip, stride=stride, fps=fps)
    found: dict[int, list[Tensor]] = {level: [] for level in network.config.levels}
    times: list[Tensor] = []
    concealed: list[Tensor] = []
    grid = (0, 0)

    def encode(images: Tensor) -> EncodedFrames:
        return EncodedFrames(network, images).encoded()

    with inference(network):
        for pairs in encoded_pairs(network, frames, size, batch_size, encode, gap=gap):
            grid = pairs.source.grid
            tokens = pairs.source.tokens(), pairs.target.tokens(target=True)
            latents = dynamics.motion_latents(*tokens, grid).motion_latents
            for level in found:
                found[level].append(latents[level])
            if pairs.pts_seconds is not None and pairs.concealed is not None:
                times.append(pairs.pts_seconds)
                concealed.append(pairs.concealed)
    levels = {level: torch.cat(parts) for level, parts in found.items()}
    of_video = (torch.cat(times), torch.cat(concealed)) if times else (None, None)
    return motion_latent(levels, grid, *of_video)


def motion_latent(
    levels: dict[int, Tensor],
    grid: tuple[int, int] | list[tuple[int, int]],
    pts_seconds: Tensor | None = None,
    concealed: Tensor | None = None,
) -> MotionLatent:
    """The result for latents of all levels, each (B, M, C); the lowest level's are the final ones."""
    final = levels[min(levels)]
    return MotionLatent(final, levels, final.mean(dim=1), grid, pts_seconds, concealed)
