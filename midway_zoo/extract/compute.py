"""Features, motion latents and flow of prepared frames, each of which is encoded only once."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from midway_zoo.errors import InputError
from midway_zoo.extract.decoding import ClipBatch, ImageBatch, Look, Sides
from midway_zoo.extract.settings import Settings
from midway_zoo.inference.batches import inference, normaliser
from midway_zoo.inference.encoded import EncodedFrames
from midway_zoo.inference.flow import Method, at_size, method_of
from midway_zoo.inference.flow_options import FlowOptions
from midway_zoo.inference.frames import known_times, pair_times
from midway_zoo.inference.images import target_size
from midway_zoo.models.network import MidwayNetwork

_CHUNK_BYTES = 2**27
"""Largest size of the tensors of a chunk, which is a row of a shard."""


@dataclass(frozen=True, eq=False)
class Row:
    """The results of an image, or of some consecutive frames of a clip."""

    item: str
    """Key of its item."""
    chunk: int
    """Index of the chunk in its item, from 0; an image has one."""
    last: bool
    """Whether the item ends with this chunk."""
    first_frame: int
    """Index of the first frame among the frames taken."""
    frames: int
    height: int
    """Height in pixels of the frames as given; likewise ``width``."""
    width: int
    tensors: dict[str, Tensor]
    """Name -> values of the n frames (n, ...), or of the pairs whose target is among them (n, ...); n - 1 pairs at the
    beginning of a clip."""

    @property
    def bytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())


class _Tapped(EncodedFrames):
    """Encoded frames that also keep the tokens of the blocks asked for as features."""

    taps: tuple[int, ...] = ()
    tapped: dict[int, Tensor]

    def _encode(self, target: bool) -> list[Tensor]:
        if target:
            return super()._encode(target)
        levels = self.network.config.feature_blocks
        blocks = sorted({*levels, *self.taps})
        self.tapped = dict(zip(blocks, self.network.encode(self.images, blocks=blocks), strict=True))
        return [self.tapped[block] for block in levels]


class Extractor:
    """A network with the settings of an extraction.

    Args:
        network: the network, on its device; if its dtype is not that of the settings, a copy is used.
        settings: what to extract; checked against the network.

    Raises:
        InputError, ConfigError: for settings that do not fit the network.
    """

    def __init__(self, network: MidwayNetwork, settings: Settings) -> None:
        settings.for_network(network.config)
        self.settings, self.dtype = settings, getattr(torch, settings.dtype)
        # The caller's network stays as it is.
        self.network = network if network.dtype == self.dtype else copy.deepcopy(network).to(self.dtype)
        self.blocks = settings.kept_blocks(network.config)
        self.normalise = normaliser(self.network)
        self.flow: Method | None = None
        if "flow" in settings.what:
            size = settings.size if settings.flow_size is None else settings.flow_size
            self.flow = method_of(self.network, FlowOptions.of(method=settings.method, size=size))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the tensors that rows may have."""
        what = self.settings.what
        found = ["pts_seconds", "concealed", *(["pair_pts_seconds"] if self.settings.pairs else [])]
        found += ["cls", *(f"block{block}" for block in self.blocks)] if "features" in what else []
        found += ["motion"] if "motion" in what else []
        return (*found, *(["flow", "confidence"] if "flow" in what else []))

    # How frames are prepared.

    def look(self, batch_size: int) -> Look:
        """How a reader prepares frames."""
        return Look(self._sides, self._chunk, batch_size, self.settings.stride, self.settings.fps)

    def _side(self, height: int, width: int) -> tuple[int, int]:
        config = self.network.config
        return target_size(height, width, self.settings.size, config.img_size, config.patch_size)

    def _sides(self, height: int, width: int) -> Sides:
        side = self._side(height, width)
        if self.flow is None:
            return side, None
        wanted = self.flow.fit(height, width)
        if not self.sees_whole:
            return wanted, None
        # If both take the whole frame at the same size, it is encoded once.
        return side, None if wanted == side == self.flow.side(wanted) else wanted

    @property
    def sees_whole(self) -> bool:
        """Whether anything but the flow is wanted."""
        return self.settings.what != ("flow",)

    def _chunk(self, height: int, width: int) -> int:
        """Frames per chunk: as in the settings, or the largest power of two whose tensors are not too large."""
        config, what = self.network.config, self.settings.what
        side = self._side(height, width)
        tokens = side[0] // config.patch_size * (side[1] // config.patch_size)
        values = config.embed_dim * (1 + tokens * len(self.blocks)) if "features" in what else 0
        values += config.motion_tokens * config.motion_dim if "motion" in what else 0
        values += 3 * height * width if "flow" in what else 0
        fitting = max(1, _CHUNK_BYTES // (values * self.dtype.itemsize))
        return self.settings.chunk if fitting >= self.settings.chunk else 1 << (fitting.bit_length() - 1)

    # What is computed.

    def images(self, batch: ImageBatch) -> list[Row]:
        """One row per image."""
        with inference(self.network):
            found = self.features_of(self.encode(batch.images))
        rows = []
        for index, (item, given) in enumerate(zip(batch.items, batch.given, strict=True)):
            tensors = {name: values[index : index + 1] for name, values in found.items()}
            rows.append(Row(item.key, 0, True, 0, 1, given[0], given[1], tensors))
        return rows

    def clip(self) -> "ClipExtraction":
        """An extraction for the batches of one clip."""
        return ClipExtraction(self)

    def encode(self, images: Tensor) -> _Tapped:
        """Prepared images (b, 3, H, W), encoded once for everything that is wanted."""
        frames = _Tapped(self.network, self.normalise(images))
        frames.taps = tuple(sorted({*self.blocks, self.network.config.depth - 1}))
        if self.settings.pairs:
            frames.encoded()
        else:
            frames.tokens()
        return frames

    def features_of(self, frames: _Tapped) -> dict[str, Tensor]:
        """Class tokens (b, D) and the maps (b, D, h, w) of blocks."""
        height, width = frames.grid
        found = {"cls": frames.tapped[self.network.config.depth - 1][:, 0]}
        for block in self.blocks:
            found[f"block{block}"] = frames.tapped[block][:, 1:].transpose(1, 2).unflatten(2, (height, width))
        return {name: self.kept(values) for name, values in found.items()}

    def kept(self, values: Tensor) -> Tensor:
        """Values as they are written: in the dtype of the settings, on the CPU."""
        return values.to(self.dtype).contiguous().cpu()


class ClipExtraction:
    """A clip, batch by batch: the last frame of each batch is kept for the pair that it begins."""

    def __init__(self, extractor: Extractor) -> None:
        self._of = extractor
        self._last: ClipBatch | None = None
        self._seen: EncodedFrames | None = None
        self._flow_seen: EncodedFrames | None = None
        self._parts: list[tuple[ClipBatch, dict[str, Tensor]]] = []

    @property
    def device(self) -> torch.device:
        """The network's."""
        return self._of.network.device

    def add(self, batch: ClipBatch) -> Iterator[Row]:
        """Take the next batch; yields the previous chunk if it is complete now."""
        with inference(self._of.network):
            tensors = self._tensors(batch)
        self._last = batch
        if not batch.wanted:
            return
        if self._parts and self._parts[0][0].chunk != batch.chunk:
            yield self._joined(last=False)
        self._parts.append((batch, tensors))

    def end(self, frames: int) -> Iterator[Row]:
        """Yield the last chunk.

        Args:
            frames: number of frames that the clip gave.

        Raises:
            InputError: if they are too few for what is wanted, or the clip ended before the chunk to start with.
        """
        if frames < 2 and self._of.settings.pairs:
            raise InputError(f"the clip gave {frames} frame(s); motion and flow need at least two.")
        if not self._parts:
            raise InputError("the clip is shorter than when its extraction began: the file has changed.")
        yield self._joined(last=True)

    def _joined(self, *, last: bool) -> Row:
        """The parts of a chunk, joined to a row."""
        batches, found = zip(*self._parts, strict=True)
        self._parts = []
        names = dict.fromkeys(name for part in found for name in part)
        tensors = {name: torch.cat([part[name] for part in found if name in part]) for name in names}
        first = batches[0]
        count = sum(len(batch.images) for batch in batches)
        return Row(first.item.key, first.chunk, last, first.first, count, first.given[0], first.given[1], tensors)

    def _tensors(self, batch: ClipBatch) -> dict[str, Tensor]:
        extractor, found = self._of, dict[str, Tensor]()
        before = [] if self._last is None else self._last.pts_seconds[-1:]
        times, pairs = known_times(batch.pts_seconds), pair_times(before + batch.pts_seconds)
        if times is not None:
            found |= {"pts_seconds": times, "concealed": torch.tensor(batch.concealed)}
        if pairs is not None and len(pairs) and extractor.settings.pairs:
            found["pair_pts_seconds"] = pairs
        whole: _Tapped | None = None
        if extractor.sees_whole:
            whole = extractor.encode(batch.images)
            if "features" in extractor.settings.what:
                found |= extractor.features_of(whole)
        if "motion" in extractor.settings.what:
            assert whole is not None
            found |= self._motion(whole)
        if extractor.flow is not None:
            found |= self._flow(extractor.flow, batch, whole)
        return found

    def _motion(self, frames: EncodedFrames) -> dict[str, Tensor]:
        joined, self._seen = frames.after(self._seen), frames[-1:]
        dynamics = self._of.network.require_dynamics()
        if len(joined) < 2:
            return {}
        source, target = joined[:-1], joined[1:]
        latents = dynamics.motion_latents(source.tokens(), target.tokens(target=True), joined.grid).motion_latents
        return {"motion": self._of.kept(latents[min(latents)])}

    def _flow(self, method: Method, batch: ClipBatch, whole: EncodedFrames | None) -> dict[str, Tensor]:
        larger = batch.flow_images
        images = batch.images if larger is None else larger
        shared = whole is not None and larger is None
        frames = whole if shared else method.encode(self._of.normalise(images))
        assert frames is not None
        joined, self._flow_seen = frames.after(self._flow_seen), frames[-1:]
        if len(joined) < 2:
            return {}
        fields: dict[str, Any] = at_size(method(joined[:-1], joined[1:], both=False), joined.size, batch.given)
        return {"flow": self._of.kept(fields["flow"]), "confidence": self._of.kept(fields["confidence"])}
