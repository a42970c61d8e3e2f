"""Which pairs a run sees: a pure function of the seed and a pair's number, without decoding anything."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from torch.utils.data import Sampler

from midway_zoo.errors import ConfigError, DataError
from midway_zoo.train.data.clip import Clip
from midway_zoo.train.data.index import Index

Starts: TypeAlias = Literal["random", "all"]

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
    clip: int
    """Position among :attr:`PairStream.clips`."""
    source: int
    """Frame of the clip."""
    target: int
    """Later frame of the clip."""


class PairWindows:
    """The pairs of frames of one clip that are the wanted time apart.

    A pair is two frames that lie between ``min_seconds`` and ``max_seconds`` apart, each distance equally
    likely; where frames are so sparse that none may fall between, also half a frame less and more.
    Starts whose longest distance would leave the clip are not used, unless the clip has no others.
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

    Pair ``k`` belongs to a round, in it to a visit to one clip, and is one of the ``repeats`` pairs of that
    visit; the pairs of a visit follow each other, so that its file is opened once.

    - ``starts="random"``: a round visits every clip once, in a new order; every pair starts anywhere. A
      round is ``repeats`` epochs, as in the paper's repeat sampling on BDD100K.
    - ``starts="all"``: a round starts a pair at every frame of every clip (the last visit to a clip fills
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
        DataError: if no clip is long enough.
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
        counts = np.array([self._count_starts(clip, starts) for clip in index.clips], dtype=np.int64)
        self.clips = [clip for clip, count in zip(index.clips, counts, strict=True) if count]
        """Those of the index that a pair fits in."""
        if not self.clips:
            raise DataError(
                f"none of the {len(index.clips)} usable videos in {index.base} is {min_seconds} s long; "
                "lower data.min_seconds or add longer videos."
            )
        self._all = starts == "all"
        visits = -(-counts[counts > 0] // repeats) if self._all else np.ones(len(self.clips), np.int64)
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
        """Length of an epoch: with random starts one pair per clip, else one per start."""
        return self.visits * self.repeats if self._all else self.visits

    def pair(self, number: int) -> Pair:
        """Pair ``number`` (0, 1, ...) of the run."""
        visit_number, repeat = divmod(number, self.repeats)
        round_, visit = divmod(visit_number, self.visits)
        place = int(self._order(round_)[visit])
        clip = int(np.searchsorted(self._visit_ends, place, side="right"))
        windows = self._windows(clip)
        rng = self._rng(_PAIR, number)
        if self._all:
            nth = (place - int(self._visit_ends[clip - 1] if clip else 0)) * self.repeats + repeat
            order = self._start_order(round_, clip)
            source = int(windows.starts[order[nth % len(order)]])
        else:
            source = windows.start(rng)
        return Pair(number, round_, visit, clip, source, windows.target(source, rng))

    def replacement(self, pair: Pair, attempt: int) -> Pair:
        """What is tried instead of a pair that cannot be read: attempt 1, 2, ...

        The pairs of a visit are replaced from one clip, so that this is opened once too.
        """
        clip = int(self._rng(_REPLACE, pair.round, pair.visit, attempt).integers(len(self.clips)))
        rng = self._rng(_PAIR, pair.number, attempt)
        windows = self._windows(clip)
        source = windows.start(rng)
        return Pair(pair.number, pair.round, pair.visit, clip, source, windows.target(source, rng))

    def views_rng(self, number: int) -> np.random.Generator:
        """What the crops and the photometric parameters of a pair are drawn from."""
        return self._rng(_VIEWS, number)

    def _rng(self, *use: int) -> np.random.Generator:
        # The length counts too: SeedSequence takes [a] and [a, 0] for the same.
        return np.random.default_rng([self._seed, len(use), *use])

    def _find_windows(self, clip: int) -> PairWindows:
        return PairWindows(self.clips[clip].seconds(self._frames_fps), *self._seconds)

    def _draw_order(self, round_: int) -> npt.NDArray[np.int64]:
        return self._rng(_ORDER, round_).permutation(self.visits)

    def _draw_start_order(self, round_: int, clip: int) -> npt.NDArray[np.int64]:
        return self._rng(_ORDER, round_, clip).permutation(len(self._windows(clip).starts))

    def _count_starts(self, clip: Clip, starts: Starts) -> int:
        duration, longest = clip.duration(self._frames_fps), self._seconds[1]
        if starts == "random" and clip.steps is None and duration > longest >= duration / (clip.frames - 1):
            return 1  # evenly spaced and long enough: no need to look at every frame of every clip
        return len(PairWindows(clip.seconds(self._frames_fps), *self._seconds).starts)


class StepBatches(Sampler[list[int]]):
    """Batch sampler: the pair numbers of one process, step by step.

    At step s the run sees pairs ``s * batch_size`` to ``(s + 1) * batch_size``, of which process ``rank``
    of ``world`` takes the ``rank``-th part. So the stream is the same for any number of processes and after
    a resume.

    Args:
        first_step: to start at.
        batch_size: pairs of a step over all processes.
        rank: of this process.
        world: number of processes.
        last_step: to stop before; None never stops.
        parts: successive batches that this process's share of a step is cut into (gradient accumulation).

    Raises:
        ConfigError: if the batch does not divide among processes and parts.
    """

    def __init__(
        self,
        first_step: int,
        batch_size: int,
        rank: int = 0,
        world: int = 1,
        *,
        last_step: int | None = None,
        parts: int = 1,
    ) -> None:
        if batch_size < 1 or batch_size % (world * parts):
            raise ConfigError(
                f"batch_size={batch_size} does not divide among {world} processes with {parts} part(s) each; "
                f"take a multiple of {world * parts}."
            )
        self.first_step, self.last_step = first_step, last_step
        self.batch_size, self.rank, self.world, self.parts = batch_size, rank, world, parts

    def __iter__(self) -> Iterator[list[int]]:
        share = self.batch_size // self.world
        size = share // self.parts
        step = self.first_step
        while self.last_step is None or step < self.last_step:
            first = step * self.batch_size + self.rank * share
            for part in range(self.parts):
                yield list(range(first + part * size, first + (part + 1) * size))
            step += 1


def grouped(pairs: Sequence[Pair]) -> Iterator[list[Pair]]:
    """Runs of pairs that visit the same clip together."""
    group: list[Pair] = []
    for pair in pairs:
        if group and (pair.round, pair.visit, pair.clip) != (group[0].round, group[0].visit, group[0].clip):
            yield group
            group = []
        group.append(pair)
    if group:
        yield group
