"""Rendered data sets, as their authors pack them: FlyingChairs, FlyingThings3D, Sintel, TartanAir, Spring.

torchvision lists some of them too, by position instead of by name (a missing file shifts all that follow), in the order
of the file system, and without a choice of sequences.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

from midway_zoo.errors import InputError
from midway_zoo.train.data.flow.entries import FlowFiles, Folder, Relative

Pass: TypeAlias = Literal["clean", "final"]
Direction: TypeAlias = Literal["into_future", "into_past"]

SINTEL_SUBVAL = ("temple_2", "temple_3")
"""Sequences that are held out to choose checkpoints: 98 pairs per pass. The other 21 are "subtrain": 943 pairs."""
_DIRECTIONS: tuple[Direction, ...] = ("into_future", "into_past")


def flying_chairs(root: Path, split: Literal["train", "val"]) -> FlowFiles:
    """FlyingChairs (Dosovitskiy et al. 2015): 22 232 pairs in "train", 640 in "val"; 512 x 384 pixels.

    Args:
        root: holds ``data`` and the authors' ``FlyingChairs_train_val.txt``.
        split: which pairs.

    Raises:
        MissingFileError: if a file is missing.
        InputError: if the split file is not a list of 1 (train) and 2 (val), one per pair.
    """
    folder = Folder(
        "FlyingChairs", root, "data/00001_img1.ppm, data/00001_img2.ppm, data/00001_flow.flo, ... and "
        "FlyingChairs_train_val.txt, which is a download of its own."
    )  # fmt: skip
    if not folder.has("FlyingChairs_train_val.txt"):
        raise folder.complain("FlyingChairs_train_val.txt")
    marks = (root / "FlyingChairs_train_val.txt").read_text(encoding="utf-8").split()
    if not set(marks) <= {"1", "2"}:
        raise InputError(f"{root / 'FlyingChairs_train_val.txt'}: lines of 1 (train) and 2 (val) are expected.")
    wanted = {"train": "1", "val": "2"}[split]
    numbers = [f"{number:05d}" for number, mark in enumerate(marks, 1) if mark == wanted]
    folder.check("data", (f"{number}_{end}" for number in numbers for end in ("img1.ppm", "img2.ppm", "flow.flo")))
    entries = (
        Relative(number, f"data/{number}_img1.ppm", f"data/{number}_img2.ppm", f"data/{number}_flow.flo")
        for number in numbers
    )
    return FlowFiles(f"FlyingChairs {split}", root, "dense", entries)


def flying_things(
    root: Path,
    split: Literal["train", "test"],
    passes: Sequence[Pass] = ("clean", "final"),
    directions: Sequence[Direction] = _DIRECTIONS,
) -> FlowFiles:
    """FlyingThings3D (Mayer et al. 2016), left camera: 80 604 pairs in "train", 15 732 in "test"; 960 x 540 pixels.

    Flow into the past leads from a frame to the one before it. Some vectors are NaN or beyond 10 000 pixels.

    Args:
        root: holds ``frames_cleanpass``, ``frames_finalpass`` and ``optical_flow``.
        split: which scenes.
        passes: renderings, each with the same flow.
        directions: of time.

    Raises:
        MissingFileError: if a folder or the flow of a pair is missing.
    """
    folder = Folder(
        "FlyingThings3D", root, "frames_{clean,final}pass/{TRAIN,TEST}/{A,B,C}/0000/left/0006.png, ... and "
        "optical_flow/{TRAIN,TEST}/{A,B,C}/0000/into_{future,past}/left/OpticalFlowInto{Future,Past}_0006_L.pfm, ..."
    )  # fmt: skip
    entries: list[Relative] = []
    for name in passes:
        top = f"frames_{name}pass/{split.upper()}"
        for letter in folder.folders(top):
            for scene in folder.folders(f"{top}/{letter}"):
                entries += _things_scene(folder, f"{top}/{letter}/{scene}", directions)
    return FlowFiles(f"FlyingThings3D {split}", root, "dense", entries)


def _things_scene(folder: Folder, scene: str, directions: Sequence[Direction]) -> Iterator[Relative]:
    forward = folder.neighbours(f"{scene}/left", "", ".png")
    below = scene.split("/", 1)[1]
    for direction in directions:
        flows = f"optical_flow/{below}/{direction}/left"
        into = {"into_future": "OpticalFlowIntoFuture", "into_past": "OpticalFlowIntoPast"}[direction]
        pairs = forward if direction == "into_future" else [(later, earlier) for earlier, later in forward]
        folder.check(flows, (f"{into}_{source}_L.pfm" for source, _ in pairs), ".pfm")
        for source, target in pairs:
            yield Relative(
                f"{scene}/{direction}/{source}",
                f"{scene}/left/{source}.png",
                f"{scene}/left/{target}.png",
                f"{flows}/{into}_{source}_L.pfm",
            )


def sintel(
    root: Path,
    split: Literal["train", "subtrain", "subval", "test"],
    passes: Sequence[Pass] = ("clean", "final"),
    *,
    invalid: bool = False,
) -> FlowFiles:
    """MPI Sintel (Butler et al. 2012): per pass 1041 pairs in "train", of which 943 are "subtrain" and 98 "subval",
    and 552 without flow in "test"; 1024 x 436 pixels.

    Args:
        root: holds ``training`` and ``test``.
        split: which sequences.
        passes: renderings, each with the same flow.
        invalid: leave out the pixels that ``training/invalid`` marks. The published figures (RAFT, CroCo v2) count
            all pixels.

    Raises:
        MissingFileError: if a folder or the flow of a pair is missing.
    """
    folder = Folder(
        "Sintel", root, "training/{clean,final}/alley_1/frame_0001.png, ..., training/flow/alley_1/frame_0001.flo, "
        "... and test/{clean,final}/..."
    )  # fmt: skip
    top = "test" if split == "test" else "training"
    entries: list[Relative] = []
    for name in passes:
        for sequence in folder.folders(f"{top}/{name}"):
            if split in ("train", "test") or (split == "subval") == (sequence in SINTEL_SUBVAL):
                entries += _sintel_sequence(folder, top, name, sequence, invalid)
    return FlowFiles(f"Sintel {split}", root, "dense", entries)


def _sintel_sequence(folder: Folder, top: str, name: str, sequence: str, invalid: bool) -> Iterator[Relative]:
    numbers = folder.neighbours(f"{top}/{name}/{sequence}", "frame_", ".png")
    pairs = [(f"frame_{source}", f"frame_{target}") for source, target in numbers]
    with_flow = top == "training"
    if with_flow:
        folder.check(f"training/flow/{sequence}", (f"{source}.flo" for source, _ in pairs), ".flo")
    if invalid and with_flow:
        folder.check(f"training/invalid/{sequence}", (f"{source}.png" for source, _ in pairs), ".png")
    occlusions = with_flow and folder.has(f"training/occlusions/{sequence}")
    for source, target in pairs:
        yield Relative(
            f"{name}/{sequence}/{source}",
            f"{top}/{name}/{sequence}/{source}.png",
            f"{top}/{name}/{sequence}/{target}.png",
            f"training/flow/{sequence}/{source}.flo" if with_flow else "",
            f"training/occlusions/{sequence}/{source}.png" if occlusions else "",
            f"training/invalid/{sequence}/{source}.png" if invalid and with_flow else "",
        )


def tartanair(root: Path) -> FlowFiles:
    """TartanAir (Wang et al. 2020), left camera, Easy and Hard: 306 268 pairs; 640 x 480 pixels.

    Flow follows from depth and the camera's motion, so occluded pixels (which the masks mark too) have it; only pixels
    whose flow its authors cut off (mask 200 and above) are invalid.

    Args:
        root: holds a folder per environment, with or without the second one of the same name that unpacking makes.

    Raises:
        MissingFileError: if a folder or the flow of a pair is missing.
    """
    folder = Folder(
        "TartanAir", root, "abandonedfactory/abandonedfactory/{Easy,Hard}/P000/image_left/000000_left.png, ... and "
        "P000/flow/000000_000001_{flow,mask}.npy, ..."
    )  # fmt: skip
    entries: list[Relative] = []
    for environment in folder.folders("."):
        double = f"{environment}/{environment}"
        top = double if folder.has(double) else environment
        levels = [level for level in ("Easy", "Hard") if folder.has(f"{top}/{level}")]
        if not levels:
            raise folder.complain(f"{top}/Easy")
        for level in levels:
            for trajectory in folder.folders(f"{top}/{level}"):
                entries += _tartanair_trajectory(folder, f"{top}/{level}/{trajectory}")
    return FlowFiles("TartanAir", root, "dense", entries)


def _tartanair_trajectory(folder: Folder, top: str) -> Iterator[Relative]:
    pairs = folder.neighbours(f"{top}/image_left", "", "_left.png")
    ends = ("flow", "mask")
    folder.check(f"{top}/flow", (f"{one}_{other}_{end}.npy" for one, other in pairs for end in ends), ".npy")
    for source, target in pairs:
        yield Relative(
            f"{top}/{source}",
            f"{top}/image_left/{source}_left.png",
            f"{top}/image_left/{target}_left.png",
            f"{top}/flow/{source}_{target}_flow.npy",
            mask=f"{top}/flow/{source}_{target}_mask.npy",
        )


def spring(root: Path, split: Literal["train", "test"], directions: Sequence[Direction] = _DIRECTIONS) -> FlowFiles:
    """Spring (Mehl et al. 2023), left camera; 1920 x 1080 pixels, flow at 3840 x 2160 but in pixels of the images.

    :func:`~midway_zoo.train.data.flow.reading.read_sample` takes one of the four vectors of a pixel; the benchmark's
    server compares with all four, so figures on "train" are close to its own but not the same.

    Args:
        root: holds ``train`` and ``test``.
        split: "test" has no flow.
        directions: "into_future" is the data set's FW, "into_past" its BW.

    Raises:
        MissingFileError: if a folder or the flow of a pair is missing.
    """
    folder = Folder(
        "Spring", root, "{train,test}/0001/frame_left/frame_left_0001.png, ... and "
        "train/0001/flow_{FW,BW}_left/flow_{FW,BW}_left_0001.flo5, ..."
    )  # fmt: skip
    entries: list[Relative] = []
    for sequence in folder.folders(split):
        entries += _spring_sequence(folder, f"{split}/{sequence}", directions, with_flow=split == "train")
    return FlowFiles(f"Spring {split}", root, "doubled", entries)


def _spring_sequence(
    folder: Folder, top: str, directions: Iterable[Direction], *, with_flow: bool
) -> Iterator[Relative]:
    forward = folder.neighbours(f"{top}/frame_left", "frame_left_", ".png")
    for direction in directions:
        prefix = "flow_FW_left" if direction == "into_future" else "flow_BW_left"
        pairs = forward if direction == "into_future" else [(later, earlier) for earlier, later in forward]
        if with_flow:
            folder.check(f"{top}/{prefix}", (f"{prefix}_{source}.flo5" for source, _ in pairs), ".flo5")
        for source, target in pairs:
            yield Relative(
                f"{top}/{direction}/{source}",
                f"{top}/frame_left/frame_left_{source}.png",
                f"{top}/frame_left/frame_left_{target}.png",
                f"{top}/{prefix}/{prefix}_{source}.flo5" if with_flow else "",
            )
