"""Pairs of frames of videos: the sequence of pairs of a run, and the data set of their views.

The sequence is a pure function of the seed and a pair's number, and needs no decoding.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from midway_zoo.checks import field_range
from midway_zoo.errors import ConfigError, DataError, InputError, MissingFileError
from midway_zoo.train.data.indexed_video import IndexedVideo, Read
from midway_zoo.train.data.loading import Failure, Sample
from midway_zoo.train.data.video_index import Index

Starts: TypeAlias = Literal["random", "all"]
Reader: TypeAlias = Callable[[IndexedVideo, Path, Sequence[int], int | None], Read]
Views: TypeAlias = Callable[[Tensor, Tensor, np.random.Generator], dict[str, Tensor]]

MAX_ATTEMPTS = 20
"""Attempts per pair: with half of all files unreadable, one pair in a million exhausts them."""

_ORDER, _PAIR, _REPLACE, _VIEWS = 1, 2, 3, 4
"""Purpose of a random generator, so that no two uses share a stream."""


@dataclass(frozen=True)
class Pair:
    """The origin of a pair."""

    number: int
    """Number of the pair in the whole run, from 0."""
    round: int
    visit: int
    """Number of the visit within the round."""
    video: int
    """Index into :attr:`PairStream.videos`."""
    source: int
    """Index of the source frame."""
    target: int
    """Index of the target frame, which is later."""


class PairWindows:
    """The pairs of frames of one video that are the wanted time apart.

    The frames of a pair are between ``min_seconds`` and ``max_seconds`` apart, each distance equally likely; if frames
    are so sparse that there may be none in between, also half a frame less or more. Starts from which the longest
    distance would leave the video are only used if the video has no others.
    """

    def __init__(self, seconds: npt.NDArray[np.float64], min_seconds: float, max_seconds: float) -> None:
        interval = (seconds[-1] - seconds[0]) / (len(seconds) - 1)
        slack = max(1e-3 * interval, (interval - (max_seconds - min_seconds)) / 2 + 1e-3 * interval)
        places = np.arange(len(seconds))
        self._low = np.maximum(np.searchsorted(seconds, seconds + min_seconds - slack), places + 1)
        self._high = np.searchsorted(seconds, seconds + max_seconds + slack, side="right")
        starts = self._high > self._low
        whole = starts & (seconds + max_seconds <= seconds[-1] + slack)
        self.starts = np.flatnonzero(whole if whole.any() else starts)
        """Number of frames at which a pair can start."""

    def start(self, rng: np.random.Generator) -> int:
        """The frame of one of the :attr:`starts`."""
        return int(self.starts[rng.integers(len(self.starts))])

    def target(self, source: int, rng: np.random.Generator) -> int:
        """A frame to pair with a start."""
        return int(rng.integers(self._low[source], self._high[source]))


class PairStream:
    """The endless sequence of pairs of a run.

    A round consists of visits to videos, each of ``repeats`` pairs; the pairs of a visit are consecutive, so that its
    file is opened once.

    - ``starts="random"``: a round visits every video once, in a new order; every pair starts anywhere. A
      round is ``repeats`` epochs, as in the paper's repeat sampling on BDD100K.
    - ``starts="all"``: a round starts a pair at every frame of every video (the last visit to a video repeats
      some starts), in a new order. A round is one epoch, as on Walking Tours.

    Args:
        index: index of the data.
        min_seconds: shortest time between the frames of a pair.
        max_seconds: longest time between them.
        repeats: pairs per visit.
        starts: "random" or "all".
        frames_fps: assumed rate of frame folders without times.
        seed: seed of the run.

    Raises:
        ConfigError: for values that make no sense.
        DataError: if no video is long enough.
    """

    def __init__(
        self,
        index: Index,
        *,
        min_seconds: float = 0.5,
        max_seconds: float = 1.0,
        repeats: int = 5,
        starts: Starts = "random",
        frames_fps: float = 30.0,
        seed: int = 0,
    ) -> None:
        if not 0 < min_seconds <= max_seconds < float("inf") or repeats < 1 or not 0 < frames_fps < float("inf"):
            raise ConfigError(
                f"min_seconds={min_seconds}, max_seconds={max_seconds}, repeats={repeats}, frames_fps={frames_fps}: "
                "0 < min_seconds <= max_seconds, one or more repeats and a positive rate are expected."
            )
        if starts not in ("random", "all"):
            raise ConfigError(f"starts={starts!r}: 'random' or 'all' is expected.")
        self.base = index.base
        self.repeats = repeats
        self._seconds = (min_seconds, max_seconds)
        self._frames_fps = frames_fps
        self._seed = seed
        self._remember()
        counts = np.array([self._count_starts(video, starts) for video in index.videos], dtype=np.int64)
        self.videos = [video for video, count in zip(index.videos, counts, strict=True) if count]
        """Videos of the index that are long enough for a pair."""
        if not self.videos:
            raise DataError(
                f"none of the {len(index.videos)} usable videos in {index.base} is {min_seconds} s long; "
                "lower data.min_seconds or add longer videos."
            )
        self._all = starts == "all"
        visits = -(-counts[counts > 0] // repeats) if self._all else np.ones(len(self.videos), np.int64)
        self._visit_ends = np.cumsum(visits)

    def _remember(self) -> None:
        self._windows = lru_cache(maxsize=16)(self._find_windows)
        self._order = lru_cache(maxsize=2)(self._draw_order)
        self._start_order = lru_cache(maxsize=4)(self._draw_start_order)

    def __getstate__(self) -> dict[str, Any]:
        """State without the caches, which cannot be sent to a worker."""
        return {key: value for key, value in vars(self).items() if key not in ("_windows", "_order", "_start_order")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._remember()

    @property
    def visits(self) -> int:
        """Number of visits in a round."""
        return int(self._visit_ends[-1])

    @property
    def pairs_per_epoch(self) -> int:
        """Length of an epoch: with random starts one pair per video, else one per start."""
        return self.visits * self.repeats if self._all else self.visits

    def pair(self, number: int) -> Pair:
        """Pair ``number`` (0, 1, ...) of the run."""
        visit_number, repeat = divmod(number, self.repeats)
        round_, visit = divmod(visit_number, self.visits)
        place = int(self._order(round_)[visit])
        video = int(np.searchsorted(self._visit_ends, place, side="right"))
        windows = self._windows(video)
        rng = self._rng(_PAIR, number)
        if self._all:
            nth = (place - int(self._visit_ends[video - 1] if video else 0)) * self.repeats + repeat
            order = self._start_order(round_, video)
            source = int(windows.starts[order[nth % len(order)]])
        else:
            source = windows.start(rng)
        return Pair(number, round_, visit, video, source, windows.target(source, rng))

    def replacement(self, pair: Pair, attempt: int) -> Pair:
        """The replacement of a pair that cannot be read: attempt 1, 2, ...

        The pairs of a visit are replaced from the same video, so that it is opened once too.
        """
        video = int(self._rng(_REPLACE, pair.round, pair.visit, attempt).integers(len(self.videos)))
        rng = self._rng(_PAIR, pair.number, attempt)
        windows = self._windows(video)
        source = windows.start(rng)
        return Pair(pair.number, pair.round, pair.visit, video, source, windows.target(source, rng))

    def views_rng(self, number: int) -> np.random.Generator:
        """The random generator for crops and photometric parameters of a pair."""
        return self._rng(_VIEWS, number)

    def _rng(self, *use: int) -> np.random.Generator:
        # The length is included, since SeedSequence treats [a] and [a, 0] as equal.
        return np.random.default_rng([self._seed, len(use), *use])

    def _find_windows(self, video: int) -> PairWindows:
        return PairWindows(self.videos[video].seconds(self._frames_fps), *self._seconds)

    def _draw_order(self, round_: int) -> npt.NDArray[np.int64]:
        return self._rng(_ORDER, round_).permutation(self.visits)

    def _draw_start_order(self, round_: int, video: int) -> npt.NDArray[np.int64]:
        return self._rng(_ORDER, round_, video).permutation(len(self._windows(video).starts))

    def _count_starts(self, video: IndexedVideo, starts: Starts) -> int:
        duration, longest = video.duration(self._frames_fps), self._seconds[1]
        if starts == "random" and video.steps is None and duration > longest >= duration / (video.frames - 1):
            return 1  # evenly spaced and long enough, so the frames need not be inspected
        return len(PairWindows(video.seconds(self._frames_fps), *self._seconds).starts)


def grouped(pairs: Sequence[Pair]) -> Iterator[list[Pair]]:
    """Runs of pairs that visit the same video together."""
    group: list[Pair] = []
    for pair in pairs:
        if group and (pair.round, pair.visit, pair.video) != (group[0].round, group[0].visit, group[0].video):
            yield group
            group = []
        group.append(pair)
    if group:
        yield group


@dataclass
class PairsConfig:
    """Where training pairs come from."""

    root: str | None = "???"
    """Folder, list of videos (.txt) or one video; see the documentation of the data. null if none is read."""
    index: str | None = None
    """Index file; by default it is stored beside the data, or in the user's cache if that is not writable."""
    min_seconds: float = 0.5
    """Shortest time in seconds between the frames of a pair."""
    max_seconds: float = 1.0
    """Longest time in seconds between the frames of a pair."""
    repeats: int = 5
    """Pairs drawn per visit to a video."""
    starts: str = "random"
    """random: a round visits every video once; all: a round starts a pair at every frame of every video."""
    frames_fps: float = 30.0
    """Frames per second assumed for folders of frames."""
    decode_short_side: int | None = None
    """Shorter side in pixels that frames are reduced to when decoded; null keeps their size."""
    decoder: str = field_range("pyav", choices=("pyav", "nvdec"))
    """pyav: by the workers, on the CPU. nvdec: by the GPU (extra nvdec), of videos that `midway-zoo train prepare`
    wrote; videos for which the two would differ are read by PyAV."""
    max_failure_share: float = 0.1
    """The run stops if more than this share of the samples cannot be read."""


def pair_stream(index: Index, config: PairsConfig, seed: int) -> PairStream:
    """The pairs of a configuration.

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

    Each visit's file is opened once and its frames are decoded in one ordered pass, single-threaded, since the workers
    of the loader run in parallel. A pair that cannot be read is replaced by
    :meth:`~midway_zoo.train.data.frame_pairs.PairStream.replacement`, so the replacement does
    not depend on workers or batches.

    Args:
        stream: of pairs.
        views: ``views(source, target, rng)`` makes a sample from two uint8 frames (3, H, W).
        short_side: see ``PairsConfig.decode_short_side``.
        read: function to call instead of :meth:`IndexedVideo.read`, with the same arguments; None for that.
    """

    def __init__(
        self, stream: PairStream, views: Views, *, short_side: int | None = None, read: Reader | None = None
    ) -> None:
        self.stream = stream
        self._views = views
        self._short_side = short_side
        self._read = read

    def __getitem__(self, number: int) -> Sample:
        return self.__getitems__([number])[0]

    def __getitems__(self, numbers: Sequence[int]) -> list[Sample]:
        """Samples of the given pairs: the views, ``index`` (the number, int64) and ``failures``, a list of (path,
        reason) of failed attempts.

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
        """Samples of pairs of one video, and the errors of the others."""
        video = self.stream.videos[group[0].video]
        frames = sorted({frame for pair in group for frame in (pair.source, pair.target)})
        try:
            read = self._read or IndexedVideo.read
            images, reasons = read(video, self.stream.base, frames, self._short_side)
        except (InputError, MissingFileError) as error:
            images, reasons = {}, dict.fromkeys(frames, str(error))
        samples, failed = {}, {}
        for pair in group:
            bad = next((frame for frame in (pair.source, pair.target) if frame not in images), None)
            if bad is not None:
                failed[pair.number] = (video.path, reasons[bad])
            elif images[pair.source].shape != images[pair.target].shape:
                failed[pair.number] = (video.path, f"frames {pair.source} and {pair.target} differ in size")
            else:
                rng = self.stream.views_rng(pair.number)
                views = self._views(images[pair.source], images[pair.target], rng)
                samples[pair.number] = {**views, "index": torch.tensor(pair.number)}
        return samples, failed
