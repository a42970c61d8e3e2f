"""Pairs for flow training: the sequence of samples, a pure function of seed and sample number, and their reading.

Unreadable files are replaced; generated scenes can be used instead of files.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from midway_zoo.checks import check_fields, field_range
from midway_zoo.errors import ConfigError, DataError, InputError, MissingFileError
from midway_zoo.flow import read_flow
from midway_zoo.inference.image_files import read_image
from midway_zoo.inference.images import reading
from midway_zoo.scenes import SceneGenerator, ScenesConfig
from midway_zoo.train.data.flow_augment import FlowAugment, FlowAugmentConfig, FlowSample, check_augment
from midway_zoo.train.data.flow_datasets import check_part, list_part
from midway_zoo.train.data.flow_files import FlowEntry, FlowFiles
from midway_zoo.train.data.frame_pairs import MAX_ATTEMPTS
from midway_zoo.train.data.loading import Failure, Sample

_logger = logging.getLogger(__name__)
_ORDER, _REPLACE, _AUGMENT = 1, 2, 3

LONGEST = 1e4
"""Longer vectors, in pixels, are rendering errors (FlyingThings3D has some); CroCo v2 excludes them too."""
_TARTANAIR_CUT_OFF = 200  # lower values of its masks mean occluded or outside the frame

MIXTURES: dict[str, dict[str, int]] = {
    "full": {
        "sintel_clean_subtrain": 40,
        "sintel_final_subtrain": 40,
        "flying_things_train": 4,
        "flying_chairs_train": 4,
        "tartanair_train": 1,
    },
    "small": {"flying_chairs_train": 1, "flying_things_train": 1},
}
"""Part -> number of repeats of its pairs in a round. "full" is the paper's (CroCo v2's), "small" its ablations'."""


@dataclass
class FlowDataConfig:
    """Where flow training pairs come from."""

    source: str = field_range("files", choices=("files", "scenes"))
    """files: the data sets below; scenes: generated pairs with exact flow, which need no download."""
    root: str | None = None
    """Folder that contains the data sets under their usual names."""
    roots: dict[str, str] = field(default_factory=dict)
    """Data set -> its own folder, if it is not in ``root``: roots.sintel=/data/sintel."""
    mixture: str = field_range("full", choices=tuple(MIXTURES), hint="or give data.parts")
    """full: Sintel, FlyingThings, FlyingChairs, TartanAir; small: FlyingChairs, FlyingThings."""
    parts: dict[str, int] = field(default_factory=dict)
    """Instead of a mixture: part -> number of repeats of its pairs in a round."""
    epoch_pairs: int = field_range(30000, at_least=1)
    """Pairs per epoch; a round over the mixture is longer."""
    crop: list[int] = field_range(default_factory=lambda: [320, 384], above=0, length=2)
    """(height, width) of training crops in pixels."""
    scenes: ScenesConfig = field(
        default_factory=lambda: ScenesConfig(
            height=368, width=448, objects=(4, 10), period=(6.0, 48.0), motion=32.0, camera=12.0
        )
    )
    """Generated scenes, before augmentation."""
    augment: FlowAugmentConfig = field(default_factory=FlowAugmentConfig)
    max_failure_share: float = field_range(0.01, at_least=0, at_most=1)
    """The run stops if more than this share of the samples cannot be read."""


def check_flow_data(config: FlowDataConfig) -> None:
    """Raise :class:`ConfigError` for a value that makes no sense."""
    check_fields(config, "data.")
    for name, repeats in config.parts.items():
        check_part(name)
        if repeats < 1:
            raise ConfigError(f"data.parts.{name}={repeats} must be at least 1.")
    check_augment(config.augment)


def list_mixture(config: FlowDataConfig) -> list[tuple[FlowFiles, int]]:
    """The parts of a mixture with their repeats.

    Raises:
        ConfigError: for an unknown mixture, part or data set.
        MissingFileError: if a folder or file is missing.
    """
    check_flow_data(config)
    wanted: Mapping[str, int] = config.parts or MIXTURES[config.mixture]
    found = []
    for name, repeats in wanted.items():
        files = list_part(name, config.root, config.roots)
        _logger.info("%s: %d x %d pairs", name, repeats, len(files))
        found.append((files, repeats))
    return found


@dataclass(frozen=True)
class Draw:
    """The origin of a sample."""

    number: int
    """Number of the sample in the whole run, from 0."""
    attempt: int
    """0, or the number of the replacement."""
    entry: FlowEntry


class FlowStream:
    """The endless sequence of samples of a run.

    A round contains every pair of every part as often as the part is repeated, in a new order.

    Args:
        parts: files and repeats.
        seed: of the run.

    Raises:
        ConfigError: for no parts, or repeats below 1.
    """

    def __init__(self, parts: list[tuple[FlowFiles, int]], seed: int) -> None:
        if not parts or min(repeats for _, repeats in parts) < 1:
            raise ConfigError(f"parts={parts}: at least one, each repeated at least once, is expected.")
        self.parts = parts
        self._seed = seed
        self._ends = np.cumsum([len(files) * repeats for files, repeats in parts])
        self._order = lru_cache(maxsize=2)(self._draw_order)

    def __getstate__(self) -> dict[str, Any]:
        # A cached method cannot be sent to spawned workers.
        return {key: value for key, value in vars(self).items() if key != "_order"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._order = lru_cache(maxsize=2)(self._draw_order)

    @property
    def round_pairs(self) -> int:
        """Number of samples in a round."""
        return int(self._ends[-1])

    def draw(self, number: int) -> Draw:
        """Sample ``number`` (0, 1, ...) of the run."""
        round_, place = divmod(number, self.round_pairs)
        return Draw(number, 0, self._entry(int(self._order(round_)[place])))

    def replacement(self, number: int, attempt: int) -> Draw:
        """The replacement of a sample that cannot be read: attempt 1, 2, ..."""
        place = int(self._rng(_REPLACE, number, attempt).integers(self.round_pairs))
        return Draw(number, attempt, self._entry(place))

    def augment_rng(self, draw: Draw) -> np.random.Generator:
        """The random generator for the augmentation of a sample."""
        return self._rng(_AUGMENT, draw.number, draw.attempt)

    def _entry(self, place: int) -> FlowEntry:
        part = int(np.searchsorted(self._ends, place, side="right"))
        files, _ = self.parts[part]
        return files[(place - int(self._ends[part - 1] if part else 0)) % len(files)]

    def _rng(self, *use: int) -> np.random.Generator:
        # The length is included, since SeedSequence treats [a] and [a, 0] as equal.
        return np.random.default_rng([self._seed, len(use), *use])

    def _draw_order(self, round_: int) -> npt.NDArray[np.int64]:
        return self._rng(_ORDER, round_).permutation(self.round_pairs)


def flow_pairs(config: FlowDataConfig, seed: int) -> Dataset[Sample]:
    """The training pairs of a configuration, from files or generated scenes.

    Raises:
        ConfigError: for values that make no sense.
        MissingFileError: if a folder or file is missing.
    """
    check_flow_data(config)
    augment = FlowAugment(config.augment, (config.crop[0], config.crop[1]))
    if config.source == "scenes":
        return GeneratedPairs(config.scenes, augment, seed)
    return FlowPairs(FlowStream(list_mixture(config), seed), augment)


class FlowPairs(Dataset[Sample]):
    """Augmented pair ``k`` of a run; it does not depend on workers or batches.

    Args:
        stream: sequence of entries.
        augment: augmentation that makes crops.
    """

    def __init__(self, stream: FlowStream, augment: FlowAugment) -> None:
        self.stream, self.augment = stream, augment

    def __getitem__(self, number: int) -> Sample:
        """``source`` and ``target``, uint8 (3, h, w); ``flow`` float32 (2, h, w) in pixels, NaN = invalid; ``index``,
        the number; and ``failures``, (path, reason) of failed attempts.

        Raises:
            DataError: if nothing can be read in ``MAX_ATTEMPTS`` attempts.
        """
        failures: list[Failure] = []
        for attempt in range(MAX_ATTEMPTS):
            draw = self.stream.replacement(number, attempt) if attempt else self.stream.draw(number)
            try:
                read = read_sample(draw.entry)
            except (InputError, MissingFileError) as error:
                failures.append((str(draw.entry.source), str(error)))
                continue
            made = self.augment(read, draw.entry.kind, self.stream.augment_rng(draw))
            return {**made.tensors(), "index": torch.tensor(number), "failures": failures}
        path, reason = failures[-1]
        raise DataError(
            f"no readable sample for pair {number} in {MAX_ATTEMPTS} attempts, the last in {path}: {reason} "
            "Is the data still there?"
        )


class GeneratedPairs(Dataset[Sample]):
    """Augmented scene ``k`` of a run; scenes never repeat, and do not depend on workers or batches.

    Args:
        config: scenes with 2 frames.
        augment: augmentation that makes crops.
        seed: seed of the run.

    Raises:
        ConfigError: for scenes that are not pairs.
        MissingFileError, InputError: if the folder of textures does not exist, or holds no image.
    """

    def __init__(self, config: ScenesConfig, augment: FlowAugment, seed: int) -> None:
        if config.frames != 2:
            raise ConfigError(f"data.scenes.frames={config.frames}: a pair has 2.")
        self.augment = augment
        self._seed = seed
        self._generator = SceneGenerator(config, seed)

    def __getitem__(self, number: int) -> Sample:
        return self.__getitems__([number])[0]

    def __getitems__(self, numbers: Sequence[int]) -> list[Sample]:
        """Samples as in :class:`FlowPairs`; rendering many at once is faster."""
        batch = self._generator.render(list(numbers))
        frames = (batch.frames * 255).round().to(torch.uint8)
        samples: list[Sample] = []
        for number, (source, target), flow in zip(numbers, frames, batch.flow[:, 0], strict=True):
            made = self.augment(FlowSample(source, target, flow), "dense", np.random.default_rng([self._seed, number]))
            samples.append({**made.tensors(), "index": torch.tensor(number), "failures": []})
        return samples


def read_sample(entry: FlowEntry, *, occlusion: bool = False) -> FlowSample:
    """Read the files of one pair.

    Vectors with a component that is not finite, of 10 000 pixels and more, or that the data set's mask excludes become
    NaN. If flow has twice the resolution of the images (Spring, with values in pixels of the images), every second row
    and column is taken, as its authors do: averaging four vectors would invent motion at edges.

    Args:
        entry: from one of the lists.
        occlusion: read the occlusion too, if there is one.

    Raises:
        MissingFileError: if a file is gone.
        InputError: if one cannot be read, or sizes do not fit.
        MissingExtraError: for Spring without h5py.
    """
    source, target = read_image(entry.source), read_image(entry.target)
    if source.shape != target.shape:
        raise InputError(f"{entry.source} and {entry.target} differ in size: {_size(source)} and {_size(target)}.")
    flow = None if entry.flow is None else _flow(entry, source)
    hidden = None
    if occlusion and entry.occlusion is not None:
        hidden = _occlusion(entry, source)
    return FlowSample(source, target, flow, hidden)


def _flow(entry: FlowEntry, image: Tensor) -> Tensor:
    assert entry.flow is not None
    flow = read_flow(entry.flow)
    if entry.kind == "doubled":
        flow = flow[:, ::2, ::2].contiguous()
    _check_size(entry.flow, flow, image)
    valid = torch.hypot(flow[0], flow[1]) < LONGEST  # false for NaN and infinity
    if entry.mask is not None:
        valid &= ~_invalid(entry.mask, image)
    return flow.where(valid, float("nan"))


def _invalid(path: Path, image: Tensor) -> Tensor:
    if path.suffix != ".npy":
        return _marks(path, image)
    try:
        marks = np.load(path, allow_pickle=False)
    except FileNotFoundError as error:
        raise MissingFileError(f"there is no mask {path}.") from error
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{path} is not a readable mask (.npy): {error}.") from error
    if marks.ndim != 2 or marks.dtype != np.uint8:
        raise InputError(f"{path}: {marks.dtype} array of shape {marks.shape}; uint8 (H, W) is expected.")
    mask = torch.from_numpy(marks >= _TARTANAIR_CUT_OFF)
    _check_size(path, mask, image)
    return mask


def _occlusion(entry: FlowEntry, image: Tensor) -> Tensor:
    assert entry.occlusion is not None
    if entry.kind != "sparse":
        return _marks(entry.occlusion, image)
    visible = read_flow(entry.occlusion)  # KITTI: flow only of pixels visible in both frames
    _check_size(entry.occlusion, visible, image)
    return visible.isnan().any(dim=0)


def _marks(path: Path, image: Tensor) -> Tensor:
    """Nonzero pixels of an 8-bit picture."""
    if not path.is_file():
        raise MissingFileError(f"there is no mask {path}.")
    with reading(path), Image.open(path) as picture:
        marks = torch.from_numpy(np.array(picture.convert("L")) > 0)
    _check_size(path, marks, image)
    return marks


def _check_size(path: Path, values: Tensor, image: Tensor) -> None:
    if values.shape[-2:] != image.shape[-2:]:
        raise InputError(f"{path} is {_size(values)}, its image {_size(image)}.")


def _size(image: Tensor) -> str:
    return f"{image.shape[-1]} x {image.shape[-2]}"
