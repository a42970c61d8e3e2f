"""Frames of clips: lists, arrays, folders, videos and generators, read one frame at a time."""

from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from midway_zoo import inference
from midway_zoo.checks import check_integer
from midway_zoo.errors import InputError, InputTypeError
from midway_zoo.inference.batches import Fit, network_size, normaliser
from midway_zoo.inference.folders import frame_files
from midway_zoo.inference.images import ImageLike, Images, Size, count, iterate, resize, to_tensor
from midway_zoo.models.network import MidwayNetwork

ClipLike: TypeAlias = "Images | str | PathLike[str] | Iterable[ImageLike]"
"""Frames in order: a list of images, a tensor (T, 3, H, W), an array (T, H, W, 3), an iterator of images or of
``read_video``'s frames, the path of a video, or a folder of frames."""


@dataclass(frozen=True)
class Frame:
    """One frame of a clip."""

    image: Tensor
    """(3, H, W) float32 in [0, 1], RGB."""
    pts_seconds: float | None = None
    """Presentation time, of a video."""
    concealed: bool = False
    """The decoder concealed damage in this frame; see :class:`~midway_zoo.inference.video.VideoFrame`."""


@dataclass(frozen=True)
class FrameSource:
    """The selected frames of a clip, to be iterated once, in order; each is read when it is needed."""

    frames: Iterator[Frame]
    total: int | None = None
    """The number of frames, where known; for a video an estimate from its container, for progress bars."""
    sampling: str = "stride=1"
    """How they were selected, for messages."""

    def __iter__(self) -> Iterator[Frame]:
        return self.frames

    def check_taken(self, taken: int, gap: int = 1) -> None:
        """Raise :class:`InputError` if ``taken`` frames are too few for a pair (t, t + gap)."""
        if taken <= gap:
            needed = "two" if gap == 1 else f"{gap + 1}, for gap={gap},"
            raise InputError(
                f"the clip gave {taken} frame(s) at {self.sampling}; at least {needed} are needed: pass "
                "more of the clip (a smaller stride, a higher fps), or two images."
            )


def open_frames(clip: ClipLike, *, stride: int = 1, fps: float | None = None) -> FrameSource:
    """Open a clip of any kind.

    Args:
        clip: see :data:`ClipLike`. All frames should have one size; :func:`frame_batches` requires it.
        stride: take frames 0, stride, 2 * stride, ...
        fps: of a video, instead: the first frame at or after each tick of 1 / fps seconds.

    Raises:
        InputTypeError: for anything but a clip, such as a single image.
        InputError: for an empty clip, or an invalid stride or rate.
        MissingFileError: if the path does not exist.
        MissingExtraError: for a video without PyAV.
    """
    check_integer("stride", stride, 1)
    if fps is not None:
        inference.video.check_sampling(stride, fps)
    if isinstance(clip, str | PathLike):
        path = Path(clip)
        if not path.is_dir():
            decoded = inference.video.read_video(path, stride=stride, fps=fps)
            frames = (as_frame(frame) for frame in decoded)
            about = inference.video_length.estimated_frames(path, stride=stride, fps=fps)
            return FrameSource(frames, about, f"stride={stride}" if fps is None else f"fps={fps}")
        clip = _frames_of_folder(path)
    single = isinstance(clip, Image.Image | Tensor | np.ndarray) and getattr(clip, "ndim", 3) != 4
    if single or isinstance(clip, Mapping | Set | bytes) or not isinstance(clip, Iterable):
        raise InputTypeError(
            "a clip is a list or iterator of images, a tensor (T, 3, H, W), an array (T, H, W, 3), a video path or a "
            f"folder of frames; got a {'single image' if single else type(clip).__name__}."
        )
    if fps is not None:
        raise InputError("fps needs a video, whose frames have times; for a list of frames pass stride.")
    if isinstance(clip, list | tuple | Tensor | np.ndarray):
        taken: Any = clip[::stride]
        frames = (Frame(image) for image in iterate(taken, step=stride))
        return FrameSource(frames, count(taken), f"stride={stride}")
    return FrameSource(_each(clip, stride), sampling=f"stride={stride}")


def _each(frames: Iterable[Any], stride: int) -> Iterator[Frame]:
    """Frames of any iterable of images, or of objects with an image and its time, as ``read_video`` yields."""
    for index, frame in enumerate(islice(frames, 0, None, stride)):
        try:
            yield as_frame(frame)
        except (InputError, InputTypeError) as error:
            raise type(error)(f"image {index * stride}: {error}") from error


def as_frame(frame: Any) -> Frame:
    """A frame from an image of any kind, or from an object with an image and its time, as ``read_video`` yields."""
    seconds, concealed = getattr(frame, "pts_seconds", None), getattr(frame, "concealed", False)
    return Frame(to_tensor(getattr(frame, "image", frame)), seconds, concealed)


def _frames_of_folder(folder: Path) -> list[Path]:
    frames = [folder / name for name in frame_files(folder)]
    if not frames:
        raise InputError(f"the folder {folder} holds no image files.")
    return frames


@dataclass(frozen=True)
class FrameBatch:
    """Consecutive frames of one clip."""

    images: Tensor
    """(b, 3, H, W), resized and normalised for a network."""
    given: tuple[int, int]
    """(height, width) of the frames as given."""
    pts_seconds: list[float | None]
    concealed: list[bool]


def frame_batches(
    network: MidwayNetwork, frames: Iterable[Frame], size: "Size | Fit", batch_size: int
) -> Iterator[FrameBatch]:
    """Frames in order, ``batch_size`` at a time; all must have the size of the first."""
    normalise = normaliser(network)
    remaining = iter(frames)
    first: tuple[int, int] | None = None
    side = (0, 0)
    while chunk := list(islice(remaining, batch_size)):
        if first is None:
            first = (chunk[0].image.shape[1], chunk[0].image.shape[2])
            side = network_size(network, chunk[0].image, size)
        for frame in chunk:
            check_same_size(frame.image, first)
        images = normalise(torch.stack([resize(frame.image, side) for frame in chunk]))
        times, concealed = [frame.pts_seconds for frame in chunk], [frame.concealed for frame in chunk]
        yield FrameBatch(images, first, times, concealed)


def check_same_size(image: Tensor, first: tuple[int, int]) -> None:
    """Raise :class:`InputError` unless a frame (3, H, W) has the (height, width) of the clip's first."""
    if tuple(image.shape[1:]) != first:
        raise InputError(
            f"the clip mixes frames of {first} and {tuple(image.shape[1:])} pixels (height, width); "
            "all must have one size."
        )


def known_times(times: list[float | None]) -> Tensor | None:
    """(T,) float64 times of frames, or None if one is unknown."""
    known = [seconds for seconds in times if seconds is not None]
    return torch.tensor(known, dtype=torch.float64) if len(known) == len(times) else None


def pair_times(times: list[float | None], gap: int = 1) -> Tensor | None:
    """(T - gap, 2) times of source and target of the pairs (t, t + gap), where all are known."""
    values = known_times(times)
    return None if values is None else torch.stack([values[:-gap], values[gap:]], dim=1)
