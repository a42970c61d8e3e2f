"""Pairs of frames of videos: which ones a run sees, and the data set of their views.

Which pairs is a pure function of the seed and a pair's number, without decoding anything.
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
"""Samples tried for one pair: with half of all files bad, one pair in a million runs out of them."""

_ORDER, _PAIR, _REPLACE, _VIEWS = 1, 2, 3, 4
"""What a random generator is for: no two uses share a stream."""


@dataclass(frozen=True)
class Pair:
    """Where a pair comes from."""

    number: int
    """Of the pair in the whole run, from 0."""
    round: int
    visit: int
    """Within the round."""
    video: int
    """Position among :attr:`PairStream.videos`."""
    source: int
    """Frame of the video."""
    target: int
    """Later frame of the video."""


class PairWindows:
    """The pairs of frames of one video that are the wanted time apart.

    A pair is two frames that lie between ``min_seconds`` and ``max_seconds`` apart, each distance equally
    likely; where frames are so sparse that none may fall between, also half a frame less and more.
    Starts whose longest distance would leave the video are not used, unless the video has no others.
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
        """Frames that a pair can start at."""

    def start(self, rng: np.random.Generator) -> int:
        """Any of :attr:`starts`."""
        return int(self.starts[rng.integers(len(self.starts))])

    def target(self, source: int, rng: np.random.Generator) -> int:
        """A frame to pair with one of :attr:`starts`."""
        return int(rng.integers(self._low[source], self._high[source]))


class PairStream:
    """The endless sequence of pairs of a run.

    Pair ``k`` belongs to a round, in it to a visit to one video, and is one of the ``repeats`` pairs of that
    visit; the pairs of a visit follow each other, so that its file is opened once.

    - ``starts="random"``: a round visits every video once, in a new order; every pair starts anywhere. A
      round is ``repeats`` epochs, as in the paper's repeat sampling on BDD100K.
    - ``starts="all"``: a round starts a pair at every frame of every video (the last visit to a video fills
      up with starts that come twice), in a new order. A round is one epoch, as on Walking Tours.

    Args:
        index: of the data.
        min_seconds: least time between the frames of a pair.
        max_seconds: most.
        repeats: pairs of a visit.
        starts: "random" or "all".
        frames_fps: rate of frame folders that do not know theirs.
        seed: of the run.

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
        """Those of the index that a pair fits in."""
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
        """Without the caches: they cannot be sent to a worker."""
        return {key: value for key, value in vars(self).items() if key not in ("_windows", "_order", "_start_order")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._remember()

    @property
    def visits(self) -> int:
        """Visits of a round."""
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
        """What is tried instead of a pair that cannot be read: attempt 1, 2, ...

        The pairs of a visit are replaced from one video, so that this is opened once too.
        """
        video = int(self._rng(_REPLACE, pair.round, pair.visit, attempt).integers(len(self.videos)))
        rng = self._rng(_PAIR, pair.number, attempt)
        windows = self._windows(video)
        source = windows.start(rng)
        return Pair(pair.number, pair.round, pair.visit, video, source, windows.target(source, rng))

    def views_rng(self, number: int) -> np.random.Generator:
        """What the crops and the photometric parameters of a pair are drawn from."""
        return self._rng(_VIEWS, number)

    def _rng(self, *use: int) -> np.random.Generator:
        # The length counts too: SeedSequence takes [a] and [a, 0] for the same.
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
            return 1  # evenly spaced and long enough: no need to look at every frame of every video
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
    """Folder, list of videos (.txt) or one video; see the documentation of the data. null where none is read."""
    index: str | None = None
    """Index file; by default it is kept with the data, which takes a root that can be written to."""
    min_seconds: float = 0.5
    """Least time between the frames of a pair."""
    max_seconds: float = 1.0
    """Most time between the frames of a pair."""
    repeats: int = 5
    """Pairs drawn at each visit to a video."""
    starts: str = "random"
    """random: a round visits every video once; all: it starts a pair at every frame of every video."""
    frames_fps: float = 30.0
    """Frames per second assumed for folders of frames."""
    decode_short_side: int | None = None
    """Scale frames down to this shorter side, in pixels, when they are decoded; null keeps their size."""
    decoder: str = field_range("pyav", choices=("pyav", "nvdec"))
    """pyav: by the workers, on the CPU. nvdec: by the GPU (extra nvdec), of videos that `midway-zoo train prepare`
    wrote; PyAV reads those of which both would not give the same."""
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
    :meth:`~midway_zoo.train.data.frame_pairs.PairStream.replacement`, so which sample takes its place does
    not depend on workers or batches.

    Args:
        stream: of pairs.
        views: ``views(source, target, rng)`` makes a sample from two uint8 frames (3, H, W).
        short_side: see ``PairsConfig.decode_short_side``.
        read: called in place of :meth:`IndexedVideo.read`, as that is; None calls it.
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
        """Samples of pairs of one video, and what went wrong with the others."""
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
