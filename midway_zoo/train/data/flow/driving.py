"""Recorded driving data with sparse flow from laser scans: KITTI 2012 and 2015, HD1K."""

from itertools import pairwise
from pathlib import Path
from typing import Literal

from midway_zoo.train.data.flow.entries import FlowFiles, Folder, Relative


def kitti_2015(root: Path, split: Literal["train", "test"]) -> FlowFiles:
    """KITTI 2015 (Menze & Geiger): 200 pairs each in "train" and, without flow, in "test"; about 1242 x 375 pixels.

    Args:
        root: holds ``training`` and ``testing``.
        split: which pairs.

    Raises:
        MissingFileError: if a folder, the second image or the flow of a pair is missing.
    """
    return _kitti("KITTI-2015", root, split, "image_2")


def kitti_2012(root: Path, split: Literal["train", "test"]) -> FlowFiles:
    """KITTI 2012 (Geiger et al.), colour images: 194 pairs in "train", 195 without flow in "test".

    Args:
        root: holds ``training`` and ``testing``.
        split: which pairs.

    Raises:
        MissingFileError: if a folder, the second image or the flow of a pair is missing.
    """
    return _kitti("KITTI-2012", root, split, "colored_0")


def _kitti(title: str, root: Path, split: str, images: str) -> FlowFiles:
    folder = Folder(
        title, root, f"{{training,testing}}/{images}/000000_10.png, 000000_11.png, ... and "
        "training/flow_occ/000000_10.png, ..."
    )  # fmt: skip
    top = {"train": "training", "test": "testing"}[split]
    # 2015's training images have frames 09 and 12 too in the multi-view download.
    scenes = [name.removesuffix("_10.png") for name in folder.names(f"{top}/{images}", "_10.png")]
    folder.check(f"{top}/{images}", (f"{scene}_11.png" for scene in scenes), ".png")
    with_flow = split == "train"
    if with_flow:
        folder.check("training/flow_occ", (f"{scene}_10.png" for scene in scenes), ".png")
    visible = with_flow and folder.has("training/flow_noc")
    entries = (
        Relative(
            f"{scene}_10",
            f"{top}/{images}/{scene}_10.png",
            f"{top}/{images}/{scene}_11.png",
            f"training/flow_occ/{scene}_10.png" if with_flow else "",
            f"training/flow_noc/{scene}_10.png" if visible else "",
        )
        for scene in scenes
    )
    return FlowFiles(f"{title} {split}", root, "sparse", entries)


def hd1k(root: Path, split: Literal["train", "test"]) -> FlowFiles:
    """HD1K (Kondermann et al. 2016), 2560 x 1080 pixels: neighbours in each of the 36 sequences; "test" has no flow.

    Args:
        root: holds ``hd1k_input``, ``hd1k_flow_gt`` and ``hd1k_challenge``.
        split: which pairs.

    Raises:
        MissingFileError: if a folder or the flow of a pair is missing.
    """
    folder = Folder(
        "HD1K", root, "hd1k_input/image_2/000000_0000.png, ..., hd1k_flow_gt/flow_occ/000000_0000.png, ... and "
        "hd1k_challenge/image_2/000000_10.png, ..."
    )  # fmt: skip
    if split == "test":
        top = "hd1k_challenge/image_2"
        scenes = [name.removesuffix("_10.png") for name in folder.names(top, "_10.png")]
        folder.check(top, (f"{scene}_11.png" for scene in scenes), ".png")
        pairs = (Relative(f"{scene}_10", f"{top}/{scene}_10.png", f"{top}/{scene}_11.png") for scene in scenes)
        return FlowFiles("HD1K test", root, "sparse", pairs)
    images, flows = "hd1k_input/image_2", "hd1k_flow_gt/flow_occ"
    names = folder.names(images, ".png")
    neighbours = [(one, other) for one, other in pairwise(names) if one.split("_")[0] == other.split("_")[0]]
    folder.check(flows, (source for source, _ in neighbours), ".png")
    entries = (
        Relative(source.removesuffix(".png"), f"{images}/{source}", f"{images}/{target}", f"{flows}/{source}")
        for source, target in neighbours
    )
    return FlowFiles("HD1K train", root, "sparse", entries)
