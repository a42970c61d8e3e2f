"""Reading: clips and images are decoded and resized for the network, batch by batch."""

import gzip
import io
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, cast

import torch
from PIL import Image
from torch import Tensor

from midway_zoo.errors import InputError, MissingExtraError
from midway_zoo.extract.items import Item, Member, tar_members
from midway_zoo.extract.places import is_disk_full, is_remote, joined, open_read
from midway_zoo.inference.folders import suffix_of
from midway_zoo.inference.frames import Frame, check_same_size, open_frames
from midway_zoo.inference.images import reading, resize, to_tensor
from midway_zoo.reading import HEAD, stand_in_of

Sides: TypeAlias = tuple[tuple[int, int], "tuple[int, int] | None"]
"""(height, width) that a frame is resized to, and that for the flow if it differs."""


@dataclass(frozen=True)
class Look:
    """How frames are prepared, as decided by the settings and the network."""

    sides: Callable[[int, int], Sides]
    """For frames of a given (height, width)."""
    chunk: Callable[[int, int], int]
    """Frames per chunk, for frames of a given (height, width)."""
    batch_size: int
    stride: int
    fps: float | None


@dataclass(frozen=True)
class Piece:
    """What is read in one go: a clip, or several consecutive images."""

    items: tuple[Item, ...]
    first_chunk: int = 0
    """Of a clip: the first chunk to read; those before it exist already."""


@dataclass(frozen=True)
class ClipBatch:
    """Consecutive frames of a clip, within one chunk."""

    item: Item
    images: Tensor
    """(b, 3, H, W) float32 in [0, 1], resized for the network."""
    flow_images: Tensor | None
    """The same resized for the flow, if that is another size."""
    given: tuple[int, int]
    first: int
    """Index of the first frame among the frames taken."""
    chunk: int
    """Which chunk they belong to."""
    wanted: bool
    """False for frames that only serve as context before the chunk at which the clip is resumed."""
    pts_seconds: list[float | None]
    concealed: list[bool]


@dataclass(frozen=True)
class ClipEnd:
    """A clip was read to its end."""

    item: Item
    frames: int


@dataclass(frozen=True)
class ImageBatch:
    """Images of one network size."""

    items: list[Item]
    images: Tensor
    given: list[tuple[int, int]]


@dataclass(frozen=True)
class Failed:
    """An item that could not be read."""

    item: Item
    reason: str


Read: TypeAlias = "ClipBatch | ClipEnd | ImageBatch | Failed"


def reason_of(error: BaseException) -> str:
    """One line for the list of failures."""
    text = " ".join(str(error).split())
    return text if isinstance(error, InputError | OSError) and text else f"{type(error).__name__}: {text}"


class Reader:
    """Reads pieces, one after the other. Its files stay open from member to member of a tar.

    Args:
        base: what paths of members are relative to.
        look: how frames are prepared.
        given_up: keys of clips that the consumer wants no more of; it adds to them while clips are read.
    """

    def __init__(self, base: str, look: Look, given_up: set[str]) -> None:
        self._base, self._look, self._given_up = base, look, given_up
        self._open: tuple[str, BinaryIO] | None = None

    def close(self) -> None:
        """Close what is open."""
        if self._open is not None:
            self._open[1].close()
            self._open = None

    def read(self, piece: Piece) -> Iterator[Read]:
        """The contents of a piece. An item that cannot be read becomes :class:`Failed`."""
        return self._images(piece) if piece.items[0].kind == "image" else self._clip_or_failure(piece)

    def _clip_or_failure(self, piece: Piece) -> Iterator[Read]:
        try:
            yield from self._clip(piece)
        except Exception as error:  # noqa: BLE001  (whatever it is, it concerns this item only)
            _raise_if_hopeless(error)
            yield Failed(piece.items[0], reason_of(error))

    # Images.

    def _images(self, piece: Piece) -> Iterator[Read]:
        found: dict[tuple[int, int], list[tuple[Item, Tensor, tuple[int, int]]]] = {}
        for item in piece.items:
            try:
                image = self._image(item.members[0], item.key)
                given = (image.shape[1], image.shape[2])
                side = self._look.sides(*given)[0]
                found.setdefault(side, []).append((item, resize(image, side), given))
            except Exception as error:  # noqa: BLE001  (as of clips)
                _raise_if_hopeless(error)
                yield Failed(item, reason_of(error))
        for some in found.values():
            items, images, given_sizes = zip(*some, strict=True)
            yield ImageBatch(list(items), torch.stack(images), list(given_sizes))

    def _image(self, member: Member, key: str) -> Tensor:
        path, offset, size = member
        if offset < 0 and not is_remote(joined(self._base, path)):
            return to_tensor(joined(self._base, path))
        with reading(Path(key)), self._bytes(path, offset, size) as file:
            if problem := stand_in_of(file.read(HEAD)):
                raise InputError(f"{key} {problem}")
            file.seek(0)
            with Image.open(file) as image:
                return to_tensor(image)

    # Clips.

    def _clip(self, piece: Piece) -> Iterator[Read]:
        item, look = piece.items[0], self._look
        with self._frames(item) as frames:
            first = next(frames, None)
            if first is None:
                raise InputError(f"{item.key} gave no frame.")
            given = (first.image.shape[1], first.image.shape[2])
            length = look.chunk(*given)
            at = 0
            if piece.first_chunk:
                # Start with the batch before, split as in the first run, so that the results are the same.
                at = (piece.first_chunk - 1) * length + (length - 1) // look.batch_size * look.batch_size
            rest = islice(_chained(first, frames), at, None)
            while item.key not in self._given_up:
                room = length - at % length
                some = list(islice(rest, min(look.batch_size, room)))
                if not some:
                    break
                yield self._batch(item, some, given, at, at // length, at // length >= piece.first_chunk)
                at += len(some)
            yield ClipEnd(item, at)

    def _batch(
        self, item: Item, frames: list[Frame], given: tuple[int, int], first: int, chunk: int, wanted: bool
    ) -> ClipBatch:
        for frame in frames:
            check_same_size(frame.image, given)
        side, flow_side = self._look.sides(*given)
        images = torch.stack([resize(frame.image, side) for frame in frames])
        larger = None if flow_side is None else torch.stack([resize(frame.image, flow_side) for frame in frames])
        times, concealed = [frame.pts_seconds for frame in frames], [frame.concealed for frame in frames]
        return ClipBatch(item, images, larger, given, first, chunk, wanted, times, concealed)

    @contextmanager
    def _frames(self, item: Item) -> Iterator[Iterator[Frame]]:
        """The frames of a clip that are taken."""
        if item.kind == "tar":
            next(tar_members(joined(self._base, item.members[0][0])), None)
            raise InputError(f"{item.key} could not be read to its end when the plan was made: get the file again.")
        if item.kind == "frames":
            if self._look.fps is not None:
                raise InputError("fps needs a video, whose frames have times; for a folder of frames pass stride.")
            taken = item.members[:: self._look.stride]
            yield (Frame(self._image(member, f"{item.key}: {member[0]}")) for member in taken)
            return
        with self._local(item) as path:
            source = iter(open_frames(path, stride=self._look.stride, fps=self._look.fps))
            try:
                yield source
            finally:
                cast(Any, source).close()  # and with it the video

    @contextmanager
    def _local(self, item: Item) -> Iterator[Path]:
        """A local file of an item: the file itself, or a temporary copy if it is in a tar or remote."""
        path, offset, size = item.members[0]
        if offset < 0 and not is_remote(joined(self._base, path)):
            yield Path(joined(self._base, path))
            return
        with tempfile.TemporaryDirectory(prefix="midway_zoo_") as folder:
            copy = Path(folder) / f"video{suffix_of(item.key)}"
            with self._bytes(path, offset, size) as source, copy.open("wb") as target:
                shutil.copyfileobj(source, target, 2**20)
            try:
                yield copy
            except InputError as error:  # named by what is known outside
                raise InputError(str(error).replace(str(copy), item.key)) from error

    @contextmanager
    def _bytes(self, path: str, offset: int, size: int) -> Iterator[Any]:
        """A file, or a member of a tar."""
        place = joined(self._base, path)
        if offset < 0:
            with open_read(place) as file:
                yield file
            return
        if self._open is None or self._open[0] != place:
            self.close()
            opened = open_read(place)
            packed = place.lower().endswith("gz")
            self._open = place, cast(BinaryIO, gzip.GzipFile(fileobj=opened)) if packed else opened
        archive = self._open[1]
        archive.seek(offset)
        yield io.BufferedReader(_Part(archive, offset, size, place))


class _Part(io.RawIOBase):
    """A range of a file, read from its start."""

    def __init__(self, file: BinaryIO, offset: int, size: int, name: str) -> None:
        self._file, self._offset, self._size, self._at, self._name = file, offset, size, 0, name

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), self._size - self._at)
        self._file.seek(self._offset + self._at)
        data = self._file.read(wanted)
        if len(data) < wanted:
            raise InputError(f"{self._name} ends within a member: the file is truncated, get it again.")
        buffer[:wanted] = data
        self._at += wanted
        return wanted

    def seek(self, to: int, whence: int = 0) -> int:
        self._at = min(max(0, to + (0, self._at, self._size)[whence]), self._size)
        return self._at

    def tell(self) -> int:
        return self._at


def _chained(first: Frame, rest: Iterator[Frame]) -> Iterator[Frame]:
    yield first
    yield from rest


def _raise_if_hopeless(error: Exception) -> None:
    """Raise errors that are not the item's own and would hit every other item too."""
    if isinstance(error, MissingExtraError) or is_disk_full(error):
        raise error
