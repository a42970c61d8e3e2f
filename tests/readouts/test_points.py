"""The benchmark's figures by hand."""

import math

import pytest
import torch

from midway_zoo.errors import InputError
from midway_zoo.readouts.points import THRESHOLDS, tracking_scores


def truth(frames: int = 5) -> dict[str, torch.Tensor]:
    xy = torch.zeros(2, frames, 2)
    xy[0, :, 0] = torch.arange(frames) * 10.0
    return {
        "true_xy": xy,
        "true_hidden": torch.zeros(2, frames, dtype=torch.bool),
        "query_frames": torch.tensor([0, 2]),
    }


def test_the_truth_is_perfect() -> None:
    given = truth()
    scores = tracking_scores(given["true_xy"], given["true_hidden"], **given)
    assert set(scores.values()) == {1.0}


def test_what_is_before_the_query_and_the_query_itself_are_not_counted() -> None:
    given = truth()
    found = given["true_xy"].clone()
    found[1, :3] = 100
    found[0, 0] = 100
    assert tracking_scores(found, given["true_hidden"], **given)["position_accuracy"] == 1
    strided = tracking_scores(found, given["true_hidden"], **given, mode="strided")
    assert strided["position_accuracy"] == pytest.approx(6 / 8)  # frames 0 and 1 of the second point


def test_positions_count_by_thresholds() -> None:
    given = truth()
    found = given["true_xy"] + torch.tensor([3.0, 0.0])
    scores = tracking_scores(found, given["true_hidden"], **given)
    assert [scores[f"pts_within_{threshold}"] for threshold in THRESHOLDS] == [0, 0, 1, 1, 1]
    assert scores["position_accuracy"] == pytest.approx(3 / 5)
    # Where nothing is near, every point is missed and every prediction wrong: 0 of 6 true and 6 false ones.
    assert scores["average_jaccard"] == pytest.approx(3 / 5)


def test_distance_of_the_threshold_itself_is_outside() -> None:
    given = truth()
    found = given["true_xy"] + torch.tensor([0.0, 4.0])
    assert tracking_scores(found, given["true_hidden"], **given)["pts_within_4"] == 0


def test_occlusion() -> None:
    given = truth()
    hidden = given["true_hidden"].clone()
    hidden[0, 3:] = True  # two of the six that count
    given["true_hidden"] = hidden
    seen = torch.zeros_like(hidden)
    scores = tracking_scores(given["true_xy"], seen, **given)
    assert scores["occlusion_accuracy"] == pytest.approx(4 / 6)
    assert scores["position_accuracy"] == 1  # of the visible ones
    assert scores["average_jaccard"] == pytest.approx(4 / (4 + 2))  # two are shown that are hidden
    missed = tracking_scores(given["true_xy"], ~seen, **given)
    assert missed["average_jaccard"] == 0
    assert missed["position_accuracy"] == 1


def test_shares_of_nothing_are_no_number() -> None:
    given = truth()
    given["true_hidden"] = ~given["true_hidden"]
    scores = tracking_scores(given["true_xy"], given["true_hidden"], **given)
    assert scores["occlusion_accuracy"] == 1
    assert math.isnan(scores["position_accuracy"])


def test_shapes_that_do_not_fit_are_refused() -> None:
    given = truth()
    with pytest.raises(InputError, match="are expected"):
        tracking_scores(given["true_xy"][:1], given["true_hidden"], **given)
    with pytest.raises(InputError, match="strided"):
        tracking_scores(given["true_xy"], given["true_hidden"], **given, mode="last")
