"""Which pairs of which data sets a run sees: a pure function of the seed and a sample's number."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from midway_zoo.errors import ConfigError
from midway_zoo.scenes import ScenesConfig
from midway_zoo.train.data.flow.augment import FlowAugmentConfig, check_augment
from midway_zoo.train.data.flow.entries import FlowEntry, FlowFiles
from midway_zoo.train.data.flow.parts import check_part, list_part

_logger = logging.getLogger(__name__)
_ORDER, _REPLACE, _AUGMENT = 1, 2, 3

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
"""Part -> how often each of its pairs comes in a round. "full" is the paper's (CroCo v2's), "small" its ablations'."""


@dataclass
class FlowDataConfig:
    """Where flow training pairs come from."""

    source: str = "files"
    """files: the data sets below; scenes: generated pairs with exact flow, which need no download."""
    root: str | None = None
    """Folder that holds the data sets under their usual names."""
    roots: dict[str, str] = field(default_factory=dict)
    """Data set -> its own folder, where that is not in ``root``: roots.sintel=/data/sintel."""
    mixture: str = "full"
    """full: Sintel, FlyingThings, FlyingChairs, TartanAir; small: FlyingChairs, FlyingThings."""
    parts: dict[str, int] = field(default_factory=dict)
    """Instead of a mixture: part -> how often each of its pairs comes in a round."""
    epoch_pairs: int = 30000
    """Pairs of an epoch; a round over the mixture is longer."""
    crop: list[int] = field(default_factory=lambda: [320, 384])
    """(height, width) in pixels that is trained on."""
    scenes: ScenesConfig = field(
        default_factory=lambda: ScenesConfig(
            height=368, width=448, objects=(4, 10), period=(6.0, 48.0), motion=32.0, camera=12.0
        )
    )
    """What generated scenes look like, before the augmentation."""
    augment: FlowAugmentConfig = field(default_factory=FlowAugmentConfig)
    max_failure_share: float = 0.01
    """The run stops when more than this share of the samples tried cannot be read."""


def check_flow_data(config: FlowDataConfig) -> None:
    """Raise :class:`ConfigError` for a value that makes no sense."""
    if config.source not in ("files", "scenes"):
        raise ConfigError(f"data.source={config.source!r} must be files or scenes.")
    if config.mixture not in MIXTURES:
        raise ConfigError(f"data.mixture={config.mixture!r} must be one of {', '.join(MIXTURES)}; or give data.parts.")
    if len(config.crop) != 2 or min(config.crop) < 1:
        raise ConfigError(f"data.crop={config.crop}: a height and a width in pixels are expected.")
    if config.epoch_pairs < 1:
        raise ConfigError(f"data.epoch_pairs={config.epoch_pairs} must be at least 1.")
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
    """What a sample is made from."""

    number: int
    """Of the sample in the whole run, from 0."""
    attempt: int
    """0, or which replacement this is."""
    entry: FlowEntry


class FlowStream:
    """The endless sequence of samples of a run.

    A round brings every pair of every part as often as the part is repeated, in a new order.

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
        # A cache of a method cannot be sent to workers that are not forked.
        return {key: value for key, value in vars(self).items() if key != "_order"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._order = lru_cache(maxsize=2)(self._draw_order)

    @property
    def round_pairs(self) -> int:
        """Samples of a round."""
        return int(self._ends[-1])

    def draw(self, number: int) -> Draw:
        """Sample ``number`` (0, 1, ...) of the run."""
        round_, place = divmod(number, self.round_pairs)
        return Draw(number, 0, self._entry(int(self._order(round_)[place])))

    def replacement(self, number: int, attempt: int) -> Draw:
        """What is tried instead of a sample that cannot be read: attempt 1, 2, ..."""
        place = int(self._rng(_REPLACE, number, attempt).integers(self.round_pairs))
        return Draw(number, attempt, self._entry(place))

    def augment_rng(self, draw: Draw) -> np.random.Generator:
        """What the augmentation of a sample is drawn from."""
        return self._rng(_AUGMENT, draw.number, draw.attempt)

    def _entry(self, place: int) -> FlowEntry:
        part = int(np.searchsorted(self._ends, place, side="right"))
        files, _ = self.parts[part]
        return files[(place - int(self._ends[part - 1] if part else 0)) % len(files)]

    def _rng(self, *use: int) -> np.random.Generator:
        # The length counts too: SeedSequence takes [a] and [a, 0] for the same.
        return np.random.default_rng([self._seed, len(use), *use])

    def _draw_order(self, round_: int) -> npt.NDArray[np.int64]:
        return self._rng(_ORDER, round_).permutation(self.round_pairs)
