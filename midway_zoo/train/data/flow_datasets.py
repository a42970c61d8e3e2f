"""The published flow data sets, in one table: folders, contents and evaluation.

A data set is a row of :data:`DATASETS` and a function that lists its pairs; no other code depends on it. torchvision
lists some of them too, but matches files by position instead of name (a missing file shifts all that follow), in the
order of the file system, and without a choice of sequences.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from midway_zoo.errors import ConfigError, InputError, MissingFileError, nearest
from midway_zoo.train.data.flow_files import FlowFiles, Folder, Kind, Relative

_logger = logging.getLogger(__name__)

PASSES = ("clean", "final")
DIRECTIONS = ("into_future", "into_past")


def _flying_chairs(folder: Folder, split: str) -> Iterator[Relative]:
    marks_file = folder.root / "FlyingChairs_train_val.txt"
    if not marks_file.exists():
        raise folder.complain(marks_file.name)
    marks = marks_file.read_text(encoding="utf-8").split()
    if not set(marks) <= {"1", "2"}:
        raise InputError(f"{marks_file}: lines of 1 (train) and 2 (val) are expected.")
    wanted = {"train": "1", "val": "2"}[split]
    numbers = [f"{number:05d}" for number, mark in enumerate(marks, 1) if mark == wanted]
    folder.check("data", (f"{number}_{end}" for number in numbers for end in ("img1.ppm", "img2.ppm", "flow.flo")))
    for number in numbers:
        yield Relative(number, *(f"data/{number}_{end}" for end in ("img1.ppm", "img2.ppm", "flow.flo")))


def _flying_things(
    folder: Folder, split: str, passes: Sequence[str] = PASSES, directions: Sequence[str] = DIRECTIONS
) -> Iterator[Relative]:
    """Flow into the past leads from a frame to the one before it."""
    for name in passes:
        top = f"frames_{name}pass/{split.upper()}"
        for scene in (
            f"{top}/{letter}/{scene}" for letter in folder.folders(top) for scene in folder.folders(f"{top}/{letter}")
        ):
            for direction, pairs in _both_ways(folder.neighbours(f"{scene}/left", "", ".png"), directions):
                flows = f"optical_flow/{scene.split('/', 1)[1]}/{direction}/left"
                into = {"into_future": "OpticalFlowIntoFuture", "into_past": "OpticalFlowIntoPast"}[direction]
                folder.check(flows, (f"{into}_{source}_L.pfm" for source, _ in pairs), ".pfm")
                for source, target in pairs:
                    images = f"{scene}/left/{source}.png", f"{scene}/left/{target}.png"
                    yield Relative(f"{scene}/{direction}/{source}", *images, f"{flows}/{into}_{source}_L.pfm")


def _both_ways(
    forward: list[tuple[str, str]], directions: Sequence[str]
) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    for direction in directions:
        yield direction, forward if direction == "into_future" else [(later, earlier) for earlier, later in forward]


def _sintel(folder: Folder, split: str, passes: Sequence[str] = PASSES, *, invalid: bool = False) -> Iterator[Relative]:
    """``invalid`` excludes the pixels marked in ``training/invalid``; the published figures (RAFT, CroCo v2) include
    them.

    The sequences of "subval" are held out to choose checkpoints, the other 21 are "subtrain".
    """
    top = "test" if split == "test" else "training"
    for name in passes:
        for sequence in folder.folders(f"{top}/{name}"):
            if split in ("train", "test") or (split == "subval") == (sequence in ("temple_2", "temple_3")):
                yield from _sintel_sequence(folder, f"{top}/{name}/{sequence}", invalid)


def _sintel_sequence(folder: Folder, images: str, invalid: bool) -> Iterator[Relative]:
    top, name, sequence = images.split("/")
    numbers = folder.neighbours(images, "frame_", ".png")
    pairs = [(f"frame_{source}", f"frame_{target}") for source, target in numbers]
    below = {key: f"training/{key}/{sequence}" for key in ("flow", "occlusions", "invalid")}
    if top == "training":
        folder.check(below["flow"], (f"{source}.flo" for source, _ in pairs), ".flo")
    else:
        below = {}
    if "invalid" in below and invalid:
        folder.check(below["invalid"], (f"{source}.png" for source, _ in pairs), ".png")
    elif below:
        del below["invalid"]
    if "occlusions" in below and not folder.has(below["occlusions"]):
        del below["occlusions"]
    for source, target in pairs:
        yield Relative(
            f"{name}/{sequence}/{source}",
            f"{images}/{source}.png",
            f"{images}/{target}.png",
            *(
                f"{below[key]}/{source}.{end}" if key in below else ""
                for key, end in (("flow", "flo"), ("occlusions", "png"), ("invalid", "png"))
            ),
        )


def _kitti(folder: Folder, split: str, images: str) -> Iterator[Relative]:
    # In the multi-view download of 2015, the training images include frames 09 and 12.
    top = {"train": "training", "test": "testing"}[split]
    scenes = _numbered_scenes(folder, f"{top}/{images}")
    with_flow = split == "train"
    if with_flow:
        folder.check("training/flow_occ", (f"{scene}_10.png" for scene in scenes), ".png")
    visible = with_flow and folder.has("training/flow_noc")
    for scene in scenes:
        yield Relative(
            f"{scene}_10",
            f"{top}/{images}/{scene}_10.png",
            f"{top}/{images}/{scene}_11.png",
            f"training/flow_occ/{scene}_10.png" if with_flow else "",
            f"training/flow_noc/{scene}_10.png" if visible else "",
        )


def _numbered_scenes(folder: Folder, images: str) -> list[str]:
    """Scene numbers of files ``<scene>_10.png`` and ``<scene>_11.png``."""
    scenes = [name.removesuffix("_10.png") for name in folder.names(images, "_10.png")]
    folder.check(images, (f"{scene}_11.png" for scene in scenes), ".png")
    return scenes


def _kitti_2012(folder: Folder, split: str) -> Iterator[Relative]:
    return _kitti(folder, split, "colored_0")


def _kitti_2015(folder: Folder, split: str) -> Iterator[Relative]:
    return _kitti(folder, split, "image_2")


def _hd1k(folder: Folder, split: str) -> Iterator[Relative]:
    if split == "test":
        top = "hd1k_challenge/image_2"
        for scene in _numbered_scenes(folder, top):
            yield Relative(f"{scene}_10", f"{top}/{scene}_10.png", f"{top}/{scene}_11.png")
        return
    images, flows = "hd1k_input/image_2", "hd1k_flow_gt/flow_occ"
    names = folder.names(images, ".png")
    neighbours = [(one, other) for one, other in pairwise(names) if one.split("_")[0] == other.split("_")[0]]
    folder.check(flows, (source for source, _ in neighbours), ".png")
    for source, target in neighbours:
        yield Relative(source.removesuffix(".png"), f"{images}/{source}", f"{images}/{target}", f"{flows}/{source}")


def _tartanair(folder: Folder, split: str) -> Iterator[Relative]:
    # Flow is computed from depth and camera motion, so occluded pixels (which the masks mark too) have valid flow;
    # only pixels whose flow its authors clipped (mask 200 and above) are invalid. Unpacking doubles an environment's
    # folder.
    for environment in folder.folders("."):
        double = f"{environment}/{environment}"
        top = double if folder.has(double) else environment
        levels = [level for level in ("Easy", "Hard") if folder.has(f"{top}/{level}")]
        if not levels:
            raise folder.complain(f"{top}/Easy")
        for place in (f"{top}/{level}/{name}" for level in levels for name in folder.folders(f"{top}/{level}")):
            pairs = folder.neighbours(f"{place}/image_left", "", "_left.png")
            flows = [f"{source}_{target}" for source, target in pairs]
            folder.check(f"{place}/flow", (f"{name}_{end}.npy" for name in flows for end in ("flow", "mask")), ".npy")
            for (source, target), flow in zip(pairs, flows, strict=True):
                images = f"{place}/image_left/{source}_left.png", f"{place}/image_left/{target}_left.png"
                files = f"{place}/flow/{flow}_flow.npy", "", f"{place}/flow/{flow}_mask.npy"
                yield Relative(f"{place}/{source}", *images, *files)


def _spring(folder: Folder, split: str, directions: Sequence[str] = DIRECTIONS) -> Iterator[Relative]:
    """:func:`~midway_zoo.train.data.flow_pairs.read_sample` takes one of the four vectors of a pixel; the benchmark's
    server compares with all four, so figures on "train" are close to its own but not the same."""
    for top in (f"{split}/{sequence}" for sequence in folder.folders(split)):
        forward = folder.neighbours(f"{top}/frame_left", "frame_left_", ".png")
        for direction, pairs in _both_ways(forward, directions):
            prefix = "flow_FW_left" if direction == "into_future" else "flow_BW_left"
            if split == "train":
                folder.check(f"{top}/{prefix}", (f"{prefix}_{source}.flo5" for source, _ in pairs), ".flo5")
            for source, target in pairs:
                images = (
                    f"{top}/frame_left/frame_left_{source}.png",
                    f"{top}/frame_left/frame_left_{target}.png",
                )
                flow = f"{top}/{prefix}/{prefix}_{source}.flo5" if split == "train" else ""
                yield Relative(f"{top}/{direction}/{source}", *images, flow)


@dataclass(frozen=True)
class FlowDataset:
    """A published flow data set."""

    title: str
    short: tuple[str, ...]
    """Its name on the command line, and alternative names."""
    folders: tuple[str, ...]
    """Possible names of its folder, of which the first existing one is used; they include torchvision's."""
    layout: str
    """Description of the expected layout."""
    read: Callable[..., Iterator[Relative]]
    """Lists the pairs of a split; further arguments select among them."""
    splits: Mapping[str, int | None]
    """Split -> number of pairs when complete (per pass), if known."""
    kind: Kind = "dense"
    passes: tuple[str, ...] = ()
    """Rendering passes, which share the flow."""
    evaluated: str = "train"
    """The split for evaluation: one with flow, and if possible one that fine-tuning leaves out."""
    form: str | None = None
    """Form of submissions, a key of :data:`FORMS`; None if there is no server."""

    def files(self, root: Path, split: str, **options: Any) -> FlowFiles:
        """The pairs of a split; ``options`` are those of the lister.

        Raises:
            MissingFileError: if a folder or file is missing.
            InputError: if a list file of the data set is malformed.
        """
        title = self.title if len(self.splits) == 1 else f"{self.title} {split}"
        return FlowFiles(title, root, self.kind, self.read(Folder(self.title, root, self.layout), split, **options))


FORMS = {"sintel": "{}.flo", "kitti": "flow/{}.png"}
"""Form of a submission -> the file of a pair: for the bundler of Sintel's authors, for KITTI's server."""

_KITTI_LAYOUT = "{{training,testing}}/{0}/000000_10.png, 000000_11.png, ... and training/flow_occ/000000_10.png, ..."

DATASETS = {
    "sintel": FlowDataset(  # Butler et al. 2012; 1024 x 436 pixels
        "Sintel", ("sintel",), ("Sintel", "MPI-Sintel"),
        "training/{clean,final}/alley_1/frame_0001.png, ..., training/flow/alley_1/frame_0001.flo, ... and "
        "test/{clean,final}/...",
        _sintel, {"train": 1041, "subtrain": 943, "subval": 98, "test": 552}, passes=PASSES,
        evaluated="subval", form="sintel",
    ),
    "kitti_2012": FlowDataset(  # Geiger et al. 2012
        "KITTI-2012", ("kitti2012",), ("KITTI-2012",), _KITTI_LAYOUT.format("colored_0"),
        _kitti_2012, {"train": 194, "test": 195}, "sparse", form="kitti",
    ),
    "kitti_2015": FlowDataset(  # Menze & Geiger 2015; about 1242 x 375 pixels
        "KITTI-2015", ("kitti2015", "kitti"), ("KITTI-2015", "KittiFlow"), _KITTI_LAYOUT.format("image_2"),
        _kitti_2015, {"train": 200, "test": 200}, "sparse", form="kitti",
    ),
    "flying_things": FlowDataset(  # Mayer et al. 2016, left camera, 960 x 540; some vectors are NaN or beyond 10 000
        "FlyingThings3D", ("things",), ("FlyingThings3D", "FlyingThings"),
        "frames_{clean,final}pass/{TRAIN,TEST}/{A,B,C}/0000/left/0006.png, ... and "
        "optical_flow/{TRAIN,TEST}/{A,B,C}/0000/into_{future,past}/left/OpticalFlowInto{Future,Past}_0006_L.pfm, ...",
        _flying_things, {"train": 40302, "test": 7866}, passes=PASSES, evaluated="test",
    ),
    "flying_chairs": FlowDataset(  # Dosovitskiy et al. 2015; 512 x 384 pixels
        "FlyingChairs", ("chairs",), ("FlyingChairs", "FlyingChairs_release"),
        "data/00001_img1.ppm, data/00001_img2.ppm, data/00001_flow.flo, ... and FlyingChairs_train_val.txt, which is a "
        "download of its own.",
        _flying_chairs, {"train": 22232, "val": 640}, evaluated="val",
    ),
    "hd1k": FlowDataset(  # Kondermann et al. 2016; 2560 x 1080 pixels, neighbours in each of 36 sequences
        "HD1K", ("hd1k",), ("HD1K", "hd1k"),
        "hd1k_input/image_2/000000_0000.png, ..., hd1k_flow_gt/flow_occ/000000_0000.png, ... and "
        "hd1k_challenge/image_2/000000_10.png, ...",
        _hd1k, {"train": None, "test": None}, "sparse",
    ),
    "tartanair": FlowDataset(  # Wang et al. 2020, left camera, Easy and Hard; 640 x 480 pixels
        "TartanAir", ("tartanair",), ("TartanAir",),
        "abandonedfactory/abandonedfactory/{Easy,Hard}/P000/image_left/000000_left.png, ... and "
        "P000/flow/000000_000001_{flow,mask}.npy, ...",
        _tartanair, {"train": 306268},
    ),
    "spring": FlowDataset(  # Mehl et al. 2023, left camera; 1920 x 1080, flow at 3840 x 2160 in pixels of the images
        "Spring", ("spring",), ("Spring", "spring"),
        "{train,test}/0001/frame_left/frame_left_0001.png, ... and "
        "train/0001/flow_{FW,BW}_left/flow_{FW,BW}_left_0001.flo5, ...",
        _spring, {"train": None, "test": None}, "doubled",
    ),
}  # fmt: skip


class _Part(NamedTuple):
    dataset: str
    split: str
    options: dict[str, Any]
    pairs: int | None


def _parts() -> dict[str, _Part]:
    parts = {}
    for key, data in DATASETS.items():
        for split, pairs in data.splits.items():
            every = None if pairs is None else pairs * max(1, len(data.passes))
            parts[f"{key}_{split}"] = _Part(key, split, {}, every)
            for name in data.passes:
                parts[f"{key}_{name}_{split}"] = _Part(key, split, {"passes": (name,)}, pairs)
    return parts


PARTS = _parts()
"""Names of the parts of mixtures and evaluations: ``<data set>_<split>`` and ``<data set>_<pass>_<split>``."""


def list_part(name: str, root: str | Path | None, roots: Mapping[str, str] | None = None) -> FlowFiles:
    """The pairs of a part, with a warning if it is incomplete.

    Args:
        name: one of :data:`PARTS`.
        root: folder that holds the data sets under one of their usual names.
        roots: data set -> its own folder, if it is elsewhere.

    Raises:
        ConfigError: for an unknown part or data set, or without a folder.
        MissingFileError: if a folder or file is missing.
    """
    check_part(name)
    part = PARTS[name]
    files = DATASETS[part.dataset].files(find_dataset(part.dataset, root, roots), part.split, **part.options)
    if part.pairs not in (None, len(files)):
        _logger.warning("%s: %d pairs in %s, of %d when complete", name, len(files), files.root, part.pairs)
    return files


def check_part(name: str) -> None:
    """Raise :class:`ConfigError` unless there is such a part."""
    if name not in PARTS:
        raise ConfigError(
            f"there is no flow data {name!r}.{nearest(name, PARTS)} The parts are: {', '.join(sorted(PARTS))}."
        )


def dataset_key(name: str) -> str:
    """Key of a data set in :data:`DATASETS` from any of its names.

    Raises:
        ConfigError: for an unknown one.
    """
    key = name.replace("-", "_").lower()
    for known, data in DATASETS.items():
        if key == known or key in data.short:
            return known
    raise _unknown(name)


def _unknown(name: str) -> ConfigError:
    return ConfigError(f"there is no data set {name!r}.{nearest(name, DATASETS)} There are: {', '.join(DATASETS)}.")


def find_dataset(dataset: str, root: str | Path | None, roots: Mapping[str, str] | None = None) -> Path:
    """Folder of a data set; see :func:`list_part`.

    Raises:
        ConfigError: for an unknown data set, or without a folder.
        MissingFileError: if the folder does not exist.
    """
    for key in (dataset, *(roots or {})):
        if key not in DATASETS:
            raise _unknown(key)
    if roots and dataset in roots:
        own = Path(roots[dataset])
        if not own.is_dir():
            raise MissingFileError(f"{dataset}: there is no folder {own} (data.roots.{dataset}).")
        return own
    if root is None:
        raise ConfigError(f"where is {dataset}? Give data.root, the folder of data sets, or data.roots.{dataset}.")
    for name in DATASETS[dataset].folders:
        if (Path(root) / name).is_dir():
            return Path(root) / name
    names = " or ".join(DATASETS[dataset].folders)
    raise MissingFileError(
        f"{dataset}: there is no folder {names} in {root}. If it is elsewhere: data.roots.{dataset}=PATH"
    )
