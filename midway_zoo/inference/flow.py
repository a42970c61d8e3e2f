"""Optical flow of image pairs: by either method, at the size of the given images."""

import logging
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from midway_zoo.errors import InputError
from midway_zoo.inference.batches import common, in_order, inference, pair_batches, stack
from midway_zoo.inference.encoded import EncodedFrames
from midway_zoo.inference.flow_options import FlowOptions
from midway_zoo.inference.images import MAX_TOKENS, Images, Size, check_aspect, target_size
from midway_zoo.inference.perturbation import sensitivity_of, token_flow
from midway_zoo.inference.tiles import corners, placed_flow, tiled_flow
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.results import FlowPrediction
from midway_zoo.weights.registry import Model, resolve_network

_logger = logging.getLogger(__name__)

_TILES = 3
"""Images are reduced to so many tiles per axis by default: measured, more pixels cost more than they gain."""
_OVERLAP = 0.25
_TOKENS = 480
"""Tokens in a tile of the paper's size, 320 x 384 pixels: smaller tiles are batched up to as many."""

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
    confidence; a smaller one is enlarged first, and its flow scaled back along each axis. Images of more than
    three tiles on the shorter side are reduced to that first, as a message in the log says. Ones that are over ten
    times as long as wide are refused, unless ``size`` says what to make of them.

    "perturbation" is the zero-shot flow of section 4.4: each source token goes to the target token whose prediction it
    influences most; the position is the softmax-weighted mean (temperature 0.1) over the square of radius ``window``
    around the arg-max. It is as coarse as the patch grid, and enlarged bilinearly.

    Args:
        model: a network or a pretrained name.
        source: one image or several.
        target: as many images; each has the size of its source.
        method: "auto" (the head if there is one), "head" or "perturbation".
        bidirectional: also return the flow from target to source, and where both agree. Each frame is encoded once
            (in paired mode once by each encoder), except for tiles placed by ``coarse``.
        size: of the images in the network; None suits the method, "full" is every pixel. See
            :class:`~midway_zoo.inference.flow_options.FlowOptions`, as for the following.
        batch_size: pairs, or tiles, at once.
        **options: ``tile``, ``overlap``, ``coarse``, ``refine`` and ``mirrored`` for the head; ``level``, ``draws``,
            ``seed`` and ``window`` for perturbation.

    Returns:
        ``flow`` (B, 2, H, W) float32, channel 0 = x to the right, 1 = y down, and ``confidence`` (B, 1, H, W), higher
        is better; with ``bidirectional`` also ``backward``, ``backward_confidence`` and ``consistent``. Pairs of
        different sizes give lists.

    Raises:
        InputError: for images or arguments that cannot be used, for "head" without a head, and for options that the
            method does not use.
        InputTypeError: for an unknown option, with the nearest known one.
        ConfigError: if the network is an encoder alone.
    """
    chosen = FlowOptions.of(method=method, size=size, batch_size=batch_size, **options)
    return flow_of_pairs(resolve_network(model), source, target, chosen, bidirectional=bidirectional)


@dataclass(frozen=True)
class PerturbationFlow:
    """The zero-shot flow of section 4.4."""

    network: MidwayNetwork
    options: FlowOptions

    def fit(self, height: int, width: int) -> tuple[int, int]:
        """Size (height, width) of the frames for images of a given size."""
        config = self.network.config
        return target_size(height, width, self.options.size, config.img_size, config.patch_size)

    def side(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the windows that frames of a size are encoded in."""
        return size

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
    noted: set[tuple[int, int]] = field(default_factory=set, compare=False)
    """Sizes already reported in the log."""

    def fit(self, height: int, width: int) -> tuple[int, int]:
        """The images' own size, a smaller one of a few tiles, or what ``size`` gives; at least that of a tile."""
        config, size = self.network.config, self.options.size
        if size is None:
            check_aspect(height, width, self.tile)
            height, width = self._reduced(height, width)
        elif size != "full":
            height, width = target_size(height, width, size, config.img_size, config.patch_size)
        factor = max(self.tile[0] / height, self.tile[1] / width)
        if factor <= 1:
            return height, width
        check_aspect(height, width, self.tile)
        larger = max(self.tile[0], round(height * factor)), max(self.tile[1], round(width * factor))
        if larger[0] * larger[1] > MAX_TOKENS * config.patch_size**2:
            raise InputError(
                f"an image of {height} x {width} pixels would become {larger[0]} x {larger[1]} to hold "
                f"a tile of {self.tile[0]} x {self.tile[1]}. Crop the image, or pass size=(height, width)."
            )
        return larger

    def _reduced(self, height: int, width: int) -> tuple[int, int]:
        share = _TILES / min(height / self.tile[0], width / self.tile[1])
        if share >= 1:
            return height, width
        smaller = round(height * share), round(width * share)
        if (height, width) not in self.noted:
            self.noted.add((height, width))
            _logger.info(
                "flow of %d x %d pixels is computed at %d x %d (width x height), %d times the size that the head was "
                'trained at; size="full" takes every pixel',
                *(width, height, smaller[1], smaller[0], _TILES),
            )
        return smaller

    def side(self, size: tuple[int, int]) -> tuple[int, int]:
        """That of a tile."""
        return self.tile

    def encode(self, images: Tensor) -> EncodedFrames:
        """Normalised images (b, 3, H, W) as tiles; encoded, unless the target's are yet to be placed."""
        use = self.options.overlap is None
        overlap = _OVERLAP if self.options.overlap is None else self.options.overlap
        places = corners((images.shape[2], images.shape[3]), self.tile, overlap)
        tokens = self.tile[0] * self.tile[1] // self.network.config.patch_size**2
        at_once = self.options.batch_size * max(1, _TOKENS // tokens)
        frames = EncodedFrames(self.network, images, places, self.tile, at_once, fade=use)
        return frames if self._places(frames) else frames.encoded()

    def _places(self, frames: EncodedFrames) -> bool:
        return self.options.coarse and frames.size != self.tile

    def __call__(self, source: EncodedFrames, target: EncodedFrames, *, both: bool) -> Found:
        if self.options.mirrored or self.options.refine:
            raw = self._refined(source, target, both=both)
        else:
            raw = self._raw(source, target, both=both)
        # The third channel is the logit of the expected error: small where the head is sure.
        return [(found[:, :2], torch.sigmoid(-found[:, 2:])) for found in raw]

    def _refined(self, source: EncodedFrames, target: EncodedFrames, *, both: bool) -> list[Tensor]:
        from midway_zoo.inference.refinement import mean_over_mirrors, refined

        pairs = ((source, target), (target, source))[: 1 + both]
        if self.options.mirrored:
            look = mean_over_mirrors(self._look)
            raw = [look(*pair) for pair in pairs]
        else:
            look, raw = self._look, self._raw(source, target, both=both)
        return [refined(look, *pair, found, self.options.refine) for pair, found in zip(pairs, raw, strict=True)]

    def _look(self, source: EncodedFrames, target: EncodedFrames) -> Tensor:
        return self._raw(source, target, both=False)[0]

    def _raw(self, source: EncodedFrames, target: EncodedFrames, *, both: bool) -> list[Tensor]:
        return (placed_flow if self._places(source) else tiled_flow)(source, target, both=both)


Method: TypeAlias = PerturbationFlow | HeadFlow


def method_of(network: MidwayNetwork, options: FlowOptions) -> Method:
    """The method for a network, with options checked against it."""
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
    """:func:`predict_flow` with ready-made options."""
    method = method_of(network, options)
    fields: dict[str, dict[int, Tensor]] = {}
    grids: dict[int, tuple[int, int]] = {}
    with inference(network):
        for batch in pair_batches(network, source, target, method.fit, options.batch_size):
            frames = [method.encode(images) for images in batch.images]
            found = method(frames[0], frames[1], both=bidirectional)
            for row, (index, given) in enumerate(zip(batch.indices, batch.given, strict=True)):
                single = [(flow[row : row + 1], sure[row : row + 1]) for flow, sure in found]
                for name, value in at_size(single, frames[0].size, given).items():
                    fields.setdefault(name, {})[index] = value[0]
                grids[index] = frames[0].grid
    stacked: dict[str, Any] = {name: stack(values) for name, values in fields.items()}
    return FlowPrediction(method=method.options.method, grid=common(in_order(grids)), **stacked)


def at_size(found: Found, size: tuple[int, int], given: tuple[int, int]) -> dict[str, Tensor]:
    """Fields of a result in pixels of the given images, from flow in pixels of frames of ``size``."""
    fields = {}
    directions = (("flow", "confidence"), ("backward", "backward_confidence"))[: len(found)]
    for (flow, sure), names in zip(found, directions, strict=True):
        factor = flow.new_tensor([given[1] / size[1], given[0] / size[0]]).view(2, 1, 1)
        fields[names[0]] = _resample(flow, given) * factor
        fields[names[1]] = _resample(sure, given)
    if "backward" in fields:
        from midway_zoo.flow.consistency import consistency_mask

        fields["consistent"] = consistency_mask(fields["flow"], fields["backward"])
    return fields


def _resample(values: Tensor, size: tuple[int, int]) -> Tensor:
    if values.shape[-2:] == size:
        return values
    return F.interpolate(values, size=size, mode="bilinear", align_corners=False)
