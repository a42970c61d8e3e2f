"""Names of the parts of data sets that mixtures and evaluations are made of, and where they lie."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from midway_zoo.errors import ConfigError, MissingFileError, nearest
from midway_zoo.train.data.flow.driving import hd1k, kitti_2012, kitti_2015
from midway_zoo.train.data.flow.entries import FlowFiles
from midway_zoo.train.data.flow.synthetic import flying_chairs, flying_things, sintel, spring, tartanair

_logger = logging.getLogger(__name__)

_List: TypeAlias = Callable[..., FlowFiles]

FOLDERS = {
    "flying_chairs": ("FlyingChairs", "FlyingChairs_release"),
    "flying_things": ("FlyingThings3D", "FlyingThings"),
    "sintel": ("Sintel", "MPI-Sintel"),
    "kitti_2012": ("KITTI-2012",),
    "kitti_2015": ("KITTI-2015", "KittiFlow"),
    "hd1k": ("HD1K", "hd1k"),
    "tartanair": ("TartanAir",),
    "spring": ("Spring", "spring"),
}
"""Data set -> names that its folder may have, the first that exists; torchvision's are among them."""


def _parts() -> dict[str, tuple[str, _List, dict[str, Any]]]:
    parts: dict[str, tuple[str, _List, dict[str, Any]]] = {"tartanair_train": ("tartanair", tartanair, {})}
    for split in ("train", "val"):
        parts[f"flying_chairs_{split}"] = ("flying_chairs", flying_chairs, {"split": split})
    for split in ("train", "test"):
        parts[f"kitti_2012_{split}"] = ("kitti_2012", kitti_2012, {"split": split})
        parts[f"kitti_2015_{split}"] = ("kitti_2015", kitti_2015, {"split": split})
        parts[f"hd1k_{split}"] = ("hd1k", hd1k, {"split": split})
        parts[f"spring_{split}"] = ("spring", spring, {"split": split})
        parts[f"flying_things_{split}"] = ("flying_things", flying_things, {"split": split})
    for name in ("clean", "final"):
        for split in ("train", "test"):
            options = {"split": split, "passes": (name,)}
            parts[f"flying_things_{name}_{split}"] = ("flying_things", flying_things, options)
        for split in ("train", "subtrain", "subval", "test"):
            parts[f"sintel_{name}_{split}"] = ("sintel", sintel, {"split": split, "passes": (name,)})
    return parts


PARTS = _parts()
"""Name -> (data set, what lists it, its options)."""

PAIRS = {
    "flying_chairs_train": 22232,
    "flying_chairs_val": 640,
    "flying_things_train": 80604,
    "flying_things_clean_train": 40302,
    "flying_things_final_train": 40302,
    "tartanair_train": 306268,
    "kitti_2012_train": 194,
    "kitti_2012_test": 195,
    "kitti_2015_train": 200,
    "kitti_2015_test": 200,
} | {
    f"sintel_{name}_{split}": count
    for name in ("clean", "final")
    for split, count in (("train", 1041), ("subtrain", 943), ("subval", 98), ("test", 552))
}
"""How many pairs a part has when it is complete, where that is known."""


def list_part(name: str, root: str | Path | None, roots: Mapping[str, str] | None = None) -> FlowFiles:
    """The pairs of a part; one that is not complete is warned of.

    Args:
        name: one of :data:`PARTS`.
        root: folder that holds the data sets under one of their usual names (:data:`FOLDERS`).
        roots: data set -> its own folder, instead.

    Raises:
        ConfigError: for an unknown part or data set, or without a folder.
        MissingFileError: if a folder or file is missing.
    """
    check_part(name)
    dataset, make, options = PARTS[name]
    files = make(find_dataset(dataset, root, roots), **options)
    if len(files) != PAIRS.get(name, len(files)):
        _logger.warning("%s: %d pairs in %s, of %d when complete", name, len(files), files.root, PAIRS[name])
    return files


def check_part(name: str) -> None:
    """Raise :class:`ConfigError` unless there is such a part."""
    if name not in PARTS:
        raise ConfigError(
            f"there is no flow data {name!r}.{nearest(name, PARTS)} The parts are: {', '.join(sorted(PARTS))}."
        )


def check_dataset(name: str) -> None:
    """Raise :class:`ConfigError` unless there is such a data set."""
    if name not in FOLDERS:
        raise ConfigError(f"there is no data set {name!r}.{nearest(name, FOLDERS)} There are: {', '.join(FOLDERS)}.")


def find_dataset(dataset: str, root: str | Path | None, roots: Mapping[str, str] | None = None) -> Path:
    """Folder of a data set; see :func:`list_part`.

    Raises:
        ConfigError: for an unknown data set, or without a folder.
        MissingFileError: if the folder does not exist.
    """
    for key in (dataset, *(roots or {})):
        check_dataset(key)
    if roots and dataset in roots:
        own = Path(roots[dataset])
        if not own.is_dir():
            raise MissingFileError(f"{dataset}: there is no folder {own} (data.roots.{dataset}).")
        return own
    if root is None:
        raise ConfigError(f"where is {dataset}? Give data.root, the folder of data sets, or data.roots.{dataset}.")
    for name in FOLDERS[dataset]:
        if (Path(root) / name).is_dir():
            return Path(root) / name
    names = " or ".join(FOLDERS[dataset])
    raise MissingFileError(
        f"{dataset}: there is no folder {names} in {root}. If it is elsewhere: data.roots.{dataset}=PATH"
    )
