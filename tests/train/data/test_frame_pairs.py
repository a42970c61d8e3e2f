"""Which pairs a run sees."""

import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from midway_zoo.errors import ConfigError, DataError
from midway_zoo.train.data.frame_pairs import Pair, PairStream, PairWindows, grouped
from midway_zoo.train.data.indexed_video import IndexedVideo, timing_fields
from midway_zoo.train.data.loading import StepBatches
from midway_zoo.train.data.video_index import Index


def video(name: str, frames: int, fps: float = 30.0, pts: list[int] | None = None) -> IndexedVideo:
    timing = timing_fields(list(range(frames)) if pts is None else pts)
    size = {"kind": "video", "size": 1, "changed_ns": 1, "height": 4, "width": 4, "rotation": 0}
    return IndexedVideo(path=name, **size, tick=1 / fps if pts is None else 1e-3, keyframes=[[0, 1]], **timing)


def index(*videos: IndexedVideo) -> Index:
    return Index(Path("data"), videos)


def pairs(stream: PairStream, number: int, first: int = 0) -> list[Pair]:
    return [stream.pair(first + k) for k in range(number)]


def test_distances_are_those_of_the_paper_and_uniform() -> None:
    """Frames 15 to 30 apart at 30 frames per second."""
    stream = PairStream(index(video("a", 200)), seed=3)
    distances = Counter(pair.target - pair.source for pair in pairs(stream, 8000))
    assert sorted(distances) == list(range(15, 31))
    assert max(abs(count - 500) for count in distances.values()) < 110  # five standard deviations


def test_starts_are_uniform_and_pairs_fit() -> None:
    stream = PairStream(index(video("a", 50)), seed=3)
    found = pairs(stream, 4000)
    assert max(pair.target for pair in found) == 49
    starts = Counter(pair.source for pair in found)
    assert sorted(starts) == list(range(20))
    assert max(abs(count - 200) for count in starts.values()) < 70


@pytest.mark.parametrize(("fps", "expected"), [(30.0, {15}), (60.0, {30}), (25.0, {12, 13}), (2.0, {1})])
def test_exact_distance_takes_the_nearest_frames(fps: float, expected: set[int]) -> None:
    stream = PairStream(index(video("a", 90, fps)), min_seconds=0.5, max_seconds=0.5, seed=0)
    assert {pair.target - pair.source for pair in pairs(stream, 200)} == expected


def test_frames_too_sparse_for_a_pair_are_no_data() -> None:
    with pytest.raises(DataError, match=r"0\.5 s long"):
        PairStream(index(video("a", 90, 0.2)))


def test_distances_hold_at_variable_frame_rate() -> None:
    times = np.cumsum(np.random.default_rng(0).integers(10, 150, 300)).tolist()
    stream = PairStream(index(video("a", 300, pts=times)), seed=0)
    for pair in pairs(stream, 500):
        assert 495 <= times[pair.target] - times[pair.source] <= 1005


def test_short_clips_are_left_out() -> None:
    stream = PairStream(index(video("a", 3), video("b", 60), video("c", 15)), seed=0)
    assert [kept.path for kept in stream.videos] == ["b"]
    with pytest.raises(DataError, match=r"lower data\.min_seconds"):
        PairStream(index(video("a", 3)))


def test_clip_of_exactly_the_least_distance_has_one_pair() -> None:
    windows = PairWindows(np.arange(16) / 30, 0.5, 1.0)
    assert windows.starts.tolist() == [0]
    assert windows.target(0, np.random.default_rng(0)) == 15


def test_a_round_visits_every_clip_once_in_a_new_order() -> None:
    stream = PairStream(index(*(video(str(name), 60) for name in range(20))), repeats=3, seed=1)
    assert (stream.visits, stream.pairs_per_epoch) == (20, 20)
    rounds = [pairs(stream, 60, first) for first in (0, 60)]
    orders = [[pair.video for pair in found] for found in rounds]
    for order in orders:
        assert order[0::3] == order[1::3] == order[2::3]
        assert sorted(order[::3]) == list(range(20))
    assert orders[0] != orders[1]
    assert orders[0][::3] != list(range(20))
    assert [(pair.round, pair.visit) for pair in rounds[1][:4]] == [(1, 0), (1, 0), (1, 0), (1, 1)]


def test_all_starts_come_once_a_round() -> None:
    stream = PairStream(index(video("a", 75), video("b", 50)), repeats=5, starts="all", seed=1)
    assert stream.pairs_per_epoch == 45 + 20
    first, second = pairs(stream, 65), pairs(stream, 65, 65)
    every = sorted([(0, start) for start in range(45)] + [(1, start) for start in range(20)])
    for found in (first, second):
        assert sorted((pair.video, pair.source) for pair in found) == every
    assert [pair.source for pair in first] != [pair.source for pair in second]
    assert len(list(grouped(first))) == stream.visits == 13


def test_last_visit_to_a_clip_fills_up_with_starts_that_come_twice() -> None:
    stream = PairStream(index(video("a", 52)), repeats=5, starts="all", seed=1)
    starts = Counter(pair.source for pair in pairs(stream, stream.pairs_per_epoch))
    assert sorted(starts) == list(range(22))
    assert sorted(starts.values())[-4:] == [1, 2, 2, 2]


@pytest.mark.parametrize("starts", ["random", "all"])
def test_stream_is_a_pure_function(starts: str) -> None:
    data = index(video("a", 75), video("b", 50))
    stream = PairStream(data, starts=starts, seed=7)
    expected = pairs(stream, 40)
    other = pickle.loads(pickle.dumps(PairStream(data, starts=starts, seed=7)))
    assert [other.pair(k) for k in reversed(range(40))] == expected[::-1]
    assert other.replacement(expected[3], 2) == stream.replacement(expected[3], 2)
    assert other.views_rng(5).random() == stream.views_rng(5).random() != stream.views_rng(6).random()
    assert pairs(PairStream(data, starts=starts, seed=8), 40) != expected


def test_pairs_of_a_visit_are_replaced_together_and_differently_each_time() -> None:
    stream = PairStream(index(*(video(str(name), 90) for name in range(50))), seed=1)
    visit = pairs(stream, 5)
    attempts = [[stream.replacement(pair, attempt) for pair in visit] for attempt in (1, 2, 3)]
    assert all(len({pair.video for pair in replaced}) == 1 for replaced in attempts)
    assert len({replaced[0].video for replaced in attempts}) > 1
    assert len({pair.source for pair in attempts[0]}) > 1
    assert [pair.number for pair in attempts[0]] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "wrong",
    [{"min_seconds": 0}, {"max_seconds": 0.1}, {"repeats": 0}, {"starts": "some"}, {"frames_fps": 0}],
)
def test_senseless_values_are_errors(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=str(next(iter(wrong)))):
        PairStream(index(video("a", 90)), **wrong)


@pytest.mark.parametrize(("world", "parts"), [(1, 1), (2, 1), (2, 3), (4, 1)])
def test_steps_hold_the_same_pairs_for_any_number_of_processes(world: int, parts: int) -> None:
    ranks = [list(StepBatches(3, 12, rank, world, last_step=6, parts=parts)) for rank in range(world)]
    assert {len(batches) for batches in ranks} == {3 * parts}
    for step in range(3):
        mine = [batch for batches in ranks for batch in batches[step * parts : (step + 1) * parts]]
        assert [number for batch in mine for number in batch] == list(range((3 + step) * 12, (4 + step) * 12))


def test_steps_never_end_unless_told() -> None:
    batches = iter(StepBatches(10**6, 4))
    assert [next(batches)[0] for _ in range(3)] == [4 * 10**6, 4 * 10**6 + 4, 4 * 10**6 + 8]


def test_batch_that_does_not_divide_is_an_error() -> None:
    with pytest.raises(ConfigError, match="multiple of 6"):
        StepBatches(0, 10, 0, 3, parts=2)
