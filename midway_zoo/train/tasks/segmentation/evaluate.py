"""How good a segmentation is: mIoU, mAcc and aAcc over held-out scenes, or a folder of images of any size by sliding
windows."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from midway_zoo.bars import bar
from midway_zoo.errors import InputError
from midway_zoo.inference.batches import normaliser
from midway_zoo.train.tasks.segmentation.config import IGNORE, SegmentationConfig
from midway_zoo.train.tasks.segmentation.data import find_files, held_out_scenes, read_pair
from midway_zoo.train.tasks.segmentation.model import SegmentationModel


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


@torch.no_grad()
def validate(model: SegmentationModel, config: SegmentationConfig) -> SegmentationMetrics | None:
    """Metrics over the validation data that the configuration names; None if it names none.

    Images of files are scaled so that their shorter side is ``data.crop``, seen through windows of that side a third
    of which overlap (the paper's 512 / 341), and scored at the size of their masks.
    """
    metrics = SegmentationMetrics(config.num_classes)
    normalise = normaliser(model.network)
    device = model.head.weight.device
    if config.data.source == "scenes":
        for images, labels in held_out_scenes(config.data, device, batch_size=config.batch_size):
            metrics.update(model.logits(normalise(images.float() / 255)).argmax(1), labels)
        return metrics
    if config.data.val_root is None:
        return None
    files = find_files(config.data.val_root)
    for image_file, mask_file in bar(files, desc="validation"):
        picture, mask = read_pair(image_file, mask_file, config.num_classes)
        labels = torch.from_numpy(np.array(mask)).to(device)
        logits = sliding_logits(model, normalise(_scaled(picture, config.data.crop, device)), config.data.crop)
        full = F.interpolate(logits, labels.shape, mode="bilinear", align_corners=False)
        metrics.update(full.argmax(1)[0], labels)
    return metrics


def sliding_logits(model: SegmentationModel, images: Tensor, side: int) -> Tensor:
    """(B, K, H, W): mean logits of windows of ``side`` pixels, two thirds of it apart, over images (B, 3, H, W) whose
    sides are at least that."""
    height, width = images.shape[-2:]
    total = images.new_zeros(len(images), model.head.out_channels, height, width)
    count = images.new_zeros(height, width)
    for top in _starts(height, side):
        for left in _starts(width, side):
            window = slice(top, top + side), slice(left, left + side)
            total[..., window[0], window[1]] += model.logits(images[..., window[0], window[1]])
            count[window] += 1
    return total / count


def _starts(length: int, side: int) -> list[int]:
    stride = max(1, side * 2 // 3)
    last = length - side
    return [*range(0, last, stride), last]


def _scaled(picture: Image.Image, side: int, device: torch.device) -> Tensor:
    """float32 (1, 3, H, W) in [0, 1] whose shorter side is ``side``."""
    ratio = side / min(picture.size)
    size = (max(side, round(picture.width * ratio)), max(side, round(picture.height * ratio)))
    image = np.array(picture.resize(size, Image.Resampling.BILINEAR))
    return torch.from_numpy(image).to(device).permute(2, 0, 1)[None].float() / 255
