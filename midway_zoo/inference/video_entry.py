"""Where to begin decoding when a video's earlier frames are not wanted."""

from dataclasses import dataclass
from pathlib import Path

from midway_zoo.inference.video_file import VideoFile
from midway_zoo.inference.video_order import Entry


@dataclass(frozen=True)
class Beginning:
    """What is known of a video before the frames that are wanted are read."""

    zero: float
    """Presentation time of the first frame, in seconds."""
    entry: Entry


def find_beginning(path: Path, start: float) -> Beginning | None:
    """The last key frame at or before ``start`` seconds from the first frame; None if the video has no frame.

    The packets before it are read, not decoded: counted, they say which frame of the file it is. Where their times are
    missing or begin anew (recordings that were joined, an AVI), or colours are in the first, nothing is left out.
    """
    with VideoFile(path) as video:
        first = next(video.frames(), None)
        timeless = video.timeless
    if first is None:
        return None
    zero = float(first.ticks * video.tick)
    with VideoFile(path) as video:
        entry = Entry() if timeless or video.has_palette else _last_key_frame(video, zero + start)
    return Beginning(zero, entry)


def _last_key_frame(video: VideoFile, until: float) -> Entry:
    packets = frames = 0
    found, key = Entry(), None
    begins: int | None = None  # first key frame; what comes before it is not shown
    known: set[int] = set()
    for packet in video.packets():
        if not packet.size:
            continue
        time = video.time_of(packet)
        if time is None or time in known:
            return Entry()
        known.add(time)
        if float(time * video.tick) > until:
            return found
        if packet.is_keyframe:
            if key is not None and time <= key:
                return Entry()
            begins = packets if begins is None else begins
            found, key = Entry(packets, frames, time), time
        elif key is not None and time < key:  # shown before the key frame that it follows in the file
            if found.packets == begins == 0:  # perhaps it builds on what was cut off, and is not shown
                return Entry()
            if found.packets == begins:
                packets += 1
                continue
            found = Entry(found.packets, found.frames + (not packet.is_discard), found.key)
        packets += 1
        frames += begins is not None and not packet.is_discard
    return found
