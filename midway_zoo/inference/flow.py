"""Optical flow: where it goes. A method, frames at the size that it wants, flow at the given size."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from midway_zoo.errors import InputError
from midway_zoo.flow.consistency import consistency_mask
from midway_zoo.inference.batches import common, in_order, inference, pair_batches, stack
from midway_zoo.inference.encoded import EncodedFrames, EncodedPairs, encoded_pairs
from midway_zoo.inference.flow_options import FlowOptions
from midway_zoo.inference.frames import ClipLike, FrameSource, open_frames
from midway_zoo.inference.images import MAX_TOKENS, Images, Size, target_size
from midway_zoo.inference.perturbation import sensitivity_of, token_flow
from midway_zoo.inference.tiles import corners, placed_flow, tiled_flow
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.results import FlowPrediction
from midway_zoo.weights.registry import Model, resolve_network

_logger = logging.getLogger(__name__)

Found: TypeAlias = list[tuple[Tensor, Tensor]]
"""Per direction: flow (b, 2, h, w) in pixels of the frames, at any resolution, and confidence (b, 1, h, w)."""


def predict_flow(
    model: Model,
    source: Images,
    target: Images,
    *,
    method: Literal["auto", "head", "perturbation"] = "auto",
    bidirectional: bool = False,
    size: Size = None,
    batch_size: int = 4,
    **options: Any,
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
        size: resize the images first, as in :func:`~midway_zoo.extract_features`, but None means the images' own
            size for the head. A larger size gives the zero-shot flow a finer grid and takes longer.
        batch_size: pairs, or tiles, at once.
        **options: ``tile``, ``overlap`` and ``coarse`` for the head; ``level``, ``draws``, ``seed`` and ``window`` for
            perturbation: see :class:`~midway_zoo.inference.flow_options.FlowOptions`.

    Returns:
        ``flow`` (B, 2, H, W) float32, channel 0 = x to the right, 1 = y down, and ``confidence`` (B, 1, H, W), higher
        is better; with ``bidirectional`` also ``backward``, ``backward_confidence`` and ``consistent``. Pairs of
        different sizes give lists.

    Raises:
        InputError: for images or arguments that cannot be used, for "head" without a head, and for options that the
            method does not read.
        InputTypeError: for an unknown option, with the nearest known one.
        ConfigError: if the network is an encoder alone.
    """
    chosen = FlowOptions.of(method=method, size=size, batch_size=batch_size, **options)
    return flow_of_pairs(resolve_network(model), source, target, chosen, bidirectional=bidirectional)


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
        method, bidirectional, size: as in :func:`predict_flow`.
        batch_size: frames, or tiles, at once.
        **options: as in :func:`predict_flow`.

    Yields:
        One result per pair, with B = 1; for videos with ``pts_seconds``.

    Raises:
        InputError: for frames or arguments that cannot be used, or fewer than two frames.
        InputTypeError: for an unknown option, with the nearest known one.
        MissingFileError: if the path does not exist.
        MissingExtraError: for a video without PyAV.
        ConfigError: if the network is an encoder alone.
    """
    chosen = FlowOptions.of(method=method, size=size, batch_size=batch_size, **options)
    return flow_of_clip(resolve_network(model), clip, chosen, stride=stride, fps=fps, bidirectional=bidirectional)


@dataclass(frozen=True)
class PerturbationFlow:
    """Zero-shot flow of section 4.4."""

    network: MidwayNetwork
    options: FlowOptions

    def fit(self, height: int, width: int) -> tuple[int, int]:
        """Size (height, width) of the frames for images of a given size."""
        config = self.network.config
        return target_size(height, width, self.options.size, config.img_size, config.patch_size)

    def encode(self, images: Tensor) -> EncodedFrames:
        """Normalised images (b, 3, H, W), so that pairs can share their tokens."""
        return EncodedFrames(self.network, images).encoded()

    def __call__(self, source: EncodedFrames, target: EncodedFrames, *, both: bool) -> Found:
        found = []
        options = self.options
        for one, other in [(source, target), (target, source)][: 1 + both]:
            matrix = sensitivity_of(
                self.network,
                one.tokens(),
                other.tokens(target=True),
                one.grid,
                level=options.level,
                draws=options.draws,
                seed=options.seed,
                progress=True,
            )
            flow, confidence = token_flow(matrix, one.grid, window=options.window)
            found.append((flow * self.network.config.patch_size, confidence))
        return found


@dataclass(frozen=True)
class HeadFlow:
    """Flow of the fine-tuned head, on tiles where that is needed (appendix B.4)."""

    network: MidwayNetwork
    options: FlowOptions
    tile: tuple[int, int]

    def fit(self, height: int, width: int) -> tuple[int, int]:
        """The images' own size, or what ``size`` makes of it; at least that of a tile."""
        config = self.network.config
        if self.options.size is not None:
            height, width = target_size(height, width, self.options.size, config.img_size, config.patch_size)
        factor = max(self.tile[0] / height, self.tile[1] / width)
        if factor <= 1:
            return height, width
        larger = max(self.tile[0], round(height * factor)), max(self.tile[1], round(width * factor))
        if larger[0] * larger[1] > MAX_TOKENS * config.patch_size**2:
            raise InputError(
                f"an image of {height} x {width} pixels would become {larger[0]} x {larger[1]} to hold "
                f"a tile of {self.tile[0]} x {self.tile[1]}. Crop the image, or pass size=(height, width)."
            )
        return larger

    def encode(self, images: Tensor) -> EncodedFrames:
        """Normalised images (b, 3, H, W) as tiles; encoded, unless those of the target are yet to be placed."""
        places = corners((images.shape[2], images.shape[3]), self.tile, self.options.overlap)
        frames = EncodedFrames(self.network, images, places, self.tile, self.options.batch_size)
        return frames if self._places(frames) else frames.encoded()

    def _places(self, frames: EncodedFrames) -> bool:
        return self.options.coarse and frames.size != self.tile

    def __call__(self, source: EncodedFrames, target: EncodedFrames, *, both: bool) -> Found:
        raw = (placed_flow if self._places(source) else tiled_flow)(source, target, both=both)
        # The third channel is the logit of the expected error: small where the head is sure.
        return [(found[:, :2], torch.sigmoid(-found[:, 2:])) for found in raw]


Method: TypeAlias = PerturbationFlow | HeadFlow


def method_of(network: MidwayNetwork, options: FlowOptions) -> Method:
    """The method for a network, its options checked against it."""
    resolved = options.resolved(network)
    if resolved.method == "head":
        assert isinstance(resolved.tile, tuple)
        return HeadFlow(network, resolved, resolved.tile)
    if options.method == "auto":
        _logger.info("the network has no flow head, using the zero-shot perturbation flow")
    return PerturbationFlow(network, resolved)


def flow_of_pairs(
    network: MidwayNetwork, source: Images, target: Images, options: FlowOptions, *, bidirectional: bool = False
) -> FlowPrediction:
    """:func:`predict_flow` with options that were made before."""
    method = method_of(network, options)
    fields: dict[str, dict[int, Tensor]] = {}
    grids: dict[int, tuple[int, int]] = {}
    with inference(network):
        for batch in pair_batches(network, source, target, method.fit, options.batch_size):
            frames = [method.encode(images) for images in batch.images]
            found = method(frames[0], frames[1], both=bidirectional)
            for row, (index, given) in enumerate(zip(batch.indices, batch.given, strict=True)):
                single = [(flow[row : row + 1], sure[row : row + 1]) for flow, sure in found]
                for name, value in _at_size(single, frames[0].size, given).items():
                    fields.setdefault(name, {})[index] = value[0]
                grids[index] = frames[0].grid
    stacked: dict[str, Any] = {name: stack(values) for name, values in fields.items()}
    return FlowPrediction(method=method.options.method, grid=common(in_order(grids)), **stacked)


def flow_of_clip(
    network: MidwayNetwork,
    clip: ClipLike,
    options: FlowOptions,
    *,
    stride: int = 1,
    fps: float | None = None,
    bidirectional: bool = False,
) -> Iterator[FlowPrediction]:
    """:func:`predict_flows` with options that were made before; frames are read once results are asked for."""
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
        fields: dict[str, Any] = dict(_at_size(single, pairs.source.size, pairs.given))
        for name, value in (("pts_seconds", pairs.pts_seconds), ("concealed", pairs.concealed)):
            fields[name] = None if value is None else value[row : row + 1]
        results.append(FlowPrediction(method=method.options.method, grid=pairs.source.grid, **fields))
    return results


def _at_size(found: Found, size: tuple[int, int], given: tuple[int, int]) -> dict[str, Tensor]:
    """Fields of a result in pixels of the given images, from flow in pixels of frames of ``size``."""
    fields = {}
    directions = (("flow", "confidence"), ("backward", "backward_confidence"))[: len(found)]
    for (flow, sure), names in zip(found, directions, strict=True):
        factor = flow.new_tensor([given[1] / size[1], given[0] / size[0]]).view(2, 1, 1)
        fields[names[0]] = _resample(flow, given) * factor
        fields[names[1]] = _resample(sure, given)
    if "backward" in fields:
        fields["consistent"] = consistency_mask(fields["flow"], fields["backward"])
    return fields


def _resample(values: Tensor, size: tuple[int, int]) -> Tensor:
    if values.shape[-2:] == size:
        return values
    return F.interpolate(values, size=size, mode="bilinear", align_corners=False)
