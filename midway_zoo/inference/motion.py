"""Motion latents along a clip: every frame is encoded once, a few frames in memory at a time."""

from collections.abc import Iterator
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from midway_zoo.errors import InputError, InputTypeError
from midway_zoo.inference.api import Model, motion_latent
from midway_zoo.inference.batches import Fit, check_batch_size, inference, network_size, normaliser
from midway_zoo.inference.folders import frame_files
from midway_zoo.inference.images import Images, Size, count, iterate, resize, to_tensor
from midway_zoo.inference.video import check_sampling, read_video
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.results import MotionLatent
from midway_zoo.weights.registry import resolve_network

Clip: TypeAlias = "Images | str | PathLike[str]"
Frame: TypeAlias = tuple[Tensor, float | None]


def infer_motion_latents(
    model: Model,
    clip: Clip,
    *,
    stride: int = 1,
    fps: float | None = None,
    size: Size = None,
    batch_size: int = 8,
) -> MotionLatent:
    """Motion latents of consecutive frames of a clip.

    With one encoder for both frames (the default), a T-frame clip costs T encoder passes instead of
    2 (T - 1); frames are decoded and encoded ``batch_size`` at a time, so memory does not grow with T.

    Args:
        model: a network or a pretrained name.
        clip: frames as a list of images, a tensor (T, 3, H, W) or array (T, H, W, 3); the path of a video
            (needs the ``video`` extra); or a folder of frames, in natural order of their names. All
            frames have one size.
        stride: take frames 0, stride, 2 * stride, ...
        fps: for a video, instead: the first frame at or after each tick of 1 / fps seconds.
        size: as in :func:`~midway_zoo.extract_features`.
        batch_size: frames per forward pass.

    Returns:
        ``tokens`` (T - 1, 10, C) for the T frames taken, ``levels``, ``pooled``; for videos
        ``pts_seconds`` (T - 1, 2).

    Raises:
        InputError: for frames or arguments that cannot be used, or fewer than two frames.
        MissingFileError: if the path does not exist.
        MissingExtraError: for a video without PyAV.
        ConfigError: if the network is an encoder alone.
    """
    network = resolve_network(model)
    dynamics = network.require_dynamics()
    check_batch_size(batch_size)
    check_sampling(stride, fps)
    frames, total = read_frames(clip, stride, fps)
    found: dict[int, list[Tensor]] = {level: [] for level in network.config.levels}
    times: list[float | None] = []
    carry: list[Tensor] | None = None
    grid = (0, 0)
    with inference(network), tqdm(total=total, unit=" frames", leave=False, disable=None) as bar:
        for batch, seconds in frame_batches(network, frames, size, batch_size):
            grid = network.grid_of(batch)
            # The last frame of a chunk is the source of the next chunk's first pair.
            source, target = _encode_chunk(network, batch, carry)
            carry = [level[-1:] for level in source]
            times += seconds
            bar.update(len(seconds))
            if len(source[0]) > 1:
                pairs = [level[:-1] for level in source], [level[1:] for level in target]
                latents = dynamics.motion_latents(*pairs, grid).motion_latents
                for level in found:
                    found[level].append(latents[level])
    if len(times) < 2:
        raise InputError(f"the clip gave {len(times)} frame(s) at stride={stride}, fps={fps}; at least two are needed.")
    return motion_latent({level: torch.cat(parts) for level, parts in found.items()}, grid, pair_times(times))


def _encode_chunk(
    network: MidwayNetwork, batch: Tensor, carry: list[Tensor] | None
) -> tuple[list[Tensor], list[Tensor]]:
    """Tokens of a chunk as source and as target, each preceded by the frame carried over."""
    source = network.encode(batch)
    target = source if network.target_encoder is None else network.encode(batch, target=True)
    if carry is None:
        return source, target
    joined = [torch.cat([before, level]) for before, level in zip(carry, source, strict=True)]
    if target is source:
        return joined, joined
    # A carried frame is never a target again; its place only keeps both lists aligned.
    return joined, [torch.cat([before, level]) for before, level in zip(carry, target, strict=True)]


def read_frames(clip: Clip, stride: int, fps: float | None) -> tuple[Iterator[Frame], int | None]:
    """Frames with their times, and how many where that is known."""
    if isinstance(clip, str | PathLike):
        path = Path(clip)
        if not path.is_dir():
            return (
                (to_tensor(frame.image), frame.pts_seconds) for frame in read_video(path, stride=stride, fps=fps)
            ), None
        clip = _frames_of_folder(path)
    single = isinstance(clip, Image.Image | Tensor | np.ndarray) and getattr(clip, "ndim", 3) != 4
    if single or not isinstance(clip, list | tuple | Tensor | np.ndarray):
        raise InputTypeError(
            "a clip is a list of images, a tensor (T, 3, H, W), an array (T, H, W, 3), a video path or a folder of "
            f"frames; got a {'single image' if single else type(clip).__name__}."
        )
    if fps is not None:
        raise InputError("fps needs a video, whose frames have times; for a list of frames pass stride.")
    taken = clip[::stride]
    return ((frame, None) for frame in iterate(taken, step=stride)), count(taken)


def _frames_of_folder(folder: Path) -> list[Path]:
    frames = [folder / name for name in frame_files(folder)]
    if not frames:
        raise InputError(f"the folder {folder} holds no image files.")
    return frames


def frame_batches(
    network: MidwayNetwork, frames: Iterator[Frame], size: "Size | Fit", batch_size: int
) -> Iterator[tuple[Tensor, list[float | None]]]:
    """Normalised chunks (b, 3, H, W) with times; every frame must have the first one's size."""
    normalise = normaliser(network)
    first: torch.Size | None = None
    side = (0, 0)
    while chunk := list(islice(frames, batch_size)):
        if first is None:
            first = chunk[0][0].shape
            side = network_size(network, chunk[0][0], size)
        for image, _ in chunk:
            if image.shape != first:
                raise InputError(
                    f"the clip mixes frames of {tuple(first[1:])} and {tuple(image.shape[1:])} pixels (height, width); "
                    "all must have one size."
                )
        yield normalise(torch.stack([resize(image, side) for image, _ in chunk])), [seconds for _, seconds in chunk]


def pair_times(times: list[float | None]) -> Tensor | None:
    """(T - 1, 2) times of source and target, where all are known."""
    known = [seconds for seconds in times if seconds is not None]
    if len(known) < len(times):
        return None
    values = torch.tensor(known, dtype=torch.float64)
    return torch.stack([values[:-1], values[1:]], dim=1)
