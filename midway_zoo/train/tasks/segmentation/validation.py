"""How good a segmentation is: over held-out scenes, or a folder of images of any size by sliding windows."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from tqdm import tqdm

from midway_zoo.inference.batches import normaliser
from midway_zoo.train.tasks.segmentation.config import SegmentationConfig
from midway_zoo.train.tasks.segmentation.data import find_files, held_out_scenes, read_pair
from midway_zoo.train.tasks.segmentation.metrics import SegmentationMetrics
from midway_zoo.train.tasks.segmentation.model import SegmentationModel


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
    for image_file, mask_file in tqdm(files, desc="validation", leave=False, disable=None):
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
