"""How :func:`midway_zoo.predict_flow` works: a method, frames at the size that it wants, flow at the given size."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from tqdm import tqdm

from midway_zoo.errors import InputError
from midway_zoo.flow.consistency import consistency_mask
from midway_zoo.inference.batches import check_batch_size, common, in_order, inference, pair_batches, stack
from midway_zoo.inference.images import MAX_TOKENS, Images, Size, target_size
from midway_zoo.inference.motion import Clip, frame_batches, pair_times, read_frames
from midway_zoo.inference.perturbation import check_draws, check_window, match_level, sensitivity_of, token_flow
from midway_zoo.inference.refinement import check_refinement, mean_over_mirrors, refined
from midway_zoo.inference.tiles import Frames, raw_flow
from midway_zoo.inference.video import check_sampling
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.results import FlowPrediction

_logger = logging.getLogger(__name__)

Found: TypeAlias = list[tuple[Tensor, Tensor]]
"""Per direction: flow (b, 2, h, w) in pixels of the frames, at any resolution, and confidence (b, 1, h, w)."""


@dataclass(frozen=True)
class PerturbationFlow:
    """Zero-shot flow of section 4.4."""

    network: MidwayNetwork
    size: Size
    batch_size: int
    level: int
    draws: int
    seed: int
    window: int
    name = "perturbation"

    def fit(self, height: int, width: int) -> tuple[int, int]:
        """Size (height, width) of the frames for images of a given size."""
        return target_size(height, width, self.size, self.network.config.img_size, self.network.config.patch_size)

    def grid(self, frames: Frames) -> tuple[int, int]:
        return frames.grid

    def encodes(self, size: tuple[int, int]) -> bool:
        """Whether whole frames of this size are encoded, so that their tokens can be shared."""
        return True

    def __call__(self, source: Frames, target: Frames, *, both: bool) -> Found:
        found = []
        for one, other in [(source, target), (target, source)][: 1 + both]:
            matrix = sensitivity_of(
                self.network,
                one.tokens(),
                other.tokens(target=True),
                one.grid,
                level=self.level,
                draws=self.draws,
                seed=self.seed,
                progress=True,
            )
            flow, confidence = token_flow(matrix, one.grid, window=self.window)
            found.append((flow * self.network.config.patch_size, confidence))
        return found


@dataclass(frozen=True)
class HeadFlow:
    """Flow of the fine-tuned head, on tiles where that is needed (appendix B.4)."""

    network: MidwayNetwork
    size: Size
    batch_size: int
    tile: tuple[int, int]
    overlap: float
    coarse: bool
    refine: int = 0
    mirrored: bool = False
    name = "head"

    def fit(self, height: int, width: int) -> tuple[int, int]:
        """The images' own size, or what ``size`` makes of it; at least that of a tile."""
        config = self.network.config
        if self.size is not None:
            height, width = target_size(height, width, self.size, config.img_size, config.patch_size)
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

    def grid(self, frames: Frames) -> tuple[int, int]:
        patch = self.network.config.patch_size
        return self.tile[0] // patch, self.tile[1] // patch

    def encodes(self, size: tuple[int, int]) -> bool:
        """Whether whole frames of this size are encoded, so that their tokens can be shared."""
        return size == self.tile

    def __call__(self, source: Frames, target: Frames, *, both: bool) -> Found:
        if self.mirrored:
            look = mean_over_mirrors(self._look)
            raw = [look(source, target), look(target, source)][: 1 + both]
        else:
            look = self._look
            raw = self._raw(source, target, both=both)
        pairs = ((source, target), (target, source))[: 1 + both]
        raw = [refined(look, *pair, found, self.refine) for pair, found in zip(pairs, raw, strict=True)]
        # The third channel is the logit of the expected error: small where the head is sure.
        return [(found[:, :2], torch.sigmoid(-found[:, 2:])) for found in raw]

    def _look(self, source: Frames, target: Frames) -> Tensor:
        return self._raw(source, target, both=False)[0]

    def _raw(self, source: Frames, target: Frames, *, both: bool) -> list[Tensor]:
        return raw_flow(
            source,
            target,
            self.tile,
            overlap=self.overlap,
            batch_size=self.batch_size,
            coarse=self.coarse,
            both=both,
        )


Method: TypeAlias = PerturbationFlow | HeadFlow


def choose(
    network: MidwayNetwork,
    method: str = "auto",
    *,
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
) -> Method:
    """The method for a network, its arguments checked; see :func:`midway_zoo.predict_flow`."""
    check_batch_size(batch_size)
    level = match_level(network, level)
    check_draws(draws, seed)
    check_window(window)
    check_refinement(refine, mirrored)
    side = _tile(network, tile)
    if isinstance(overlap, bool) or not isinstance(overlap, int | float) or not 0 <= overlap < 1:
        raise InputError(f"overlap={overlap!r}: a number from 0 to below 1 is expected.")
    if method not in ("auto", "head", "perturbation"):
        raise InputError(f'method={method!r}: "auto", "head" or "perturbation" is expected.')
    if method == "head" and network.flow_head is None:
        raise InputError('this network has no flow head; use method="perturbation", which needs no training.')
    if method == "perturbation" or network.flow_head is None:
        if tile is not None or coarse or refine or mirrored:
            raise InputError(
                "tile, coarse, refine and mirrored are for the flow head; for the zero-shot flow pass size, a finer "
                "grid."
            )
        if method == "auto":
            _logger.info("the network has no flow head, using the zero-shot perturbation flow")
        return PerturbationFlow(network, size, batch_size, level, draws, seed, window)
    return HeadFlow(network, size, batch_size, side, overlap, coarse, refine, mirrored)


def _tile(network: MidwayNetwork, tile: Any) -> tuple[int, int]:
    if tile is None:
        return network.config.flow_size
    sides = (tile, tile) if isinstance(tile, int) else tile
    patch = network.config.patch_size
    whole = isinstance(sides, tuple | list) and len(sides) == 2 and all(type(side) is int for side in sides)
    if not whole or any(side < 1 or side % patch for side in sides):
        raise InputError(f"tile={tile!r}: one or two multiples of the patch, {patch} pixels, are expected.")
    return sides[0], sides[1]


def predict(method: Method, source: Images, target: Images, *, both: bool) -> FlowPrediction:
    """Flow of image pairs."""
    network = method.network
    fields: dict[str, dict[int, Tensor]] = {}
    grids: dict[int, tuple[int, int]] = {}
    with inference(network):
        for batch in pair_batches(network, source, target, method.fit, method.batch_size):
            frames = [Frames(network, images) for images in batch.images]
            found = method(frames[0], frames[1], both=both)
            for row, (index, given) in enumerate(zip(batch.indices, batch.given, strict=True)):
                single = [(flow[row : row + 1], sure[row : row + 1]) for flow, sure in found]
                for name, value in _at_size(single, frames[0].size, given).items():
                    fields.setdefault(name, {})[index] = value[0]
                grids[index] = method.grid(frames[0])
    stacked: dict[str, Any] = {name: stack(values) for name, values in fields.items()}
    return FlowPrediction(method=method.name, grid=common(in_order(grids)), **stacked)


def predict_clip(method: Method, clip: Clip, *, stride: int, fps: float | None, both: bool) -> Iterator[FlowPrediction]:
    """Flow of consecutive frames; arguments are checked before the first result is asked for."""
    check_sampling(stride, fps)
    frames, total = read_frames(clip, stride, fps)
    return _stream(method, frames, total, both)


def _stream(method: Method, frames: Any, total: int | None, both: bool) -> Iterator[FlowPrediction]:
    given: tuple[int, int] = (0, 0)

    def fit(height: int, width: int) -> tuple[int, int]:
        nonlocal given
        given = height, width
        return method.fit(height, width)

    last: Frames | None = None
    times: list[float | None] = []
    taken = 0
    with tqdm(total=total, unit=" frames", leave=False, disable=None) as bar:
        for images, seconds in frame_batches(method.network, frames, fit, method.batch_size):
            taken += len(seconds)
            times = times[-1:] + seconds
            # Not around the yield: a suspended generator must not leave the caller without gradients.
            with inference(method.network):
                chunk = Frames(method.network, images)
                if method.encodes(chunk.size):
                    chunk.tokens()
                    chunk.tokens(target=True)
                chunk = chunk.after(last)
                last = chunk[len(chunk.images) - 1 :]
                results = [] if len(chunk.images) < 2 else _neighbours(method, chunk, given, times, both=both)
            bar.update(len(seconds))
            yield from results
    if taken < 2:
        raise InputError(f"the clip gave {taken} frame(s); flow needs at least two.")


def _neighbours(
    method: Method, chunk: Frames, given: tuple[int, int], times: list[float | None], *, both: bool
) -> list[FlowPrediction]:
    """One result per pair of consecutive frames."""
    size, pts = chunk.size, pair_times(times)
    found = method(chunk[: len(chunk.images) - 1], chunk[1:], both=both)
    results = []
    for row in range(len(chunk.images) - 1):
        single = [(flow[row : row + 1], sure[row : row + 1]) for flow, sure in found]
        fields: dict[str, Any] = dict(_at_size(single, size, given))
        when = None if pts is None else pts[row : row + 1]
        results.append(FlowPrediction(method=method.name, grid=method.grid(chunk), pts_seconds=when, **fields))
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
