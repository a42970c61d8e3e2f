"""Images in one folder per class, in torchvision's ``ImageFolder`` layout."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.datasets.folder import find_classes, make_dataset

from midway_zoo.errors import DataError, InputError, MissingFileError
from midway_zoo.inference.folders import is_image

TRAIN, VAL = "train", "val"


@dataclass(frozen=True)
class LabelledImages:
    """Image files and their classes."""

    root: Path
    classes: tuple[str, ...]
    """Names, sorted; a label is an index into these."""
    files: tuple[Path, ...]
    labels: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.files)

    def __repr__(self) -> str:
        return f"LabelledImages({len(self)} images of {len(self.classes)} classes in {self.root})"

    def tensor(self) -> Tensor:
        """The labels, (N,) int64."""
        return torch.tensor(self.labels, dtype=torch.int64)

    def part(self, chosen: Sequence[int]) -> "LabelledImages":
        """The images at the chosen indices."""
        picked = tuple(self.files[index] for index in chosen), tuple(self.labels[index] for index in chosen)
        return LabelledImages(self.root, self.classes, *picked)


def list_images(root: str | Path, classes: Sequence[str] | None = None) -> LabelledImages:
    """The images below ``root/CLASS/``, at any depth, sorted by name.

    Args:
        root: a folder of one folder per class.
        classes: allowed class names, in the order of their labels; None takes the names of the folders, sorted.

    Raises:
        MissingFileError: if there is no such folder, or no folder of a class in it.
        DataError: if a folder is not one of ``classes``, or holds no image.
    """
    root = Path(root)
    if not root.is_dir():
        raise MissingFileError(f"there is no folder {root}.")
    try:
        found = [name for name in find_classes(root)[0] if not name.startswith(".")]
    except FileNotFoundError as error:
        raise MissingFileError(f"{root} holds no folders: one folder of images per class is expected.") from error
    names = tuple(found if classes is None else classes)
    if strangers := [name for name in found if name not in names]:
        raise DataError(f"{root / strangers[0]} is not a class of the training images ({', '.join(names[:10])}, ...).")
    numbers = {name: names.index(name) for name in found}
    try:
        samples = make_dataset(root, numbers, is_valid_file=lambda path: is_image(Path(path).name))
    except FileNotFoundError as error:
        raise DataError(f"{root}: {str(error).splitlines()[0]} Remove the empty folder, or fill it.") from error
    return LabelledImages(root, names, tuple(Path(path) for path, _ in samples), tuple(label for _, label in samples))


def split_images(root: str | Path, *, val_share: float = 0.2, seed: int = 0) -> tuple[LabelledImages, LabelledImages]:
    """Split images into training and validation images.

    Args:
        root: a folder with ``train/`` and ``val/``, each with one folder per class; or one folder per class, of which
            ``val_share`` is held out.
        val_share: share of every class to hold out, in (0, 1); at least one image, and never all.
        seed: seed of the choice, which depends only on the class and its number of files.

    Returns:
        The training and the validation images, with the same classes.

    Raises:
        MissingFileError: if there is no such folder, or ``val/`` is missing beside ``train/``.
        DataError: if a validation class is not a training class, or a class has too few images to split.
        InputError: for a share outside (0, 1).
    """
    root = Path(root)
    if not 0 < val_share < 1:
        raise InputError(f"val_share={val_share} must lie between 0 and 1.")
    if (root / TRAIN).is_dir() or (root / VAL).is_dir():
        for name in (TRAIN, VAL):
            if not (root / name).is_dir():
                raise MissingFileError(
                    f"there is no folder {root / name}; with one part alone, pass that folder itself to have it split."
                )
        train = list_images(root / TRAIN)
        return train, list_images(root / VAL, train.classes)
    whole = list_images(root)
    held: set[int] = set()
    labels = np.array(whole.labels)
    for number, name in enumerate(whole.classes):
        places = np.flatnonzero(labels == number)
        if len(places) < 2:
            raise DataError(f"{root / name} holds one image: two are needed to train on one and test on the other.")
        count = min(max(1, round(val_share * len(places))), len(places) - 1)
        draw = np.random.default_rng([seed, *name.encode()])
        held.update(draw.permutation(places)[:count].tolist())
    rest = [index for index in range(len(whole)) if index not in held]
    return whole.part(rest), whole.part(sorted(held))
