"""Lists of image pairs with their flow, stored compactly, and access to their folders."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from midway_zoo.errors import MissingFileError

Kind: TypeAlias = Literal["dense", "sparse", "doubled"]
"""dense: a vector per pixel; sparse: measured points with gaps, which must not be interpolated; doubled:
dense, at twice the resolution of the images."""

_SEPARATOR = "\0"


@dataclass(frozen=True)
class FlowEntry:
    """The files of one pair."""

    name: str
    """Name within its part, as in submissions: ``clean/alley_1/frame_0001``, ``000000_10``."""
    source: Path
    target: Path
    flow: Path | None = None
    """The flow file; None in test sets whose flow is not published."""
    occlusion: Path | None = None
    """File that marks source pixels not visible in the target, for evaluation."""
    mask: Path | None = None
    """File that marks invalid pixels, if the flow file does not."""
    kind: Kind = "dense"


class Relative(NamedTuple):
    """A :class:`FlowEntry` with paths below the data set's folder; "" is None."""

    name: str
    source: str
    target: str
    flow: str = ""
    occlusion: str = ""
    mask: str = ""


class FlowFiles:
    """The pairs of one part of a data set, in a fixed order.

    Paths are stored in one block of bytes: a list of 300 000 objects would be copied, page by page, into every worker.

    Args:
        title: name in messages.
        root: folder of the data set.
        kind: kind of its flow.
        entries: the pairs, in order.

    Raises:
        MissingFileError: if there are none.
    """

    def __init__(self, title: str, root: Path, kind: Kind, entries: Iterable[Relative]) -> None:
        self.title, self.root, self.kind = title, root, kind
        lines = [_SEPARATOR.join(entry).encode() for entry in entries]
        if not lines:
            raise MissingFileError(f"{title}: no pair of images was found in {root}.")
        self._ends = np.cumsum([len(line) for line in lines])
        self._lines = b"".join(lines)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> FlowEntry:
        if not -len(self) <= index < len(self):
            raise IndexError(f"pair {index} of {len(self)} in {self.title}")
        index %= len(self)
        line = self._lines[self._ends[index - 1] if index else 0 : self._ends[index]].decode()
        name, source, target, *others = line.split(_SEPARATOR)
        flow, occlusion, mask = (self.root / path if path else None for path in others)
        return FlowEntry(name, self.root / source, self.root / target, flow, occlusion, mask, self.kind)

    def __iter__(self) -> Iterator[FlowEntry]:
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        return f"FlowFiles({self.title!r}, {len(self)} pairs, {self.root})"


class Folder:
    """A data set's folder; its errors name the data set, the missing file and the expected layout.

    Args:
        title: name of the data set.
        root: its folder.
        layout: expected layout, in one line.
    """

    def __init__(self, title: str, root: Path, layout: str) -> None:
        self.title, self.root, self.layout = title, root, layout

    def complain(self, relative: str) -> MissingFileError:
        """The error to raise if ``relative`` is missing."""
        return MissingFileError(f"{self.title}: there is no {self.root / relative}. Expected: {self.layout}")

    def names(self, relative: str, suffix: str = "") -> list[str]:
        """Sorted names in a folder that end in ``suffix``; an error if there are none."""
        path = self.root / relative
        if not path.is_dir():
            raise self.complain(relative)
        found = sorted(item.name for item in path.iterdir() if item.name.endswith(suffix) and item.name[0] != ".")
        if not found:
            raise self.complain(f"{relative}/*{suffix}")
        return found

    def folders(self, relative: str) -> list[str]:
        """Sorted names of the folders in a folder; an error if there are none."""
        found = [name for name in self.names(relative) if (self.root / relative / name).is_dir()]
        if not found:
            raise self.complain(f"{relative}/*/")
        return found

    def neighbours(self, relative: str, prefix: str, suffix: str) -> list[tuple[str, str]]:
        """Numbers, as written, of consecutive frames ``<prefix><number><suffix>`` in a folder; none between the first
        and the last may be missing."""
        names = (name.removeprefix(prefix).removesuffix(suffix) for name in self.names(relative, suffix))
        numbers = [name for name in names if name.isdecimal()]
        for one, other in pairwise(numbers):
            following = f"{int(one) + 1:0{len(one)}d}"
            if other != following:
                raise self.complain(f"{relative}/{prefix}{following}{suffix}")
        return list(pairwise(numbers))

    def has(self, relative: str) -> bool:
        """Whether a folder or file exists."""
        return (self.root / relative).exists()

    def check(self, relative: str, needed: Iterable[str], suffix: str = "") -> None:
        """Raise :class:`MissingFileError` naming the first of the ``needed`` names that a folder lacks."""
        present = set(self.names(relative, suffix))
        for name in needed:
            if name not in present:
                raise self.complain(f"{relative}/{name}")
