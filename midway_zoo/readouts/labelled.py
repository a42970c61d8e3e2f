"""Data sets of images with class masks: where their files are, and what the numbers in the masks mean."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files as package_files
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from midway_zoo.errors import DataError, InputError, MissingFileError, nearest
from midway_zoo.inference.folders import is_image
from midway_zoo.inference.image_files import read_image, read_labels

IGNORE = 255
"""Label of pixels that are ignored."""
CLASSES = "classes.txt"
"""File beside the folders of a custom data set: one class per line, in the order of their numbers, optionally followed
by a tab and its colour as three numbers from 0 to 255."""

_log = logging.getLogger(__name__)
Labels = npt.NDArray[np.integer]


@dataclass(frozen=True)
class Layout:
    """Where a data set keeps a split."""

    images: str
    """Folder below the root; ``{split}`` stands for the split's name."""
    masks: str
    image_end: str = ""
    """Suffix of image stems that masks do not share; likewise ``mask_end``."""
    mask_end: str = ""


@dataclass(frozen=True)
class Classes:
    """Names and colours of classes; empty tuples if unknown."""

    names: tuple[str, ...] = ()
    palette: tuple[tuple[int, int, int], ...] = ()
    """RGB from 0 to 255."""


@dataclass(frozen=True)
class LabelledSet:
    """A data set: its folders, splits, classes, and how its masks are read."""

    name: str
    layouts: tuple[Layout, ...]
    """Published layouts; the first whose folders exist is used."""
    splits: dict[str, str]
    """"train" and "val" -> what the folders are called."""
    folder: str = ""
    """Usual name of the data set's folder: the root may also be the folder that contains it."""
    classes: str = ""
    """Name of a file of classes in the package."""
    to_class: Callable[[Labels], Labels] | None = None
    """Maps the numbers in the masks to classes and :data:`IGNORE`; None if they are the same."""
    nested: bool = False
    """Whether images and masks are matched by their whole path below the folder, rather than by name alone."""


def _city_to_train(labels: Labels) -> Labels:
    table = np.full(256, IGNORE, np.uint8)
    for number, label in enumerate((7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)):
        table[label] = number
    if labels.size and labels.max() > 33 and (labels[labels > 33] != IGNORE).any():  # 255 is -1: licence plates
        raise InputError(f"the value {labels[(labels > 33) & (labels != IGNORE)][0]} is not a labelId (0 to 33).")
    return table[labels]


def _without_zero(labels: Labels) -> Labels:
    """0 is none of the 150 classes, 1 is the first class."""
    return np.where(labels == 0, IGNORE, labels.astype(np.int64) - 1)


_FOLDER = Layout("images", "masks")
_SPLIT_FOLDER = Layout("images/{split}", "masks/{split}")
SETS = {
    one.name: one
    for one in (
        LabelledSet(
            "bdd100k",
            (
                Layout("images/10k/{split}", "labels/sem_seg/masks/{split}"),
                Layout("seg/images/{split}", "seg/labels/{split}", mask_end="_train_id"),  # the release of 2018
            ),
            {"train": "train", "val": "val"},
            folder="bdd100k",
            classes="cityscapes",
        ),
        LabelledSet(
            "cityscapes",
            (Layout("leftImg8bit/{split}", "gtFine/{split}", "_leftImg8bit", "_gtFine_labelIds"),),
            {"train": "train", "val": "val"},
            folder="cityscapes",
            classes="cityscapes",
            to_class=_city_to_train,
        ),
        LabelledSet(
            "ade20k",
            (Layout("images/{split}", "annotations/{split}"),),
            {"train": "training", "val": "validation"},
            folder="ADEChallengeData2016",
            classes="ade20k",
            to_class=_without_zero,
        ),
        LabelledSet(
            "wtsem",
            (
                _SPLIT_FOLDER,
                Layout("images/{split}", "annotations/{split}"),
                Layout("images/{split}", "labels/{split}"),
            ),
            {"train": "train", "val": "val"},
            folder="Walking-Tours-Semantic",
            classes="ade20k",
            nested=True,  # a folder for each city
        ),
        LabelledSet("folder", (_SPLIT_FOLDER, _FOLDER), {"train": "train", "val": "val"}),
    )
}
"""The data sets by name. For "wtsem", the folders and the numbering (ADE20K's classes, from 0) are this project's
assumptions, since no published description was found. "folder" is a custom data set of ``images/`` and ``masks/``,
with or without ``train`` and ``val`` in them; there and in "wtsem", :data:`CLASSES` beside them names the classes."""


@dataclass(frozen=True)
class LabelledFiles:
    """The files of a split."""

    dataset: LabelledSet
    pairs: tuple[tuple[Path, Path], ...]
    """(image, mask), sorted."""
    left_out: tuple[Path, ...]
    """Images without mask and masks without image."""
    classes: Classes

    def read(self, number: int, classes: int) -> tuple[Tensor, Tensor]:
        """An image and its labels; see :func:`read_labelled`."""
        return read_labelled(*self.pairs[number], classes, self.dataset)


def labelled_set(name: str) -> LabelledSet:
    """The data set of a name.

    Raises:
        InputError: if there is none, with the nearest name.
    """
    if name not in SETS:
        raise InputError(f"there is no data set {name!r}.{nearest(name, SETS)} Known: {', '.join(SETS)}.")
    return SETS[name]


def find_labelled(name: str, root: str | Path, split: str = "train") -> LabelledFiles:
    """The images of a split that have a mask; files without a partner are logged and left out.

    Args:
        name: a key of :data:`SETS`.
        root: the data set's folder, or the one that holds it.
        split: "train" or "val"; of a "folder" whose ``images/`` has no such folders, all images are taken.

    Raises:
        InputError: for an unknown name or split.
        MissingFileError: if folders are missing, saying where they are expected.
        DataError: if no image has a mask, or a name occurs twice.
    """
    dataset = labelled_set(name)
    if split not in dataset.splits:
        raise InputError(f"split={split!r}: {' or '.join(dataset.splits)} is expected of {name}.")
    base, layout = _found(dataset, Path(root), split)
    folders = [_placed(base, place, dataset, split) for place in (layout.images, layout.masks)]
    ends = (layout.image_end, layout.mask_end)
    images, masks = (_by_key(folder, end, dataset.nested) for folder, end in zip(folders, ends, strict=True))
    keys = sorted(images.keys() & masks.keys())
    if not keys:
        raise DataError(f"no image of {len(images)} below {folders[0]} has a mask of its name below {folders[1]}.")
    lone = [[found[key] for key in sorted(found.keys() - set(keys))] for found in (images, masks)]
    if any(lone):
        _log.warning(
            "%d image(s) without mask and %d mask(s) without image are left out, such as %s",
            *(len(files) for files in lone),
            [*lone[0], *lone[1]][0],
        )
    pairs = tuple((images[key], masks[key]) for key in keys)
    return LabelledFiles(dataset, pairs, (*lone[0], *lone[1]), _classes_of(dataset, base))


def has_splits(root: str | Path) -> bool:
    """Whether the ``images/`` of a "folder" is divided into splits."""
    return any((Path(root) / "images" / split).is_dir() for split in SETS["folder"].splits)


def _found(dataset: LabelledSet, root: Path, split: str) -> tuple[Path, Layout]:
    bases = [root, *([root / dataset.folder] if dataset.folder else [])]
    layouts = dataset.layouts
    if dataset.name == "folder":
        layouts = layouts[:1] if has_splits(root) else layouts[1:]
    for base in bases:
        for layout in layouts:
            if all(_placed(base, place, dataset, split).is_dir() for place in (layout.images, layout.masks)):
                return base, layout
    wanted = [_placed(Path(), place, dataset, split) for place in (layouts[0].images, layouts[0].masks)]
    missing = next(root / place for place in wanted if not (root / place).is_dir())
    others = f" (or {dataset.folder} in it)" if dataset.folder else ""
    raise MissingFileError(
        f"there is no folder {missing}: {root}{others} must hold {wanted[0].as_posix()}/ and {wanted[1].as_posix()}/."
    )


def _placed(base: Path, place: str, dataset: LabelledSet, split: str) -> Path:
    return base / place.format(split=dataset.splits[split])


def _by_key(folder: Path, end: str, nested: bool) -> dict[str, Path]:
    """Key that an image and its mask share -> file."""
    found: dict[str, Path] = {}
    for path in sorted(path for path in folder.rglob("*") if is_image(path.name)):
        if not path.stem.endswith(end):
            continue  # Cityscapes keeps instances and colours beside the labels
        stem = path.stem.removesuffix(end)
        key = (path.parent.relative_to(folder) / stem).as_posix() if nested else stem
        if key in found:
            raise DataError(f"{path} and {found[key]} have the same stem: masks are found by stem.")
        found[key] = path
    return found


def _classes_of(dataset: LabelledSet, base: Path) -> Classes:
    own = base / CLASSES
    if dataset.name in ("folder", "wtsem") and own.is_file():
        return parse_classes(own.read_text(encoding="utf-8"), str(own))
    return published_classes(dataset)


def published_classes(dataset: LabelledSet) -> Classes:
    """Published names and colours of a data set's classes."""
    if not dataset.classes:
        return Classes()
    name = f"{dataset.classes}.txt"
    return parse_classes((package_files("midway_zoo.readouts") / "classes" / name).read_text("utf-8"), name)


def parse_classes(text: str, origin: str) -> Classes:
    """Parse a :data:`CLASSES` file.

    Raises:
        InputError: for an empty name, or an invalid colour.
    """
    names, palette = [], []
    for number, line in enumerate(text.rstrip("\n").split("\n"), 1):
        name, _, colour = line.rstrip("\r").partition("\t")
        if not name.strip():
            raise InputError(f"{origin}, line {number}: a class name is expected.")
        names.append(name.strip())
        if colour.strip():
            values = colour.split()
            if len(values) != 3 or not all(value.isdecimal() and int(value) < 256 for value in values):
                raise InputError(f"{origin}, line {number}: {colour!r} is not a colour: three numbers from 0 to 255.")
            palette.append((int(values[0]), int(values[1]), int(values[2])))
    if palette and len(palette) < len(names):
        raise InputError(f"{origin}: {len(palette)} of {len(names)} classes have a colour; all or none is expected.")
    return Classes(tuple(names), tuple(palette))


def read_labelled(image: Path, mask: Path, classes: int, dataset: LabelledSet) -> tuple[Tensor, Tensor]:
    """An image and the classes of its pixels, both upright by their EXIF orientation.

    Returns:
        uint8 (3, H, W), RGB, and uint8 (H, W): 0 to ``classes`` - 1, or :data:`IGNORE`.

    Raises:
        InputError: if one is not readable, their sizes differ, or the mask has other values than it should.
    """
    picture, stored = read_image(image), read_labels(mask)
    size = (picture.shape[1], picture.shape[2])
    if stored.shape != size:
        turned = " The image is rotated by its EXIF orientation; the mask must be too." * (stored.shape == size[::-1])
        raise InputError(f"{mask} has shape {stored.shape}: one channel of {image}'s size {size} is expected.{turned}")
    try:
        labels = stored if dataset.to_class is None else dataset.to_class(stored)
    except InputError as error:
        raise InputError(f"{mask}: {error}") from error
    wrong = (labels >= classes) & (labels != IGNORE)
    if wrong.any():
        raise InputError(f"{mask} has the value {stored[wrong][0]}: {_allowed(dataset, classes)} is expected.")
    return picture, torch.from_numpy(labels.astype(np.uint8))


def _allowed(dataset: LabelledSet, classes: int) -> str:
    return f"0 to {classes}" if dataset.to_class is _without_zero else f"0 to {classes - 1}, or {IGNORE},"


def spread(pairs: Sequence[tuple[Path, Path]], limit: int | None) -> list[tuple[Path, Path]]:
    """At most ``limit`` of the pairs, evenly spaced; None for all."""
    if limit is None or len(pairs) <= limit:
        return list(pairs)
    return [pairs[index * len(pairs) // limit] for index in range(limit)]
