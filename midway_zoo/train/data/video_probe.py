"""Probing a video: its packets and one decoded frame."""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from midway_zoo.errors import InputError
from midway_zoo.inference.animations import ANIMATION_SUFFIXES, read_animation
from midway_zoo.inference.folders import TIMING_FILE, frame_files
from midway_zoo.inference.image_files import image_size
from midway_zoo.inference.sources import Source
from midway_zoo.inference.video_file import UnreadableVideoError, VideoFile, import_av, orientation
from midway_zoo.train.data.indexed_video import IndexedVideo, timing_fields
from midway_zoo.train.data.runs import Runs, packed
from midway_zoo.train.data.video_files import read_timing, stamp

_CHECKED = 32
"""Number of packets compared with the container's index, more than any encoder reorders."""


def probe(base: Path, source: Source) -> IndexedVideo:
    """Read the header of a video, or its packets once, and decode one frame; or list a folder and read one image.

    Videos in containers without presentation times (AVI) are decoded completely if their frames are not stored in
    display order.

    Raises:
        MidwayZooError: if it cannot be used, with the reason.
    """
    path = base / source.path
    size, changed_ns = stamp(path, source.kind)
    if source.kind == "frames":
        fields = _frame_folder(path)
    elif path.suffix.lower() in ANIMATION_SUFFIXES:
        fields = _animation(path)
    else:
        fields = _video(path)
    return IndexedVideo(path=source.path, kind=source.kind, size=size, changed_ns=changed_ns, **fields)


def _frame_folder(folder: Path) -> dict[str, Any]:
    names = frame_files(folder)
    _check_count(len(names))
    timing = read_timing(folder)
    pts = list(range(len(names))) if timing is None else timing["pts"]
    if len(pts) != len(names) or sorted(set(pts)) != pts:
        raise InputError(f"{TIMING_FILE} has {len(pts)} times for {len(names)} images, or they do not ascend")
    try:
        height, width = image_size(folder / names[0])
    except InputError as error:
        raise InputError(f"corrupt: {error}") from error
    tick = None if timing is None else timing["tick"]
    return _fields(pts, (height, width), tick, keys=range(len(names)))


def _animation(path: Path) -> dict[str, Any]:
    pts, size = [], (0, 0)
    for image, seconds in read_animation(path):
        size = (image.shape[1], image.shape[2])
        pts.append(round(seconds * 1000))
    _check_count(len(pts))
    return _fields(pts, size, 1 / 1000, keys=[0])


def _video(path: Path) -> dict[str, Any]:
    try:
        with VideoFile(path) as video:
            picture, times = _packets(video)
            video.warn()  # of what the container promises and the file lacks
            tick = float(video.tick)
            reordered = video.timeless and video.reorders
    except UnreadableVideoError as error:
        raise InputError(error.reason) from error
    if picture is None:
        raise InputError("corrupt: no frame can be decoded")
    stored = None
    if reordered:
        times, stored = _decoded_times(path)
    pts = sorted(times)
    _check_count(len(pts))
    transposed, _, _ = orientation(picture)
    size = (picture.width, picture.height) if transposed else (picture.height, picture.width)
    fields = _fields(pts, size, tick, keys=[index for index, time in enumerate(pts) if times[time]])
    return {**fields, "rotation": 90 * (round(picture.rotation / 90) % 4), "stored": stored}


def _packets(video: VideoFile) -> tuple[Any, dict[int, bool]]:
    """(first decoded frame, {time in ticks: is a keyframe}) of the packets that become frames.

    Times in the container's header are used if the first packets confirm them; the rest of the file is then not
    read.
    """
    picture = None
    times: dict[int, bool] = {}
    cut: int | None = None  # time of a last packet that is not all there
    first: int | None = None  # keyframe: a recording cannot be decoded before it
    latest = -math.inf
    header = _header(video)
    for packet in video.packets():
        picture = _first_picture(packet) if picture is None else picture
        if packet.size and packet.is_discard and packet.is_keyframe and first is None:
            first = video.time_of(packet)  # from a lossless cut: not displayed, but later frames depend on it
        if not packet.size or packet.is_discard:
            continue
        time = video.time_of(packet)
        if time is None or not video.has_time(packet):
            raise InputError("frames without a time in the file; `midway-zoo train prepare` writes them")
        if time in times or (packet.is_keyframe and time < latest):
            raise InputError("frame times go back, as in joined recordings; `midway-zoo train prepare` repairs them")
        if packet.is_keyframe and first is None:
            first = time
        if header and header[len(times) : len(times) + 1] != [(time, packet.is_keyframe)]:
            header = []
        times[time], latest = packet.is_keyframe, max(time, latest)
        cut = time if packet.is_corrupt else None
        if header and picture is not None and first is not None and len(times) >= min(_CHECKED, len(header)):
            times = dict(header)
            break
    if cut is not None and video.damage.broken_off:
        del times[cut]
    if picture is not None and picture.pts is not None and not video.timeless:
        first = picture.pts if first is None else max(first, picture.pts)  # or little by little after it
    return picture, times if first is None else {time: key for time, key in times.items() if time >= first}


def _header(video: VideoFile) -> list[tuple[int, bool]]:
    """(time in ticks, is a keyframe) of every frame from the container's index; empty if that cannot be used.

    The index has only decoding times, so frames must be stored in display order; and all entries must exist in the
    file.
    """
    entries = list(getattr(video.stream, "index_entries", None) or ())
    if video.timeless or video.reorders or len(entries) != video.stream.frames:
        return []
    times = [(entry.timestamp, entry.is_keyframe) for entry in entries]
    ascending = all(before[0] < after[0] for before, after in pairwise(times))
    whole = max((entry.pos + entry.size for entry in entries), default=0) <= video.path.stat().st_size
    return times if ascending and whole and not any(entry.is_discard for entry in entries) else []


def _first_picture(packet: Any) -> Any:
    """A frame that a packet completes; damage at the start of a file must not make the rest useless."""
    try:
        return next(iter(packet.decode()), None)
    except (import_av().FFmpegError, ValueError):
        return None


def _decoded_times(path: Path) -> tuple[dict[int, bool], Runs]:
    """({time in ticks: is a keyframe}, by how much each frame's packet is later) of a completely decoded file."""
    times: dict[int, bool] = {}
    behind: list[int] = []
    with VideoFile(path, threads=0) as video:
        for frame in video.frames():
            times[frame.ticks] = bool(frame.picture.key_frame)
            behind.append(frame.packet - frame.ticks)
    return times, packed(behind)


def _fields(pts: Sequence[int], size: tuple[int, int], tick: float | None, *, keys: Iterable[int]) -> dict[str, Any]:
    return {
        **timing_fields(pts),
        "height": size[0],
        "width": size[1],
        "rotation": 0,
        "tick": tick,
        "keyframes": packed(after - before for before, after in pairwise([0, *keys])),
    }


def _check_count(frames: int) -> None:
    if frames < 2:
        raise InputError(f"{'no frames' if frames == 0 else 'only one frame'}; a pair needs two")
