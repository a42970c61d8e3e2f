"""Motion and flow along clips, from frame to frame: each frame is encoded once, few are in memory at a time."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from midway_zoo.bars import bar
from midway_zoo.checks import check_integer
from midway_zoo.inference.batches import Fit, inference
from midway_zoo.inference.encoded import EncodedFrames
from midway_zoo.inference.flow import Method, at_size, method_of
from midway_zoo.inference.flow_options import FlowOptions
from midway_zoo.inference.frames import ClipLike, FrameSource, frame_batches, open_frames, pair_times
from midway_zoo.inference.images import Size
from midway_zoo.inference.motion import motion_latent
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.results import FlowPrediction, MotionLatent
from midway_zoo.weights.registry import Model, resolve_network


@dataclass(frozen=True)
class EncodedPairs:
    """Pairs of frames of a clip, in order."""

    source: EncodedFrames
    target: EncodedFrames
    given: tuple[int, int]
    """(height, width) of the frames as given."""
    pts_seconds: Tensor | None
    """(p, 2) times of source and target."""
    concealed: Tensor | None
    """(p, 2) bool: whether the decoder concealed errors in source and target; None if ``pts_seconds`` is."""


def encoded_pairs(
    network: MidwayNetwork,
    frames: FrameSource,
    size: "Size | Fit",
    batch_size: int,
    encode: Callable[[Tensor], EncodedFrames],
    *,
    gap: int = 1,
) -> Iterator[EncodedPairs]:
    """Pairs of the frames t and t + gap of a clip, ``batch_size`` frames at a time, with a progress bar.

    ``encode`` turns normalised images (b, 3, H, W) into :class:`EncodedFrames`; the last ``gap`` of them are kept as
    sources of the next pairs. Between results the caller's gradient mode is in effect.

    Raises:
        InputError: for frames that cannot be used, or too few of them.
    """
    last: EncodedFrames | None = None
    times: list[float | None] = []
    concealed: list[bool] = []
    taken = 0
    with bar(total=frames.total, unit=" frames") as shown:
        for batch in frame_batches(network, frames, size, batch_size):
            # Not around the yield: a suspended generator must not leave the caller without gradients.
            with inference(network):
                joined = encode(batch.images).after(last)
            last, times = joined[-gap:], times[-gap:] + batch.pts_seconds
            concealed = concealed[-gap:] + batch.concealed
            taken += len(batch.images)
            if len(joined) > gap:
                pts, hidden = pair_times(times, gap), torch.tensor(concealed)
                guessed = None if pts is None else torch.stack([hidden[:-gap], hidden[gap:]], dim=1)
                yield EncodedPairs(joined[:-gap], joined[gap:], batch.given, pts, guessed)
            shown.update(len(batch.images))
    frames.check_taken(taken, gap)


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
        gap: compare frames t and t + gap of those selected, for every t.
        size: as in :func:`~midway_zoo.extract_features`.
        batch_size: frames per forward pass.

    Returns:
        ``tokens`` (T - gap, 10, C) for the T selected frames, ``levels``, ``pooled``; for videos
        ``pts_seconds`` and ``concealed`` (T - gap, 2).

    Raises:
        InputError: for frames or arguments that cannot be used, or fewer than gap + 1 frames.
        MissingFileError: if the path does not exist.
        MissingExtraError: for a video without PyAV.
        ConfigError: if the network is an encoder alone.
    """
    parts = list(motion_of_clip(model, clip, stride=stride, fps=fps, gap=gap, size=size, batch_size=batch_size))
    levels = {level: torch.cat([part.levels[level] for part in parts]) for level in parts[0].levels}
    times = [part.pts_seconds for part in parts if part.pts_seconds is not None]
    concealed = [part.concealed for part in parts if part.concealed is not None]
    of_video = (torch.cat(times), torch.cat(concealed)) if times else (None, None)
    return motion_latent(levels, parts[0].grid, *of_video)


def motion_of_clip(
    model: Model,
    clip: ClipLike,
    *,
    stride: int = 1,
    fps: float | None = None,
    gap: int = 1,
    size: Size = None,
    batch_size: int = 8,
) -> Iterator[MotionLatent]:
    """:func:`infer_motion_latents` in parts of at most ``batch_size`` pairs, in order, in bounded memory."""
    network = resolve_network(model)
    network.require_dynamics()
    check_integer("batch_size", batch_size, 1)
    check_integer("gap", gap, 1)
    return _motion(network, open_frames(clip, stride=stride, fps=fps), size, batch_size, gap)


def _motion(
    network: MidwayNetwork, frames: FrameSource, size: Size, batch_size: int, gap: int
) -> Iterator[MotionLatent]:
    dynamics = network.require_dynamics()

    def encode(images: Tensor) -> EncodedFrames:
        return EncodedFrames(network, images).encoded()

    for pairs in encoded_pairs(network, frames, size, batch_size, encode, gap=gap):
        with inference(network):
            tokens = pairs.source.tokens(), pairs.target.tokens(target=True)
            latents = dynamics.motion_latents(*tokens, pairs.source.grid).motion_latents
        yield motion_latent(dict(latents), pairs.source.grid, pairs.pts_seconds, pairs.concealed)


def predict_flows(
    model: Model,
    clip: ClipLike,
    *,
    stride: int = 1,
    fps: float | None = None,
    method: Literal["auto", "head", "perturbation"] = "auto",
    bidirectional: bool = False,
    size: Size = None,
    batch_size: int = 4,
    **options: Any,
) -> Iterator[FlowPrediction]:
    """Optical flow between consecutive frames of a clip, in bounded memory.

    Each frame is encoded once, unless ``coarse`` places its tiles (see :func:`predict_flow`).

    Args:
        model: a network or a pretrained name.
        clip: as in :func:`~midway_zoo.infer_motion_latents`.
        stride: take frames 0, stride, 2 * stride, ...
        fps: for a video, instead: the first frame at or after each tick of 1 / fps seconds.
        method: as in :func:`predict_flow`.
        bidirectional: also return the flow from target to source, and where both agree.
        size: as in :func:`predict_flow`.
        batch_size: frames, or tiles, at once.
        **options: as in :func:`predict_flow`.

    Yields:
        One result per pair, with B = 1; for videos with ``pts_seconds`` and ``concealed``.

    Raises:
        InputError: for frames or arguments that cannot be used, or fewer than two frames.
        InputTypeError: for an unknown option, with the nearest known one.
        MissingFileError: if the path does not exist.
        MissingExtraError: for a video without PyAV.
        ConfigError: if the network is an encoder alone.
    """
    chosen = FlowOptions.of(method=method, size=size, batch_size=batch_size, **options)
    return flow_of_clip(resolve_network(model), clip, chosen, stride=stride, fps=fps, bidirectional=bidirectional)


def flow_of_clip(
    network: MidwayNetwork,
    clip: ClipLike,
    options: FlowOptions,
    *,
    stride: int = 1,
    fps: float | None = None,
    bidirectional: bool = False,
) -> Iterator[FlowPrediction]:
    """:func:`predict_flows` with ready-made options; frames are read as results are consumed."""
    return _of_frames(method_of(network, options), open_frames(clip, stride=stride, fps=fps), bidirectional)


def _of_frames(method: Method, frames: FrameSource, both: bool) -> Iterator[FlowPrediction]:
    pairs = encoded_pairs(method.network, frames, method.fit, method.options.batch_size, method.encode)
    for some in pairs:
        with inference(method.network):
            results = _results(method, some, both)
        yield from results


def _results(method: Method, pairs: EncodedPairs, both: bool) -> list[FlowPrediction]:
    """One result per pair."""
    found = method(pairs.source, pairs.target, both=both)
    results = []
    for row in range(len(pairs.source)):
        single = [(flow[row : row + 1], sure[row : row + 1]) for flow, sure in found]
        fields: dict[str, Any] = dict(at_size(single, pairs.source.size, pairs.given))
        for name, value in (("pts_seconds", pairs.pts_seconds), ("concealed", pairs.concealed)):
            fields[name] = None if value is None else value[row : row + 1]
        results.append(FlowPrediction(method=method.options.method, grid=pairs.source.grid, **fields))
    return results
