"""Pairs with flow in a custom folder."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from midway_zoo.errors import DataError, MissingFileError
from midway_zoo.inference.folders import frame_files, natural_key
from midway_zoo.train.data.flow_files import FlowFiles, Relative

FRAMES, FLOW = "frames", "flow"
ENDINGS = (".flo", ".png", ".pfm", ".npy", ".flo5")
LAYOUT = f"{FRAMES}/0001.png, ... and {FLOW}/0001.flo, ..., or CLIP/{FRAMES}/ and CLIP/{FLOW}/ of several clips"


def own_pairs(root: str | Path) -> dict[str, FlowFiles]:
    """Consecutive frames of clips, in natural order, whose flow is known; by clip.

    Args:
        root: folder with ``frames/`` and ``flow/``, or with folders that have them. A flow file leads from the frame of
            the same name to the next one; frames without flow are skipped. If no names match, there must be a flow file
            for every frame except the last, and they are matched by order.

    Raises:
        MissingFileError: if folders are missing.
        DataError: if frames and flow do not match.
    """
    root = Path(root)
    if not root.is_dir():
        raise MissingFileError(f"there is no folder {root}.")
    clips = [root] if (root / FRAMES).is_dir() else sorted(path.parent for path in root.glob(f"*/{FRAMES}"))
    if not clips:
        raise MissingFileError(f"{root} holds no frames. Expected: {LAYOUT}.")
    found = {}
    for clip in clips:
        pairs = list(_pairs(clip))
        sparse = all(pair.flow.lower().endswith(".png") for pair in pairs)  # KITTI's format holds measured points
        found[clip.name] = FlowFiles(clip.name, clip, "sparse" if sparse else "dense", pairs)
    return found


def _pairs(clip: Path) -> Iterator[Relative]:
    folder = clip / FLOW
    if not folder.is_dir():
        raise MissingFileError(f"there is no folder {folder}. Expected: {LAYOUT}.")
    frames = frame_files(clip / FRAMES)
    flows = sorted(
        (path.name for path in folder.iterdir() if path.suffix.lower() in ENDINGS and path.name[0] != "."),
        key=natural_key,
    )
    named = {Path(name).stem: name for name in flows}
    if len(named) < len(flows):
        raise DataError(f"{folder} holds two files of one name: one flow file for a frame is expected.")
    stems = [Path(name).stem for name in frames]
    if not named.keys() & set(stems[:-1]):
        if len(flows) != len(frames) - 1:
            raise DataError(
                f"{folder}: {len(flows)} flow files, {len(frames)} frames, and no name in common; name a flow file as "
                "the frame that it starts from, or give one for every frame but the last."
            )
        named = dict(zip(stems[:-1], flows, strict=True))
    if strangers := sorted(named.keys() - set(stems[:-1])):
        raise DataError(f"{folder / named[strangers[0]]} belongs to no frame that has another after it.")
    for (source, target), stem in zip(pairwise(frames), stems[:-1], strict=True):
        if stem in named:
            yield Relative(stem, f"{FRAMES}/{source}", f"{FRAMES}/{target}", f"{FLOW}/{named[stem]}")
