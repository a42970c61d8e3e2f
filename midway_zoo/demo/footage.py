"""What the demo looks at: a few frames at a size that bounds its time."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.resources import as_file, files
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from midway_zoo.errors import InputError
from midway_zoo.inference.frames import check_same_size, open_frames
from midway_zoo.inference.images import resize, to_tensor
from midway_zoo.results import ShapeRepr

SIDE = 128
"""Shorter side in pixels to which larger frames are reduced."""
MAX_FRAMES = 16
_LONGEST = 4  # times the shorter side


@dataclass(frozen=True, repr=False, eq=False)
class Footage(ShapeRepr):
    """T frames, and what is known about them."""

    name: str
    frames: Tensor
    """(T, 3, H, W) float32 in [0, 1], at the size that is worked at; everything below is in pixels of these."""
    given: tuple[int, int]
    """Height and width of the frames as they were read."""
    labels: Sequence[str]
    """T names of frames, to be printed with them."""
    flow: Tensor | None = None
    """(T - 1, 2, H, W): the true flow of neighbours."""
    occlusion: Tensor | None = None
    """(T - 1, H, W) bool: source pixels that are not seen in the next frame."""
    points: Tensor | None = None
    """(n, 2): points (x, y) of the first frame that are worth following; None: not known."""

    def __len__(self) -> int:
        return len(self.frames)


def read_pair(first: Path, second: Path) -> Footage:
    """Two images.

    Raises:
        MissingFileError: if one does not exist.
        InputError: if one is no image, or their sizes differ.
    """
    images = [to_tensor(path) for path in (first, second)]
    sizes = [f"{image.shape[2]} x {image.shape[1]}" for image in images]
    if sizes[0] != sizes[1]:
        raise InputError(
            f"{first} has {sizes[0]} pixels and {second} has {sizes[1]} (width x height): two frames of one scene "
            "have one size. Crop or resize one of them."
        )
    labels = [f"{name}: {path.name}" for name, path in (("A", first), ("B", second))]
    frames = torch.stack([_reduced(image, first.name) for image in images])
    return Footage(f"{first.name} and {second.name}", frames, (images[0].shape[1], images[0].shape[2]), labels)


def packaged_clip() -> Footage:
    """The real clip of the package: six frames of a toy on a table, by a hand-held camera (see clip/README.md)."""
    folder = files("midway_zoo.demo") / "clip"
    entries = sorted((entry for entry in folder.iterdir() if entry.name.endswith(".jpg")), key=lambda one: one.name)
    with ExitStack() as stack:
        frames = torch.stack([to_tensor(stack.enter_context(as_file(entry))) for entry in entries])
    labels = [f"{0.2 * index:.1f} s" for index in range(len(frames))]
    return Footage("a real clip", frames, (frames.shape[2], frames.shape[3]), labels)


def read_clip(path: Path, frames: int, fps: float | None) -> Footage:
    """The first frames of a video at a rate of ``fps``, or of a folder of frames all of the first.

    Args:
        path: of the video or folder.
        frames: how many to take at most.
        fps: frames per second to take; None for a folder.

    Raises:
        MissingFileError: if it does not exist.
        MissingExtraError: for a video without PyAV.
        InputError: if it cannot be read, gives less than two frames, or its frames differ in size.
    """
    images: list[Tensor] = []
    times: list[float | None] = []
    given: tuple[int, int] | None = None
    for frame in islice(open_frames(path, fps=fps), frames):
        given = given or (frame.image.shape[1], frame.image.shape[2])
        check_same_size(frame.image, given)
        images.append(_reduced(frame.image, path.name))
        times.append(frame.pts_seconds)
    if given is None or len(images) < 2:
        at = "" if fps is None else f" at {fps:g} frames per second; pass a higher --fps"
        raise InputError(f"{path} gave {len(images)} frame{at}. At least two are needed.")
    start = times[0] or 0.0
    labels = [
        f"frame {index}" if seconds is None else f"{seconds - start:.2f} s" for index, seconds in enumerate(times)
    ]
    return Footage(path.name, torch.stack(images), given, labels)


def _reduced(image: Tensor, name: str) -> Tensor:
    """The image with a shorter side of at most ``SIDE``, never enlarged."""
    height, width = image.shape[1:]
    if max(height, width) > _LONGEST * min(height, width):
        raise InputError(
            f"{name} has {width} x {height} pixels (width x height): the demo draws pictures up to {_LONGEST} times "
            "as long as wide. Crop it."
        )
    factor = min(1.0, SIDE / min(height, width))
    return resize(image, (round(height * factor), round(width * factor)))
