"""k-NN of features: votes by hand, edges of the arguments."""

import math

import pytest
import torch

from midway_zoo.errors import InputError
from midway_zoo.readouts.neighbours import accuracy, knn_votes


def test_votes_are_those_of_the_nearest_weighted_by_cosine() -> None:
    features = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]])  # lengths do not matter
    labels = torch.tensor([0, 1, 1])
    query = torch.tensor([[5.0, 0.0]])
    half = math.sqrt(0.5)
    votes = knn_votes(features, labels, query, num_classes=3, k=(1, 2, 3), temperature=0.1)
    assert votes[1].tolist() == [[1, 0, 0]]
    weights = [math.exp(10.0), math.exp(10 * half), math.exp(0.0)]
    torch.testing.assert_close(votes[2][0, :2], torch.tensor(weights[:2]) / sum(weights[:2]))
    expected = torch.tensor([weights[0], weights[1] + weights[2], 0.0]) / sum(weights)
    torch.testing.assert_close(votes[3][0], expected)


def test_more_neighbours_than_there_are_means_all_and_chunks_change_nothing() -> None:
    torch.manual_seed(0)
    features, queries = torch.randn(30, 8), torch.randn(17, 8)
    labels = torch.arange(30) % 5
    whole = knn_votes(features, labels, queries, num_classes=5, k=(30, 200))
    torch.testing.assert_close(whole[30], whole[200])
    parts = knn_votes(features, labels, queries, num_classes=5, k=(30,), chunk=4)
    torch.testing.assert_close(whole[30], parts[30])


def test_clusters_are_found() -> None:
    torch.manual_seed(0)
    centres = torch.randn(10, 32)
    labels = torch.arange(10).repeat(20)
    features = centres[labels] + 0.3 * torch.randn(200, 32)
    queries = centres + 0.3 * torch.randn(10, 32)
    scores = knn_votes(features, labels, queries, num_classes=10, k=(10,))[10]
    assert accuracy(scores, torch.arange(10)) == {"top1": 1.0, "top5": 1.0}
    wrong = (torch.arange(10) + 1) % 10
    assert accuracy(scores, wrong)["top1"] == 0.0


@pytest.mark.parametrize(
    "change",
    [
        {"labels": torch.tensor([0, 3])},
        {"labels": torch.tensor([0])},
        {"queries": torch.ones(1, 3)},
        {"features": torch.ones(0, 2), "labels": torch.ones(0, dtype=torch.int64)},
        {"k": ()},
        {"k": (0,)},
        {"temperature": 0.0},
    ],
)
def test_what_cannot_be_is_refused(change: dict) -> None:
    given = {
        "features": torch.ones(2, 2),
        "labels": torch.tensor([0, 1]),
        "queries": torch.ones(1, 2),
        "num_classes": 2,
    }
    with pytest.raises(InputError):
        knn_votes(**(given | change))
