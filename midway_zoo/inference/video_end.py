"""Where a file ends, by its bytes: what FFmpeg does not tell of files that were cut off."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_TAIL = 4096  # bytes


def lacks_index(path: Path) -> bool:
    """Whether a file is an MP4 or MOV without what says where its frames are (ISO/IEC 14496-12, 4.2: size and type)."""
    kinds: list[bytes] = []
    try:
        with path.open("rb") as file:
            while len(head := file.read(8)) == 8 and len(kinds) < 100:
                size = int.from_bytes(head[:4], "big")
                kinds.append(head[4:])
                if size == 1:  # 64 bits follow
                    size = int.from_bytes(file.read(8), "big") - 8
                if size < 8:  # 0: to the end of the file
                    break
                file.seek(size - 8, 1)
    except OSError:
        return False
    return kinds[:1] == [b"ftyp"] and b"mdat" in kinds and b"moov" not in kinds


def is_whole_avi(path: Path) -> bool:
    """Whether all chunks of an AVI are there that its RIFF headers promise; frames may be missing all the same."""
    try:
        length = path.stat().st_size
        with path.open("rb") as file:
            return all(printable and end <= length for printable, end in _chunks(file))
    except OSError:
        return False


def _chunks(file: BinaryIO) -> Iterator[tuple[bool, int]]:
    """(whether it has a name, where it ends) of the chunks in the RIFF chunks of a file."""
    while len(head := file.read(8)) == 8:
        kind, size = head[:4], int.from_bytes(head[4:], "little")
        yield all(32 <= letter < 127 for letter in kind), file.tell() + size
        file.seek(4 if kind == b"RIFF" else size + size % 2, 1)


def ends_with_boundary(path: Path) -> bool:
    """Whether nothing follows the last picture of a MIME multipart stream (RFC 2046) but the line that closes it."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL))
            tail = file.read()
    except OSError:
        return False
    return re.fullmatch(rb"\s*(--[!-~]*\s*)*", tail.rpartition(b"\xff\xd9")[2]) is not None
