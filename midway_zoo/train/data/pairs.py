"""The data set of training pairs: numbers in, augmented views out, bad files replaced."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from midway_zoo.errors import DataError, InputError, MissingFileError
from midway_zoo.train.data.index import Index
from midway_zoo.train.data.sampling import Pair, PairStream, grouped

Views: TypeAlias = Callable[[Tensor, Tensor, np.random.Generator], dict[str, Tensor]]
Sample: TypeAlias = dict[str, Any]
Failure: TypeAlias = tuple[str, str]
"""(path, reason)"""

MAX_ATTEMPTS = 20
"""Samples tried for one pair: with half of all files bad, one pair in a million runs out of them."""


@dataclass
class PairsConfig:
    """Where training pairs come from."""

    root: str | None = "???"
    """Folder, list of videos (.txt) or one video; see the documentation of the data. null where none is read."""
    index: str | None = None
    """Index file; by default it is kept with the data, which takes a root that can be written to."""
    min_seconds: float = 0.5
    """Least time between the frames of a pair."""
    max_seconds: float = 1.0
    """Most time between the frames of a pair."""
    repeats: int = 5
    """Pairs drawn at each visit to a clip."""
    starts: str = "random"
    """random: a round visits every clip once; all: it starts a pair at every frame of every clip."""
    frames_fps: float = 30.0
    """Frames per second assumed for folders of frames."""
    decode_short_side: int | None = None
    """Scale frames down to this shorter side, in pixels, when they are decoded; null keeps their size."""
    max_failure_share: float = 0.1
    """The run stops when more than this share of the samples tried cannot be read."""


def pair_stream(index: Index, config: PairsConfig, seed: int) -> PairStream:
    """The pairs that a configuration asks for.

    Raises:
        ConfigError: for values that make no sense.
        DataError: if no video is long enough.
    """
    return PairStream(
        index,
        min_seconds=config.min_seconds,
        max_seconds=config.max_seconds,
        repeats=config.repeats,
        starts=config.starts,  # type: ignore[arg-type]
        frames_fps=config.frames_fps,
        seed=seed,
    )


class PairDataset(Dataset[Sample]):
    """Views of pair ``k`` of a run.

    Each visit's file is opened once and its frames are decoded in one ordered pass, single-threaded: the
    workers of the loader are what runs in parallel. A pair that cannot be read is replaced by
    :meth:`~midway_zoo.train.data.sampling.PairStream.replacement`, so which sample takes its place does
    not depend on workers or batches.

    Args:
        stream: of pairs.
        views: ``views(source, target, rng)`` makes a sample from two uint8 frames (3, H, W).
        short_side: see ``PairsConfig.decode_short_side``.
    """

    def __init__(self, stream: PairStream, views: Views, *, short_side: int | None = None) -> None:
        self.stream = stream
        self._views = views
        self._short_side = short_side

    def __getitem__(self, number: int) -> Sample:
        return self.__getitems__([number])[0]

    def __getitems__(self, numbers: Sequence[int]) -> list[Sample]:
        """Samples of the given pairs: the views, ``index`` (the number, int64) and ``failures``, a list of (path,
        reason) of what was tried in vain.

        Raises:
            DataError: if a pair cannot be replaced in ``MAX_ATTEMPTS`` attempts.
        """
        samples: dict[int, Sample] = {}
        failures: dict[int, list[Failure]] = {number: [] for number in numbers}
        wanted = [self.stream.pair(number) for number in numbers]
        for attempt in range(1, MAX_ATTEMPTS + 1):
            for group in grouped(wanted):
                made, failed = self._visit(group)
                samples.update(made)
                for number, failure in failed.items():
                    failures[number].append(failure)
            wanted = [self.stream.replacement(pair, attempt) for pair in wanted if pair.number not in samples]
            if not wanted:
                return [{**samples[number], "failures": failures[number]} for number in numbers]
        path, reason = failures[wanted[0].number][-1]
        raise DataError(
            f"no readable sample for pair {wanted[0].number} in {MAX_ATTEMPTS} attempts, the last in {path}: {reason}. "
            "Is the data still there? Index it again."
        )

    def _visit(self, group: Sequence[Pair]) -> tuple[dict[int, Sample], dict[int, Failure]]:
        """Samples of pairs of one clip, and what went wrong with the others."""
        clip = self.stream.clips[group[0].clip]
        frames = sorted({frame for pair in group for frame in (pair.source, pair.target)})
        try:
            images, reasons = clip.read(self.stream.base, frames, self._short_side)
        except (InputError, MissingFileError) as error:
            images, reasons = {}, dict.fromkeys(frames, str(error))
        samples, failed = {}, {}
        for pair in group:
            bad = next((frame for frame in (pair.source, pair.target) if frame not in images), None)
            if bad is not None:
                failed[pair.number] = (clip.path, reasons[bad])
            elif images[pair.source].shape != images[pair.target].shape:
                failed[pair.number] = (clip.path, f"frames {pair.source} and {pair.target} differ in size")
            else:
                rng = self.stream.views_rng(pair.number)
                views = self._views(images[pair.source], images[pair.target], rng)
                samples[pair.number] = {**views, "index": torch.tensor(pair.number)}
        return samples, failed


def collate(samples: Sequence[Sample]) -> dict[str, Any]:
    """Stack samples to a batch; ``failures`` are joined to one list of (path, reason)."""
    batch = {key: torch.stack([sample[key] for sample in samples]) for key in samples[0] if key != "failures"}
    return {**batch, "failures": [failure for sample in samples for failure in sample["failures"]]}
