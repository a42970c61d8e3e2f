"""DAVIS-2017 in its published layout, and evaluation of label propagation on it (Pont-Tuset et al., 2017)."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from midway_zoo.bars import bar
from midway_zoo.errors import DataError, InputError, MissingFileError
from midway_zoo.files import atomic, make_folder
from midway_zoo.inference.folders import frame_files
from midway_zoo.inference.image_files import read_labels
from midway_zoo.inference.images import reading
from midway_zoo.readouts.backbone import BackboneLike, load_backbone
from midway_zoo.readouts.masks import sequence_scores
from midway_zoo.readouts.propagation import PropagationOptions, propagate_labels

VOID = 255
"""Label of pixels that belong to no object; the benchmark's code counts them as background."""


@dataclass(frozen=True)
class Sequence2017:
    """One clip of DAVIS-2017, with a mask for every frame."""

    name: str
    frames: tuple[Path, ...]
    masks: tuple[Path, ...]


@dataclass(frozen=True)
class DavisResult:
    """Scores J, F and J&F, in [0, 1]."""

    objects: dict[str, dict[int, dict[str, float]]]
    """sequence -> object -> "J" and "F", means over all frames except the first and the last."""

    def sequences(self) -> dict[str, dict[str, float]]:
        """sequence -> "J", "F" and "J&F", means over its objects."""
        return {name: _mean(list(scores.values())) for name, scores in self.objects.items()}

    def mean(self) -> dict[str, float]:
        """ "J", "F" and "J&F": means over all objects of all sequences, by which the benchmark ranks."""
        return _mean([scores for found in self.objects.values() for scores in found.values()])


def _mean(scores: Sequence[dict[str, float]]) -> dict[str, float]:
    j, f = (sum(each[name] for each in scores) / len(scores) for name in ("J", "F"))
    return {"J&F": (j + f) / 2, "J": j, "F": f}


def list_davis(root: str | Path, split: str = "val", *, resolution: str = "480p") -> list[Sequence2017]:
    """The sequences of a split.

    Args:
        root: folder with ``JPEGImages/480p/SEQ``, ``Annotations/480p/SEQ`` and ``ImageSets/2017/SPLIT.txt``.
        split: train, val, or any other existing list.
        resolution: folder below ``JPEGImages`` and ``Annotations``.

    Raises:
        MissingFileError: if a folder, the list, or the mask of a frame is missing (those of "test-dev" are not public).
        DataError: if the list is empty, or a sequence has fewer than three frames.
    """
    root = Path(root)
    listing = root / "ImageSets" / "2017" / f"{split}.txt"
    if not listing.is_file():
        known = ", ".join(sorted(path.stem for path in listing.parent.glob("*.txt"))) or "none"
        raise MissingFileError(f"there is no {listing}; lists that are there: {known}.")
    names = listing.read_text(encoding="utf-8").split()
    if not names:
        raise DataError(f"{listing} names no sequence.")
    return [_sequence(root, name, resolution) for name in names]


def _sequence(root: Path, name: str, resolution: str) -> Sequence2017:
    images, masks = (root / part / resolution / name for part in ("JPEGImages", "Annotations"))
    for folder in (images, masks):
        if not folder.is_dir():
            raise MissingFileError(f"there is no folder {folder}.")
    frames = tuple(images / file for file in frame_files(images))
    truth = tuple(masks / f"{frame.stem}.png" for frame in frames)
    if missing := [path for path in truth if not path.is_file()]:
        raise MissingFileError(f"there is no mask {missing[0]} ({len(missing)} of {len(truth)} are missing).")
    if len(frames) < 3:
        raise DataError(f"{images} holds {len(frames)} frame(s); the benchmark counts from three on.")
    return Sequence2017(name, frames, truth)


def evaluate_davis(
    model: BackboneLike,
    root: str | Path,
    *,
    split: str = "val",
    options: PropagationOptions | None = None,
    limit: int | None = None,
    masks: Path | None = None,
) -> DavisResult:
    """Propagate the first frame's labels through every sequence and score the other frames (the semi-supervised task).

    Args:
        model: a network or a name, of this zoo or of timm ("timm:NAME").
        root: see :func:`list_davis`.
        split: which sequences.
        options: options of the propagation.
        limit: evaluate only this many sequences, the first ones.
        masks: folder to write the label maps to, ``SEQ/00000.png``, with the palette of the annotations; existing files
            are replaced.

    Raises:
        MissingFileError, DataError: if files are missing.
        InputError: if one cannot be read, or sizes differ.
    """
    backbone = load_backbone(model)
    objects = {}
    for sequence in bar(list_davis(root, split)[:limit], unit=" sequences"):
        first, palette = read_mask(sequence.masks[0])
        found = propagate_labels(backbone, _paths(sequence.frames), _without_void(first), options=options)
        if masks is not None:
            make_folder(masks / sequence.name)
            paths = [masks / sequence.name / path.name for path in sequence.masks]
            found = _written(found, paths, palette)
        truth = [_without_void(read_mask(path)[0]).to(torch.uint8) for path in sequence.masks]
        count = int(truth[0].max())  # objects missing in the first mask do not count, as in the benchmark's own code
        if count == 0:
            raise InputError(f"{sequence.masks[0]} shows no object.")
        objects[sequence.name] = sequence_scores(found, truth, count)
    return DavisResult(objects)


def _paths(frames: Iterable[Path]) -> Iterator[Path]:
    yield from frames


def _written(found: Iterable[Tensor], paths: Sequence[Path], palette: bytes) -> Iterator[Tensor]:
    for labels, path in zip(found, paths, strict=True):
        write_mask(path, labels, palette, overwrite=True)
        yield labels


def _without_void(labels: Tensor) -> Tensor:
    return labels.where(labels != VOID, 0)


def read_mask(path: str | Path) -> tuple[Tensor, bytes]:
    """A mask of object numbers and its palette.

    Args:
        path: a PNG with a palette, as in DAVIS, or with a single channel of whole numbers.

    Returns:
        (H, W) int64, and 768 bytes: the palette's colours, RGB; DAVIS's own if the file has none.

    Raises:
        MissingFileError, InputError: if it cannot be read, or a value is above 255.
    """
    path = Path(path)
    labels = read_labels(path)
    if labels.size and int(labels.max()) > VOID:
        raise InputError(f"{path} has the value {int(labels.max())}; object numbers up to {VOID} are expected.")
    with reading(path), Image.open(path) as image:
        colours = bytes(image.getpalette() or []) if image.mode == "P" else b""
    own = davis_palette()
    return torch.from_numpy(labels.astype(np.int64)), colours + own[len(colours) :]


def write_mask(path: Path, labels: Tensor, palette: bytes | None = None, *, overwrite: bool = False) -> None:
    """Write object numbers (H, W), 0 to 255, as a PNG with a palette (None: DAVIS's)."""
    values: npt.NDArray[np.uint8] = labels.cpu().numpy().astype(np.uint8)
    image = Image.fromarray(values).convert("L")
    image.putpalette(palette or davis_palette())
    with atomic(path, overwrite=overwrite) as temporary:
        image.save(temporary, format="PNG")


def davis_palette() -> bytes:
    """768 bytes: DAVIS's (and PASCAL VOC's) colours, in which bits of the number make the channels."""
    number = np.arange(256)
    colours = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= (((number >> channel) & 1) << (7 - bit)).astype(np.uint8)
        number = number >> 3
    return colours.tobytes()
