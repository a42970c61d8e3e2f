"""The frames of the demo: few, and of a size that bounds its running time."""

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
from midway_zoo.scenes import SceneGenerator, ScenesConfig

SIDE = 128
"""Shorter side in pixels to which larger frames are reduced."""
MAX_FRAMES = 16
_LONGEST = 4  # longest side, in units of the shorter one
_SEED, _SCENE = 2026, 7  # this seed is used neither in training nor in validation


@dataclass(frozen=True, repr=False, eq=False)
class Footage(ShapeRepr):
    """T frames and the ground truth about them, if there is any."""

    name: str
    frames: Tensor
    """(T, 3, H, W) float32 in [0, 1], at their working size; everything below is in pixels of these."""
    given: tuple[int, int]
    """Height and width of the frames as they were read."""
    labels: Sequence[str]
    """T captions of the frames."""
    flow: Tensor | None = None
    """(T - 1, 2, H, W): the true flow from each frame to the next."""
    occlusion: Tensor | None = None
    """(T - 1, H, W) bool: source pixels that are not seen in the next frame."""
    points: Tensor | None = None
    """(n, 2): points (x, y) of the first frame that are worth tracking; None if unknown."""

    def __len__(self) -> int:
        return len(self.frames)


def read_pair(first: Path, second: Path, side: int = SIDE) -> Footage:
    """Two images; see :func:`read_images`."""
    return read_images((first, second), side)


def read_images(paths: Sequence[Path], side: int = SIDE) -> Footage:
    """Frames of one scene in image files, in the given order.

    Args:
        paths: two or more.
        side: shorter side in pixels to which larger images are reduced.

    Raises:
        MissingFileError: if one does not exist.
        InputError: if one is not an image, or their sizes differ.
    """
    given: tuple[int, int] | None = None
    frames = []
    for path in paths:
        image = to_tensor(path)
        size = (image.shape[1], image.shape[2])
        given = given or size
        if size != given:
            raise InputError(
                f"{paths[0]} has {given[1]} x {given[0]} pixels and {path} has {size[1]} x {size[0]} (width x height): "
                "the frames of a scene must have the same size. Crop or resize one of them."
            )
        frames.append(_reduced(image, path.name, side))
    assert given is not None
    if len(paths) == 2:
        name = f"{paths[0].name} and {paths[1].name}"
        return Footage(
            name, torch.stack(frames), given, [f"{one}: {path.name}" for one, path in zip("AB", paths, strict=True)]
        )
    return Footage(f"{len(paths)} pictures", torch.stack(frames), given, [path.name for path in paths])


def packaged_clip() -> Footage:
    """The real clip of the package: six frames of a toy on a table, filmed with a hand-held camera (see
    clip/README.md)."""
    folder = files("midway_zoo.demo") / "clip"
    entries = sorted((entry for entry in folder.iterdir() if entry.name.endswith(".jpg")), key=lambda one: one.name)
    with ExitStack() as stack:
        frames = torch.stack([to_tensor(stack.enter_context(as_file(entry))) for entry in entries])
    labels = [f"{0.2 * index:.1f} s" for index in range(len(frames))]
    return Footage("a real clip", frames, (frames.shape[2], frames.shape[3]), labels)


def generated_clip(frames: int) -> "Footage":
    """A scene of textured objects whose motions change over the clip, with its ground truth."""
    config = ScenesConfig(
        height=96,
        width=96,
        frames=frames,
        objects=(4, 5),
        size=(0.14, 0.28),
        motion=9.0,
        rotation=8.0,
        zoom=0.02,
        camera=3.0,
        camera_zoom=0.01,
        acceleration=1.0,
        textures="natural",  # in textures that repeat, motion is ambiguous
        natural=8,
        texture_size=160,
    )
    scene = SceneGenerator(config, seed=_SEED).render([_SCENE])
    instances = scene.instances[0, 0]
    centres = []
    for instance in instances.unique().tolist():
        places = (instances == instance).nonzero().flip(1).float()
        if instance and len(places) >= config.height * config.width // 100:
            # The pixel of the object that is nearest to its centre, since a ring's centre is not part of it.
            nearest = places[(places - places.mean(dim=0)).norm(dim=1).argmin()]
            centres.append((len(places), nearest))
    centres.sort(key=lambda one: -one[0])  # the largest object's point is the one that heat maps show
    return Footage(
        name="generated clip",
        frames=scene.frames[0],
        given=(config.height, config.width),
        labels=[f"frame {index}" for index in range(frames)],
        flow=scene.flow[0],
        occlusion=scene.occlusion[0],
        points=torch.stack([centre for _, centre in centres]),
    )


def read_clip(path: Path, frames: int, fps: float | None, side: int = SIDE) -> Footage:
    """The first frames of a video, taken at ``fps``, or of a folder of frames.

    Args:
        path: of the video or folder.
        frames: largest number of frames to take.
        fps: frames per second to take; None for a folder.
        side: shorter side in pixels to which larger frames are reduced.

    Raises:
        MissingFileError: if it does not exist.
        MissingExtraError: for a video without PyAV.
        InputError: if it cannot be read, gives fewer than two frames, or its frames differ in size.
    """
    images: list[Tensor] = []
    times: list[float | None] = []
    given: tuple[int, int] | None = None
    for frame in islice(open_frames(path, fps=fps), frames):
        given = given or (frame.image.shape[1], frame.image.shape[2])
        check_same_size(frame.image, given)
        images.append(_reduced(frame.image, path.name, side))
        times.append(frame.pts_seconds)
    if given is None or len(images) < 2:
        at = "" if fps is None else f" at {fps:g} frames per second; pass a higher --fps"
        raise InputError(f"{path} gave {len(images)} frame{at}. At least two are needed.")
    start = times[0] or 0.0
    labels = [
        f"frame {index}" if seconds is None else f"{seconds - start:.2f} s" for index, seconds in enumerate(times)
    ]
    return Footage(path.name, torch.stack(images), given, labels)


def _reduced(image: Tensor, name: str, side: int) -> Tensor:
    """The image reduced to a shorter side of at most ``side``; never enlarged."""
    height, width = image.shape[1:]
    if max(height, width) > _LONGEST * min(height, width):
        raise InputError(
            f"{name} has {width} x {height} pixels (width x height): the longer side can be at most "
            f"{_LONGEST} times the shorter one. Crop it."
        )
    factor = min(1.0, side / min(height, width))
    return resize(image, (round(height * factor), round(width * factor)))
