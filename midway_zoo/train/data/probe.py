"""What a video is, from its packets and one decoded frame."""

from itertools import pairwise
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from midway_zoo.errors import InputError, MidwayZooError
from midway_zoo.train.data.clip import Clip, packed, timing_fields
from midway_zoo.train.data.decoding import frame_time, import_av, quarter_turns
from midway_zoo.train.data.sources import Source, frame_files, read_timing, stamp


def probe(base: Path, source: Source) -> Clip:
    """Read the packets of a video once and decode one frame; or list a folder and read one image.

    Raises:
        MidwayZooError: saying why it cannot be used.
    """
    size, changed_ns = stamp(base / source.path, source.kind)
    read = _frame_folder if source.kind == "frames" else _video
    return Clip(path=source.path, kind=source.kind, size=size, changed_ns=changed_ns, **read(base / source.path))


def _frame_folder(folder: Path) -> dict[str, Any]:
    names = frame_files(folder)
    _check_count(len(names))
    timing = read_timing(folder)
    pts = list(range(len(names))) if timing is None else timing["pts"]
    if len(pts) != len(names) or sorted(set(pts)) != pts:
        raise InputError(f"frames.json has {len(pts)} times for {len(names)} images, or they do not ascend")
    height, width = _image_size(folder / names[0])
    return {
        **timing_fields(pts),
        "height": height,
        "width": width,
        "rotation": 0,
        "tick": None if timing is None else timing["tick"],
        "keyframes": [[0, 1], [1, len(names) - 1]],
    }


def _image_size(path: Path) -> tuple[int, int]:
    """Upright (height, width) of an image, decoded without torch: its threads do not outlive a fork."""
    try:
        with Image.open(path) as image:
            image.load()
            size = ImageOps.exif_transpose(image).size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"corrupt: {path.name} cannot be read as an image: {error}") from error
    return size[1], size[0]


def _video(path: Path) -> dict[str, Any]:
    av = import_av()
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise InputError("no video stream")
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            frame, times = _packets(container, stream)
            tick = float(stream.time_base or 0)
    except (av.FFmpegError, OSError, ValueError) as error:
        if isinstance(error, MidwayZooError):
            raise
        raise InputError(f"corrupt: {error}") from error
    pts = sorted(times)
    _check_count(len(pts))
    if frame is None:
        raise InputError("corrupt: no frame can be decoded")
    keys = [index for index, time in enumerate(pts) if times[time]]
    turns = quarter_turns(frame)
    height, width = (frame.width, frame.height) if turns % 2 else (frame.height, frame.width)
    return {
        **timing_fields(pts),
        "height": height,
        "width": width,
        "rotation": 90 * turns,
        "tick": tick,
        "keyframes": packed(after - before for before, after in pairwise([0, *keys])),
    }


def _packets(container: Any, stream: Any) -> tuple[Any, dict[int, bool]]:
    """(first decoded frame, {presentation time in ticks: is a keyframe})."""
    frame = None
    times: dict[int, bool] = {}
    for packet in container.demux(stream):
        if frame is None:
            frame = next(iter(packet.decode()), None)
        if not packet.size or packet.is_discard:
            continue
        if packet.is_corrupt:
            raise InputError(f"corrupt: damaged or broken off after {len(times)} frames")
        time = frame_time(packet)
        if time is None:
            raise InputError("no frame times in the file; `midway-zoo train prepare` writes them")
        times[time] = packet.is_keyframe
    return frame, times


def _check_count(frames: int) -> None:
    if frames < 2:
        raise InputError(f"{'no frames' if frames == 0 else 'only one frame'}; a pair takes two")
