"""Segmentation metrics: mIoU, mAcc and aAcc over a whole data set, and a table of its classes."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from midway_zoo.errors import InputError
from midway_zoo.readouts.labelled import IGNORE


class SegmentationMetrics:
    """Counts pixels of (true class, predicted class); the metrics are over all pixels, not means over images.

    Args:
        classes: K, with labels 0 to K - 1.
        ignore: label of pixels that do not count.

    Raises:
        InputError: for fewer than two classes, or an ignored label that is one of them.
    """

    def __init__(self, classes: int, *, ignore: int = IGNORE) -> None:
        if classes < 2 or 0 <= ignore < classes:
            raise InputError(f"classes={classes}, ignore={ignore}: at least 2 classes, none of them {ignore}.")
        self.classes, self.ignore = classes, ignore
        self.confusion = torch.zeros(classes, classes, dtype=torch.int64)
        """(K, K): rows are true classes, columns predicted ones."""

    def update(self, prediction: Tensor, labels: Tensor) -> None:
        """Count predictions.

        Args:
            prediction: integers (...) in 0 to K - 1.
            labels: the same shape, also the ignored label.

        Raises:
            InputError: if the shapes differ, or a value is not a class.
        """
        if prediction.shape != labels.shape:
            raise InputError(f"prediction {tuple(prediction.shape)} and labels {tuple(labels.shape)} differ in shape.")
        kept = labels != self.ignore
        true, found = labels[kept].long(), prediction[kept].long()
        for name, values in (("label", true), ("prediction", found)):
            if len(values) and not (int(values.min()) >= 0 and int(values.max()) < self.classes):
                wrong = int(values[(values < 0) | (values >= self.classes)][0])
                raise InputError(f"{name} {wrong} is none of the {self.classes} classes (nor {self.ignore}, ignored).")
        counts = torch.bincount(true * self.classes + found, minlength=self.classes**2)
        self.confusion += counts.reshape(self.classes, self.classes).cpu()

    def compute(self) -> dict[str, float]:
        """Metrics in [0, 1]: "mIoU" over classes that occur in labels or predictions, "mAcc" over those in labels, and
        "aAcc" over pixels (the paper's "Acc").

        Raises:
            InputError: if no pixel was counted.
        """
        if not self.confusion.any():
            raise InputError("no pixel was counted yet.")
        iou, accuracy = self.class_iou(), self.class_accuracy()
        return {
            "mIoU": float(iou[~iou.isnan()].mean()),
            "mAcc": float(accuracy[~accuracy.isnan()].mean()),
            "aAcc": float(self.confusion.diagonal().sum() / self.confusion.sum()),
        }

    def class_iou(self) -> Tensor:
        """(K,) float64: intersection over union of each class; NaN for classes in neither labels nor predictions."""
        hits = self.confusion.diagonal().double()
        return hits / (self.confusion.sum(0) + self.confusion.sum(1) - self.confusion.diagonal())

    def class_accuracy(self) -> Tensor:
        """(K,) float64: share of each class's pixels that are predicted correctly; NaN for classes not in labels."""
        return self.confusion.diagonal().double() / self.confusion.sum(1)

    def rows(self, names: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """Per class "class", "pixels" (of labels), "IoU" and "acc" in [0, 1]; None if undefined.

        Args:
            names: names of the classes; None for their numbers.
        """
        shown = list(names) if names is not None else [str(number) for number in range(self.classes)]
        rows: list[dict[str, Any]] = []
        for name, pixels, iou, accuracy in zip(
            shown,
            self.confusion.sum(1).tolist(),
            self.class_iou().tolist(),
            self.class_accuracy().tolist(),
            strict=True,
        ):
            rows.append({"class": name, "pixels": pixels, "IoU": _known(iou), "acc": _known(accuracy)})
        return rows

    def table(self, names: Sequence[str] | None = None) -> str:
        """Classes and means as text, in percent; "-" for classes that do not occur."""
        rows = self.rows(names)
        width = max(len("class"), *(len(str(row["class"])) for row in rows))
        lines = [f"{'class':{width}}  {'IoU %':>6}  {'acc %':>6}  {'pixels %':>8}"]
        total = max(1, int(self.confusion.sum()))
        for row in rows:
            share = row["pixels"] / total
            lines.append(f"{row['class']:{width}}  {_percent(row['IoU'])}  {_percent(row['acc'])}  {100 * share:8.2f}")
        means = self.compute()
        return "\n".join([*lines, "  ".join(f"{name} {100 * value:.2f}" for name, value in means.items())])

    def state(self) -> Tensor:
        """The counts, (K, K) int64, for :meth:`merge`."""
        return self.confusion.clone()

    def merge(self, state: Tensor) -> None:
        """Add the counts of another part of the data.

        Raises:
            InputError: if the number of classes differs.
        """
        if state.shape != self.confusion.shape:
            raise InputError(f"counts of shape {tuple(state.shape)}: {tuple(self.confusion.shape)} is expected.")
        self.confusion += state.cpu()


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _percent(value: float | None) -> str:
    return f"{'-':>6}" if value is None else f"{100 * value:6.2f}"
