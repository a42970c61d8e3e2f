"""mIoU, mAcc and aAcc by hand."""

import pytest
import torch

from midway_zoo.errors import InputError
from midway_zoo.readouts.segmentation_metrics import SegmentationMetrics

LABELS = torch.tensor([[0, 0, 0, 1], [1, 2, 255, 255]])
FOUND = torch.tensor([[0, 0, 1, 1], [1, 0, 0, 3]])


def measured(classes: int = 5) -> SegmentationMetrics:
    metrics = SegmentationMetrics(classes)
    metrics.update(FOUND, LABELS)
    return metrics


def test_by_hand() -> None:
    # Class 0: 2 hits, union 4; class 1: 2 hits, union 3; class 2: none of 1; class 3: only found where ignored;
    # class 4 nowhere.
    found = measured().compute()
    assert found["mIoU"] == pytest.approx((2 / 4 + 2 / 3 + 0) / 3)
    assert found["mAcc"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert found["aAcc"] == pytest.approx(4 / 6)
    assert measured().class_iou()[3:].isnan().all()


def test_parts_add_up() -> None:
    first, second = SegmentationMetrics(5), SegmentationMetrics(5)
    first.update(FOUND[0], LABELS[0])
    second.update(FOUND[1], LABELS[1])
    first.merge(second.state())
    assert torch.equal(first.state(), measured().state())
    with pytest.raises(InputError, match="shape"):
        first.merge(torch.zeros(2, 2))


def test_rows_and_table() -> None:
    names = ["road", "sky", "car", "sea", "air"]
    rows = measured().rows(names)
    assert rows[0] == {"class": "road", "pixels": 3, "IoU": 0.5, "acc": pytest.approx(2 / 3)}
    assert rows[2] == {"class": "car", "pixels": 1, "IoU": 0, "acc": 0}
    assert rows[4] == {"class": "air", "pixels": 0, "IoU": None, "acc": None}
    lines = measured().table(names).splitlines()
    assert lines[1].split() == ["road", "50.00", "66.67", "50.00"]
    assert lines[4].split() == ["sea", "-", "-", "0.00"]
    assert lines[-1] == "mIoU 38.89  mAcc 55.56  aAcc 66.67"
    assert measured().rows()[3]["class"] == "3"


def test_a_class_found_where_there_is_none_counts_in_the_mean() -> None:
    metrics = SegmentationMetrics(4)
    metrics.update(torch.tensor([0, 0, 1, 3]), torch.tensor([0, 0, 1, 1]))
    assert metrics.compute()["mIoU"] == pytest.approx((1 + 1 / 2 + 0) / 3)  # class 3 is wrong, class 2 is nowhere
    assert metrics.compute()["mAcc"] == pytest.approx((1 + 1 / 2) / 2)  # no pixel of class 3 could be found


def test_refused() -> None:
    with pytest.raises(InputError, match="label 2 is none of the 2"):
        measured(2)
    with pytest.raises(InputError, match="prediction 7"):
        SegmentationMetrics(3).update(torch.tensor([7]), torch.tensor([0]))
    with pytest.raises(InputError, match="differ in shape"):
        SegmentationMetrics(3).update(FOUND, LABELS[0])
    with pytest.raises(InputError, match="no pixel"):
        SegmentationMetrics(3).compute()
    with pytest.raises(InputError, match="at least 2"):
        SegmentationMetrics(300)
