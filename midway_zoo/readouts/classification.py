"""k-nearest-neighbour classification of images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from midway_zoo.errors import InputError
from midway_zoo.readouts.backbone import BackboneLike, load_backbone
from midway_zoo.readouts.feature_cache import EvalTransform, cached_features
from midway_zoo.readouts.image_folder import split_images
from midway_zoo.readouts.neighbours import NEIGHBOURS, TEMPERATURE, accuracy, knn_votes


@dataclass(frozen=True)
class NeighbourResult:
    """Accuracies of k-nearest-neighbour classification."""

    accuracies: dict[int, dict[str, float]]
    """k -> "top1" and "top5", shares of the validation images in [0, 1]; without "top5" for fewer than six classes."""
    classes: tuple[str, ...]
    train_images: int
    val_images: int

    def best(self) -> tuple[int, float]:
        """The k with the highest top-1 accuracy, and that accuracy."""
        k = max(self.accuracies, key=lambda number: self.accuracies[number]["top1"])
        return k, self.accuracies[k]["top1"]


def evaluate_neighbours(
    model: BackboneLike,
    root: str | Path,
    *,
    k: Sequence[int] = NEIGHBOURS,
    temperature: float = TEMPERATURE,
    size: int | None = None,
    val_share: float = 0.2,
    seed: int = 0,
    cache: Path | None = None,
    batch_size: int = 64,
    num_workers: int = 0,
) -> NeighbourResult:
    """k-NN classification of a folder of images by frozen class tokens (DINO's protocol).

    Args:
        model: a network or a name, of this zoo or of timm ("timm:NAME").
        root: ``train/`` and ``val/`` with one folder per class, or one folder per class that is split; see
            :func:`~midway_zoo.readouts.image_folder.split_images`.
        k: numbers of neighbours; each gives one result.
        temperature: temperature of the votes.
        size: side in pixels that images are resized and cropped to; None for the backbone's native size.
        val_share: share of each class that is held out, if there is no ``val/``.
        seed: seed of that split.
        cache: folder for cached features; None for the user's cache.
        batch_size: images per forward pass.
        num_workers: processes that read images.

    Raises:
        InputError: for an image that cannot be read, or arguments that make no sense.
        MissingFileError, DataError: if the folders are not as expected.
    """
    if not k or any(isinstance(number, bool) or number < 1 for number in k):
        raise InputError(f"k={list(k)} must be positive integers.")
    train, val = split_images(root, val_share=val_share, seed=seed)
    backbone = load_backbone(model)
    transform = EvalTransform.of(backbone, size)
    bank, queries = (
        cached_features(
            backbone,
            images.files,
            images.root,
            transform=transform,
            cache=cache,
            batch_size=batch_size,
            num_workers=num_workers,
        )
        for images in (train, val)
    )
    labels, truth = train.tensor(), val.tensor()
    votes = knn_votes(bank, labels, queries, num_classes=len(train.classes), k=k, temperature=temperature)
    top = (1, 5) if len(train.classes) > 5 else (1,)
    found = {number: accuracy(scores, truth, top) for number, scores in votes.items()}
    return NeighbourResult(found, train.classes, len(train), len(val))
