"""mIoU, mAcc and aAcc over a whole data set, from one confusion matrix."""

import torch
from torch import Tensor

from midway_zoo.errors import InputError

IGNORE = 255
"""Label of pixels that count nowhere."""


class SegmentationMetrics:
    """Counts pixels of (true class, predicted class); the measures are over all pixels seen, not means of images.

    Args:
        classes: K, with labels 0 to K - 1.
        ignore: label that is left out.
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
            InputError: if the shapes differ, or a value is no class.
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
        """Shares in [0, 1]: "mIoU" over classes that occur in labels or predictions, "mAcc" over those in labels,
        "aAcc" over pixels (the paper's "Acc").

        Raises:
            InputError: if no pixel was counted.
        """
        if not self.confusion.any():
            raise InputError("no pixel was counted yet.")
        hits, true = self.confusion.diagonal().double(), self.confusion.sum(1).double()
        iou = self.class_iou()
        return {
            "mIoU": float(iou[~iou.isnan()].mean()),
            "mAcc": float((hits[true > 0] / true[true > 0]).mean()),
            "aAcc": float(hits.sum() / true.sum()),
        }

    def class_iou(self) -> Tensor:
        """(K,) float64: intersection over union of each class; NaN where neither labels nor predictions have it."""
        hits = self.confusion.diagonal().double()
        return hits / (self.confusion.sum(0) + self.confusion.sum(1) - self.confusion.diagonal())

    def state(self) -> Tensor:
        """What :meth:`merge` takes: the counts, (K, K) int64."""
        return self.confusion.clone()

    def merge(self, state: Tensor) -> None:
        """Add the counts of another part of the data.

        Raises:
            InputError: if they are of another number of classes.
        """
        if state.shape != self.confusion.shape:
            raise InputError(f"counts of shape {tuple(state.shape)}: {tuple(self.confusion.shape)} is expected.")
        self.confusion += state.cpu()
